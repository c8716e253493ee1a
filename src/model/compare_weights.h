/* compare_weights.h: a file's weights against the checkpoint they were made of. */
#ifndef UPG_MODEL_COMPARE_WEIGHTS_H
#define UPG_MODEL_COMPARE_WEIGHTS_H

#include "base/pool.h"
#include "base/progress.h"
#include "model/weights.h"

/** Measured errors may differ from stored ones by their rounding alone: sums of fp32 products taken
 * in another basis. */
#define UPG_COMPARE_TOLERANCE 1e-3

typedef struct upg_compared {
    const char *name;
    double      stored; /* |W − W'|² / |W|² as the file says; < 0 = it does not, 0 of vectors */
    double      measured; /* the same, now */
    bool        agrees;
} upg_compared;

/** Recomputes the relative error of every matrix and vector, in the file's order, and shows each to
 * `show`. Reports stage "compare" in weights. *n_differ counts those that do not agree. Errors:
 * E_DATA (names what is of another shape: not the file's checkpoint), E_CANCELLED, E_NOMEM. */
upg_status upg_weights_compare(const upg_weights *weights, const upg_weights *original,
                               upg_pool *pool, const upg_listener                         *listener,
                               void (*show)(void *user, const upg_compared *result), void *user,
                               uint32_t *n_differ, upg_error *err);

#endif
