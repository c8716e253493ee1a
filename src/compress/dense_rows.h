/* dense_rows.h: rows of a dense matrix as f32. */
#ifndef UPG_COMPRESS_DENSE_ROWS_H
#define UPG_COMPRESS_DENSE_ROWS_H

#include "model/weights.h"

/** Columns begin … begin + n − 1 of a row: out f32 [n]. */
void upg_dense_row_part(const upg_matrix *matrix, uint32_t row, uint32_t begin, uint32_t n,
                        float *out);
/** All rows: out f32 [n_rows][n_cols]. Pages of a mapped file are let go of behind. */
void upg_dense_load(const upg_matrix *matrix, float *out);
/** Lets go of the pages of a mapped file that hold the matrix (upg_map_forget). */
void upg_dense_forget(const upg_matrix *matrix);
/** Bytes of the matrix as it came: pages of its file while it is read. */
uint64_t upg_dense_bytes(const upg_matrix *matrix);

#endif
