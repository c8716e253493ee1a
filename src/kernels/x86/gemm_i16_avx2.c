/* gemm_i16_avx2.c: int16 products with VPMADDWD, tiles of 2 vectors × 4 rows in registers.
 *
 * 8 accumulators, 2 registers of x, one of v and one for the product leave the compiler room: with
 * 3 × 4 or 2 × 5 it spilled and reached .5 of the instruction's peak instead of .74. The loops over
 * a tile are unrolled by pragma: otherwise GCC keeps the accumulators in memory. */
#include <immintrin.h>

#include "kernels/x86/codec_x86.h"

enum { TILE_M = 2, TILE_ROWS = 4, BLOCK_BYTES = 384 * 1024 };

static inline int32_t sum_of_lanes(__m256i v)
{
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));

    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, _MM_SHUFFLE(1, 0, 3, 2)));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, _MM_SHUFFLE(2, 3, 0, 1)));
    return _mm_cvtsi128_si32(s);
}

static inline __attribute__((always_inline)) void tile(const int n_m, const int n_rows,
                                                       size_t n_cols, const int16_t *x,
                                                       size_t x_stride, const int16_t *v,
                                                       size_t v_stride, int32_t *y, size_t y_stride)
{
    __m256i sum[TILE_M][TILE_ROWS];

#pragma GCC unroll 8
    for (int i = 0; i < n_m; i++)
#pragma GCC unroll 8
        for (int r = 0; r < n_rows; r++)
            sum[i][r] = _mm256_setzero_si256();
    for (size_t j = 0; j < n_cols; j += 16) {
        __m256i a[TILE_M];

#pragma GCC unroll 8
        for (int i = 0; i < n_m; i++)
            a[i] = _mm256_loadu_si256((const __m256i *)(x + i * x_stride + j));
#pragma GCC unroll 8
        for (int r = 0; r < n_rows; r++) {
            __m256i b = _mm256_loadu_si256((const __m256i *)(v + r * v_stride + j));

#pragma GCC unroll 8
            for (int i = 0; i < n_m; i++)
                sum[i][r] = _mm256_add_epi32(sum[i][r], _mm256_madd_epi16(a[i], b));
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < n_m; i++)
#pragma GCC unroll 8
        for (int r = 0; r < n_rows; r++)
            y[i * y_stride + r] += sum_of_lanes(sum[i][r]);
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

void upg_gemm_i16_avx2(size_t m, size_t rows, size_t n_cols, const int16_t *x, size_t x_stride,
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
