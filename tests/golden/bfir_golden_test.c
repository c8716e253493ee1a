/* The codec against vectors from an independent implementation (int64 Viterbi, numpy): bits,
 * values, u, y, the least squared error of every column, and the rotation. All integers must be
 * equal. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/cpu.h"
#include "base/halffloat.h"
#include "codec/coded_matrix.h"
#include "kernels/kernels.h"
#include "kernels/viterbi.h"

static json_t *golden;

static int load(void **state)
{
    (void)state;
    golden = json_load_file(UPG_TEST_DATA "/bfir_golden.json", 0, NULL);
    return golden != NULL ? 0 : -1;
}

static int unload(void **state)
{
    (void)state;
    json_decref(golden);
    return 0;
}

static int64_t int_field(const json_t *object, const char *key)
{
    json_t *value = json_object_get(object, key);

    assert_true(json_is_integer(value));
    return json_integer_value(value);
}

static int64_t int_at(const json_t *object, const char *key, size_t i)
{
    json_t *value = json_array_get(json_object_get(object, key), i);

    assert_true(json_is_integer(value));
    return json_integer_value(value);
}

static int64_t int_at2(const json_t *object, const char *key, size_t i, size_t j)
{
    json_t *value = json_array_get(json_array_get(json_object_get(object, key), i), j);

    assert_true(json_is_integer(value));
    return json_integer_value(value);
}

static upg_code code_of(const json_t *c)
{
    upg_code        code = { .k0 = (uint8_t)int_field(c, "k_even"),
                             .k1 = (uint8_t)int_field(c, "k_odd"),
                             .length = (uint8_t)int_field(c, "L"),
                             .gain = (float)json_number_value(json_object_get(c, "g_even")) };
    const upg_code *own;

    code.rate2 = (uint8_t)(code.k0 + code.k1);
    for (size_t i = 0; i < code.length; i++)
        code.taps[i] = (int16_t)int_at(c, "taps_even", i);
    /* The vectors were made with the library's own tap sets. */
    own = upg_code_find(code.rate2, code.length);
    assert_non_null(own);
    assert_memory_equal(own->taps, code.taps, sizeof code.taps);
    assert_true(own->gain == code.gain && own->k0 == code.k0 && own->k1 == code.k1);
    return code;
}

static uint32_t hex_bit(const json_t *c, uint32_t b, uint32_t j)
{
    const char *hex = json_string_value(json_array_get(json_object_get(c, "bits_hex"), b));
    char        byte[3] = { hex[j / 8 * 2], hex[j / 8 * 2 + 1], 0 };

    return (uint32_t)strtoul(byte, NULL, 16) >> j % 8 & 1u;
}

/* One golden case as a band, its bits put where coded_matrix.h says. */
typedef struct golden_band {
    const json_t *json;
    upg_band      band;
    uint32_t      n_rows, n_cols;
    uint32_t     *bits;
    uint16_t     *scales;
} golden_band;

static void *zeroed(size_t bytes)
{
    size_t whole = (bytes + 63) / 64 * 64;
    void  *memory = aligned_alloc(64, whole > 0 ? whole : 64);

    assert_non_null(memory);
    memset(memory, 0, whole);
    return memory;
}

static golden_band band_of(const json_t *c)
{
    golden_band g = { .json = c,
                      .n_rows = (uint32_t)int_field(c, "rows"),
                      .n_cols = (uint32_t)int_field(c, "cols") };

    g.band.code = code_of(c);
    g.band.n_rows = g.n_rows;
    g.band.n_binary = (uint32_t)upg_code_binary_rows(&g.band.code, g.n_rows);
    assert_int_equal(g.band.n_binary, int_field(c, "binary_rows"));
    g.bits = zeroed(upg_band_words(g.band.n_binary, g.n_cols) * sizeof *g.bits);
    g.scales = zeroed(g.n_rows * sizeof *g.scales);
    for (uint32_t b = 0; b < g.band.n_binary; b++)
        for (uint32_t j = 0; j < g.n_cols; j++)
            g.bits[upg_word_index(g.band.n_binary, g.n_cols, b, j / 32)] |= hex_bit(c, b, j)
                                                                            << j % 32;
    for (uint32_t r = 0; r < g.n_rows; r++) {
        json_t *hex = json_array_get(json_object_get(c, "row_scale_fp16_hex"), r);

        g.scales[r] = (uint16_t)strtoul(json_string_value(hex), NULL, 16);
    }
    g.band.bits = g.bits;
    g.band.scales = g.scales;
    return g;
}

static void free_band(golden_band *g)
{
    free(g->bits);
    free(g->scales);
}

static void values_are_equal(void **state)
{
    json_t *c;
    size_t  i;

    (void)state;
    json_array_foreach(json_object_get(golden, "cases"), i, c)
    {
        golden_band      g = band_of(c);
        upg_coded_matrix matrix = {
            .n_rows = g.n_rows, .n_cols = g.n_cols, .n_bands = 1, .bands = &g.band
        };
        int32_t *values = zeroed(g.n_cols * sizeof *values);
        float   *row = zeroed(g.n_cols * sizeof *row);

        for (uint32_t r = 0; r < g.n_rows; r++) {
            double factor = (double)upg_f32_from_f16(g.scales[r]) * (double)g.band.code.gain;

            upg_band_row_values(&g.band, g.n_cols, r, values);
            upg_coded_row(&matrix, r, row);
            for (uint32_t j = 0; j < g.n_cols; j++) {
                assert_int_equal(values[j], int_at2(c, "decoded_int", r, j));
                assert_true(fabs((double)row[j] - factor * values[j]) <=
                            2e-7 * fabs(factor * values[j]));
            }
        }
        free(values);
        free(row);
        free_band(&g);
    }
}

/* u of all binary rows by the machine's own kernels, then y through the taps. */
static void products_are_equal(void **state)
{
    json_t     *c;
    size_t      i;
    upg_kernels k;

    (void)state;
    upg_kernels_select(upg_cpu_flags(), &k);
    json_array_foreach(json_object_get(golden, "cases"), i, c)
    {
        golden_band g = band_of(c);
        uint32_t    groups = upg_group_count(g.n_cols);
        uint32_t    blocks = upg_block_count(g.band.n_binary);
        int8_t     *x = zeroed(32 * groups);
        void       *prepared = zeroed((size_t)groups * UPG_PREPARED_BYTES_PER_GROUP);
        int32_t    *u = zeroed((size_t)blocks * UPG_BLOCK_ROWS * sizeof *u);

        for (uint32_t j = 0; j < g.n_cols; j++)
            x[j] = (int8_t)int_at(c, "x_int8", j);
        k.bitdot_prepare(groups, x, prepared);
        for (uint32_t b = 0; b < blocks; b++)
            k.bitdot(groups, upg_block_rows(g.band.n_binary, b),
                     g.bits + upg_block_offset(b, g.n_cols), prepared, u + b * UPG_BLOCK_ROWS);
        for (uint32_t b = 0; b < g.band.n_binary; b++)
            assert_int_equal(u[b], int_at(c, "u_int32", b));
        for (uint32_t r = 0; r < g.n_rows; r++) {
            uint64_t newest = upg_code_newest(&g.band.code, r);
            int64_t  y = 0;
            double   want = json_number_value(json_array_get(json_object_get(c, "y_float"), r));
            double   got;

            for (uint32_t t = 0; t < g.band.code.length; t++)
                y += (int64_t)g.band.code.taps[t] * u[newest - t];
            assert_int_equal(y, int_at(c, "y_int32", r));
            got = (double)upg_f32_from_f16(g.scales[r]) * (double)g.band.code.gain * (double)y;
            /* the vectors' gain is a double, ours a float: relative 2^-24 */
            assert_true(fabs(got - want) <= 1e-7 * fabs(want));
        }
        free(x);
        free(prepared);
        free(u);
        free_band(&g);
    }
}

static int64_t squared_error(const golden_band *g, uint32_t j, const uint16_t *windows)
{
    int64_t sum = 0;

    for (uint32_t r = 0; r < g->n_rows; r++) {
        int64_t miss =
            int_at2(g->json, "target_int", r, j) - upg_code_value(&g->band.code, windows[r]);

        sum += miss * miss;
    }
    return sum;
}

/* Encodes every column, packs the windows, reads them back. Returns the case's squared error; in
 * float32 each column must reach the optimum (to float rounding: the sums agree to 1e-6). */
static int64_t encode_case(golden_band *g, upg_viterbi_arithmetic arithmetic, uint32_t flags)
{
    const upg_code *code = &g->band.code;
    float          *target = zeroed(g->n_rows * sizeof *target);
    uint16_t       *windows = zeroed((size_t)g->n_rows * 32 * sizeof *windows);
    int32_t        *values = zeroed(g->n_cols * sizeof *values);
    int64_t         total = 0;
    upg_viterbi    *v;

    assert_int_equal(upg_viterbi_create(code, g->n_rows, arithmetic, flags, &v, NULL), UPG_OK);
    for (uint32_t group = 0; group < upg_group_count(g->n_cols); group++) {
        uint32_t n = g->n_cols - 32 * group < 32 ? g->n_cols - 32 * group : 32;

        for (uint32_t c = 0; c < n; c++) {
            uint32_t j = 32 * group + c;
            int64_t  sse, optimal = int_at(g->json, "optimal_sse_per_column", j);

            for (uint32_t r = 0; r < g->n_rows; r++)
                target[r] = code->gain * (float)int_at2(g->json, "target_int", r, j);
            upg_viterbi_encode(v, g->n_rows, target, NULL, windows + c * g->n_rows);
            sse = squared_error(g, j, windows + c * g->n_rows);
            if (arithmetic == UPG_VITERBI_EXACT && (double)(sse - optimal) > 1e-6 * (double)optimal)
                fail_msg("column %u: error %lld, optimum %lld", j, (long long)sse,
                         (long long)optimal);
            assert_true(sse >= optimal);
            total += sse;
        }
        upg_band_pack_group(code, g->n_rows, g->n_cols, group, n, windows, g->bits);
        for (uint32_t r = 0; r < g->n_rows; r++) {
            upg_band_row_values(&g->band, g->n_cols, r, values);
            for (uint32_t c = 0; c < n; c++)
                assert_int_equal(values[32 * group + c],
                                 upg_code_value(code, windows[c * g->n_rows + r]));
        }
    }
    upg_viterbi_close(v);
    free(target);
    free(windows);
    free(values);
    return total;
}

static void encoder_reaches_the_optimum(void **state)
{
    static const uint32_t levels[] = { 0, UPG_CPU_AVX2, UINT32_MAX };
    json_t               *c;
    size_t                i, n_encoded = 0;

    (void)state;
    json_array_foreach(json_object_get(golden, "cases"), i, c)
    {
        golden_band g;
        int64_t     optimal = 0;

        if (json_object_get(c, "target_int") == NULL) /* random bits, nothing to encode */
            continue;
        g = band_of(c);
        for (uint32_t j = 0; j < g.n_cols; j++)
            optimal += int_at(c, "optimal_sse_per_column", j);
        for (size_t l = 0; l < sizeof levels / sizeof levels[0]; l++) {
            uint32_t flags = upg_cpu_flags() & levels[l];
            int64_t  fast = encode_case(&g, UPG_VITERBI_FAST, flags);

            encode_case(&g, UPG_VITERBI_EXACT, flags);
            if ((double)fast > 1.005 * (double)optimal)
                fail_msg("%s: int16 error %lld, optimum %lld",
                         json_string_value(json_object_get(c, "name")), (long long)fast,
                         (long long)optimal);
        }
        n_encoded++;
        free_band(&g);
    }
    assert_true(n_encoded >= 8);
}

static void rotations_are_equal(void **state)
{
    json_t *c;
    size_t  i;

    (void)state;
    json_array_foreach(json_object_get(golden, "rotation"), i, c)
    {
        uint32_t     width = (uint32_t)int_field(c, "cols");
        upg_rotation rotation = upg_rotation_make(width, 0);
        float       *x = zeroed(width * sizeof *x), *signs = zeroed(width * sizeof *signs);
        double       root;

        if (int_field(c, "cap") == UPG_ROTATION_MAX_BLOCK)
            assert_int_equal(rotation.block, int_field(c, "block"));
        rotation.block = (uint32_t)int_field(c, "block");
        root = sqrt(rotation.block);
        for (uint32_t j = 0; j < width; j++) {
            x[j] = (float)int_at(c, "x", j);
            signs[j] = (float)int_at(c, "signs", j);
        }
        upg_rotation_apply(&rotation, signs, x, 1);
        /* sums of integers are exact, 1/√B and its product are rounded once each */
        for (uint32_t j = 0; j < width; j++)
            assert_true(fabs((double)x[j] * root - (double)int_at(c, "y_times_sqrt_block", j)) <=
                        1e-3);
        upg_rotation_undo(&rotation, signs, x, 1);
        for (uint32_t j = 0; j < width; j++)
            assert_true(fabs((double)x[j] - (double)int_at(c, "x", j)) <= 1e-4);
        free(x);
        free(signs);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_equal),
        cmocka_unit_test(products_are_equal),
        cmocka_unit_test(encoder_reaches_the_optimum),
        cmocka_unit_test(rotations_are_equal),
    };

    return cmocka_run_group_tests(tests, load, unload);
}
