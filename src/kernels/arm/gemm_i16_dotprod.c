/* gemm_i16_dotprod.c: int16 by int8 products with SDOT, 16 products of bytes an instruction.
 *
 * x fits int8, and V = 256·h + l + 128 with h = V >> 8 and l = (V & 255) − 128, both int8:
 *
 *     Σ x·V = 256·Σ x·h + Σ x·l + 128·Σ x
 *
 * exact modulo 2^32, and the result lies below 2^31. Two SDOT do what takes four SMLAL. V is parted
 * into its bytes once for 4 rows and up to PANEL columns, on the stack (4 KiB), then all vectors
 * pass; x is narrowed as it comes, an instruction for 16 columns. */
#include <arm_neon.h>

#include "kernels/arm/codec_arm.h"

enum { TILE_M = 2, TILE_ROWS = 4, PANEL = 512 };

typedef struct parted {
    int8_t high[TILE_ROWS][PANEL], low[TILE_ROWS][PANEL];
} parted;

/* `rows` rows of n columns, n % 16 = 0. */
static void part(size_t rows, size_t n, const int16_t *v, size_t v_stride, parted *out)
{
    const uint8x16_t sign = vdupq_n_u8(0x80);

    for (size_t r = 0; r < rows; r++)
        for (size_t j = 0; j < n; j += 16) {
            uint8x16x2_t bytes = vld2q_u8((const uint8_t *)(v + r * v_stride + j));

            vst1q_s8(out->low[r] + j, vreinterpretq_s8_u8(veorq_u8(bytes.val[0], sign)));
            vst1q_s8(out->high[r] + j, vreinterpretq_s8_u8(bytes.val[1]));
        }
}

static inline int8x16_t narrow(const int16_t *x)
{
    int8x16_t first = vreinterpretq_s8_s16(vld1q_s16(x));
    int8x16_t second = vreinterpretq_s8_s16(vld1q_s16(x + 8));

    return vuzp1q_s8(first, second);
}

/* M vectors by R rows, both constants. */
static inline __attribute__((always_inline)) void tile(const int M, const int R, size_t n,
                                                       const int16_t *x, size_t x_stride,
                                                       const parted *v, int32_t *y, size_t y_stride)
{
    const int8x16_t ones = vdupq_n_s8(1);
    int32x4_t       high[TILE_M][TILE_ROWS], low[TILE_M][TILE_ROWS], plain[TILE_M];

#pragma GCC unroll 4
    for (int i = 0; i < M; i++) {
        plain[i] = vdupq_n_s32(0);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++)
            high[i][r] = low[i][r] = vdupq_n_s32(0);
    }
    for (size_t j = 0; j < n; j += 16) {
        int8x16_t a[TILE_M];

#pragma GCC unroll 4
        for (int i = 0; i < M; i++) {
            a[i] = narrow(x + i * x_stride + j);
            plain[i] = vdotq_s32(plain[i], a[i], ones);
        }
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            int8x16_t h = vld1q_s8(v->high[r] + j), l = vld1q_s8(v->low[r] + j);

#pragma GCC unroll 4
            for (int i = 0; i < M; i++) {
                high[i][r] = vdotq_s32(high[i][r], a[i], h);
                low[i][r] = vdotq_s32(low[i][r], a[i], l);
            }
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < M; i++)
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            uint32x4_t sum = vreinterpretq_u32_s32(low[i][r]); /* wraps around */

            sum = vaddq_u32(sum, vshlq_n_u32(vreinterpretq_u32_s32(high[i][r]), 8));
            sum = vaddq_u32(sum, vshlq_n_u32(vreinterpretq_u32_s32(plain[i]), 7));
            y[i * y_stride + r] += (int32_t)vaddvq_u32(sum);
        }
}

static inline __attribute__((always_inline)) void all_vectors(const int R, size_t m, size_t n,
                                                              const int16_t *x, size_t x_stride,
                                                              const parted *v, int32_t *y,
                                                              size_t y_stride)
{
    for (; m >= TILE_M; m -= TILE_M, x += TILE_M * x_stride, y += TILE_M * y_stride)
        tile(TILE_M, R, n, x, x_stride, v, y, y_stride);
    if (m > 0)
        tile(1, R, n, x, x_stride, v, y, y_stride);
}

void upg_gemm_i16_dotprod(size_t m, size_t rows, size_t n_cols, const int16_t *x, size_t x_stride,
                          const int16_t *v, size_t v_stride, int32_t *y, size_t y_stride)
{
    parted panel;

    if (m == 1) { /* parting V would cost more than it saves */
        upg_gemm_i16_neon(m, rows, n_cols, x, x_stride, v, v_stride, y, y_stride);
        return;
    }
    for (size_t j = 0; j < n_cols; j += PANEL) {
        size_t n = n_cols - j < PANEL ? n_cols - j : PANEL, r = 0;

        for (; r + TILE_ROWS <= rows; r += TILE_ROWS) {
            part(TILE_ROWS, n, v + r * v_stride + j, v_stride, &panel);
            all_vectors(TILE_ROWS, m, n, x + j, x_stride, &panel, y + r, y_stride);
        }
        for (; r < rows; r++) {
            part(1, n, v + r * v_stride + j, v_stride, &panel);
            all_vectors(1, m, n, x + j, x_stride, &panel, y + r, y_stride);
        }
    }
}
