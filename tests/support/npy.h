/* npy.h: reads two-dimensional .npy arrays of token ids for tests. */
#ifndef UPG_TESTS_NPY_H
#define UPG_TESTS_NPY_H

#include <stdint.h>

#include "base/error.h"

typedef struct test_ids {
    uint32_t n_windows, window;
    int32_t *ids; /* [n_windows][window]; the caller calls upg_free */
} test_ids;

/** Little-endian uint16 or int32, C order, format 1.0. Errors: as upg_file_read, E_FORMAT. */
upg_status test_npy_read(const char *path, test_ids *ids, upg_error *err);

#endif
