/* make_checkpoint.h: tiny models with random weights, in the form of Hugging Face checkpoints.
 *
 * The same shape and seed always give the same bytes. Weights are bf16 and scaled so that
 * activations stay near 1, hence logits are of use for comparisons. */
#ifndef UPG_TESTS_MAKE_CHECKPOINT_H
#define UPG_TESTS_MAKE_CHECKPOINT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

typedef struct test_model_shape {
    uint32_t hidden, n_layers, n_heads, n_kv_heads, ffn, vocab, context;
    uint32_t head_dim;         /* 0 = hidden / n_heads, and config.json does not name it */
    uint32_t sliding_window;   /* 0 = null */
    double   partial_rotary;   /* 0 = 1 */
    uint32_t original_context; /* with longrope: where the long factors begin */
    bool     longrope, tied;
    bool     v5_style;    /* config.json as transformers 5 writes it, else as 4 did */
    bool     llama_names; /* LlamaForCausalLM: q, k, v, gate, up apart, same values */
    bool     tokenizer;   /* copy phi4-micro's tokenizer files (vocab ≥ 8192) */
    uint32_t n_shards;    /* 0 or 1 = one file */
} test_model_shape;

/** A usable small shape: hidden 64, 2 layers, 4 / 2 heads of 16, ffn 96, vocabulary 320, context
 * 128. */
test_model_shape test_model_small(void);

/** Writes config.json, generation_config.json and the weights into `folder`, which is created when
 * it is not there; files of these names are replaced. */
upg_status make_checkpoint(const char *folder, const test_model_shape *shape, uint64_t seed,
                           upg_error *err);

#endif
