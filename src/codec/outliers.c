#include "codec/outliers.h"

#include <string.h>

#include "base/checked.h"
#include "base/halffloat.h"

/* The layout, packed:
 *
 *   u32 column [n_columns] | f16 scale [n_columns], then the sparse part's if there is one |
 *   i8 column_values [n_columns][n_rows] | i8 values [n_sparse] | u8 gaps [gap_bytes] */

enum { GAP_BITS = 7, GAP_MORE = 0x80, MAX_GAP_BYTES = 9 };

static uint64_t scale_count(const upg_outlier_counts *counts)
{
    return (uint64_t)counts->n_columns + (counts->n_sparse > 0);
}

bool upg_outliers_bytes(const upg_outlier_counts *counts, uint32_t n_rows, uint64_t *bytes)
{
    uint64_t head = sizeof(uint32_t) * (uint64_t)counts->n_columns +
                    sizeof(uint16_t) * scale_count(counts) + counts->n_sparse;

    return upg_mul_u64(counts->n_columns, n_rows, bytes) && upg_add_u64(*bytes, head, bytes) &&
           upg_add_u64(*bytes, counts->gap_bytes, bytes);
}

/* ---- reading -------------------------------------------------------------------------------- */

static upg_status parse_scale(const uint8_t *bytes, float *scale, upg_error *err)
{
    uint16_t half;

    memcpy(&half, bytes, sizeof half);
    if ((half & 0x7C00u) == 0x7C00u)
        return upg_fail(err, UPG_E_FORMAT, "a scale of the outliers is not finite");
    *scale = upg_f32_from_f16(half);
    return UPG_OK;
}

/* columns [n_columns]: where they lie. */
static upg_status parse_columns(upg_outliers *o, const uint8_t *columns, const uint8_t *scales,
                                upg_arena *arena, upg_error *err)
{
    float     *values = upg_arena_alloc(arena, o->n_columns, sizeof *values, err);
    upg_status st = values != NULL ? UPG_OK : UPG_E_NOMEM;

    UPG_TRY(st);
    o->column = (const uint32_t *)(const void *)columns;
    o->column_scales = values;
    for (uint32_t d = 0; d < o->n_columns; d++) {
        if (o->column[d] >= o->n_cols || (d > 0 && o->column[d] <= o->column[d - 1]))
            return upg_fail(err, UPG_E_FORMAT,
                            "outlier column %u is number %u: they must ascend below %u", d,
                            o->column[d], o->n_cols);
        UPG_TRY(parse_scale(scales + sizeof(uint16_t) * d, &values[d], err));
    }
out:
    return st;
}

/* The next gap; false when the bytes end inside it or it has too many of them. */
static bool next_gap(upg_span *gaps, uint64_t *gap)
{
    *gap = 0;
    for (unsigned i = 0; i < MAX_GAP_BYTES && i < gaps->size; i++) {
        uint8_t byte = gaps->data[i];

        *gap |= (uint64_t)(byte & (GAP_MORE - 1)) << GAP_BITS * i;
        if ((byte & GAP_MORE) == 0) {
            gaps->data += i + 1;
            gaps->size -= i + 1;
            return true;
        }
    }
    return false;
}

/* Turns gaps into rows of columns. A gap has at most 63 bits, and so has a matrix. */
static upg_status parse_places(upg_outliers *o, upg_span gaps, uint32_t *row_begin,
                               uint32_t *columns, upg_error *err)
{
    uint64_t at = 0, total = (uint64_t)o->n_rows * o->n_cols;
    uint32_t row = 0;

    for (uint32_t k = 0; k < o->n_sparse; k++, at++) {
        uint64_t gap;

        if (!next_gap(&gaps, &gap) || gap >= total - at)
            return upg_fail(err, UPG_E_FORMAT,
                            "the place of outlier %u of %u lies outside the matrix", k,
                            o->n_sparse);
        at += gap;
        while (row < at / o->n_cols)
            row_begin[++row] = k;
        columns[k] = (uint32_t)(at % o->n_cols);
    }
    while (row < o->n_rows)
        row_begin[++row] = o->n_sparse;
    if (gaps.size != 0)
        return upg_fail(err, UPG_E_FORMAT, "%zu bytes follow the place of the last outlier",
                        gaps.size);
    return UPG_OK;
}

static upg_status parse_sparse(upg_outliers *o, upg_span gaps, upg_arena *arena, upg_error *err)
{
    uint32_t  *row_begin = upg_arena_alloc(arena, (size_t)o->n_rows + 1, sizeof *row_begin, err);
    uint32_t  *columns = upg_arena_alloc(arena, o->n_sparse, sizeof *columns, err);
    upg_status st = row_begin != NULL && columns != NULL ? UPG_OK : UPG_E_NOMEM;

    o->row_begin = row_begin;
    o->columns = columns;
    return st == UPG_OK ? parse_places(o, gaps, row_begin, columns, err) : st;
}

upg_status upg_outliers_parse(upg_span bytes, const upg_outlier_counts *counts, uint32_t n_rows,
                              uint32_t n_cols, upg_arena *arena, const upg_outliers **outliers,
                              upg_error *err)
{
    upg_outliers  *o = upg_arena_alloc(arena, 1, sizeof *o, err);
    const uint8_t *at = bytes.data;
    uint64_t       need = 0;
    upg_status     st = o != NULL ? UPG_OK : UPG_E_NOMEM;

    UPG_TRY(st);
    if (!upg_outliers_bytes(counts, n_rows, &need) || need != bytes.size ||
        counts->n_columns > n_cols)
        return upg_fail(err, UPG_E_FORMAT,
                        "%u columns and %u single outliers do not make %zu bytes",
                        counts->n_columns, counts->n_sparse, bytes.size);
    *o = (upg_outliers) { .n_rows = n_rows,
                          .n_cols = n_cols,
                          .n_sparse = counts->n_sparse,
                          .n_columns = counts->n_columns };
    const uint8_t *scales = at + sizeof(uint32_t) * (size_t)o->n_columns;
    UPG_TRY(parse_columns(o, at, scales, arena, err));
    at = scales + sizeof(uint16_t) * (size_t)scale_count(counts);
    o->column_values = (const int8_t *)at;
    at += (size_t)o->n_columns * n_rows;
    o->values = (const int8_t *)at;
    at += o->n_sparse;
    if (o->n_sparse > 0) {
        upg_span gaps = { at, (size_t)counts->gap_bytes };

        UPG_TRY(parse_scale(scales + sizeof(uint16_t) * (size_t)o->n_columns, &o->scale, err));
        UPG_TRY(parse_sparse(o, gaps, arena, err));
    } else if (counts->gap_bytes != 0) {
        UPG_TRY(upg_fail(err, UPG_E_FORMAT, "places of outliers, but no outliers"));
    }
    *outliers = o;
out:
    return st;
}

/* ---- writing -------------------------------------------------------------------------------- */

static upg_status print_scale(float scale, upg_buffer *bytes, upg_error *err)
{
    uint16_t half = upg_f16_from_f32(scale);

    return upg_buffer_add(bytes, &half, sizeof half, err);
}

static upg_status print_gap(uint64_t gap, upg_buffer *bytes, upg_error *err)
{
    uint8_t  code[MAX_GAP_BYTES];
    unsigned n = 0;

    do {
        code[n] = (uint8_t)(gap & (GAP_MORE - 1));
        gap >>= GAP_BITS;
        code[n++] |= gap > 0 ? GAP_MORE : 0;
    } while (gap > 0);
    return upg_buffer_add(bytes, code, n, err);
}

upg_status upg_outliers_print(const upg_outliers *o, upg_buffer *bytes, upg_outlier_counts *counts,
                              upg_error *err)
{
    uint64_t   next = 0;
    size_t     before;
    upg_status st = UPG_OK;

    UPG_TRY(upg_buffer_add(bytes, o->column, o->n_columns * sizeof *o->column, err));
    for (uint32_t d = 0; d < o->n_columns; d++)
        UPG_TRY(print_scale(o->column_scales[d], bytes, err));
    if (o->n_sparse > 0)
        UPG_TRY(print_scale(o->scale, bytes, err));
    UPG_TRY(upg_buffer_add(bytes, o->column_values, (size_t)o->n_columns * o->n_rows, err));
    UPG_TRY(upg_buffer_add(bytes, o->values, o->n_sparse, err));
    before = bytes->size;
    for (uint32_t r = 0; r < o->n_rows && o->n_sparse > 0; r++)
        for (uint32_t k = o->row_begin[r]; k < o->row_begin[r + 1]; k++) {
            uint64_t at = (uint64_t)r * o->n_cols + o->columns[k];

            UPG_TRY(print_gap(at - next, bytes, err));
            next = at + 1;
        }
    *counts = (upg_outlier_counts) { o->n_columns, o->n_sparse, bytes->size - before };
out:
    return st;
}

/* ---- rows and products ---------------------------------------------------------------------- */

void upg_outliers_add_row(const upg_outliers *o, uint32_t row, float factor, uint32_t first,
                          uint32_t n, float *out)
{
    uint32_t begin = o->n_sparse > 0 ? o->row_begin[row] : 0;
    uint32_t end = o->n_sparse > 0 ? o->row_begin[row + 1] : 0;

    /* fp16 times int8 has 19 bits: exact in f32, for any `factor` that is a power of two */
    for (uint32_t k = begin; k < end; k++)
        if (o->columns[k] - first < n)
            out[o->columns[k] - first] += factor * (o->scale * (float)o->values[k]);
    for (uint32_t d = 0; d < o->n_columns; d++)
        if (o->column[d] - first < n)
            out[o->column[d] - first] +=
                factor *
                (o->column_scales[d] * (float)o->column_values[(size_t)d * o->n_rows + row]);
}

/* e_r of the sparse part: products of int8 and f32 are exact in f64. */
static double sparse_product(const upg_outliers *o, uint32_t row, const float *x)
{
    double sum = 0;

    for (uint32_t k = o->row_begin[row]; k < o->row_begin[row + 1]; k++)
        sum += (double)o->values[k] * (double)x[o->columns[k]];
    return (double)o->scale * sum;
}

void upg_outliers_add_product(const upg_outliers *o, uint32_t row0, uint32_t n, const float *x,
                              float *y)
{
    enum { ROWS = 64 };
    double sums[ROWS];

    for (uint32_t done = 0; done < n; done += ROWS) {
        uint32_t rows = n - done < ROWS ? n - done : ROWS;

        for (uint32_t r = 0; r < rows; r++)
            sums[r] = o->n_sparse > 0 ? sparse_product(o, row0 + done + r, x) : 0;
        for (uint32_t d = 0; d < o->n_columns; d++) {
            const int8_t *v = o->column_values + (size_t)d * o->n_rows + row0 + done;
            double        factor = (double)o->column_scales[d] * (double)x[o->column[d]];

            for (uint32_t r = 0; r < rows; r++)
                sums[r] += (double)v[r] * factor;
        }
        for (uint32_t r = 0; r < rows; r++)
            y[done + r] += (float)sums[r];
    }
}
