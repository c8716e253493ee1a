/* gemm_neon.h: the fp32 matrix product behind the dense and the attention kernels, for NEON.
 *
 * A sum (vector m, row r) has one accumulator of 4 lanes, lane l for the columns j with j % 4 = l,
 * which are added pairwise at the end. Columns past the last multiple of 8 pass through a
 * zero-padded copy. So the order of additions is the same wherever the pair stands, and tiles are
 * free: 4 vectors by 4 rows when there are many, 8 rows for one vector, where more chains of
 * additions hide the latency of one. */
#ifndef UPG_KERNELS_ARM_GEMM_NEON_H
#define UPG_KERNELS_ARM_GEMM_NEON_H

#include <arm_neon.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef enum upg_gemmn_type {
    UPG_GEMMN_BF16,
    UPG_GEMMN_F16,
    UPG_GEMMN_F32,
    UPG_GEMMN_I8
} upg_gemmn_type;

enum { UPG_GEMMN_M = 4, UPG_GEMMN_R = 8 }; /* the largest of each */

#define UPG_GEMMN_INLINE static inline __attribute__((always_inline))

UPG_GEMMN_INLINE size_t upg_gemmn_element(upg_gemmn_type type)
{
    return type == UPG_GEMMN_F32 ? 4 : type == UPG_GEMMN_I8 ? 1 : 2;
}

/* 8 f16 as f32. */
UPG_GEMMN_INLINE float32x4x2_t upg_load_f16(const uint16_t *w)
{
    float16x8_t half = vreinterpretq_f16_u16(vld1q_u16(w));

    return (float32x4x2_t) { { vcvt_f32_f16(vget_low_f16(half)), vcvt_high_f32_f16(half) } };
}

/* 8 i8 as f32. */
UPG_GEMMN_INLINE float32x4x2_t upg_load_i8(const int8_t *w)
{
    int16x8_t wide = vmovl_s8(vld1_s8(w));

    return (float32x4x2_t) { { vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide))),
                               vcvtq_f32_s32(vmovl_high_s16(wide)) } };
}

/* 8 elements as f32. */
UPG_GEMMN_INLINE float32x4x2_t upg_gemmn_load(upg_gemmn_type type, const char *w)
{
    const void *at = w;
    uint16x8_t  half;

    if (type == UPG_GEMMN_F32)
        return (float32x4x2_t) { { vld1q_f32(at), vld1q_f32((const float *)at + 4) } };
    if (type == UPG_GEMMN_F16)
        return upg_load_f16(at);
    if (type == UPG_GEMMN_I8)
        return upg_load_i8(at);
    half = vld1q_u16(at);
    return (float32x4x2_t) { { vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(half), 16)),
                               vreinterpretq_f32_u32(vshll_high_n_u16(half, 16)) } };
}

/* 8 columns of M vectors by R rows, both constants. */
UPG_GEMMN_INLINE void upg_gemmn_step(upg_gemmn_type type, size_t M, size_t R, const float *x,
                                     size_t x_stride, const char *const *row, size_t offset,
                                     float32x4_t (*sum)[UPG_GEMMN_R])
{
    float32x4_t xi[UPG_GEMMN_M][2];

    for (size_t i = 0; i < M; i++) {
        xi[i][0] = vld1q_f32(x + i * x_stride);
        xi[i][1] = vld1q_f32(x + i * x_stride + 4);
    }
    for (size_t r = 0; r < R; r++) {
        float32x4x2_t v = upg_gemmn_load(type, row[r] + offset);

        for (size_t i = 0; i < M; i++) {
            sum[i][r] = vfmaq_f32(sum[i][r], xi[i][0], v.val[0]);
            sum[i][r] = vfmaq_f32(sum[i][r], xi[i][1], v.val[1]);
        }
    }
}

/* The last n_cols < 8 columns, through zero-padded copies. */
UPG_GEMMN_INLINE void upg_gemmn_tail(upg_gemmn_type type, size_t M, size_t R, size_t n_cols,
                                     const float *x, size_t x_stride, const char *const *row,
                                     size_t offset, float32x4_t (*sum)[UPG_GEMMN_R])
{
    float       x_pad[UPG_GEMMN_M][8] = { { 0 } };
    char        w_pad[UPG_GEMMN_R][32] = { { 0 } };
    const char *padded[UPG_GEMMN_R];

    for (size_t i = 0; i < M; i++)
        memcpy(x_pad[i], x + i * x_stride, n_cols * sizeof *x);
    for (size_t r = 0; r < R; r++) {
        memcpy(w_pad[r], row[r] + offset, n_cols * upg_gemmn_element(type));
        padded[r] = w_pad[r];
    }
    upg_gemmn_step(type, M, R, x_pad[0], 8, padded, 0, sum);
}

/* M vectors by `rows` ≤ R matrix rows; M and R are constants. */
UPG_GEMMN_INLINE void upg_gemmn_tile(upg_gemmn_type type, size_t M, size_t R, size_t rows,
                                     size_t n_cols, const float *x, size_t x_stride, const char *w,
                                     size_t w_bytes, float *y, size_t y_stride)
{
    const size_t bytes = upg_gemmn_element(type);
    const char  *row[UPG_GEMMN_R];
    float32x4_t  sum[UPG_GEMMN_M][UPG_GEMMN_R];
    size_t       j = 0;

    for (size_t r = 0; r < R; r++)
        row[r] = w + (r < rows ? r : rows - 1) * w_bytes;
    for (size_t i = 0; i < M; i++)
        for (size_t r = 0; r < R; r++)
            sum[i][r] = vdupq_n_f32(0);
    for (; j + 8 <= n_cols; j += 8)
        upg_gemmn_step(type, M, R, x + j, x_stride, row, j * bytes, sum);
    if (j < n_cols)
        upg_gemmn_tail(type, M, R, n_cols - j, x + j, x_stride, row, j * bytes, sum);
    for (size_t i = 0; i < M; i++)
        for (size_t r = 0; r < R; r++)
            if (r < rows)
                y[i * y_stride + r] = vaddvq_f32(sum[i][r]);
}

/* All matrix rows for M vectors, which stay in L1 while the rows pass. */
UPG_GEMMN_INLINE void upg_gemmn_panel(upg_gemmn_type type, size_t M, size_t R, size_t rows,
                                      size_t n_cols, const float *x, size_t x_stride, const char *w,
                                      size_t w_bytes, float *y, size_t y_stride)
{
    for (size_t r = 0; r < rows; r += R)
        upg_gemmn_tile(type, M, R, rows - r < R ? rows - r : R, n_cols, x, x_stride,
                       w + r * w_bytes, w_bytes, y + r, y_stride);
}

UPG_GEMMN_INLINE void upg_gemmn(upg_gemmn_type type, size_t m, size_t rows, size_t n_cols,
                                const float *x, size_t x_stride, const void *w, size_t w_stride,
                                float *y, size_t y_stride)
{
    const size_t w_bytes = w_stride * upg_gemmn_element(type);

    for (; m >= 4; m -= 4, x += 4 * x_stride, y += 4 * y_stride)
        upg_gemmn_panel(type, 4, 4, rows, n_cols, x, x_stride, w, w_bytes, y, y_stride);
    if (m >= 2) {
        upg_gemmn_panel(type, 2, 8, rows, n_cols, x, x_stride, w, w_bytes, y, y_stride);
        m -= 2, x += 2 * x_stride, y += 2 * y_stride;
    }
    if (m > 0)
        upg_gemmn_panel(type, 1, 8, rows, n_cols, x, x_stride, w, w_bytes, y, y_stride);
}

#endif
