/* gemm_i16_avx512.c: int16 products with VPDPWSSD, tiles of 4 vectors × 6 rows in registers.
 *
 * 24 accumulators of 16 partial sums; for each 32 columns 10 loads feed 24 VPDPWSSD, which issue
 * one a cycle on Zen 4: that bounds it. The 6 rows of v stay in L1 while x streams past from L2, 64
 * bytes for 6 multiplications; x is walked in blocks that fit L2. The loops over a tile are
 * unrolled by pragma: otherwise GCC keeps the accumulators in memory, at half the speed. */
#include <immintrin.h>

#include "kernels/x86/codec_x86.h"

enum { TILE_M = 4, TILE_ROWS = 6, BLOCK_BYTES = 384 * 1024 };

static inline __attribute__((always_inline)) void tile(const int n_m, const int n_rows,
                                                       size_t n_cols, const int16_t *x,
                                                       size_t x_stride, const int16_t *v,
                                                       size_t v_stride, int32_t *y, size_t y_stride)
{
    __m512i sum[TILE_M][TILE_ROWS];

#pragma GCC unroll 8
    for (int i = 0; i < n_m; i++)
#pragma GCC unroll 8
        for (int r = 0; r < n_rows; r++)
            sum[i][r] = _mm512_setzero_si512();
    for (size_t j = 0; j < n_cols; j += 32) {
        __m512i a[TILE_M];

#pragma GCC unroll 8
        for (int i = 0; i < n_m; i++)
            a[i] = _mm512_loadu_si512(x + i * x_stride + j);
#pragma GCC unroll 8
        for (int r = 0; r < n_rows; r++) {
            __m512i b = _mm512_loadu_si512(v + r * v_stride + j);

#pragma GCC unroll 8
            for (int i = 0; i < n_m; i++)
                sum[i][r] = _mm512_dpwssd_epi32(sum[i][r], a[i], b);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < n_m; i++)
#pragma GCC unroll 8
        for (int r = 0; r < n_rows; r++)
            y[i * y_stride + r] += _mm512_reduce_add_epi32(sum[i][r]);
}

static inline __attribute__((always_inline)) void
column_of_tiles(const int n_rows, size_t m, size_t n_cols, const int16_t *x, size_t x_stride,
                const int16_t *v, size_t v_stride, int32_t *y, size_t y_stride)
{
    size_t i = 0;

    for (; i + TILE_M <= m; i += TILE_M)
        tile(TILE_M, n_rows, n_cols, x + i * x_stride, x_stride, v, v_stride, y + i * y_stride,
             y_stride);
    for (; i < m; i++)
        tile(1, n_rows, n_cols, x + i * x_stride, x_stride, v, v_stride, y + i * y_stride,
             y_stride);
}

void upg_gemm_i16_avx512(size_t m, size_t rows, size_t n_cols, const int16_t *x, size_t x_stride,
                         const int16_t *v, size_t v_stride, int32_t *y, size_t y_stride)
{
    size_t fitting = BLOCK_BYTES / (n_cols * sizeof *x + 1) / TILE_M * TILE_M;
    size_t block = fitting > TILE_M ? fitting : TILE_M;

    for (size_t i = 0; i < m; i += block) {
        size_t n = m - i < block ? m - i : block, r = 0;

        for (; r + TILE_ROWS <= rows; r += TILE_ROWS)
            column_of_tiles(TILE_ROWS, n, n_cols, x + i * x_stride, x_stride, v + r * v_stride,
                            v_stride, y + i * y_stride + r, y_stride);
        for (; r < rows; r++)
            column_of_tiles(1, n, n_cols, x + i * x_stride, x_stride, v + r * v_stride, v_stride,
                            y + i * y_stride + r, y_stride);
    }
}
