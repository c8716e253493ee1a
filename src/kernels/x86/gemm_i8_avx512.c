/* gemm_i8_avx512.c: products of bytes with VPDPBUSD, tiles of 6 vectors × 4 rows in registers.
 *
 * 24 accumulators of 16 partial sums; for each 64 columns 10 loads feed 24 VPDPBUSD, which issue
 * one a cycle on Zen 4: that bounds it. 6 vectors stay in L1 while the rows of v pass from L2. The
 * sums of 4 rows are added across lanes together. Loads have no masks: those take turns with
 * VPDPBUSD (.80 of the peak instead of .95). Loops are unrolled by pragma as in gemm_i16_avx512.c.
 */
#include <immintrin.h>

#include "kernels/x86/codec_x86.h"

enum { TILE_M = 6, TILE_ROWS = 4 };

/* The sums of the lanes of a, b, c and d. */
static inline __m128i sums_of_four(__m512i a, __m512i b, __m512i c, __m512i d)
{
    __m512i ab, cd, all;
    __m256i half;

    /* Otherwise GCC 12 shuffles in every step of the loop before, and has no registers for it. */
    __asm__("" : "+v"(a), "+v"(b), "+v"(c), "+v"(d));
    ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    all = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    half = _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));

    return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

/* n_m vectors by n_rows rows, both constants; n_cols % 64 = 0. */
static inline __attribute__((always_inline)) void tile(const int n_m, const int n_rows,
                                                       size_t n_cols, const int8_t *x,
                                                       size_t x_stride, const uint8_t *v,
                                                       size_t v_stride, int32_t *y, size_t y_stride)
{
    __m512i sum[TILE_M][TILE_ROWS];

#pragma GCC unroll 8
    for (int i = 0; i < n_m; i++)
#pragma GCC unroll 8
        for (int r = 0; r < TILE_ROWS; r++)
            sum[i][r] = _mm512_setzero_si512();
    for (size_t j = 0; j < n_cols; j += 64) {
        __m512i b[TILE_ROWS];

#pragma GCC unroll 8
        for (int r = 0; r < n_rows; r++)
            b[r] = _mm512_loadu_si512(v + r * v_stride + j);
#pragma GCC unroll 8
        for (int i = 0; i < n_m; i++) {
            __m512i a = _mm512_loadu_si512(x + i * x_stride + j);

#pragma GCC unroll 8
            for (int r = 0; r < n_rows; r++)
                sum[i][r] = _mm512_dpbusd_epi32(sum[i][r], b[r], a);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < n_m; i++) {
        const __mmask8 mask = (__mmask8)((1u << n_rows) - 1);
        int32_t       *out = y + i * y_stride;
        __m128i        four = sums_of_four(sum[i][0], sum[i][1], sum[i][2], sum[i][3]);

        _mm_mask_storeu_epi32(out, mask, _mm_add_epi32(_mm_maskz_loadu_epi32(mask, out), four));
    }
}

static inline __attribute__((always_inline)) void panel(const int n_m, size_t rows, size_t n_cols,
                                                        const int8_t *x, size_t x_stride,
                                                        const uint8_t *v, size_t v_stride,
                                                        int32_t *y, size_t y_stride)
{
    size_t r = 0;

    for (; r + TILE_ROWS <= rows; r += TILE_ROWS)
        tile(n_m, TILE_ROWS, n_cols, x, x_stride, v + r * v_stride, v_stride, y + r, y_stride);
    for (; r < rows; r++)
        tile(n_m, 1, n_cols, x, x_stride, v + r * v_stride, v_stride, y + r, y_stride);
}

/* 32 columns that are left; no width of the known models leaves any. */
static void last_columns(size_t m, size_t rows, const int8_t *x, size_t x_stride, const uint8_t *v,
                         size_t v_stride, int32_t *y, size_t y_stride)
{
    for (size_t i = 0; i < m; i++) {
        __m256i a = _mm256_loadu_si256((const __m256i *)(const void *)(x + i * x_stride));

        for (size_t r = 0; r < rows; r++) {
            __m256i b = _mm256_loadu_si256((const __m256i *)(const void *)(v + r * v_stride));
            __m256i sum = _mm256_dpbusd_epi32(_mm256_setzero_si256(), b, a);

            int32_t *out = &y[i * y_stride + r];

            *out = (int32_t)((uint32_t)*out +
                             (uint32_t)_mm512_reduce_add_epi32(_mm512_zextsi256_si512(sum)));
        }
    }
}

void upg_gemm_i8_avx512(size_t m, size_t rows, size_t n_cols, const int8_t *x, size_t x_stride,
                        const uint8_t *v, size_t v_stride, int32_t *y, size_t y_stride)
{
    size_t whole = n_cols / 64 * 64;

    if (whole < n_cols)
        last_columns(m, rows, x + whole, x_stride, v + whole, v_stride, y, y_stride);
    n_cols = whole;
    /* 8 are twice 4, not 6 and 2: two vectors read v as often as six do. */
    for (; m >= TILE_M && m != 8; m -= TILE_M, x += TILE_M * x_stride, y += TILE_M * y_stride)
        panel(TILE_M, rows, n_cols, x, x_stride, v, v_stride, y, y_stride);
    for (; m >= 4; m -= 4, x += 4 * x_stride, y += 4 * y_stride)
        panel(4, rows, n_cols, x, x_stride, v, v_stride, y, y_stride);
    if (m >= 2) {
        panel(2, rows, n_cols, x, x_stride, v, v_stride, y, y_stride);
        m -= 2, x += 2 * x_stride, y += 2 * y_stride;
    }
    if (m == 1)
        panel(1, rows, n_cols, x, x_stride, v, v_stride, y, y_stride);
}
