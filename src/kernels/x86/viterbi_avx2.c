/* viterbi_avx2.c: one row of the encoder, 16 (int16) or 8 (float32) states at a time.
 *
 * The same order of work as viterbi_avx512.c; the 8 accumulators and the constants of the inner
 * loop just fit 16 registers. */
#include <immintrin.h>
#include <math.h>
#include <stdbool.h>

#include "kernels/viterbi_steps.h"

/* Lane i of 16 takes word i >> repeat of 8 words that lie in both halves. */
static inline __m256i source_bytes(uint32_t repeat)
{
    const __m256i lane = _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m256i word = _mm256_and_si256(_mm256_srl_epi16(lane, _mm_cvtsi32_si128((int)repeat)),
                                          _mm256_set1_epi16(7));

    /* bytes 2·word and 2·word + 1 */
    return _mm256_add_epi16(_mm256_mullo_epi16(word, _mm256_set1_epi16(0x0202)),
                            _mm256_set1_epi16(0x0100));
}

/* v[l] lane h becomes the element h · 2^split + l of the run at out. Perfect shuffles inside each
 * 128-bit half order the 8 h of that half; then halves are joined. */
static inline __attribute__((always_inline)) void store_interleaved(const int split, __m256i *v,
                                                                    int16_t *out)
{
    const int n = 1 << split;
    __m256i   from[8];

    if (split == 0) {
        _mm256_store_si256((__m256i *)out, v[0]);
        return;
    }
    for (int pass = 0; pass < split; pass++) {
        for (int i = 0; i < n; i++)
            from[i] = v[i];
        for (int i = 0; i < n / 2; i++) {
            v[2 * i] = _mm256_unpacklo_epi16(from[i], from[i + n / 2]);
            v[2 * i + 1] = _mm256_unpackhi_epi16(from[i], from[i + n / 2]);
        }
    }
    for (int i = 0; i < n; i += 2) {
        __m256i low = _mm256_permute2x128_si256(v[i], v[i + 1], 0x20);
        __m256i high = _mm256_permute2x128_si256(v[i], v[i + 1], 0x31);

        _mm256_store_si256((__m256i *)(out + 8 * i), low);
        _mm256_store_si256((__m256i *)(out + 8 * (n + i)), high);
    }
}

static inline int16_t least_lane(__m256i v)
{
    __m128i half = _mm_min_epi16(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    __m128i place = _mm_minpos_epu16(_mm_xor_si128(half, _mm_set1_epi16(INT16_MIN)));

    return (int16_t)(_mm_extract_epi16(place, 0) ^ 0x8000);
}

static inline __attribute__((always_inline)) int16_t
fast_step(const int split, const int repeats, const upg_fast_row *row, const int16_t *metric,
          const upg_fast_target *target, int16_t *next)
{
    const int      n = 1 << split, half = n >> 1;
    const uint32_t per_oldest = row->n_middle >> row->repeat;
    const __m256i  excess = _mm256_set1_epi16(target->excess), top = _mm256_set1_epi16(row->top);
    const __m256i  largest = _mm256_set1_epi16(UPG_FAST_MISS);
    const __m256i  lowest = _mm256_set1_epi16(-UPG_FAST_MISS);
    const __m256i  from = source_bytes(row->repeat);
    __m256i        least = _mm256_set1_epi16(INT16_MAX), slope[4], square[4];

    for (int l = 0; l < half; l++) {
        slope[l] = _mm256_set1_epi16(row->slope[l]);
        square[l] = _mm256_set1_epi16(row->square[l]);
    }
    for (uint32_t h = 0; h < row->n_middle; h += 16) {
        const __m256i  middle = _mm256_load_si256((const __m256i *)(row->middle + h));
        const int16_t *source = metric + (h >> row->repeat);
        __m256i        best[8];

        for (int l = 0; l < n; l++)
            best[l] = _mm256_set1_epi16(INT16_MAX);
        for (uint32_t a = 0; a < row->n_oldest; a++, source += per_oldest) {
            __m256i e = _mm256_sub_epi16(_mm256_set1_epi16(target->offset[a]), middle);
            __m256i m, bracket;

            if (repeats)
                m = _mm256_shuffle_epi8(
                    _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)source)), from);
            else
                m = _mm256_loadu_si256((const __m256i *)source);
            e = _mm256_slli_epi16(_mm256_max_epi16(_mm256_min_epi16(e, largest), lowest), 2);
            bracket = _mm256_adds_epi16(m, _mm256_sub_epi16(_mm256_mulhrs_epi16(e, e), excess));
            bracket = _mm256_min_epi16(bracket, top);
            if (split == 0)
                best[0] = _mm256_min_epi16(best[0], bracket);
            for (int l = 0; l < half; l++) {
                __m256i t = _mm256_mulhrs_epi16(e, slope[l]);

                best[l] = _mm256_min_epi16(best[l], _mm256_add_epi16(bracket, t));
                best[n - 1 - l] = _mm256_min_epi16(best[n - 1 - l], _mm256_sub_epi16(bracket, t));
            }
        }
        for (int l = 0; l < half; l++) {
            best[l] = _mm256_add_epi16(best[l], square[l]);
            best[n - 1 - l] = _mm256_add_epi16(best[n - 1 - l], square[l]);
        }
        for (int l = 0; l < n; l++)
            least = _mm256_min_epi16(least, best[l]);
        store_interleaved(split, best, next + (h << split));
    }
    return least_lane(least);
}

int16_t upg_viterbi_fast_step_avx2(const upg_fast_row *row, const int16_t *metric,
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

/* Metrics of the source states of 8 candidates a, or of 4 and the largest metric. */
static inline __m128i source_metrics(const int16_t *m, size_t step, bool eight)
{
    if (!eight)
        return _mm_setr_epi16(m[0], m[step], m[2 * step], m[3 * step], INT16_MAX, INT16_MAX,
                              INT16_MAX, INT16_MAX);
    return _mm_setr_epi16(m[0], m[step], m[2 * step], m[3 * step], m[4 * step], m[5 * step],
                          m[6 * step], m[7 * step]);
}

/* Costs of 8 candidates a as unsigned words (sign bit flipped), for PHMINPOSUW. */
static inline __m128i survivor_costs(const upg_fast_row *row, __m128i m, const int16_t *offset,
                                     __m128i middle, __m128i excess, int32_t slope, bool mirrored)
{
    __m128i e = _mm_sub_epi16(_mm_loadu_si128((const __m128i *)offset), middle);
    __m128i bracket, t;

    e = _mm_min_epi16(e, _mm_set1_epi16(UPG_FAST_MISS));
    e = _mm_slli_epi16(_mm_max_epi16(e, _mm_set1_epi16(-UPG_FAST_MISS)), 2);
    bracket = _mm_adds_epi16(m, _mm_sub_epi16(_mm_mulhrs_epi16(e, e), excess));
    bracket = _mm_min_epi16(bracket, _mm_set1_epi16(row->top));
    t = _mm_mulhrs_epi16(e, _mm_set1_epi16((int16_t)slope));
    bracket = mirrored ? _mm_sub_epi16(bracket, t) : _mm_add_epi16(bracket, t);
    return _mm_xor_si128(bracket, _mm_set1_epi16(INT16_MIN));
}

uint32_t upg_viterbi_fast_survivor_avx2(const upg_fast_row *row, const int16_t *metric,
                                        const upg_fast_target *target, uint32_t state)
{
    const size_t   per_oldest = row->n_middle >> row->repeat;
    const uint32_t h = state >> row->split, n = 1u << row->split;
    const uint32_t l = state & (n - 1), first = l < n / 2 ? l : n - 1 - l;
    const int16_t  slope = row->split > 0 ? row->slope[first] : 0;
    const __m128i  middle = _mm_set1_epi16(row->middle[h]);
    const __m128i  excess = _mm_set1_epi16(target->excess);
    uint32_t       least = UINT32_MAX, best = 0;

    metric += h >> row->repeat;
    for (uint32_t a = 0; a < row->n_oldest; a += 8, metric += 8 * per_oldest) {
        bool    eight = row->n_oldest >= 8;
        __m128i m = source_metrics(metric, per_oldest, eight);
        __m128i costs =
            survivor_costs(row, m, target->offset + a, middle, excess, slope, l != first);
        uint32_t place;

        if (!eight)
            costs = _mm_or_si128(costs, _mm_setr_epi32(0, 0, -1, -1));
        place = (uint32_t)_mm_cvtsi128_si32(_mm_minpos_epu16(costs));
        if ((place & 0xFFFFu) < least) {
            least = place & 0xFFFFu;
            best = a + (place >> 16);
        }
    }
    return best;
}

/* Eight choices, one in each 32-bit lane, as bytes. */
static inline void store_choices(__m256i winner, uint8_t *choice)
{
    __m128i words =
        _mm_packus_epi32(_mm256_castsi256_si128(winner), _mm256_extracti128_si256(winner, 1));

    _mm_storel_epi64((__m128i *)choice, _mm_packus_epi16(words, words));
}

void upg_viterbi_exact_step_avx2(const upg_trellis_row *row, const float *metric,
                                 const float *values, float target, float weight, float *next,
                                 uint8_t *choice)
{
    const uint32_t n_states = 1u << (row->length - row->k_next);
    const __m256   x = _mm256_set1_ps(target), by = _mm256_set1_ps(weight);
    const __m256i  lane =
        _mm256_srli_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), (int)row->k_now);

    for (uint32_t n = 0; n < n_states; n += 8) { /* at least 8: L ≥ 8, k ≤ 5 */
        __m256  least = _mm256_set1_ps(INFINITY);
        __m256i winner = _mm256_setzero_si256();

        for (uint32_t a = 0; a < 1u << row->k_next; a++) {
            uint32_t window = a * n_states | n;
            __m256   miss = _mm256_sub_ps(x, _mm256_load_ps(values + window));
            __m256   m = _mm256_loadu_ps(metric + (window >> row->k_now)), cost, less;

            m = _mm256_permutevar8x32_ps(m, lane);
            cost = _mm256_add_ps(m, _mm256_mul_ps(_mm256_mul_ps(miss, miss), by));
            less = _mm256_cmp_ps(cost, least, _CMP_LT_OQ);
            least = _mm256_blendv_ps(least, cost, less);
            winner =
                _mm256_blendv_epi8(winner, _mm256_set1_epi32((int)a), _mm256_castps_si256(less));
        }
        _mm256_store_ps(next + n, least);
        store_choices(winner, choice + n);
    }
}
