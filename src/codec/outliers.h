/* outliers.h: the weights that are kept beside a matrix's code, in the original basis: single ones
 * (a sparse part) and whole input columns (a dense part). The matrix is the sum of the three.
 *
 * In the file (docs/FORMAT.md, "Outliers") the places of single weights are gaps in row-major
 * order, which cost about two bytes each at the densities that pay; in memory they are rows of
 * columns. Values are int8 with one scale for the sparse part and one for each dense column. Coarse
 * as that is, nothing is lost: the code gets the matrix less the outliers as rounded here. */
#ifndef UPG_CODEC_OUTLIERS_H
#define UPG_CODEC_OUTLIERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/buffer.h"
#include "base/span.h"

/** What the manifest says of a matrix's outliers; all 0 = none. */
typedef struct upg_outlier_counts {
    uint32_t n_columns; /* dense columns */
    uint32_t n_sparse;  /* single weights */
    uint64_t gap_bytes; /* of the code of their places */
} upg_outlier_counts;

typedef struct upg_outliers {
    uint32_t n_rows, n_cols; /* of the matrix */
    /* single weights; row r has entries row_begin[r] … row_begin[r + 1] − 1 */
    uint32_t        n_sparse;
    const uint32_t *row_begin; /* u32 [n_rows + 1], or NULL when n_sparse = 0 */
    const uint32_t *columns;   /* u32 [n_sparse], ascending within a row */
    const int8_t   *values;    /* i8 [n_sparse] */
    float           scale;
    /* dense columns */
    uint32_t        n_columns;
    const uint32_t *column;        /* u32 [n_columns], ascending */
    const float    *column_scales; /* f32 [n_columns] */
    const int8_t   *column_values; /* i8 [n_columns][n_rows] */
} upg_outliers;

static inline bool upg_outliers_any(const upg_outlier_counts *counts)
{
    return counts->n_columns > 0 || counts->n_sparse > 0;
}

/** Bytes of the tensor NAME.outliers. False on overflow. */
bool upg_outliers_bytes(const upg_outlier_counts *counts, uint32_t n_rows, uint64_t *bytes);
/** Reads the tensor, of which nothing is believed; `bytes` begins at a multiple of 4 and outlives
 * *outliers, which lives in `arena`. Errors: E_FORMAT, E_NOMEM. */
upg_status upg_outliers_parse(upg_span bytes, const upg_outlier_counts *counts, uint32_t n_rows,
                              uint32_t n_cols, upg_arena *arena, const upg_outliers **outliers,
                              upg_error *err);
/** Appends the tensor's bytes; scales must be fp16 values. Errors: E_NOMEM. */
upg_status upg_outliers_print(const upg_outliers *outliers, upg_buffer *bytes,
                              upg_outlier_counts *counts, upg_error *err);

/** out[j − first] += factor · (outliers of row `row`)[j] for columns first … first + n − 1. */
void upg_outliers_add_row(const upg_outliers *outliers, uint32_t row, float factor, uint32_t first,
                          uint32_t n, float *out);
/** y[i] += e_(row0 + i) for n rows, with e_r the rows' products with x f32 [n_cols]:
 *
 *     e_r = (float)(scale · Σ_k values[k]·x[columns[k]] + Σ_d
 * column_values[d][r]·(scale_d·x[column_d]))
 *
 * in f64, k over the entries of row r and then d over the dense columns, each sum from the first
 * term on; and then one f32 addition to y. */
void upg_outliers_add_product(const upg_outliers *outliers, uint32_t row0, uint32_t n,
                              const float *x, float *y);

#endif
