/* sensitivity.h: how much each unit of a plan matters, from one forward and one backward pass.
 *
 * Coding adds to a matrix W an error whose rows are near white noise n·L⁻¹, E n_r² = mse·s_r²
 * (feedback.h). To second order the divergence that it causes is ½·E⟨G, ΔW⟩², G the gradient of the
 * log-likelihood of a window of tokens sampled from the model itself: Fisher's information. With
 * G = Σ_t g_t x_tᵀ that is
 *
 *     KL per token ≈ mse/(2·tokens) · Σ_r s_r²·|Σ_t g_tr·L⁻¹x_t|²
 *
 * so no matrix need be coded to know what coding it at any rate will cost. L comes from the same
 * windows, in diagonal blocks of at most 1024 inputs. LeCun, Denker, Solla: "Optimal brain damage",
 * NeurIPS 1989, uses the same expansion for single weights. */
#ifndef UPG_COMPRESS_SENSITIVITY_H
#define UPG_COMPRESS_SENSITIVITY_H

#include "compress/encode.h"

/** Sets the sensitivity of every unit of the plan: predicted KL in nats per token at 3 bits.
 * tokens  i32 [n_windows][window]
 * Errors: E_NOMEM, E_DATA (activations or gradients are not finite), E_CANCELLED; of the file E_IO,
 * E_NOSPACE. */
upg_status upg_sensitivity_measure(const upg_encode_context *context, const upg_weights *weights,
                                   const int32_t *tokens, uint32_t n_windows, uint32_t window,
                                   upg_plan *plan, upg_error *err);
/** Bytes that it takes at most. */
uint64_t upg_sensitivity_memory(const upg_weights *weights, uint32_t n_windows, uint32_t window,
                                uint32_t threads, bool spill);

#endif
