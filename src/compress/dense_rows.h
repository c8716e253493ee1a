/* dense_rows.h: rows of a dense matrix as f32. */
#ifndef UPG_COMPRESS_DENSE_ROWS_H
#define UPG_COMPRESS_DENSE_ROWS_H

#include "model/weights.h"

/** Columns begin … begin + n − 1 of a row: out f32 [n]. */
void upg_dense_row_part(const upg_matrix *matrix, uint32_t row, uint32_t begin, uint32_t n,
                        float *out);

#endif
