/* int8_peak_avx512.c: vpdpbusd on registers; 16 sums hide its latency of 4 to 5 on two ports. */
#include <immintrin.h>

#include "kernels/int8_peak.h"

uint32_t upg_int8_peak_avx512(uint32_t rounds)
{
    __m512i sum[16], a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(5);

    for (int i = 0; i < 16; i++)
        sum[i] = _mm512_set1_epi32(i);
    for (uint32_t n = 0; n < rounds; n++) {
        for (int i = 0; i < 16; i++)
            sum[i] = _mm512_dpbusd_epi32(sum[i], a, b);
        __asm__ volatile("" : "+v"(a), "+v"(b));
    }
    for (int i = 1; i < 16; i++)
        sum[0] = _mm512_add_epi32(sum[0], sum[i]);
    return (uint32_t)_mm512_reduce_add_epi32(sum[0]) - 16 * 120; /* what they began with */
}
