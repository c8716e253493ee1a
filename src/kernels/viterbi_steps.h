/* viterbi_steps.h: one row of the encoder's forward pass, in each arithmetic and for each ISA.
 *
 * Row r's window w has the row's k_now newest bits at the bottom. State before it: w >> k_now, the
 * newest length − k_now bits seen so far. State after it: the low length − k_next bits of w; the
 * k_next bits above them are forgotten, and the survivor remembers which ones they were. */
#ifndef UPG_KERNELS_VITERBI_STEPS_H
#define UPG_KERNELS_VITERBI_STEPS_H

#include <stddef.h>
#include <stdint.h>

typedef struct upg_trellis_row {
    uint32_t length;        /* L */
    uint32_t k_now, k_next; /* new bits of this row and of the one below */
} upg_trellis_row;

/** next[n] = min over a of metric[w >> k_now] + (target − values[w])²·weight, where
 * w = a << (L − k_next) | n; choice[n] = the least such a. The operations in this order, without
 * fused multiply-add, so that every ISA gives the same floats.
 * metric f32 [2^(L−k_now)]   values f32 [2^L]   next f32 [2^(L−k_next)]   all 64-byte aligned */
typedef void upg_viterbi_exact_step(const upg_trellis_row *row, const float *metric,
                                    const float *values, float target, float weight, float *next,
                                    uint8_t *choice);

upg_viterbi_exact_step upg_viterbi_exact_step_scalar;
upg_viterbi_exact_step upg_viterbi_exact_step_avx2;
upg_viterbi_exact_step upg_viterbi_exact_step_avx512;

#endif
