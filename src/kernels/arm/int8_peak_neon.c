/* int8_peak_neon.c: without sdot eight products take smull, and sadalp adds pairs of them up. */
#include <arm_neon.h>

#include "kernels/int8_peak.h"

uint32_t upg_int8_peak_neon(uint32_t rounds)
{
    int32x4_t sum[8];
    int8x16_t a = vdupq_n_s8(3), b = vdupq_n_s8(5);

    for (int i = 0; i < 8; i++)
        sum[i] = vdupq_n_s32(i);
    for (uint32_t n = 0; n < rounds; n++) {
        for (int i = 0; i < 8; i++) {
            __asm__ volatile("" : "+w"(a), "+w"(b));
            sum[i] = vpadalq_s16(sum[i], vmull_s8(vget_low_s8(a), vget_low_s8(b)));
            sum[i] = vpadalq_s16(sum[i], vmull_s8(vget_high_s8(a), vget_high_s8(b)));
        }
    }
    for (int i = 1; i < 8; i++)
        sum[0] = vaddq_s32(sum[0], sum[i]);
    return (uint32_t)vaddvq_s32(sum[0]) - 4 * 28; /* what the sums began with */
}
