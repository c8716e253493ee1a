/* rotary.h: rotary position embedding, one formula for all backends that run on the host.
 *
 * Su, Lu, Pan et al., "RoFormer" (2021), in the half-split form of Hugging Face's models: dimension
 * i < rotary/2 turns with dimension i + rotary/2; dimensions past `rotary_dims` stay. */
#ifndef UPG_BACKEND_ROTARY_H
#define UPG_BACKEND_ROTARY_H

#include <stdbool.h>
#include <stdint.h>

#include "model/model_config.h"

/** cosine, sine: f32 [rotary_dims / 2] of position·frequency, computed in fp64, times the attention
 * scaling. long_rope chooses long_inv_freq (when there is one). */
void upg_rope_angles(const upg_rope *rope, bool long_rope, uint32_t position, float *cosine,
                     float *sine);
/** Turns one head in place: head f32 [≥ rotary_dims]. */
void upg_rope_turn(uint32_t rotary_dims, const float *cosine, const float *sine, float *head);

#endif
