/* model_config.h: what config.json says about a model, checked, in one struct for all
 * architectures. */
#ifndef UPG_MODEL_MODEL_CONFIG_H
#define UPG_MODEL_MODEL_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/error.h"
#include "base/span.h"

enum { UPG_MAX_END_TOKENS = 16 };

/* Limits of what is accepted: far above every known model, low enough that no product of three
 * overflows 64 bits and that a width fits every counter. */
enum {
    UPG_MAX_LAYERS = 4096,
    UPG_MAX_WIDTH = 1 << 24, /* hidden, ffn, vocabulary, heads · head_dim */
    UPG_MAX_HEAD_DIM = 512,
    UPG_MAX_CONTEXT = 1 << 30
};

/** Rotary position embedding. Frequencies are f32 [rotary_dims / 2]. */
typedef struct upg_rope {
    uint32_t     rotary_dims;      /* even, ≤ head_dim: partial rotary leaves the rest as it is */
    uint32_t     original_context; /* longrope: sequences longer than this use long_inv_freq */
    const float *inv_freq;         /* sequences up to original_context, and without longrope all */
    const float *long_inv_freq;    /* NULL without longrope */
    float        attention_scaling; /* cos and sin are multiplied by it; 1 without longrope */
} upg_rope;

typedef struct upg_model_config {
    const struct upg_architecture *architecture;
    uint32_t n_layers, hidden, n_heads, n_kv_heads, head_dim, ffn, vocab, context;
    uint32_t sliding_window; /* keys a query sees, its own included; 0 = all */
    bool     tied_embeddings;
    float    norm_eps;
    upg_rope rope;
    uint32_t n_end_tokens; /* union of config.json and generation_config.json */
    int32_t  end_tokens[UPG_MAX_END_TOKENS];
    int32_t  bos_token; /* −1 = none */
    /* Sampling defaults of generation_config.json; < 0 = not given. do_sample false or absent means
     * that the defaults below do not apply (greedy). */
    bool    do_sample;
    double  temperature, top_p, min_p, repetition_penalty;
    int64_t top_k;
} upg_model_config;

/** Reads config.json and generation_config.json (may be empty) in transformers' v4 and v5 styles.
 * Arrays live in `arena`. Errors: E_FORMAT (field, value), E_UNSUPPORTED (architecture by name with
 * the list of those supported; rope type, activation, quantization_config … by name). */
upg_status upg_model_config_read(upg_span config_json, upg_span generation_config_json,
                                 upg_arena *arena, upg_model_config *config, upg_error *err);

#endif
