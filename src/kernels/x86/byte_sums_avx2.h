/* byte_sums_avx2.h: from code words to bytes that one table serves, and from looked-up bytes to
 * sums of 32 bits; what bitdot_avx2.c and lut8_avx2.c share. */
#ifndef UPG_KERNELS_X86_BYTE_SUMS_AVX2_H
#define UPG_KERNELS_X86_BYTE_SUMS_AVX2_H

#include <immintrin.h>
#include <stdint.h>

/* Words of 32 rows: v[i] holds rows 8·i … 8·i + 7. After it v[c] holds byte c of all rows: of rows
 * 8·i … + 3 at 4·i in the low lane, of rows 8·i + 4 … + 7 in the high lane. */
static inline void upg_bytes_together(__m256i v[4])
{
    const __m256i by_place = _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15,
                                              0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m256i       a, b, c, d;

    for (int i = 0; i < 4; i++)
        v[i] = _mm256_shuffle_epi8(v[i], by_place);
    a = _mm256_unpacklo_epi32(v[0], v[1]);
    b = _mm256_unpackhi_epi32(v[0], v[1]);
    c = _mm256_unpacklo_epi32(v[2], v[3]);
    d = _mm256_unpackhi_epi32(v[2], v[3]);
    v[0] = _mm256_unpacklo_epi64(a, c);
    v[1] = _mm256_unpackhi_epi64(a, c);
    v[2] = _mm256_unpacklo_epi64(b, d);
    v[3] = _mm256_unpackhi_epi64(b, d);
}

/* Sums of one part, low or high, for 32 rows. */
typedef struct upg_word_sums {
    __m256i bytes;     /* of one group */
    __m256i all, odds; /* words: even + 256·odd bytes modulo 2^16; odd bytes */
} upg_word_sums;

static inline void upg_end_group(upg_word_sums *part)
{
    part->all = _mm256_add_epi16(part->all, part->bytes);
    part->odds = _mm256_add_epi16(part->odds, _mm256_srli_epi16(part->bytes, 8));
    part->bytes = _mm256_setzero_si256();
}

/* Adds the words to sum, times 1 << shift. */
static inline void upg_spill(upg_word_sums *part, int shift, __m256i sum[4])
{
    __m256i evens = _mm256_sub_epi16(part->all, _mm256_slli_epi16(part->odds, 8));
    __m256i words[2] = { _mm256_unpacklo_epi16(evens, part->odds),
                         _mm256_unpackhi_epi16(evens, part->odds) };

    for (int i = 0; i < 2; i++) {
        __m256i low = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(words[i]));
        __m256i high = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(words[i], 1));

        sum[2 * i] = _mm256_add_epi32(sum[2 * i], _mm256_slli_epi32(low, shift));
        sum[2 * i + 1] = _mm256_add_epi32(sum[2 * i + 1], _mm256_slli_epi32(high, shift));
    }
    part->all = part->odds = _mm256_setzero_si256();
}

/* Rows in order, less the bias. */
static inline void upg_store_sums(int full, const __m256i sum[4], __m256i bias, int32_t *u)
{
    for (int i = 0; i < (full ? 4 : 2); i += 2) {
        __m256i first = _mm256_permute2x128_si256(sum[i], sum[i + 1], 0x20);
        __m256i second = _mm256_permute2x128_si256(sum[i], sum[i + 1], 0x31);

        _mm256_storeu_si256((__m256i *)(u + 8 * i), _mm256_sub_epi32(first, bias));
        _mm256_storeu_si256((__m256i *)(u + 8 * i + 8), _mm256_sub_epi32(second, bias));
    }
}

#endif
