/* hadamard_neon.c: Walsh-Hadamard, the first two butterflies inside registers, the others two at a
 * time on four registers.
 *
 * The sums and differences of upg_hadamard in its order, so that results are equal bit for bit. */
#include <arm_neon.h>
#include <math.h>

#include "codec/rotation.h"
#include "kernels/arm/codec_arm.h"

static inline float32x4_t within(float32x4_t x, size_t block)
{
    if (block > 1) {
        float32x4_t swapped = vrev64q_f32(x);

        x = vtrn1q_f32(vaddq_f32(x, swapped), vsubq_f32(x, swapped));
    }
    if (block > 2) {
        float32x4_t swapped = vextq_f32(x, x, 2);

        x = vcombine_f32(vget_low_f32(vaddq_f32(x, swapped)), vget_low_f32(vsubq_f32(x, swapped)));
    }
    return x;
}

static void one_stage(size_t half, size_t block, float *x)
{
    for (size_t i = 0; i < block; i += 2 * half)
        for (size_t j = i; j < i + half; j += 4) {
            float32x4_t a = vld1q_f32(x + j), b = vld1q_f32(x + j + half);

            vst1q_f32(x + j, vaddq_f32(a, b));
            vst1q_f32(x + j + half, vsubq_f32(a, b));
        }
}

/* The stages of `half` and of 2·half. */
static void two_stages(size_t half, size_t block, float *x)
{
    for (size_t i = 0; i < block; i += 4 * half)
        for (size_t j = i; j < i + half; j += 4) {
            float32x4_t a = vld1q_f32(x + j), b = vld1q_f32(x + j + half);
            float32x4_t c = vld1q_f32(x + j + 2 * half), d = vld1q_f32(x + j + 3 * half);
            float32x4_t ab = vaddq_f32(a, b), a_b = vsubq_f32(a, b);
            float32x4_t cd = vaddq_f32(c, d), c_d = vsubq_f32(c, d);

            vst1q_f32(x + j, vaddq_f32(ab, cd));
            vst1q_f32(x + j + half, vaddq_f32(a_b, c_d));
            vst1q_f32(x + j + 2 * half, vsubq_f32(ab, cd));
            vst1q_f32(x + j + 3 * half, vsubq_f32(a_b, c_d));
        }
}

static void across(size_t block, float *x)
{
    size_t half = 4;

    for (; 4 * half <= block; half *= 4)
        two_stages(half, block, x);
    if (half < block)
        one_stage(half, block, x);
}

void upg_hadamard_neon(size_t n, size_t block, float *x)
{
    const float scale = 1.0f / sqrtf((float)block);
    size_t      whole = n / 4 * 4;

    for (size_t i = 0; i < whole; i += 4)
        vst1q_f32(x + i, within(vld1q_f32(x + i), block));
    for (size_t i = 0; block > 4 && i < n; i += block)
        across(block, x + i);
    for (size_t i = 0; i < whole; i += 4)
        vst1q_f32(x + i, vmulq_n_f32(vld1q_f32(x + i), scale));
    if (whole < n)
        upg_hadamard(n - whole, block, x + whole);
}
