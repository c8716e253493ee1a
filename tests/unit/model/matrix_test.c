/* Rows in fp32 from every kind of matrix; NaN and infinity found wherever they are, and nowhere
 * else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "base/halffloat.h"
#include "base/random.h"
#include "model/weights.h"

static const upg_dtype dtypes[] = { UPG_BF16, UPG_F16, UPG_F32 };

/* Stores a value as an element; the bits of infinity and NaN survive. */
static void put(void *data, upg_dtype dtype, size_t i, float value)
{
    if (dtype == UPG_F32)
        ((float *)data)[i] = value;
    else
        ((uint16_t *)data)[i] =
            dtype == UPG_BF16 ? upg_bf16_from_f32(value) : upg_f16_from_f32(value);
}

static upg_matrix make(upg_dtype dtype, uint32_t n_rows, uint32_t n_cols, void *data)
{
    return (upg_matrix) { .name = "model.layers.3.mlp.up_proj.weight",
                          .file = "model-2.safetensors",
                          .file_offset = 1000,
                          .n_rows = n_rows,
                          .n_cols = n_cols,
                          .kind = UPG_MATRIX_DENSE,
                          .dtype = dtype,
                          .dense = data };
}

static void dense_rows(void **state)
{
    float values[3 * 5], out[5];

    (void)state;
    for (size_t d = 0; d < 3; d++) {
        upg_matrix m = make(dtypes[d], 3, 5, values);

        for (size_t i = 0; i < 15; i++)
            put(values, dtypes[d], i, (float)i - 7);
        upg_matrix_row(&m, 2, out);
        for (size_t j = 0; j < 5; j++)
            assert_float_equal(out[j], (float)(10 + j) - 7, 0);
    }
}

/* The row in the original basis is what the codec's own functions give. */
static void coded_rows(void **state)
{
    enum { ROWS = 21, COLS = 96 + 3 };
    const upg_code  *code = upg_code_find(6, 12);
    static uint32_t  bits[128 * 4];
    uint16_t         scales[ROWS];
    float            signs[COLS], want[COLS], got[COLS];
    upg_band         band;
    upg_coded_matrix coded;
    upg_matrix       m;

    (void)state;
    for (size_t i = 0; i < sizeof bits / sizeof bits[0]; i++)
        bits[i] = (uint32_t)upg_random_u64(1, i);
    for (size_t i = 0; i < ROWS; i++)
        scales[i] = upg_f16_from_f32(0.01f * (float)(i + 1));
    for (uint32_t cols = 64; cols <= COLS; cols += 35) { /* a block of 64, and blocks of 1 */
        band =
            (upg_band) { *code, 0, ROWS, (uint32_t)upg_code_binary_rows(code, ROWS), bits, scales };
        assert_true(upg_band_words(band.n_binary, cols) <= sizeof bits / sizeof bits[0]);
        coded = (upg_coded_matrix) { ROWS, cols, upg_rotation_make(cols, 99), 1, &band, NULL };
        m = (upg_matrix) {
            .n_rows = ROWS, .n_cols = cols, .kind = UPG_MATRIX_CODED, .coded = &coded
        };
        upg_rotation_signs(&coded.rotation, signs);
        for (uint32_t row = 0; row < ROWS; row++) {
            upg_coded_row(&coded, row, want);
            upg_rotation_undo(&coded.rotation, signs, want, 1);
            upg_matrix_row(&m, row, got);
            for (uint32_t j = 0; j < cols; j++)
                assert_float_equal(got[j], want[j], 0);
        }
        assert_int_equal(upg_matrix_check_finite(&m, NULL), UPG_OK);
    }
}

static void all_finite_values_pass(void **state)
{
    static uint16_t values[65536];

    (void)state;
    for (size_t d = 0; d < 2; d++) {
        upg_matrix m = make(dtypes[d], 256, 256, values);

        for (uint32_t i = 0; i < 65536; i++) {
            uint32_t special = dtypes[d] == UPG_BF16 ? 0x7F80u : 0x7C00u;

            values[i] = (i & special) == special ? 0 : (uint16_t)i;
        }
        assert_int_equal(upg_matrix_check_finite(&m, NULL), UPG_OK);
    }
}

static void special_values_are_found(void **state)
{
    enum { ROWS = 41, COLS = 1000 };
    static const size_t places[] = { 0, 1, 999, 1000, 16383, 16384, 20001, ROWS * COLS - 1 };
    static float        values[ROWS * COLS];
    static const struct {
        uint32_t    bits;
        const char *name;
    } specials[] = { { 0x7F800000u, "infinity" },
                     { 0xFF800000u, "infinity" },
                     { 0x7FC00000u, "NaN" },
                     { 0xFFFFFFFFu, "NaN" } };

    (void)state;
    for (size_t d = 0; d < 3; d++) {
        upg_matrix m = make(dtypes[d], ROWS, COLS, values);

        for (size_t i = 0; i < ROWS * COLS; i++)
            put(values, dtypes[d], i, i % 2 ? -65504.0f : 65504.0f); /* all ones but the last bit */
        assert_int_equal(upg_matrix_check_finite(&m, NULL), UPG_OK);
        for (size_t p = 0; p < sizeof places / sizeof places[0]; p++) {
            size_t    at = places[p], element = dtypes[d] == UPG_F32 ? 4 : 2;
            upg_error err = { 0 };
            char      want[200];

            put(values, dtypes[d], at, upg_f32_from_bits(specials[p % 4].bits));
            snprintf(want, sizeof want,
                     "model-2.safetensors: \"model.layers.3.mlp.up_proj.weight\" holds %s at row "
                     "%zu, column %zu (byte %zu of the file)",
                     specials[p % 4].name, at / COLS, at % COLS, 1000 + at * element);
            assert_int_equal(upg_matrix_check_finite(&m, &err), UPG_E_DATA);
            assert_memory_equal(err.message, want, strlen(want));
            put(values, dtypes[d], at, 1);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dense_rows),
        cmocka_unit_test(coded_rows),
        cmocka_unit_test(all_finite_values_pass),
        cmocka_unit_test(special_values_are_found),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
