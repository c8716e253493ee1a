/* outlier_search.h: which weights of a matrix to keep beside its code (codec/outliers.h).
 *
 * A code of k bits leaves the error m·4^-k·E on weights of energy E, wherever the energy sits. A
 * byte more for the code of N weights lowers that by 16·ln 2/N of itself, so taking a weight w out
 * for c bytes is the better buy when w² > 16·ln 2·σ²·c, at any rate: 5.7 σ for the three bytes of a
 * single weight, columns of 3.3 times the usual root mean square for one byte a row. What to take
 * out is thus found before rates are known; whether to is the plan's choice. */
#ifndef UPG_COMPRESS_OUTLIER_SEARCH_H
#define UPG_COMPRESS_OUTLIER_SEARCH_H

#include "base/pool.h"
#include "compress/plan.h"

/** Looks at every matrix of the plan: fills plan->candidates, and `removed` of their units. At most
 * one weight in a thousand becomes a single outlier. Matrices with weights that are no numbers have
 * none: encoding names them. Memory that stays is of `arena`. The result does not depend on the
 * number of threads. Errors: E_NOMEM. */
upg_status upg_outliers_find(upg_plan *plan, upg_pool *pool, upg_arena *arena, upg_error *err);

#endif
