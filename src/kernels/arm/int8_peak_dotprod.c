/* int8_peak_dotprod.c: sdot on registers; 16 sums hide its latency on up to four pipes. */
#include <arm_neon.h>

#include "kernels/int8_peak.h"

uint32_t upg_int8_peak_dotprod(uint32_t rounds)
{
    int32x4_t sum[16];
    int8x16_t a = vdupq_n_s8(3), b = vdupq_n_s8(5);

    for (int i = 0; i < 16; i++)
        sum[i] = vdupq_n_s32(i);
    for (uint32_t n = 0; n < rounds; n++) {
        for (int i = 0; i < 16; i++)
            sum[i] = vdotq_s32(sum[i], a, b);
        __asm__ volatile("" : "+w"(a), "+w"(b));
    }
    for (int i = 1; i < 16; i++)
        sum[0] = vaddq_s32(sum[0], sum[i]);
    return (uint32_t)vaddvq_s32(sum[0]) - 4 * 120; /* what the sums began with */
}
