/* sampler.h: one token from the logits of one position.
 *
 *   logits ─► biases ─► penalties ─► mask ─► temperature ─► top-k ─► top-p ─► min-p ─► draw
 *
 * The draw uses value `position` of the stream `seed` (base/random.h): the text depends on nothing
 * but seed, settings and logits. */
#ifndef UPG_RUNTIME_SAMPLER_H
#define UPG_RUNTIME_SAMPLER_H

#include "runtime/engine.h"

/** A session's settings; a zeroed one is greedy. */
typedef struct upg_sampler {
    upg_sampling settings;
    upg_scored  *biases; /* [settings.bias_count], own */
} upg_sampler;

/** Copies the settings. Errors: E_ARG (names field and value; the sampler is as before), E_NOMEM.
 */
upg_status upg_sampler_set(upg_sampler *sampler, const upg_sampling *settings, uint32_t vocab,
                           upg_error *err);
void       upg_sampler_deinit(upg_sampler *sampler);

/** A sequence as penalties see it: repetition counts all tokens; presence and frequency only those
 * that were sampled (OpenAI's definition), not the prompt's. */
typedef struct upg_sampler_history {
    const upg_token *tokens; /* [n] */
    const uint8_t   *drawn;  /* [n]: 1 when the token was sampled */
    uint32_t         n;
} upg_sampler_history;

/** Chooses among the tokens below n_tokens that `allowed` (NULL = all) lets pass; ties go to the
 * lowest id. Returns −1 when nothing is allowed. */
upg_token upg_sampler_choose(const upg_sampler *sampler, const upg_kernels *kernels,
                             upg_sampler_space *space, const float *logits, uint32_t n_tokens,
                             const uint32_t *allowed, const upg_sampler_history *history,
                             uint64_t position);

/* ---- distributions, for sampler and evaluation ------------------------------------------------
 */

/** The first index of the largest value; n ≥ 1. */
uint32_t upg_argmax(const float *x, uint32_t n);
/** log Σ exp(x): partial sums of 1024 in fp32, those in fp64. `max` is the largest value. */
double upg_log_sum_exp(const upg_kernels *kernels, const float *x, uint32_t n, float max);
/** The n_top largest logits as log-probabilities, best first, ties by the lowest id. */
void upg_top_tokens(const float *logits, uint32_t n, double log_sum, upg_scored *top,
                    uint32_t n_top);

#endif
