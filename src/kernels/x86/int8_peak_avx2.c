/* int8_peak_avx2.c: without VNNI four products take vpmaddubsw, vpmaddwd and an addition. */
#include <immintrin.h>

#include "kernels/int8_peak.h"

uint32_t upg_int8_peak_avx2(uint32_t rounds)
{
    __m256i sum[8], a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(5);
    __m256i one = _mm256_set1_epi16(1);
    __m128i half;

    for (int i = 0; i < 8; i++)
        sum[i] = _mm256_set1_epi32(i);
    for (uint32_t n = 0; n < rounds; n++) {
        for (int i = 0; i < 8; i++) {
            __asm__ volatile("" : "+x"(a), "+x"(b));
            sum[i] = _mm256_add_epi32(sum[i], _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), one));
        }
    }
    for (int i = 1; i < 8; i++)
        sum[0] = _mm256_add_epi32(sum[0], sum[i]);
    half = _mm_add_epi32(_mm256_castsi256_si128(sum[0]), _mm256_extracti128_si256(sum[0], 1));
    half = _mm_add_epi32(half, _mm_srli_si128(half, 8));
    half = _mm_add_epi32(half, _mm_srli_si128(half, 4));
    return (uint32_t)_mm_cvtsi128_si32(half) - 8 * 28; /* what the sums began with */
}
