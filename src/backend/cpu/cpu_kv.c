/* cpu_kv.c: KV pages (kv_layout.h): one head's vector in. */
#include <string.h>

#include "backend/cpu/cpu_backend.h"
#include "base/halffloat.h"
#include "kernels/quantised.h"

const float *upg_cpu_kv_scales(const upg_kv_layout *layout, const uint8_t *part)
{
    return (const float *)(const void *)(part + (size_t)UPG_PAGE_TOKENS * layout->head_dim);
}

void upg_cpu_kv_store(cpu_backend *b, const upg_kv_layout *layout, const upg_kv_view *kv,
                      uint32_t position, uint32_t layer, uint32_t head, uint32_t v, const float *x)
{
    uint8_t *part = kv->pages[position / UPG_PAGE_TOKENS] + upg_kv_part(layout, layer, head, v);
    size_t   token = position % UPG_PAGE_TOKENS, first = token * layout->head_dim;

    if (layout->type == UPG_KV_F32) {
        memcpy(part + first * sizeof *x, x, layout->head_dim * sizeof *x);
    } else if (layout->type == UPG_KV_F16) {
        uint16_t *out = (uint16_t *)(void *)part + first;
        bool      fits = true;

        for (uint32_t d = 0; d < layout->head_dim; d++) {
            out[d] = upg_f16_from_f32(x[d]);
            fits &= (out[d] & 0x7FFFu) < 0x7C00u;
        }
        if (!fits) /* too large for fp16, infinite or NaN */
            atomic_store_explicit(&b->bad, true, memory_order_relaxed);
    } else {
        float inverse;

        float *scales = (float *)(void *)(part + (size_t)UPG_PAGE_TOKENS * layout->head_dim);

        scales[token] = upg_int8_scale(b->kernels.max_abs(layout->head_dim, x), &inverse);
        b->kernels.quantise_i8(layout->head_dim, x, inverse, (int8_t *)part + first);
    }
}
