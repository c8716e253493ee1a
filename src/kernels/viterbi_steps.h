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

/* ---- int16 ----
 *
 * V is a sum over window bits, so g·V splits into the parts of the `a` bits that are forgotten, of
 * the middle bits h and of the `split` newest bits l:  g·V = A[a] + H[h] + N[l]. With
 * e = target − A[a] − H[h] the cost of a transition is
 *
 *     metric + (e − N[l])²  =  (metric + e²) − 2·e·N[l] + N[l]²
 *
 * The bracket serves 2^split windows, N[l]² can be added after the minimum over a, and so one
 * window costs a multiplication, an addition and a minimum, without shuffles: lanes run over h.
 *
 * Units (viterbi_fast.c chooses them): e is held in `fine` units, saturating at ±32767 where its
 * square is hopeless anyway; a quarter of that is the `coarse` unit, in which target, A and H are
 * subtracted without saturation. Metrics are in fine²/32768, the least one near `base`. All
 * arithmetic saturates as x86's does; products round as PMULHRSW rounds. */
typedef struct upg_fast_row {
    upg_trellis_row shape;
    uint32_t        split;  /* log2 of the number of l values: 0 … 3 */
    uint32_t        repeat; /* k_now − split: 2^repeat neighbours h share a source state */
    uint32_t        n_oldest, n_middle; /* 2^k_next; 2^(L − k_next − split), a multiple of 32 */
    int16_t         oldest[32];         /* A, coarse */
    const int16_t  *middle;             /* H, coarse, [n_middle], 64-byte aligned */
    int16_t         slope[8];           /* −2·N, fine: slope·e/32768 is in metric units */
    int16_t         square[8];          /* N², metric units */
} upg_fast_row;

static inline int32_t upg_sat16(int32_t x)
{
    return x > INT16_MAX ? INT16_MAX : x < INT16_MIN ? INT16_MIN : x;
}

static inline int32_t upg_mulhrs16(int32_t a, int32_t b)
{
    return (a * b + 0x4000) >> 15;
}

/** e in fine units; `offset` = target − A[a], coarse, saturated. −32768 has no square. */
static inline int32_t upg_fast_miss(int32_t offset, int32_t middle)
{
    int32_t e = upg_sat16(4 * upg_sat16(offset - middle));

    return e < -INT16_MAX ? -INT16_MAX : e;
}

/** metric + e² − excess, the bracket above. */
static inline int32_t upg_fast_bracket(int32_t metric, int32_t miss, int32_t excess)
{
    return upg_sat16(metric + upg_mulhrs16(miss, miss) - excess);
}

/** One row: next[h << split | l] = min over a of bracket + slope[l]·e, plus square[l]. Returns the
 * least of next.
 * metric  i16 [2^(L − k_now)], readable 64 bytes past its end
 * offset  i16 [n_oldest]: target − A[a], coarse, saturated
 * excess  0 … 32767: what to take off every metric, so that they stay near base
 * next    i16 [2^(L − k_next)]; metric and next 64-byte aligned, distinct */
typedef int16_t upg_viterbi_fast_step(const upg_fast_row *row, const int16_t *metric,
                                      const int16_t *offset, int16_t excess, int16_t *next);

upg_viterbi_fast_step upg_viterbi_fast_step_scalar;
upg_viterbi_fast_step upg_viterbi_fast_step_avx2;
upg_viterbi_fast_step upg_viterbi_fast_step_avx512;

#endif
