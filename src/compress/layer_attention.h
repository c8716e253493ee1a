/* layer_attention.h: causal attention over one window, forward and backward: part of layer_math. */
#ifndef UPG_COMPRESS_LAYER_ATTENTION_H
#define UPG_COMPRESS_LAYER_ATTENTION_H

#include "compress/layer_math.h"

/** Turns all heads of x f32 [n_tokens][n_heads · head_dim] by RoPE; direction −1 is the transposed
 * turn, which carries gradients back. */
void upg_attention_turn(const upg_model_config *config, const upg_layer_buffers *b,
                        uint32_t n_heads, float direction, float *x);
/** Turns b->q and b->k by RoPE in place, then input[O] = softmax(q·kᵀ/√d)·v for every head. */
void upg_attention_forward(const upg_layer_f32 *layer, upg_layer_buffers *b);
/** d f32 [n_tokens][q_width]: the gradient at input[O]. Fills the gradients of q, k and v. */
void upg_attention_backward(const upg_layer_f32 *layer, upg_layer_buffers *b, const float *d);

#endif
