/* Outliers: bytes and back, rows and products against plain sums, and bytes that lie. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/random.h"
#include "support/random_outliers.h"

enum { MAX_ROWS = 130, MAX_COLS = 300 };

static upg_arena arena;
static upg_error err;

static const upg_outliers *make(uint32_t n_rows, uint32_t n_cols, uint32_t one_in,
                                uint32_t n_columns, uint64_t seed)
{
    const upg_outliers *o =
        test_random_outliers(n_rows, n_cols, one_in, n_columns, seed, &arena, &err);

    assert_non_null(o);
    return o;
}

/* The bytes at a 64-byte boundary; the caller frees. */
static uint8_t *print(const upg_outliers *o, upg_outlier_counts *counts, size_t *size)
{
    upg_buffer buffer;
    uint8_t   *bytes;
    uint64_t   want = 0;

    upg_buffer_init(&buffer, 1 << 20);
    assert_int_equal(upg_outliers_print(o, &buffer, counts, &err), UPG_OK);
    assert_true(upg_outliers_bytes(counts, o->n_rows, &want));
    assert_int_equal(buffer.size, want);
    *size = buffer.size;
    bytes = upg_alloc_aligned(buffer.size + 1, &err);
    assert_non_null(bytes);
    memcpy(bytes, buffer.data, buffer.size);
    upg_buffer_deinit(&buffer);
    return bytes;
}

static void check_equal(const upg_outliers *a, const upg_outliers *b)
{
    assert_int_equal(a->n_rows, b->n_rows);
    assert_int_equal(a->n_cols, b->n_cols);
    assert_int_equal(a->n_sparse, b->n_sparse);
    assert_int_equal(a->n_columns, b->n_columns);
    if (a->n_sparse > 0) {
        assert_memory_equal(a->row_begin, b->row_begin, (a->n_rows + 1) * sizeof *a->row_begin);
        assert_memory_equal(a->columns, b->columns, a->n_sparse * sizeof *a->columns);
        assert_memory_equal(a->values, b->values, a->n_sparse);
        assert_true(a->scale == b->scale);
    }
    if (a->n_columns > 0) {
        assert_memory_equal(a->column, b->column, a->n_columns * sizeof *a->column);
        assert_memory_equal(a->column_scales, b->column_scales,
                            a->n_columns * sizeof *a->column_scales);
        assert_memory_equal(a->column_values, b->column_values, (size_t)a->n_columns * a->n_rows);
    }
}

static const uint32_t shapes[][4] = {
    { 1, 1, 1, 0 },     { 1, 1, 0, 1 },         { 3, 5, 1, 2 },       { 64, 64, 20, 0 },
    { 65, 300, 9, 3 },  { 130, 7, 2, 7 },       { 128, 256, 900, 1 }, { 130, 300, 0, 5 },
    { 2, 300, 599, 0 }, { 130, 300, 30000, 0 },
};

enum { N_SHAPES = sizeof shapes / sizeof shapes[0] };

static void bytes_and_back(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_SHAPES; i++) {
        const uint32_t     *s = shapes[i];
        const upg_outliers *o = make(s[0], s[1], s[2], s[3], i), *back = NULL;
        upg_outlier_counts  counts;
        size_t              size;
        uint8_t            *bytes = print(o, &counts, &size);

        if (upg_outliers_parse((upg_span) { bytes, size }, &counts, s[0], s[1], &arena, &back,
                               &err) != UPG_OK)
            fail_msg("shape %zu: %s", i, err.message);
        check_equal(o, back);
        upg_free(bytes);
    }
    upg_arena_deinit(&arena);
}

/* A place costs one byte up to a gap of 127, two up to 16383. */
static void bytes_of_places(void **state)
{
    static const struct {
        uint32_t column, bytes;
    } places[] = { { 0, 1 }, { 127, 1 }, { 128, 2 }, { 16383, 2 }, { 16384, 3 }, { 2097151, 3 } };

    (void)state;
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        uint32_t           row_begin[2] = { 0, 1 };
        int8_t             value = -5;
        upg_outliers       o = { .n_rows = 1,
                                 .n_cols = 1 << 22,
                                 .n_sparse = 1,
                                 .row_begin = row_begin,
                                 .columns = &places[i].column,
                                 .values = &value,
                                 .scale = 0.5f };
        upg_outlier_counts counts;
        size_t             size;
        uint8_t           *bytes = print(&o, &counts, &size);

        assert_int_equal(counts.gap_bytes, places[i].bytes);
        assert_int_equal(size, 2 + 1 + places[i].bytes);
        upg_free(bytes);
    }
}

/* The outliers as a dense matrix, f32 [n_rows][n_cols]; the caller frees. */
static float *expand(const upg_outliers *o)
{
    float *w = calloc((size_t)o->n_rows * o->n_cols, sizeof *w);

    assert_non_null(w);
    for (uint32_t r = 0; r < o->n_rows; r++) {
        for (uint32_t k = 0; o->n_sparse > 0 && k < o->n_sparse; k++)
            if (k >= o->row_begin[r] && k < o->row_begin[r + 1])
                w[(size_t)r * o->n_cols + o->columns[k]] += o->scale * (float)o->values[k];
        for (uint32_t d = 0; d < o->n_columns; d++)
            w[(size_t)r * o->n_cols + o->column[d]] +=
                o->column_scales[d] * (float)o->column_values[(size_t)d * o->n_rows + r];
    }
    return w;
}

static void rows(void **state)
{
    float out[MAX_COLS];

    (void)state;
    for (size_t i = 0; i < N_SHAPES; i++) {
        const upg_outliers *o = make(shapes[i][0], shapes[i][1], shapes[i][2], shapes[i][3], i);
        float              *w = expand(o);
        uint32_t            first = o->n_cols / 3, n = (o->n_cols - first + 1) / 2;

        for (uint32_t r = 0; r < o->n_rows; r++) {
            memset(out, 0, sizeof out);
            upg_outliers_add_row(o, r, 1, 0, o->n_cols, out);
            assert_memory_equal(out, w + (size_t)r * o->n_cols, o->n_cols * sizeof *out);
            memset(out, 0, sizeof out);
            upg_outliers_add_row(o, r, 1, first, n, out);
            assert_memory_equal(out, w + (size_t)r * o->n_cols + first, n * sizeof *out);
            assert_true(out[n] == 0);
            upg_outliers_add_row(o, r, -1, first, n, out);
            for (uint32_t j = 0; j < n; j++)
                assert_true(out[j] == 0);
        }
        free(w);
    }
    upg_arena_deinit(&arena);
}

static void products(void **state)
{
    float x[MAX_COLS], y[MAX_ROWS], parts[MAX_ROWS];

    (void)state;
    for (uint32_t j = 0; j < MAX_COLS; j++)
        x[j] = (float)(upg_random_unit(5, j) - 0.5);
    for (size_t i = 0; i < N_SHAPES; i++) {
        const upg_outliers *o = make(shapes[i][0], shapes[i][1], shapes[i][2], shapes[i][3], i);
        float              *w = expand(o);

        memset(y, 0, sizeof y);
        memset(parts, 0, sizeof parts);
        upg_outliers_add_product(o, 0, o->n_rows, x, y);
        for (uint32_t r = 0; r < o->n_rows; r++) {
            double want = 0, magnitude = 0;

            for (uint32_t j = 0; j < o->n_cols; j++) {
                double term = (double)w[(size_t)r * o->n_cols + j] * (double)x[j];

                want += term;
                magnitude += fabs(term);
            }
            /* one f32 rounding, and f32 sums where a place is in both parts */
            assert_true(fabs((double)y[r] - want) <= 0x1p-22 * magnitude);
            upg_outliers_add_product(o, r, 1, x, parts + r);
        }
        assert_memory_equal(y, parts, o->n_rows * sizeof *y); /* however it is cut */
        free(w);
    }
    upg_arena_deinit(&arena);
}

/* Every byte of the tensor changed: refused, or inside the matrix. */
static void hostile_bytes(void **state)
{
    const upg_outliers *o = make(40, 70, 50, 3, 1);
    upg_outlier_counts  counts;
    size_t              size, n_ok = 0, n_bad = 0;
    uint8_t            *bytes = print(o, &counts, &size);
    float               out[70];

    (void)state;
    for (size_t i = 0; i < size; i++)
        for (unsigned bit = 0; bit < 8; bit++) {
            upg_arena           own = { 0 };
            const upg_outliers *got = NULL;

            bytes[i] ^= (uint8_t)(1u << bit);
            if (upg_outliers_parse((upg_span) { bytes, size }, &counts, 40, 70, &own, &got, &err) ==
                UPG_OK) {
                for (uint32_t r = 0; r < 40; r++)
                    upg_outliers_add_row(got, r, 1, 0, 70, out);
                n_ok++;
            } else {
                n_bad++;
            }
            bytes[i] ^= (uint8_t)(1u << bit);
            upg_arena_deinit(&own);
        }
    assert_true(n_ok > 100 && n_bad > 100);
    upg_free(bytes);
    upg_arena_deinit(&arena);
}

static upg_status parse_counts(const uint8_t *bytes, size_t size, upg_outlier_counts counts)
{
    upg_arena           own = { 0 };
    const upg_outliers *got = NULL;
    upg_status          st =
        upg_outliers_parse((upg_span) { bytes, size }, &counts, 40, 70, &own, &got, &err);

    upg_arena_deinit(&own);
    return st;
}

static void hostile_counts(void **state)
{
    const upg_outliers *o = make(40, 70, 50, 3, 1);
    upg_outlier_counts  c, other;
    size_t              size;
    uint8_t            *bytes = print(o, &c, &size);

    (void)state;
    assert_int_equal(parse_counts(bytes, size, c), UPG_OK);
    assert_int_equal(parse_counts(bytes, size - 1, c), UPG_E_FORMAT);
    other = (upg_outlier_counts) { c.n_columns, c.n_sparse - 1, c.gap_bytes + 1 };
    assert_int_equal(parse_counts(bytes, size, other), UPG_E_FORMAT);
    other = (upg_outlier_counts) { c.n_columns, c.n_sparse + 1, c.gap_bytes - 1 };
    assert_int_equal(parse_counts(bytes, size, other), UPG_E_FORMAT);
    other = (upg_outlier_counts) { UINT32_MAX, UINT32_MAX, UINT64_MAX };
    assert_int_equal(parse_counts(bytes, size, other), UPG_E_FORMAT);
    other = (upg_outlier_counts) { 0, 0, size };
    assert_int_equal(parse_counts(bytes, size, other), UPG_E_FORMAT);
    /* a gap without an end */
    memset(bytes + size - c.gap_bytes, 0xFF, c.gap_bytes);
    assert_int_equal(parse_counts(bytes, size, c), UPG_E_FORMAT);
    upg_free(bytes);
    upg_arena_deinit(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_and_back), cmocka_unit_test(bytes_of_places),
        cmocka_unit_test(rows),           cmocka_unit_test(products),
        cmocka_unit_test(hostile_bytes),  cmocka_unit_test(hostile_counts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
