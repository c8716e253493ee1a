/* dense_neon.c: dense matrices and vectors with NEON; the matrix product is described in
 * gemm_neon.h. */
#include "kernels/tables.h"

#include <arm_neon.h>
#include <math.h>

#include "kernels/arm/exp_neon.h"
#include "kernels/arm/gemm_neon.h"

static void gemm_bf16(size_t m, size_t rows, size_t n_cols, const float *x, size_t x_stride,
                      const uint16_t *w, size_t w_stride, float *y, size_t y_stride)
{
    upg_gemmn(UPG_GEMMN_BF16, m, rows, n_cols, x, x_stride, w, w_stride, y, y_stride);
}

static void gemm_f16(size_t m, size_t rows, size_t n_cols, const float *x, size_t x_stride,
                     const uint16_t *w, size_t w_stride, float *y, size_t y_stride)
{
    upg_gemmn(UPG_GEMMN_F16, m, rows, n_cols, x, x_stride, w, w_stride, y, y_stride);
}

static void gemm_f32(size_t m, size_t rows, size_t n_cols, const float *x, size_t x_stride,
                     const float *w, size_t w_stride, float *y, size_t y_stride)
{
    upg_gemmn(UPG_GEMMN_F32, m, rows, n_cols, x, x_stride, w, w_stride, y, y_stride);
}

static double sum_squares(size_t n, const float *x)
{
    double total = 0;

    for (size_t start = 0; start < n; start += 1024) {
        size_t      end = n - start < 1024 ? n : start + 1024, i = start;
        float32x4_t even = vdupq_n_f32(0), odd = vdupq_n_f32(0);
        float       rest = 0;

        for (; i + 8 <= end; i += 8) {
            float32x4_t a = vld1q_f32(x + i), b = vld1q_f32(x + i + 4);

            even = vfmaq_f32(even, a, a);
            odd = vfmaq_f32(odd, b, b);
        }
        for (; i < end; i++)
            rest += x[i] * x[i];
        total += (double)(vaddvq_f32(vaddq_f32(even, odd)) + rest);
    }
    return total;
}

static float max_abs(size_t n, const float *x)
{
    float32x4_t max = vdupq_n_f32(0);
    float       result;
    size_t      i = 0;

    for (; i + 4 <= n; i += 4)
        max = vmaxnmq_f32(max, vabsq_f32(vld1q_f32(x + i)));
    result = vmaxnmvq_f32(max);
    for (; i < n; i++)
        result = fabsf(x[i]) > result ? fabsf(x[i]) : result;
    return result;
}

static void quantise_i8(size_t n, const float *x, float inverse, int8_t *q)
{
    size_t i = 0;

    for (; i + 8 <= n; i += 8) {
        int32x4_t first = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + i), inverse));
        int32x4_t second = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + i + 4), inverse));

        vst1_s8(q + i, vqmovn_s16(vcombine_s16(vqmovn_s32(first), vqmovn_s32(second))));
    }
    for (; i < n; i++)
        q[i] = (int8_t)nearbyintf(x[i] * inverse);
}

static float32x4_t swiglu4(float32x4_t gate, float32x4_t up)
{
    float32x4_t e = upg_exp_neon(vnegq_f32(gate));

    return vmulq_f32(vdivq_f32(gate, vaddq_f32(vdupq_n_f32(1), e)), up);
}

static void swiglu(size_t n, const float *gate, const float *up, float *out)
{
    size_t i = 0;

    for (; i + 4 <= n; i += 4)
        vst1q_f32(out + i, swiglu4(vld1q_f32(gate + i), vld1q_f32(up + i)));
    if (i < n) {
        float g[4] = { 0 }, u[4] = { 0 };

        memcpy(g, gate + i, (n - i) * sizeof *g);
        memcpy(u, up + i, (n - i) * sizeof *u);
        vst1q_f32(g, swiglu4(vld1q_f32(g), vld1q_f32(u)));
        memcpy(out + i, g, (n - i) * sizeof *g);
    }
}

void upg_kernels_dense_neon(upg_kernels *k)
{
    k->gemm_bf16 = gemm_bf16;
    k->gemm_f16 = gemm_f16;
    k->gemm_f32 = gemm_f32;
    k->sum_squares = sum_squares;
    k->max_abs = max_abs;
    k->quantise_i8 = quantise_i8;
    k->swiglu = swiglu;
    upg_kernels_attention_neon(k);
}
