/* layer_attention.h: causal attention over one window, forward and backward: part of layer_math. */
#ifndef UPG_COMPRESS_LAYER_ATTENTION_H
#define UPG_COMPRESS_LAYER_ATTENTION_H

#include "compress/layer_math.h"

/** Turns b->q and b->k by RoPE in place, then input[O] = softmax(q·kᵀ/√d)·v for every head. */
void upg_attention_forward(const upg_layer_f32 *layer, upg_layer_buffers *b);
/** d f32 [n_tokens][q_width]: the gradient at input[O]. Fills the gradients of q, k and v. */
void upg_attention_backward(const upg_layer_f32 *layer, upg_layer_buffers *b, const float *d);

#endif
