/* exp_neon.h: exp of 4 floats: 2^n times a Taylor polynomial of the rest, |rest| ≤ ln 2 / 2. */
#ifndef UPG_KERNELS_ARM_EXP_NEON_H
#define UPG_KERNELS_ARM_EXP_NEON_H

#include <arm_neon.h>

/* Relative error below 2e-7; 0 below −87.33, infinity above 88.72. NaN gives NaN. */
static inline float32x4_t upg_exp_neon(float32x4_t x)
{
    const float32x4_t low = vdupq_n_f32(-87.33f);
    const int32x4_t   one = vdupq_n_s32(127); /* the exponent of 1 */
    uint32x4_t        tiny = vcltq_f32(x, low);
    float32x4_t       n, r, p;
    int32x4_t         power, half;

    x = vmaxq_f32(low, vminq_f32(vdupq_n_f32(100.0f), x)); /* both keep NaN */
    n = vrndnq_f32(vmulq_n_f32(x, 1.44269504f));
    r = vfmsq_n_f32(x, n, 0x1.62e4p-1f);
    r = vfmsq_n_f32(r, n, 0x1.7f7d1cp-20f);
    p = vdupq_n_f32(1.0f / 5040);
    p = vfmaq_f32(vdupq_n_f32(1.0f / 720), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.0f / 120), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.0f / 24), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.0f / 6), p, r);
    p = vfmaq_f32(vdupq_n_f32(0.5f), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.0f), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.0f), p, r);
    /* 2^n in two factors: n runs from −126 to 144, one exponent holds −126 to 127. */
    power = vcvtq_s32_f32(n);
    half = vshrq_n_s32(power, 1);
    p = vmulq_f32(p, vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(half, one), 23)));
    p = vmulq_f32(p,
                  vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vsubq_s32(power, half), one), 23)));
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(p), tiny));
}

#endif
