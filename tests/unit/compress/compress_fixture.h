/* compress_fixture.h: what encoding needs, with matrices in memory. */
#ifndef UPG_TESTS_COMPRESS_FIXTURE_H
#define UPG_TESTS_COMPRESS_FIXTURE_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/cpu.h"
#include "base/random.h"
#include "compress/encode.h"

static upg_error err;

#define OK(expression)                                                                             \
    do {                                                                                           \
        if ((expression) != UPG_OK)                                                                \
            fail_msg("%s", err.message);                                                           \
    } while (0)

/** A pool, kernels, and a meter that nobody listens to unless `listener` is set. */
typedef struct encode_env {
    upg_pool          *pool;
    upg_kernels        kernels;
    upg_meter          meter;
    upg_listener       listener;
    upg_encode_context context;
} encode_env;

static inline void env_open(encode_env *e, uint32_t threads)
{
    uint32_t flags = upg_cpu_flags();

    *e = (encode_env) { 0 };
    OK(upg_pool_create(threads, &e->pool, &err));
    upg_kernels_select(flags, &e->kernels);
    upg_meter_start(&e->meter, &e->listener, "test", "weights", 1);
    e->context = (upg_encode_context) { e->pool, &e->kernels, flags, 7, &e->meter };
}

static inline void env_close(encode_env *e)
{
    upg_pool_close(e->pool);
}

/** n standard normal numbers (Box and Muller); free them. */
static inline float *gaussian(size_t n, uint64_t seed)
{
    float *x = malloc(n * sizeof *x);

    assert_non_null(x);
    for (size_t i = 0; i < n; i++) {
        double r = sqrt(-2 * log(1 - upg_random_unit(seed, 2 * i)));

        x[i] = (float)(r * cos(2 * acos(-1) * upg_random_unit(seed, 2 * i + 1)));
    }
    return x;
}

static inline upg_matrix dense_matrix(uint32_t n_rows, uint32_t n_cols, const float *values)
{
    return (upg_matrix) { .name = "test.weight",
                          .role = UPG_ROLE_DOWN,
                          .n_rows = n_rows,
                          .n_cols = n_cols,
                          .kind = UPG_MATRIX_DENSE,
                          .dtype = UPG_F32,
                          .dense = values,
                          .file = "test.safetensors" };
}

static inline upg_plan_unit unit_of(const upg_matrix *matrix, uint32_t row0, uint32_t n_rows,
                                    uint32_t rate2)
{
    const upg_code *code = upg_code_find(rate2, UPG_CODE_DEFAULT_LENGTH);

    assert_non_null(code);
    return (upg_plan_unit) {
        .matrix = matrix, .row0 = row0, .n_rows = n_rows, .sensitivity = 1, .code = code
    };
}

/** Decodes a matrix back to the original basis: f32 [n_rows][n_cols]; free it. */
static inline float *decode(const encode_env *e, const upg_plan_unit *units, uint32_t n_units,
                            const upg_encoded_matrix *encoded)
{
    upg_band         bands[16];
    upg_coded_matrix view;
    float           *out, *signs;

    assert_true(n_units <= 16);
    view = upg_encoded_view(&e->context, units, n_units, encoded, bands);
    out = malloc((size_t)view.n_rows * view.n_cols * sizeof *out);
    signs = malloc(view.n_cols * sizeof *signs);
    assert_true(out && signs);
    upg_rotation_signs(&view.rotation, signs);
    for (uint32_t r = 0; r < view.n_rows; r++)
        upg_coded_row(&view, r, out + (size_t)r * view.n_cols);
    upg_rotation_undo(&view.rotation, signs, out, view.n_rows);
    for (uint32_t r = 0; view.outliers != NULL && r < view.n_rows; r++)
        upg_outliers_add_row(view.outliers, r, 1, 0, view.n_cols, out + (size_t)r * view.n_cols);
    free(signs);
    return out;
}

static inline double distance2(const float *a, const float *b, size_t n)
{
    double sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
    return sum;
}

#endif
