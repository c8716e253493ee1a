/* random_outliers.h: outliers at random places, for tests of all that reads them. */
#ifndef UPG_TESTS_RANDOM_OUTLIERS_H
#define UPG_TESTS_RANDOM_OUTLIERS_H

#include "codec/outliers.h"

/** About one weight in `one_in` (0 = none, but at least one otherwise) and n_columns dense columns,
 * values of any size, scales near 1/64. NULL = E_NOMEM. Memory comes from `arena`. */
const upg_outliers *test_random_outliers(uint32_t n_rows, uint32_t n_cols, uint32_t one_in,
                                         uint32_t n_columns, uint64_t seed, upg_arena *arena,
                                         upg_error *err);

#endif
