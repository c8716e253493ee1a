/* viterbi_avx512.c: one row of the encoder, 32 (int16) or 16 (float32) states at a time.
 *
 * int16: for 32 neighbours h the loop over the forgotten bits a makes e and the bracket once and
 * uses them for up to 8 accumulators, one for each l. Bound by ports: at k = 3, L = 12 about 530
 * vector instructions for a weight, two a cycle on Zen 4, where saturating additions and
 * multiplications share two of the four pipes (hence the plain additions). The accumulators are
 * interleaved at the end, so that next lies in the order of states. Tried before: lanes over
 * states, with V and the metrics permuted for each a: twice the instructions. */
#include <immintrin.h>

#include "kernels/viterbi_steps.h"

typedef struct lanes {
    __m512i source; /* lane → source state of its h, relative to the vector's first */
    __m512i low, high;
} lanes;

static inline lanes make_lanes(uint32_t repeat)
{
    static const _Alignas(64)
        uint16_t  number[32] = { 0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15,
                                 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31 };
    const __m512i lane = _mm512_load_si512(number);
    const __m512i second = _mm512_slli_epi16(_mm512_and_si512(lane, _mm512_set1_epi16(1)), 5);
    const __m512i low = _mm512_or_si512(_mm512_srli_epi16(lane, 1), second);

    return (lanes) { _mm512_srl_epi16(lane, _mm_cvtsi32_si128((int)repeat)), low,
                     _mm512_add_epi16(low, _mm512_set1_epi16(16)) };
}

/* v[l] lane h becomes the element h · 2^split + l of the run. Each pass is a perfect shuffle of the
 * whole run: it moves the topmost bit of an element's index to the bottom. */
static inline __attribute__((always_inline)) void interleave(const int split, __m512i *v,
                                                             const lanes *by)
{
    const int n = 1 << split;
    __m512i   from[8];

    for (int pass = 0; pass < split; pass++) {
        for (int i = 0; i < n; i++)
            from[i] = v[i];
        for (int i = 0; i < n / 2; i++) {
            v[2 * i] = _mm512_permutex2var_epi16(from[i], by->low, from[i + n / 2]);
            v[2 * i + 1] = _mm512_permutex2var_epi16(from[i], by->high, from[i + n / 2]);
        }
    }
}

static inline int16_t least_lane(__m512i v)
{
    __m256i half = _mm256_min_epi16(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1));
    __m128i quarter =
        _mm_min_epi16(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    __m128i place =
        _mm_minpos_epu16(_mm_xor_si128(quarter, _mm_set1_epi16(INT16_MIN))); /* as unsigned */

    return (int16_t)(_mm_extract_epi16(place, 0) ^ 0x8000);
}

static inline __attribute__((always_inline)) int16_t
fast_step(const int split, const int repeats, const upg_fast_row *row, const int16_t *metric,
          const upg_fast_target *target, int16_t *next)
{
    const int      n = 1 << split, half = n >> 1;
    const uint32_t per_oldest = row->n_middle >> row->repeat;
    const __m512i  excess = _mm512_set1_epi16(target->excess), top = _mm512_set1_epi16(row->top);
    const __m512i  largest = _mm512_set1_epi16(UPG_FAST_MISS);
    const __m512i  lowest = _mm512_set1_epi16(-UPG_FAST_MISS);
    const lanes    by = make_lanes(row->repeat);
    __m512i        least = _mm512_set1_epi16(INT16_MAX), slope[4], square[4];

    for (int l = 0; l < half; l++) {
        slope[l] = _mm512_set1_epi16(row->slope[l]);
        square[l] = _mm512_set1_epi16(row->square[l]);
    }
    for (uint32_t h = 0; h < row->n_middle; h += 32) {
        const __m512i  middle = _mm512_load_si512(row->middle + h);
        const int16_t *source = metric + (h >> row->repeat);
        __m512i        best[8];

        for (int l = 0; l < n; l++)
            best[l] = _mm512_set1_epi16(INT16_MAX);
        for (uint32_t a = 0; a < row->n_oldest; a++, source += per_oldest) {
            __m512i m = _mm512_loadu_si512(source), bracket;
            __m512i e = _mm512_sub_epi16(_mm512_set1_epi16(target->offset[a]), middle);

            if (repeats)
                m = _mm512_permutexvar_epi16(by.source, m);
            e = _mm512_slli_epi16(_mm512_max_epi16(_mm512_min_epi16(e, largest), lowest), 2);
            bracket = _mm512_adds_epi16(m, _mm512_sub_epi16(_mm512_mulhrs_epi16(e, e), excess));
            bracket = _mm512_min_epi16(bracket, top);
            if (split == 0)
                best[0] = _mm512_min_epi16(best[0], bracket);
            for (int l = 0; l < half; l++) {
                __m512i t = _mm512_mulhrs_epi16(e, slope[l]);

                best[l] = _mm512_min_epi16(best[l], _mm512_add_epi16(bracket, t));
                best[n - 1 - l] = _mm512_min_epi16(best[n - 1 - l], _mm512_sub_epi16(bracket, t));
            }
        }
        for (int l = 0; l < half; l++) {
            best[l] = _mm512_add_epi16(best[l], square[l]);
            best[n - 1 - l] = _mm512_add_epi16(best[n - 1 - l], square[l]);
        }
        for (int l = 0; l < n; l++)
            least = _mm512_min_epi16(least, best[l]);
        interleave(split, best, &by);
        for (int l = 0; l < n; l++)
            _mm512_store_si512(next + (h << split) + 32 * l, best[l]);
    }
    return least_lane(least);
}

int16_t upg_viterbi_fast_step_avx512(const upg_fast_row *row, const int16_t *metric,
                                     const upg_fast_target *target, int16_t *next)
{
    switch (row->split << 1 | (row->repeat > 0)) {
    case 6:
        return fast_step(3, 0, row, metric, target, next);
    case 7:
        return fast_step(3, 1, row, metric, target, next);
    case 4:
        return fast_step(2, 0, row, metric, target, next);
    case 5:
        return fast_step(2, 1, row, metric, target, next);
    case 3:
        return fast_step(1, 1, row, metric, target, next);
    default:
        return fast_step(0, 1, row, metric, target, next);
    }
}

void upg_viterbi_exact_step_avx512(const upg_trellis_row *row, const float *metric,
                                   const float *values, float target, float weight, float *next,
                                   uint8_t *choice)
{
    const uint32_t n_states = 1u << (row->length - row->k_next);
    const __m512   x = _mm512_set1_ps(target), by = _mm512_set1_ps(weight);
    const __m512i  lane = _mm512_srli_epi32(
         _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), row->k_now);

    if (n_states < 16) {
        upg_viterbi_exact_step_scalar(row, metric, values, target, weight, next, choice);
        return;
    }
    for (uint32_t n = 0; n < n_states; n += 16) {
        __m512  least = _mm512_setzero_ps();
        __m512i winner = _mm512_setzero_si512();

        for (uint32_t a = 0; a < 1u << row->k_next; a++) {
            uint32_t  window = a * n_states | n;
            __m512    miss = _mm512_sub_ps(x, _mm512_load_ps(values + window));
            __m512    cost;
            __mmask16 less;

            cost = _mm512_mul_ps(_mm512_mul_ps(miss, miss), by);
            cost = _mm512_add_ps(
                _mm512_permutexvar_ps(lane, _mm512_loadu_ps(metric + (window >> row->k_now))),
                cost);
            less = a == 0 ? 0xFFFF : _mm512_cmp_ps_mask(cost, least, _CMP_LT_OQ);
            least = _mm512_mask_mov_ps(least, less, cost);
            winner = _mm512_mask_mov_epi32(winner, less, _mm512_set1_epi32((int)a));
        }
        _mm512_store_ps(next + n, least);
        _mm_storeu_si128((__m128i *)(choice + n), _mm512_cvtepi32_epi8(winner));
    }
}
