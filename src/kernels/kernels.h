/* kernels.h: the inner loops, one table of function pointers filled for the machine at hand.
 *
 * A kernel is a pure function on plain pointers: no allocation, threads or errors; the caller
 * guarantees alignment and padding. scalar/ holds each contract as plain loops; the kernels of
 * every ISA give bit-identical integers, and floats within the bound stated here. */
#ifndef UPG_KERNELS_KERNELS_H
#define UPG_KERNELS_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "codec/coded_matrix.h"

/* Bytes that bitdot_prepare writes for each group of 32 inputs, at most, over all ISAs. */
enum { UPG_PREPARED_BYTES_PER_GROUP = 256 };

typedef struct upg_kernels {
    const char *name; /* "scalar", "avx2", "avx512vnni"… */

    /* ---- coded matrices: u = (2B − 1)·x, exact ---- */

    /** Turns x into what bitdot reads.
     * x         i8 [32·groups], |x| ≤ 127, zero past the last column
     * prepared  [UPG_PREPARED_BYTES_PER_GROUP · groups], 64-byte aligned, ISA-specific */
    void (*bitdot_prepare)(size_t groups, const int8_t *x, void *prepared);
    /** u[t] = Σ_j (2·b[t][j] − 1)·x[j] for the `rows` rows of one block; exact in int32.
     * rows  16, 32, 48 or 64        code  u32 [groups][rows]        u  i32 [rows], overwritten
     * groups < 2^19 keeps |u| < 2^31 */
    void (*bitdot)(size_t groups, size_t rows, const uint32_t *code, const void *prepared,
                   int32_t *u);
    /** The same by tables of 8 bits (quantised.h): u[t] = Σ of the 8·groups entries, exact in int32
     * for those entries. Returns 2^15/M.
     * x, prepared, rows, code, u  as above; prepared takes half of it */
    float (*lut8_prepare)(size_t groups, const int8_t *x, void *prepared);
    void (*lut8)(size_t groups, size_t rows, const uint32_t *code, const void *prepared,
                 int32_t *u);
    /** Values V of rows row0 … row0 + n_rows − 1 of a band, for the 32 columns of one group.
     * v  i16: row r of the n_rows at v + r · stride, 32 values each; columns past n_cols give
     *    whatever their zero bits mean (x is zero there) */
    void (*decode_group)(const upg_band *band, uint32_t n_cols, uint32_t group, uint32_t row0,
                         uint32_t n_rows, int16_t *v, size_t stride);
    /** y[m][r] += Σ_j x[m][j]·v[r][j], exact in int32 while n_cols · 127 · max|V| < 2^31: callers
     * split longer rows and add up in int64.
     * x  i16 [m][x_stride], |x| ≤ 127   v  i16 [rows][v_stride]
     * y  i32 [m][y_stride]              n_cols % 32 = 0 */
    void (*gemm_i16)(size_t m, size_t rows, size_t n_cols, const int16_t *x, size_t x_stride,
                     const int16_t *v, size_t v_stride, int32_t *y, size_t y_stride);
    /** Values rounded to 8 bits (quantised.h, upg_int8_multiplier), plus 128, of rows row0 … row0 +
     * n_rows − 1 of a band, for the columns of groups group … group + n_groups − 1.
     * v  u8: row r of the n_rows at v + r · stride, 32·n_groups values each */
    void (*decode_i8)(const upg_band *band, uint32_t n_cols, uint32_t group, uint32_t n_groups,
                      uint32_t row0, uint32_t n_rows, uint8_t *v, size_t stride);
    /** y[m][r] += Σ_j x[m][j]·v[r][j] modulo 2^32: the caller takes 128·Σ_j x[m][j] away, which
     * leaves a sum below 2^31 when n_cols < 2^17.
     * x  i8 [m][x_stride], |x| ≤ 127   v  u8 [rows][v_stride]
     * y  i32 [m][y_stride]             n_cols % 32 = 0 */
    void (*gemm_i8)(size_t m, size_t rows, size_t n_cols, const int8_t *x, size_t x_stride,
                    const uint8_t *v, size_t v_stride, int32_t *y, size_t y_stride);
    bool fast_i8; /* these two are faster than decode_group and gemm_i16 */
    /** Row results from u, without decoding: y[r] = Y_r·(s_r·g·s_x) as quantised.h rounds it, where
     * Y_r = Σ_{i<L} p_i·u[newest(r) − i], exact in int64, for rows r = row0 … row0 + n_rows − 1.
     * u  i32, from the band's binary row 0        y  f32 [n_rows] */
    void (*fir)(const upg_band *band, uint32_t row0, uint32_t n_rows, const int32_t *u, float s_x,
                float *y);
    /** y[i] = sum[i]·(scales[i]·gain·s_x), rounded in the same way.
     * sum i32 [n]   scales fp16 [n]   y f32 [n] */
    void (*coded_scale)(size_t n, const int32_t *sum, const uint16_t *scales, float gain, float s_x,
                        float *y);
    /** Blockwise orthonormal Walsh-Hadamard in place, x f32 [n], block a power of two dividing n.
     * Bit-identical on every ISA. */
    void (*hadamard)(size_t n, size_t block, float *x);

    /* ---- dense matrices and vectors, f32 ---- */

    /** y[m][r] = Σ_j x[m][j]·w[r][j]; the order of additions for one (m, r) does not depend on the
     * numbers of rows and vectors, so that a batch gives what single calls give.
     * x f32 [m][x_stride]   w bf16 [rows][w_stride]   y f32 [m][y_stride] */
    void (*gemm_bf16)(size_t m, size_t rows, size_t n_cols, const float *x, size_t x_stride,
                      const uint16_t *w, size_t w_stride, float *y, size_t y_stride);
    /** The same for w f16 and f32. */
    void (*gemm_f16)(size_t m, size_t rows, size_t n_cols, const float *x, size_t x_stride,
                     const uint16_t *w, size_t w_stride, float *y, size_t y_stride);
    void (*gemm_f32)(size_t m, size_t rows, size_t n_cols, const float *x, size_t x_stride,
                     const float *w, size_t w_stride, float *y, size_t y_stride);
    /** Σ x², each partial sum in fp32 over at most 1024 elements, those in fp64. */
    double (*sum_squares)(size_t n, const float *x);
    /** max |x|; NaN is not looked for. */
    float (*max_abs)(size_t n, const float *x);
    /** q[i] = round to nearest even(x[i] · inverse), |q| ≤ 127 by the caller's choice of inverse.
     */
    void (*quantise_i8)(size_t n, const float *x, float inverse, int8_t *q);
    /** out[i] = silu(gate[i]) · up[i]; a silu below 2^-120 may become 0. out may be gate. */
    void (*swiglu)(size_t n, const float *gate, const float *up, float *out);

    /* ---- attention over one KV page: K and V f16 [n_tokens][head_dim] ---- */

    /** score[h][t] = scale · Σ_d q[h][d]·k[t][d]; h = 0 … n_heads − 1 share one KV head.
     * q f32 [n_heads][head_dim]   k f16 [n_tokens][head_dim]   score f32 [n_heads][64] */
    void (*attention_scores)(size_t n_heads, size_t head_dim, size_t n_tokens, const float *q,
                             const uint16_t *k, float scale, float *score);
    /** acc[h][d] += Σ_t p[h][t]·v[t][d].  p f32 [n_heads][64], acc f32 [n_heads][head_dim] */
    void (*attention_values)(size_t n_heads, size_t head_dim, size_t n_tokens, const float *p,
                             const uint16_t *v, float *acc);
    /** The same for K and V i8 [n_tokens][head_dim], element = code · scales[t]. */
    void (*attention_scores_i8)(size_t n_heads, size_t head_dim, size_t n_tokens, const float *q,
                                const int8_t *k, const float *scales, float scale, float *score);
    void (*attention_values_i8)(size_t n_heads, size_t head_dim, size_t n_tokens, const float *p,
                                const int8_t *v, const float *scales, float *acc);
    /** x[i] = exp(x[i] − max), returns the sum; relative error below 4e-7 for each (results below
     * 2^-126 may become 0). x ≤ max. Zeros put behind the n values would not change the sum. */
    float (*exp_sum)(size_t n, float max, float *x);
} upg_kernels;

/** The table for these CPU flags (base/cpu.h): starts from scalar, overwrites by stronger ISAs. */
void upg_kernels_select(uint32_t cpu_flags, upg_kernels *kernels);

#endif
