/* int8_peak_avx512.c: vpdpbusd on registers; 16 sums hide its latency of 4 to 5 on two ports. */
#include <immintrin.h>

#include "kernels/int8_peak.h"

uint32_t upg_int8_peak_avx512(uint32_t rounds)
{
    __m512i sum[16], a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(5);
    __m256i half;
    __m128i quarter;

    for (int i = 0; i < 16; i++)
        sum[i] = _mm512_set1_epi32(i);
    for (uint32_t n = 0; n < rounds; n++) {
        for (int i = 0; i < 16; i++)
            sum[i] = _mm512_dpbusd_epi32(sum[i], a, b);
        __asm__ volatile("" : "+v"(a), "+v"(b));
    }
    for (int i = 1; i < 16; i++)
        sum[0] = _mm512_add_epi32(sum[0], sum[i]);
    half = _mm256_add_epi32(_mm512_castsi512_si256(sum[0]), _mm512_extracti64x4_epi64(sum[0], 1));
    quarter = _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    quarter = _mm_add_epi32(quarter, _mm_srli_si128(quarter, 8));
    quarter = _mm_add_epi32(quarter, _mm_srli_si128(quarter, 4));
    return (uint32_t)_mm_cvtsi128_si32(quarter) - 16 * 120; /* what the sums began with */
}
