/* evaluate.h: perplexity and KL divergence over windows of tokens.
 *
 * Hardware and batching do not show: a row's logits depend on nothing but its window (backend.h),
 * and all sums over rows are made in one order, in double. */
#ifndef UPG_RUNTIME_EVALUATE_H
#define UPG_RUNTIME_EVALUATE_H

#include "runtime/engine.h"

/** upg_evaluate; `options` are all set (window > 0), `result` receives all but struct_size. */
upg_status upg_evaluate_run(upg_model *model, const upg_token *tokens, size_t n,
                            const upg_eval_options *options, const upg_listener *listener,
                            upg_eval_result *result, upg_error *err);

/** What one scored row tells. */
typedef struct upg_row_score {
    double nll, against_nll, kl; /* in nats */
    bool   hit, agrees;          /* the model's first choice is the target; is the other model's */
} upg_row_score;
/** Scores f32 [vocab] logits; `against` NULL leaves its fields 0. KL(against ‖ model). */
upg_row_score upg_score_row(const upg_kernels *kernels, const float *logits, const float *against,
                            uint32_t vocab, upg_token target);
/** The smallest value that at least 99 % of the n values do not pass (nearest rank); orders them.
 */
double upg_percentile_99(double *values, size_t n);

#endif
