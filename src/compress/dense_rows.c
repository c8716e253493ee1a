#include "compress/dense_rows.h"

#include <string.h>

#include "base/halffloat.h"

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
