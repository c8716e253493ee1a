/* viterbi_scalar.c: one row of the encoder as plain loops. */
#include "kernels/viterbi_steps.h"

#include <assert.h>

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
static void fast_states(const upg_fast_row *row, const int16_t *metric,
                        const upg_fast_target *target, uint32_t h, int16_t *next)
{
    const uint32_t per_oldest = row->n_middle >> row->repeat, half = 1u << row->split >> 1;
    int32_t        miss[32], bracket[32];

    for (uint32_t a = 0; a < row->n_oldest; a++) {
        miss[a] = upg_fast_miss(target->offset[a], row->middle[h]);
        bracket[a] = upg_fast_bracket(row, metric[a * per_oldest + (h >> row->repeat)], miss[a],
                                      target->excess);
    }
    for (uint32_t l = 0; l < 1u << row->split; l++) {
        int32_t least = INT16_MAX, square = 0;

        for (uint32_t a = 0; a < row->n_oldest; a++) {
            int32_t cost = upg_fast_cost(row, bracket[a], miss[a], l);

            least = cost < least ? cost : least;
        }
        if (row->split > 0)
            square = row->square[l < half ? l : 2 * half - 1 - l];
        assert(least >= INT16_MIN && least + square <= INT16_MAX); /* the SIMD forms would wrap */
        next[l] = (int16_t)(least + square);
    }
}

int16_t upg_viterbi_fast_step_scalar(const upg_fast_row *row, const int16_t *metric,
                                     const upg_fast_target *target, int16_t *next)
{
    int16_t least = INT16_MAX;

    for (uint32_t h = 0; h < row->n_middle; h++)
        fast_states(row, metric, target, h, next + (h << row->split));
    for (uint32_t n = 0; n < row->n_middle << row->split; n++)
        least = next[n] < least ? next[n] : least;
    return least;
}

uint32_t upg_viterbi_fast_survivor_scalar(const upg_fast_row *row, const int16_t *metric,
                                          const upg_fast_target *target, uint32_t state)
{
    const uint32_t per_oldest = row->n_middle >> row->repeat;
    const uint32_t h = state >> row->split, l = state & ((1u << row->split) - 1);
    int32_t        least = INT32_MAX;
    uint32_t       best = 0;

    for (uint32_t a = 0; a < row->n_oldest; a++) {
        int32_t miss = upg_fast_miss(target->offset[a], row->middle[h]);
        int32_t bracket = upg_fast_bracket(row, metric[a * per_oldest + (h >> row->repeat)], miss,
                                           target->excess);
        int32_t cost = upg_fast_cost(row, bracket, miss, l);

        if (cost < least) {
            least = cost;
            best = a;
        }
    }
    return best;
}
