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

/* Everything of one h: the brackets of all a, then each l. */
static void fast_states(const upg_fast_row *row, const int16_t *metric, const int16_t *offset,
                        int16_t excess, uint32_t h, int16_t *next)
{
    const uint32_t per_oldest = row->n_middle >> row->repeat;
    int32_t        miss[32], bracket[32];

    for (uint32_t a = 0; a < row->n_oldest; a++) {
        miss[a] = upg_fast_miss(offset[a], row->middle[h]);
        bracket[a] = upg_fast_bracket(metric[a * per_oldest + (h >> row->repeat)], miss[a], excess);
    }
    for (uint32_t l = 0; l < 1u << row->split; l++) {
        int32_t least = INT16_MAX;

        for (uint32_t a = 0; a < row->n_oldest; a++) {
            int32_t cost = upg_sat16(bracket[a] + upg_mulhrs16(miss[a], row->slope[l]));

            least = cost < least ? cost : least;
        }
        next[l] = (int16_t)upg_sat16(least + row->square[l]);
    }
}

int16_t upg_viterbi_fast_step_scalar(const upg_fast_row *row, const int16_t *metric,
                                     const int16_t *offset, int16_t excess, int16_t *next)
{
    int16_t least = INT16_MAX;

    for (uint32_t h = 0; h < row->n_middle; h++)
        fast_states(row, metric, offset, excess, h, next + (h << row->split));
    for (uint32_t n = 0; n < row->n_middle << row->split; n++)
        least = next[n] < least ? next[n] : least;
    return least;
}
