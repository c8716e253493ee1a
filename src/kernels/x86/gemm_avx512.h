/* gemm_avx512.h: the fp32 matrix product behind the dense and the attention kernels.
 *
 * Both operands lie along the columns, so lanes are columns: lane l of an accumulator sums columns
 * l, l + 16, … in order, and one tree adds the 16 lanes. That order depends on nothing but the
 * number of columns; tiles at the edge repeat their last row and store less.
 * A tile of 6 vectors by 4 matrix rows takes 24 accumulators, 4 registers for the matrix and reads
 * the vectors from L1 as operands: 24 FMA to 10 loads. Bound: the FMA ports, one 512-bit FMA per
 * cycle on Zen 4; for one vector, memory. */
#ifndef UPG_KERNELS_X86_GEMM_AVX512_H
#define UPG_KERNELS_X86_GEMM_AVX512_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

typedef enum upg_gemm_type { UPG_GEMM_BF16, UPG_GEMM_F16, UPG_GEMM_F32, UPG_GEMM_I8 } upg_gemm_type;

enum { UPG_GEMM_M = 6, UPG_GEMM_R = 4 };

#define UPG_GEMM_INLINE static inline __attribute__((always_inline))

UPG_GEMM_INLINE size_t upg_gemm_element(upg_gemm_type type)
{
    return type == UPG_GEMM_F32 ? 4 : type == UPG_GEMM_I8 ? 1 : 2;
}

/* 16 elements as f32, those outside the mask 0. */
UPG_GEMM_INLINE __m512 upg_gemm_load(upg_gemm_type type, const char *w, __mmask16 mask)
{
    if (type == UPG_GEMM_F32)
        return _mm512_maskz_loadu_ps(mask, w);
    if (type == UPG_GEMM_I8)
        return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask, w)));
    __m256i half = _mm256_maskz_loadu_epi16(mask, w);

    if (type == UPG_GEMM_F16)
        return _mm512_cvtph_ps(half);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

/* The sums of a, b, c, d; each lane pattern is the same for all four. */
UPG_GEMM_INLINE __m128 upg_gemm_reduce(__m512 a, __m512 b, __m512 c, __m512 d)
{
    __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    __m512 low = _mm512_shuffle_ps(ab, cd, 0x44), high = _mm512_shuffle_ps(ab, cd, 0xEE);
    __m512 all = _mm512_add_ps(low, high);
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));

    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

/* One step: 16 columns of M vectors and 4 matrix rows, those outside the mask 0. */
UPG_GEMM_INLINE void upg_gemm_step(upg_gemm_type type, size_t M, __mmask16 mask, const float *x,
                                   size_t x_stride, const char *const *row, size_t offset,
                                   __m512 (*sum)[UPG_GEMM_R])
{
    __m512 v[UPG_GEMM_R];

    for (size_t r = 0; r < UPG_GEMM_R; r++)
        v[r] = upg_gemm_load(type, row[r] + offset, mask);
    for (size_t i = 0; i < M; i++) {
        __m512 xi = _mm512_maskz_loadu_ps(mask, x + i * x_stride);

        for (size_t r = 0; r < UPG_GEMM_R; r++)
            sum[i][r] = _mm512_fmadd_ps(xi, v[r], sum[i][r]);
    }
}

/* M vectors (a constant) by `rows` ≤ 4 matrix rows. */
UPG_GEMM_INLINE void upg_gemm_tile(upg_gemm_type type, size_t M, size_t rows, size_t n_cols,
                                   const float *x, size_t x_stride, const char *w, size_t w_bytes,
                                   float *y, size_t y_stride)
{
    const size_t bytes = upg_gemm_element(type);
    const char  *row[UPG_GEMM_R];
    __m512       sum[UPG_GEMM_M][UPG_GEMM_R];
    size_t       j = 0;

    for (size_t r = 0; r < UPG_GEMM_R; r++)
        row[r] = w + (r < rows ? r : rows - 1) * w_bytes;
    for (size_t i = 0; i < M; i++)
        for (size_t r = 0; r < UPG_GEMM_R; r++)
            sum[i][r] = _mm512_setzero_ps();
    for (; j + 16 <= n_cols; j += 16)
        upg_gemm_step(type, M, 0xFFFF, x + j, x_stride, row, j * bytes, sum);
    if (j < n_cols)
        upg_gemm_step(type, M, (__mmask16)((1u << (n_cols - j)) - 1), x + j, x_stride, row,
                      j * bytes, sum);
    for (size_t i = 0; i < M; i++)
        _mm_mask_storeu_ps(y + i * y_stride, (__mmask8)((1u << rows) - 1),
                           upg_gemm_reduce(sum[i][0], sum[i][1], sum[i][2], sum[i][3]));
}

/* 1 … 5 vectors. */
UPG_GEMM_INLINE void upg_gemm_few(upg_gemm_type type, size_t m, size_t rows, size_t n_cols,
                                  const float *x, size_t x_stride, const char *w, size_t w_bytes,
                                  float *y, size_t y_stride)
{
    switch (m) {
    case 5:
        upg_gemm_tile(type, 5, rows, n_cols, x, x_stride, w, w_bytes, y, y_stride);
        break;
    case 4:
        upg_gemm_tile(type, 4, rows, n_cols, x, x_stride, w, w_bytes, y, y_stride);
        break;
    case 3:
        upg_gemm_tile(type, 3, rows, n_cols, x, x_stride, w, w_bytes, y, y_stride);
        break;
    case 2:
        upg_gemm_tile(type, 2, rows, n_cols, x, x_stride, w, w_bytes, y, y_stride);
        break;
    case 1:
        upg_gemm_tile(type, 1, rows, n_cols, x, x_stride, w, w_bytes, y, y_stride);
        break;
    default:
        break;
    }
}

/* All matrix rows for M vectors, which stay in L1 while the rows pass. */
UPG_GEMM_INLINE void upg_gemm_panel(upg_gemm_type type, size_t M, size_t rows, size_t n_cols,
                                    const float *x, size_t x_stride, const char *w, size_t w_bytes,
                                    float *y, size_t y_stride)
{
    for (size_t r = 0; r < rows; r += UPG_GEMM_R)
        upg_gemm_tile(type, M, rows - r < UPG_GEMM_R ? rows - r : UPG_GEMM_R, n_cols, x, x_stride,
                      w + r * w_bytes, w_bytes, y + r, y_stride);
}

UPG_GEMM_INLINE void upg_gemm(upg_gemm_type type, size_t m, size_t rows, size_t n_cols,
                              const float *x, size_t x_stride, const void *w, size_t w_stride,
                              float *y, size_t y_stride)
{
    const size_t w_bytes = w_stride * upg_gemm_element(type);

    for (; m >= UPG_GEMM_M; m -= UPG_GEMM_M, x += UPG_GEMM_M * x_stride, y += UPG_GEMM_M * y_stride)
        upg_gemm_panel(type, UPG_GEMM_M, rows, n_cols, x, x_stride, w, w_bytes, y, y_stride);
    switch (m) {
    case 5:
        upg_gemm_panel(type, 5, rows, n_cols, x, x_stride, w, w_bytes, y, y_stride);
        break;
    case 4:
        upg_gemm_panel(type, 4, rows, n_cols, x, x_stride, w, w_bytes, y, y_stride);
        break;
    case 3:
        upg_gemm_panel(type, 3, rows, n_cols, x, x_stride, w, w_bytes, y, y_stride);
        break;
    case 2:
        upg_gemm_panel(type, 2, rows, n_cols, x, x_stride, w, w_bytes, y, y_stride);
        break;
    case 1:
        upg_gemm_panel(type, 1, rows, n_cols, x, x_stride, w, w_bytes, y, y_stride);
        break;
    default:
        break;
    }
}

#endif
