/* gemm_avx2.h: the fp32 matrix product behind the dense and the attention kernels, for AVX2.
 *
 * As gemm_avx512.h, with lanes of 8 columns and tiles of 3 vectors by 4 matrix rows: 12
 * accumulators and one register for the matrix row at hand. Columns past the last multiple of 8
 * pass through a zero-padded copy, so that the order of additions stays the same everywhere. */
#ifndef UPG_KERNELS_X86_GEMM_AVX2_H
#define UPG_KERNELS_X86_GEMM_AVX2_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef enum upg_gemm2_type {
    UPG_GEMM2_BF16,
    UPG_GEMM2_F16,
    UPG_GEMM2_F32,
    UPG_GEMM2_I8
} upg_gemm2_type;

enum { UPG_GEMM2_M = 3, UPG_GEMM2_R = 4 };

#define UPG_GEMM2_INLINE static inline __attribute__((always_inline))

UPG_GEMM2_INLINE size_t upg_gemm2_element(upg_gemm2_type type)
{
    return type == UPG_GEMM2_F32 ? 4 : type == UPG_GEMM2_I8 ? 1 : 2;
}

/* 8 elements as f32. */
UPG_GEMM2_INLINE __m256 upg_gemm2_load(upg_gemm2_type type, const char *w)
{
    if (type == UPG_GEMM2_F32)
        return _mm256_loadu_ps((const float *)(const void *)w);
    if (type == UPG_GEMM2_I8)
        return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)w)));
    __m128i half = _mm_loadu_si128((const __m128i *)(const void *)w);

    if (type == UPG_GEMM2_F16)
        return _mm256_cvtph_ps(half);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

/* The sums of a, b, c, d; each lane pattern is the same for all four. */
UPG_GEMM2_INLINE __m128 upg_gemm2_reduce(__m256 a, __m256 b, __m256 c, __m256 d)
{
    __m256 ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
    __m256 cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
    __m256 all = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xEE));

    return _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
}

UPG_GEMM2_INLINE void upg_gemm2_step(upg_gemm2_type type, size_t M, const float *x, size_t x_stride,
                                     const char *const *row, size_t offset,
                                     __m256 (*sum)[UPG_GEMM2_R])
{
    __m256 xi[UPG_GEMM2_M];

    for (size_t i = 0; i < M; i++)
        xi[i] = _mm256_loadu_ps(x + i * x_stride);
    for (size_t r = 0; r < UPG_GEMM2_R; r++) {
        __m256 v = upg_gemm2_load(type, row[r] + offset);

        for (size_t i = 0; i < M; i++)
            sum[i][r] = _mm256_fmadd_ps(xi[i], v, sum[i][r]);
    }
}

/* The last n_cols < 8 columns, through zero-padded copies. */
UPG_GEMM2_INLINE void upg_gemm2_tail(upg_gemm2_type type, size_t M, size_t n_cols, const float *x,
                                     size_t x_stride, const char *const *row, size_t offset,
                                     __m256 (*sum)[UPG_GEMM2_R])
{
    float       x_pad[UPG_GEMM2_M][8] = { { 0 } };
    char        w_pad[UPG_GEMM2_R][32] = { { 0 } };
    const char *padded[UPG_GEMM2_R];

    for (size_t i = 0; i < M; i++)
        memcpy(x_pad[i], x + i * x_stride, n_cols * sizeof *x);
    for (size_t r = 0; r < UPG_GEMM2_R; r++) {
        memcpy(w_pad[r], row[r] + offset, n_cols * upg_gemm2_element(type));
        padded[r] = w_pad[r];
    }
    upg_gemm2_step(type, M, x_pad[0], 8, padded, 0, sum);
}

/* M vectors (a constant) by `rows` ≤ 4 matrix rows. */
UPG_GEMM2_INLINE void upg_gemm2_tile(upg_gemm2_type type, size_t M, size_t rows, size_t n_cols,
                                     const float *x, size_t x_stride, const char *w, size_t w_bytes,
                                     float *y, size_t y_stride)
{
    const size_t bytes = upg_gemm2_element(type);
    const char  *row[UPG_GEMM2_R];
    __m256       sum[UPG_GEMM2_M][UPG_GEMM2_R];
    size_t       j = 0;

    for (size_t r = 0; r < UPG_GEMM2_R; r++)
        row[r] = w + (r < rows ? r : rows - 1) * w_bytes;
    for (size_t i = 0; i < M; i++)
        for (size_t r = 0; r < UPG_GEMM2_R; r++)
            sum[i][r] = _mm256_setzero_ps();
    for (; j + 8 <= n_cols; j += 8)
        upg_gemm2_step(type, M, x + j, x_stride, row, j * bytes, sum);
    if (j < n_cols)
        upg_gemm2_tail(type, M, n_cols - j, x + j, x_stride, row, j * bytes, sum);
    for (size_t i = 0; i < M; i++) {
        float four[UPG_GEMM2_R];

        _mm_storeu_ps(four, upg_gemm2_reduce(sum[i][0], sum[i][1], sum[i][2], sum[i][3]));
        memcpy(y + i * y_stride, four, rows * sizeof *four);
    }
}

/* All matrix rows for M vectors, which stay in L1 while the rows pass. */
UPG_GEMM2_INLINE void upg_gemm2_panel(upg_gemm2_type type, size_t M, size_t rows, size_t n_cols,
                                      const float *x, size_t x_stride, const char *w,
                                      size_t w_bytes, float *y, size_t y_stride)
{
    for (size_t r = 0; r < rows; r += UPG_GEMM2_R)
        upg_gemm2_tile(type, M, rows - r < UPG_GEMM2_R ? rows - r : UPG_GEMM2_R, n_cols, x,
                       x_stride, w + r * w_bytes, w_bytes, y + r, y_stride);
}

UPG_GEMM2_INLINE void upg_gemm2(upg_gemm2_type type, size_t m, size_t rows, size_t n_cols,
                                const float *x, size_t x_stride, const void *w, size_t w_stride,
                                float *y, size_t y_stride)
{
    const size_t w_bytes = w_stride * upg_gemm2_element(type);

    for (; m >= UPG_GEMM2_M; m -= UPG_GEMM2_M) {
        upg_gemm2_panel(type, UPG_GEMM2_M, rows, n_cols, x, x_stride, w, w_bytes, y, y_stride);
        x += UPG_GEMM2_M * x_stride;
        y += UPG_GEMM2_M * y_stride;
    }
    if (m == 2)
        upg_gemm2_panel(type, 2, rows, n_cols, x, x_stride, w, w_bytes, y, y_stride);
    else if (m == 1)
        upg_gemm2_panel(type, 1, rows, n_cols, x, x_stride, w, w_bytes, y, y_stride);
}

#endif
