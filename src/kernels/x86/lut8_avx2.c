/* lut8_avx2.c: u by nibble tables whose entries have 8 bits: one PSHUFB for a nibble instead of
 * bitdot_avx2.c's two, for the error that kernels/quantised.h derives.
 *
 * Entries are stored as e + 128. Nothing adds up in bytes, so that every lookup is added to words
 * (even + 256·odd bytes, the odd ones again apart): 56 instructions for 128 bytes of code, 20 of
 * them shuffles, where the exact form takes 62 and 28. */
#include "kernels/quantised.h"
#include "kernels/x86/bitdot_tables.h"
#include "kernels/x86/byte_sums_avx2.h"
#include "kernels/x86/codec_x86.h"

enum { BIAS = 128, TABLE_BYTES = 128, AHEAD_BYTES = 16384 };
/* Each group adds at most 8 · 255 to a word. */
enum { GROUPS_IN_16_BITS = 32 };

/* max Σ|x| of four inputs. */
static int32_t largest_sum(size_t groups, const int8_t *x)
{
    const __m256i ones8 = _mm256_set1_epi8(1), ones16 = _mm256_set1_epi16(1);
    __m256i       most = _mm256_setzero_si256();
    int32_t       lanes[8], largest = 0;

    for (size_t g = 0; g < groups; g++) {
        __m256i v =
            _mm256_abs_epi8(_mm256_loadu_si256((const __m256i *)(const void *)(x + 32 * g)));

        most = _mm256_max_epi32(most, _mm256_madd_epi16(_mm256_maddubs_epi16(v, ones8), ones16));
    }
    _mm256_storeu_si256((__m256i *)(void *)lanes, most);
    for (int i = 0; i < 8; i++)
        largest = lanes[i] > largest ? lanes[i] : largest;
    return largest;
}

/* u8 [group][nibble of the byte: 2][byte of the word: 4][value of the nibble: 16] */
float upg_lut8_prepare_avx2(size_t groups, const int8_t *x, void *prepared)
{
    const int16_t multiplier = upg_lut8_multiplier(largest_sum(groups, x));
    const __m256i m = _mm256_set1_epi16(multiplier);
    uint8_t      *tables = prepared;
    __m256i       signs[4];

    for (int q = 0; q < 4; q++)
        signs[q] = upg_nibble_signs(q);
    for (size_t g = 0; g < groups; g++, x += 32, tables += TABLE_BYTES)
        for (int n = 0; n < 8; n++) {
            __m256i v = _mm256_setzero_si256();

            for (int q = 0; q < 4; q++)
                v = _mm256_add_epi16(v,
                                     _mm256_sign_epi16(_mm256_set1_epi16(x[4 * n + q]), signs[q]));
            v = _mm256_add_epi16(_mm256_mulhrs_epi16(v, m), _mm256_set1_epi16(BIAS));
            v = _mm256_permute4x64_epi64(_mm256_packus_epi16(v, v), _MM_SHUFFLE(3, 1, 2, 0));
            _mm_store_si128((__m128i *)(void *)(tables + n % 2 * 64 + n / 2 * 16),
                            _mm256_castsi256_si128(v));
        }
    return upg_lut8_factor(multiplier);
}

static inline void look_up(__m256i nibbles, const uint8_t *table, upg_word_sums *sums)
{
    __m256i entries =
        _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *)(const void *)table));

    sums->bytes = _mm256_shuffle_epi8(entries, nibbles);
    upg_end_group(sums);
}

/* 32 rows, or 16 when !full (the rows past them count as zero bits and are not stored). */
static inline __attribute__((always_inline)) void lut8(const int full, size_t groups, size_t stride,
                                                       const uint32_t *code, const uint8_t *table,
                                                       int32_t *u)
{
    const __m256i nibble = _mm256_set1_epi8(0x0F), zero = _mm256_setzero_si256();
    upg_word_sums sums = { zero, zero, zero };
    __m256i       sum[4] = { zero, zero, zero, zero };

    for (size_t g = 0; g < groups; g++, code += stride, table += TABLE_BYTES) {
        __m256i v[4];

        for (int i = 0; i < 4; i++)
            v[i] = i < 2 || full ? _mm256_load_si256((const __m256i *)(const void *)(code + 8 * i))
                                 : zero;
        _mm_prefetch((const char *)code + AHEAD_BYTES, _MM_HINT_T1);
        if (full)
            _mm_prefetch((const char *)code + AHEAD_BYTES + 64, _MM_HINT_T1);
        upg_bytes_together(v);
        for (int c = 0; c < 4; c++) {
            look_up(_mm256_and_si256(v[c], nibble), table + 16 * c, &sums);
            look_up(_mm256_and_si256(_mm256_srli_epi16(v[c], 4), nibble), table + 64 + 16 * c,
                    &sums);
        }
        if (g % GROUPS_IN_16_BITS == GROUPS_IN_16_BITS - 1)
            upg_spill(&sums, 0, sum);
    }
    upg_spill(&sums, 0, sum);
    upg_store_sums(full, sum, _mm256_set1_epi32((int32_t)(8 * BIAS * groups)), u);
}

void upg_lut8_avx2(size_t groups, size_t rows, const uint32_t *code, const void *prepared,
                   int32_t *u)
{
    size_t t = 0;

    for (; t + 32 <= rows; t += 32)
        lut8(1, groups, rows, code + t, prepared, u + t);
    if (t < rows)
        lut8(0, groups, rows, code + t, prepared, u + t);
}
