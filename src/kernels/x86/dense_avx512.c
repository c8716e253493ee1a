/* dense_avx512.c: dense matrices and vectors with AVX-512. Vector kernels run from L1 and L2 and
 * take little of a token; the matrix product is described in gemm_avx512.h. */
#include "kernels/tables.h"

#include <immintrin.h>

#include "kernels/x86/exp_avx512.h"
#include "kernels/x86/gemm_avx512.h"

static void gemm_bf16(size_t m, size_t rows, size_t n_cols, const float *x, size_t x_stride,
                      const uint16_t *w, size_t w_stride, float *y, size_t y_stride)
{
    upg_gemm(UPG_GEMM_BF16, m, rows, n_cols, x, x_stride, w, w_stride, y, y_stride);
}

static void gemm_f16(size_t m, size_t rows, size_t n_cols, const float *x, size_t x_stride,
                     const uint16_t *w, size_t w_stride, float *y, size_t y_stride)
{
    upg_gemm(UPG_GEMM_F16, m, rows, n_cols, x, x_stride, w, w_stride, y, y_stride);
}

static void gemm_f32(size_t m, size_t rows, size_t n_cols, const float *x, size_t x_stride,
                     const float *w, size_t w_stride, float *y, size_t y_stride)
{
    upg_gemm(UPG_GEMM_F32, m, rows, n_cols, x, x_stride, w, w_stride, y, y_stride);
}

static inline __mmask16 tail_mask(size_t left)
{
    return left >= 16 ? (__mmask16)0xFFFF : (__mmask16)((1u << left) - 1);
}

static double sum_squares(size_t n, const float *x)
{
    double total = 0;

    for (size_t start = 0; start < n; start += 1024) {
        size_t end = n - start < 1024 ? n : start + 1024;
        __m512 even = _mm512_setzero_ps(), odd = _mm512_setzero_ps();

        for (size_t i = start; i < end; i += 32) {
            size_t left = end - i;
            __m512 a = _mm512_maskz_loadu_ps(tail_mask(left), x + i);
            __m512 b = _mm512_maskz_loadu_ps(tail_mask(left > 16 ? left - 16 : 0), x + i + 16);

            even = _mm512_fmadd_ps(a, a, even);
            odd = _mm512_fmadd_ps(b, b, odd);
        }
        total += (double)_mm512_reduce_add_ps(_mm512_add_ps(even, odd));
    }
    return total;
}

static float max_abs(size_t n, const float *x)
{
    __m512 max = _mm512_setzero_ps();

    for (size_t i = 0; i < n; i += 16) {
        __m512 a = _mm512_maskz_loadu_ps(tail_mask(n - i), x + i);

        max = _mm512_max_ps(_mm512_abs_ps(a), max);
    }
    return _mm512_reduce_max_ps(max);
}

static void quantise_i8(size_t n, const float *x, float inverse, int8_t *q)
{
    const __m512 scale = _mm512_set1_ps(inverse);

    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = tail_mask(n - i);
        __m512    a = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), scale);

        /* The default rounding mode is to nearest even. */
        _mm_mask_storeu_epi8(q + i, mask, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a)));
    }
}

static void swiglu(size_t n, const float *gate, const float *up, float *out)
{
    const __m512 one = _mm512_set1_ps(1.0f);

    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = tail_mask(n - i);
        __m512    g = _mm512_maskz_loadu_ps(mask, gate + i);
        __m512    u = _mm512_maskz_loadu_ps(mask, up + i);
        __m512    e = upg_exp_avx512(_mm512_sub_ps(_mm512_setzero_ps(), g));

        _mm512_mask_storeu_ps(out + i, mask,
                              _mm512_mul_ps(_mm512_div_ps(g, _mm512_add_ps(one, e)), u));
    }
}

void upg_kernels_dense_avx512(upg_kernels *k)
{
    k->gemm_bf16 = gemm_bf16;
    k->gemm_f16 = gemm_f16;
    k->gemm_f32 = gemm_f32;
    k->sum_squares = sum_squares;
    k->max_abs = max_abs;
    k->quantise_i8 = quantise_i8;
    k->swiglu = swiglu;
    upg_kernels_attention_avx512(k);
}
