/* ref_kv.c: one head's K or V of one position, into and out of a page (kv_layout.h). */
#include <math.h>
#include <string.h>

#include "backend/ref/ref.h"
#include "base/halffloat.h"

static uint8_t *part_of(const upg_kv_layout *layout, const upg_kv_view *kv, uint32_t layer,
                        uint32_t head, uint32_t v, uint32_t position)
{
    return kv->pages[position / UPG_PAGE_TOKENS] + upg_kv_part(layout, layer, head, v);
}

static float *int8_scale(const upg_kv_layout *layout, uint8_t *part, uint32_t place)
{
    return (float *)(part + (size_t)UPG_PAGE_TOKENS * layout->head_dim) + place;
}

static void store_int8(const float *x, uint32_t n, int8_t *q, float *scale)
{
    float max = 0;

    for (uint32_t d = 0; d < n; d++)
        max = fmaxf(max, fabsf(x[d]));
    for (uint32_t d = 0; d < n; d++)
        q[d] = max > 0 ? (int8_t)rintf(x[d] * (127.0f / max)) : 0;
    *scale = max / 127.0f;
}

static bool store_f16(const float *x, uint32_t n, uint16_t *out)
{
    bool fits = true;

    for (uint32_t d = 0; d < n; d++) {
        out[d] = upg_f16_from_f32(x[d]);
        fits = fits && (out[d] & 0x7FFFu) < 0x7C00u;
    }
    return fits;
}

bool upg_ref_kv_store(const upg_kv_layout *layout, const upg_kv_view *kv, uint32_t layer,
                      uint32_t head, uint32_t v, uint32_t position, const float *x)
{
    uint32_t n = layout->head_dim, place = position % UPG_PAGE_TOKENS;
    uint8_t *part = part_of(layout, kv, layer, head, v, position);

    switch (layout->type) {
    case UPG_KV_F16:
        return store_f16(x, n, (uint16_t *)part + (size_t)place * n);
    case UPG_KV_I8:
        store_int8(x, n, (int8_t *)part + (size_t)place * n, int8_scale(layout, part, place));
        return true;
    case UPG_KV_F32:
        memcpy((float *)part + (size_t)place * n, x, n * sizeof *x);
        return true;
    }
    return false;
}

void upg_ref_kv_load(const upg_kv_layout *layout, const upg_kv_view *kv, uint32_t layer,
                     uint32_t head, uint32_t v, uint32_t position, float *x)
{
    uint32_t n = layout->head_dim, place = position % UPG_PAGE_TOKENS;
    uint8_t *part = part_of(layout, kv, layer, head, v, position);

    switch (layout->type) {
    case UPG_KV_F16:
        for (uint32_t d = 0; d < n; d++)
            x[d] = upg_f32_from_f16(((const uint16_t *)part)[(size_t)place * n + d]);
        break;
    case UPG_KV_I8:
        for (uint32_t d = 0; d < n; d++)
            x[d] = *int8_scale(layout, part, place) *
                   (float)((const int8_t *)part)[(size_t)place * n + d];
        break;
    case UPG_KV_F32:
        memcpy(x, (const float *)part + (size_t)place * n, n * sizeof *x);
        break;
    }
}
