#include "compress/dense_rows.h"

#include <string.h>

#include "base/file.h"
#include "base/halffloat.h"

enum { FORGET_BYTES = 32 << 20 };

void upg_dense_row_part(const upg_matrix *m, uint32_t row, uint32_t begin, uint32_t n, float *out)
{
    size_t at = (size_t)row * m->n_cols + begin;

    if (m->dtype == UPG_F32) {
        memcpy(out, (const float *)m->dense + at, n * sizeof *out);
    } else if (m->dtype == UPG_F16) {
        for (uint32_t i = 0; i < n; i++)
            out[i] = upg_f32_from_f16(((const uint16_t *)m->dense)[at + i]);
    } else {
        for (uint32_t i = 0; i < n; i++)
            out[i] = upg_f32_from_bf16(((const uint16_t *)m->dense)[at + i]);
    }
}

void upg_dense_load(const upg_matrix *m, float *out)
{
    size_t   row_bytes = (size_t)m->n_cols * upg_dtype_bytes(m->dtype);
    uint32_t step = row_bytes < FORGET_BYTES ? (uint32_t)(FORGET_BYTES / row_bytes) : 1;

    for (uint32_t r = 0; r < m->n_rows; r++) {
        upg_dense_row_part(m, r, 0, m->n_cols, out + (size_t)r * m->n_cols);
        if ((r + 1) % step == 0)
            upg_map_forget((const uint8_t *)m->dense + (r + 1 - step) * row_bytes,
                           step * row_bytes);
    }
    upg_dense_forget(m);
}

void upg_dense_forget(const upg_matrix *m)
{
    if (m->kind == UPG_MATRIX_DENSE)
        upg_map_forget(m->dense, (size_t)upg_dense_bytes(m));
}

uint64_t upg_dense_bytes(const upg_matrix *m)
{
    return (uint64_t)m->n_rows * m->n_cols * upg_dtype_bytes(m->dtype);
}
