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
upg_viterbi_exact_step upg_viterbi_exact_step_neon;

/* ---- int16 ----
 *
 * V is a sum over window bits, so g·V splits into the parts of the `a` bits that are forgotten, of
 * the middle bits h and of the `split` newest bits l:  g·V = A[a] + H[h] + N[l]. With
 * e = target − A[a] − H[h] the cost of a transition is
 *
 *     metric + (e − N[l])²  =  (metric + e²) − 2·e·N[l] + N[l]²
 *
 * The bracket serves 2^split windows, N[l]² can be added after the minimum over a, and N[~l] is
 * −N[l]: a pair of windows costs one multiplication, an addition, a subtraction and two minima,
 * without shuffles: lanes run over h.
 *
 * Units (viterbi_fast.c chooses them): e is held in `fine` units and clamped to ±4·UPG_FAST_MISS,
 * where its square is hopeless anyway; a quarter of that is the `coarse` unit, in which target, A
 * and H are subtracted. Metrics are in fine²/32768, the least one near `base`. The bracket
 * saturates as PADDSW does and is then held below `top`, so that nothing after it overflows;
 * products round as PMULHRSW rounds. */
enum { UPG_FAST_MISS = 8191, UPG_FAST_MIN_EXCESS = -7 };

typedef struct upg_fast_row {
    upg_trellis_row shape;
    uint32_t        split;  /* log2 of the number of l values: 0 … 3 */
    uint32_t        repeat; /* k_now − split: 2^repeat neighbours h share a source state */
    uint32_t        n_oldest, n_middle; /* 2^k_next; 2^(L − k_next − split), a multiple of 32 */
    int16_t         oldest[32];         /* A, coarse */
    const int16_t  *middle;             /* H, coarse, [n_middle], 64-byte aligned */
    int16_t         slope[4];           /* −2·N of the l with topmost bit 0, fine */
    int16_t         square[4];          /* N² of the same, metric units */
    int16_t         top;
} upg_fast_row;

/** A row's target: what it leaves of each a, and what the row takes off all metrics. */
typedef struct upg_fast_target {
    int16_t offset[32]; /* target − A[a], coarse, at most 32767 − max |H| in size */
    int16_t excess;     /* UPG_FAST_MIN_EXCESS … 32767 */
} upg_fast_target;

static inline int32_t upg_mulhrs16(int32_t a, int32_t b)
{
    return (a * b + 0x4000) >> 15;
}

/** e in fine units. */
static inline int32_t upg_fast_miss(int32_t offset, int32_t middle)
{
    int32_t e = offset - middle;

    return 4 * (e < -UPG_FAST_MISS ? -UPG_FAST_MISS : e > UPG_FAST_MISS ? UPG_FAST_MISS : e);
}

/** metric + e² − excess, the bracket above. */
static inline int32_t upg_fast_bracket(const upg_fast_row *row, int32_t metric, int32_t miss,
                                       int32_t excess)
{
    int32_t sum = metric + (upg_mulhrs16(miss, miss) - excess);

    return sum < INT16_MIN ? INT16_MIN : sum > row->top ? row->top : sum;
}

/** Cost of a transition but for N[l]²; l's mirror image is its complement. */
static inline int32_t upg_fast_cost(const upg_fast_row *row, int32_t bracket, int32_t miss,
                                    uint32_t l)
{
    uint32_t half = 1u << row->split >> 1;

    if (row->split == 0)
        return bracket;
    if (l < half)
        return bracket + upg_mulhrs16(miss, row->slope[l]);
    return bracket - upg_mulhrs16(miss, row->slope[2 * half - 1 - l]);
}

/** One row: next[h << split | l] = min over a of the cost, plus N[l]². Returns the least of next.
 * metric  i16 [2^(L − k_now)], readable 64 bytes past its end
 * next    i16 [2^(L − k_next)]; metric and next 64-byte aligned, distinct */
typedef int16_t upg_viterbi_fast_step(const upg_fast_row *row, const int16_t *metric,
                                      const upg_fast_target *target, int16_t *next);
/** The a that gave next[state] above, the least of equals. */
typedef uint32_t upg_viterbi_fast_survivor(const upg_fast_row *row, const int16_t *metric,
                                           const upg_fast_target *target, uint32_t state);

upg_viterbi_fast_step     upg_viterbi_fast_step_scalar;
upg_viterbi_fast_step     upg_viterbi_fast_step_avx2;
upg_viterbi_fast_step     upg_viterbi_fast_step_avx512;
upg_viterbi_fast_step     upg_viterbi_fast_step_neon;
upg_viterbi_fast_survivor upg_viterbi_fast_survivor_scalar;
upg_viterbi_fast_survivor upg_viterbi_fast_survivor_avx2;
upg_viterbi_fast_survivor upg_viterbi_fast_survivor_neon;

#endif
