/* codec_arm.h: the coded matrices' kernels of 64-bit ARM; internal to kernels/arm. */
#ifndef UPG_KERNELS_ARM_CODEC_ARM_H
#define UPG_KERNELS_ARM_CODEC_ARM_H

#include <stddef.h>
#include <stdint.h>

#include "codec/coded_matrix.h"

void  upg_bitdot_prepare_neon(size_t groups, const int8_t *x, void *prepared);
void  upg_bitdot_neon(size_t groups, size_t rows, const uint32_t *code, const void *prepared,
                      int32_t *u);
float upg_lut8_prepare_neon(size_t groups, const int8_t *x, void *prepared);
void  upg_lut8_neon(size_t groups, size_t rows, const uint32_t *code, const void *prepared,
                    int32_t *u);
void  upg_decode_group_neon(const upg_band *band, uint32_t n_cols, uint32_t group, uint32_t row0,
                            uint32_t n_rows, int16_t *v, size_t stride);
void  upg_gemm_i16_neon(size_t m, size_t rows, size_t n_cols, const int16_t *x, size_t x_stride,
                        const int16_t *v, size_t v_stride, int32_t *y, size_t y_stride);
void  upg_gemm_i16_dotprod(size_t m, size_t rows, size_t n_cols, const int16_t *x, size_t x_stride,
                           const int16_t *v, size_t v_stride, int32_t *y, size_t y_stride);
void  upg_hadamard_neon(size_t n, size_t block, float *x);

#endif
