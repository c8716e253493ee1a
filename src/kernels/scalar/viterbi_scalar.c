/* viterbi_scalar.c: one row of the encoder as plain loops. */
#include "kernels/viterbi_steps.h"

void upg_viterbi_exact_step_scalar(const upg_trellis_row *row, const float *metric,
                                   const float *values, float target, float weight, float *next,
                                   uint8_t *choice)
{
    const uint32_t n_states = 1u << (row->length - row->k_next);

    for (uint32_t n = 0; n < n_states; n++) {
        for (uint32_t a = 0; a < 1u << row->k_next; a++) {
            uint32_t window = a * n_states | n;
            float    miss = target - values[window];
            float    cost = metric[window >> row->k_now] + miss * miss * weight;

            if (a == 0 || cost < next[n]) {
                next[n] = cost;
                choice[n] = (uint8_t)a;
            }
        }
    }
}
