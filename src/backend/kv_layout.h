/* kv_layout.h: the KV cache as pages of 64 tokens, shared by all backends in host memory.
 *
 * A page holds 64 tokens of ONE sequence for all layers:
 *     [layer][kv head][ K: [64][head_dim] | V: [64][head_dim] ]
 * in f32, fp16 or int8. For int8 each (layer, head, K or V) part is followed by its scales, f32
 * [64] (one for each token): value = scale · int8, scale = max|x|/127, int8 = round to nearest
 * even(x·(127/max|x|)) in f32; zeros give scale 0. K is stored after RoPE.
 * runtime/ owns page tables and reference counts; backends read and write through a kv_view. */
#ifndef UPG_BACKEND_KV_LAYOUT_H
#define UPG_BACKEND_KV_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

#include "model/model_config.h"

enum { UPG_PAGE_TOKENS = 64 };

typedef enum upg_kv_type { UPG_KV_F16, UPG_KV_F32, UPG_KV_I8 } upg_kv_type;

typedef struct upg_kv_layout {
    upg_kv_type type;
    uint32_t    n_layers, n_kv_heads, head_dim;
    size_t      part_bytes; /* K or V of one layer and head, scales included; a multiple of 64 */
    size_t      page_bytes;
} upg_kv_layout;

static inline upg_kv_layout upg_kv_layout_make(const upg_model_config *config, upg_kv_type type)
{
    upg_kv_layout l = { type, config->n_layers, config->n_kv_heads, config->head_dim, 0, 0 };
    size_t        element = type == UPG_KV_F32 ? 4 : type == UPG_KV_F16 ? 2 : 1;

    l.part_bytes = element * UPG_PAGE_TOKENS * l.head_dim; /* 64 · … : a multiple of 64 */
    if (type == UPG_KV_I8)
        l.part_bytes += sizeof(float) * UPG_PAGE_TOKENS;
    l.page_bytes = 2 * l.part_bytes * l.n_kv_heads * l.n_layers;
    return l;
}

/** Byte offset in a page of the K part (v = 0) or V part (v = 1) of a layer and KV head. */
static inline size_t upg_kv_part(const upg_kv_layout *l, uint32_t layer, uint32_t head, uint32_t v)
{
    return l->part_bytes * (2 * ((size_t)layer * l->n_kv_heads + head) + v);
}

/** What a backend sees of one sequence: its pages in order. Page i holds positions 64·i … 64·i+63.
 * Pages that the running batch writes to are exclusively the sequence's own. */
typedef struct upg_kv_view {
    uint8_t *const *pages; /* [n_pages], each page_bytes at a 64-byte boundary */
    uint32_t        n_pages;
    bool            long_rope; /* longrope: use long_inv_freq */
} upg_kv_view;

#endif
