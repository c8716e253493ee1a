/* gemm_i16_neon.c: int16 products with SMLAL, tiles of 4 vectors × 4 rows in registers: 16
 * accumulators, four registers of x and one of v of the 32. */
#include <arm_neon.h>

#include "kernels/arm/codec_arm.h"

enum { TILE_M = 4, TILE_ROWS = 4, BLOCK_BYTES = 256 * 1024 };

/* M vectors by R rows, both constants. */
static inline __attribute__((always_inline)) void tile(const int M, const int R, size_t n_cols,
                                                       const int16_t *x, size_t x_stride,
                                                       const int16_t *v, size_t v_stride,
                                                       int32_t *y, size_t y_stride)
{
    int32x4_t sum[TILE_M][TILE_ROWS];

#pragma GCC unroll 4
    for (int i = 0; i < M; i++)
#pragma GCC unroll 4
        for (int r = 0; r < R; r++)
            sum[i][r] = vdupq_n_s32(0);
    for (size_t j = 0; j < n_cols; j += 8) {
        int16x8_t a[TILE_M];

#pragma GCC unroll 4
        for (int i = 0; i < M; i++)
            a[i] = vld1q_s16(x + i * x_stride + j);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            int16x8_t b = vld1q_s16(v + r * v_stride + j);

#pragma GCC unroll 4
            for (int i = 0; i < M; i++) {
                sum[i][r] = vmlal_s16(sum[i][r], vget_low_s16(a[i]), vget_low_s16(b));
                sum[i][r] = vmlal_high_s16(sum[i][r], a[i], b);
            }
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < M; i++)
#pragma GCC unroll 4
        for (int r = 0; r < R; r++)
            y[i * y_stride + r] += vaddvq_s32(sum[i][r]);
}

static inline __attribute__((always_inline)) void
column_of_tiles(const int R, size_t m, size_t n_cols, const int16_t *x, size_t x_stride,
                const int16_t *v, size_t v_stride, int32_t *y, size_t y_stride)
{
    size_t i = 0;

    for (; i + TILE_M <= m; i += TILE_M)
        tile(TILE_M, R, n_cols, x + i * x_stride, x_stride, v, v_stride, y + i * y_stride,
             y_stride);
    for (; i < m; i++)
        tile(1, R, n_cols, x + i * x_stride, x_stride, v, v_stride, y + i * y_stride, y_stride);
}

void upg_gemm_i16_neon(size_t m, size_t rows, size_t n_cols, const int16_t *x, size_t x_stride,
                       const int16_t *v, size_t v_stride, int32_t *y, size_t y_stride)
{
    size_t fitting = BLOCK_BYTES / (n_cols * sizeof *x + 1) / TILE_M * TILE_M;
    size_t block = fitting > TILE_M ? fitting : TILE_M; /* vectors that stay in L2 */

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
