/* dense_avx2.c: dense matrices and vectors with AVX2, FMA and F16C; the matrix product is described
 * in gemm_avx2.h. */
#include "kernels/tables.h"

#include <immintrin.h>
#include <math.h>

#include "kernels/x86/exp_avx2.h"
#include "kernels/x86/gemm_avx2.h"

static void gemm_bf16(size_t m, size_t rows, size_t n_cols, const float *x, size_t x_stride,
                      const uint16_t *w, size_t w_stride, float *y, size_t y_stride)
{
    upg_gemm2(UPG_GEMM2_BF16, m, rows, n_cols, x, x_stride, w, w_stride, y, y_stride);
}

static void gemm_f16(size_t m, size_t rows, size_t n_cols, const float *x, size_t x_stride,
                     const uint16_t *w, size_t w_stride, float *y, size_t y_stride)
{
    upg_gemm2(UPG_GEMM2_F16, m, rows, n_cols, x, x_stride, w, w_stride, y, y_stride);
}

static void gemm_f32(size_t m, size_t rows, size_t n_cols, const float *x, size_t x_stride,
                     const float *w, size_t w_stride, float *y, size_t y_stride)
{
    upg_gemm2(UPG_GEMM2_F32, m, rows, n_cols, x, x_stride, w, w_stride, y, y_stride);
}

static float sum_lanes(__m256 x)
{
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));

    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

static double sum_squares(size_t n, const float *x)
{
    double total = 0;

    for (size_t start = 0; start < n; start += 1024) {
        size_t end = n - start < 1024 ? n : start + 1024;
        size_t i = start;
        __m256 even = _mm256_setzero_ps(), odd = _mm256_setzero_ps();
        float  rest = 0;

        for (; i + 16 <= end; i += 16) {
            __m256 a = _mm256_loadu_ps(x + i), b = _mm256_loadu_ps(x + i + 8);

            even = _mm256_fmadd_ps(a, a, even);
            odd = _mm256_fmadd_ps(b, b, odd);
        }
        for (; i < end; i++)
            rest += x[i] * x[i];
        total += (double)(sum_lanes(_mm256_add_ps(even, odd)) + rest);
    }
    return total;
}

static float max_abs(size_t n, const float *x)
{
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256       max = _mm256_setzero_ps();
    float        lanes[8], result = 0;
    size_t       i = 0;

    for (; i + 8 <= n; i += 8)
        max = _mm256_max_ps(_mm256_andnot_ps(sign, _mm256_loadu_ps(x + i)), max);
    _mm256_storeu_ps(lanes, max);
    for (size_t l = 0; l < 8; l++)
        result = lanes[l] > result ? lanes[l] : result;
    for (; i < n; i++)
        result = fabsf(x[i]) > result ? fabsf(x[i]) : result;
    return result;
}

static void quantise_i8(size_t n, const float *x, float inverse, int8_t *q)
{
    const __m256 scale = _mm256_set1_ps(inverse);
    size_t       i = 0;

    for (; i + 8 <= n; i += 8) {
        /* The default rounding mode is to nearest even. */
        __m256i wide = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i), scale));
        __m128i half =
            _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));

        _mm_storel_epi64((__m128i *)(void *)(q + i), _mm_packs_epi16(half, half));
    }
    for (; i < n; i++)
        q[i] = (int8_t)nearbyintf(x[i] * inverse);
}

static __m256 swiglu8(__m256 gate, __m256 up)
{
    __m256 e = upg_exp_avx2(_mm256_sub_ps(_mm256_setzero_ps(), gate));

    return _mm256_mul_ps(_mm256_div_ps(gate, _mm256_add_ps(_mm256_set1_ps(1.0f), e)), up);
}

static void swiglu(size_t n, const float *gate, const float *up, float *out)
{
    size_t i = 0;

    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(out + i, swiglu8(_mm256_loadu_ps(gate + i), _mm256_loadu_ps(up + i)));
    if (i < n) {
        float g[8] = { 0 }, u[8] = { 0 };

        memcpy(g, gate + i, (n - i) * sizeof *g);
        memcpy(u, up + i, (n - i) * sizeof *u);
        _mm256_storeu_ps(g, swiglu8(_mm256_loadu_ps(g), _mm256_loadu_ps(u)));
        memcpy(out + i, g, (n - i) * sizeof *g);
    }
}

void upg_kernels_dense_avx2(upg_kernels *k)
{
    k->gemm_bf16 = gemm_bf16;
    k->gemm_f16 = gemm_f16;
    k->gemm_f32 = gemm_f32;
    k->sum_squares = sum_squares;
    k->max_abs = max_abs;
    k->quantise_i8 = quantise_i8;
    k->swiglu = swiglu;
    upg_kernels_attention_avx2(k);
}
