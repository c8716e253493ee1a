/* codec_x86.h: the coded matrices' kernels of each x86 ISA; internal to kernels/x86. */
#ifndef UPG_KERNELS_X86_CODEC_X86_H
#define UPG_KERNELS_X86_CODEC_X86_H

#include <stddef.h>
#include <stdint.h>

#include "codec/coded_matrix.h"
#include "kernels/code_words.h"

void  upg_bitdot_prepare_avx2(size_t groups, const int8_t *x, void *prepared);
float upg_lut8_prepare_avx2(size_t groups, const int8_t *x, void *prepared);
void  upg_lut8_avx2(size_t groups, size_t rows, const uint32_t *code, const void *prepared,
                    int32_t *u);
void  upg_bitdot_prepare_avx512(size_t groups, const int8_t *x, void *prepared);
void  upg_bitdot_avx2(size_t groups, size_t rows, const uint32_t *code, const void *prepared,
                      int32_t *u);
void  upg_bitdot_avx512(size_t groups, size_t rows, const uint32_t *code, const void *prepared,
                        int32_t *u);
void  upg_decode_group_avx2(const upg_band *band, uint32_t n_cols, uint32_t group, uint32_t row0,
                            uint32_t n_rows, int16_t *v, size_t stride);
void  upg_decode_group_avx512(const upg_band *band, uint32_t n_cols, uint32_t group, uint32_t row0,
                              uint32_t n_rows, int16_t *v, size_t stride);
void  upg_gemm_i16_avx2(size_t m, size_t rows, size_t n_cols, const int16_t *x, size_t x_stride,
                        const int16_t *v, size_t v_stride, int32_t *y, size_t y_stride);
void  upg_gemm_i16_avx512(size_t m, size_t rows, size_t n_cols, const int16_t *x, size_t x_stride,
                          const int16_t *v, size_t v_stride, int32_t *y, size_t y_stride);
void  upg_decode_i8_avx512(const upg_band *band, uint32_t n_cols, uint32_t group, uint32_t n_groups,
                           uint32_t row0, uint32_t n_rows, uint8_t *v, size_t stride);
void  upg_gemm_i8_avx512(size_t m, size_t rows, size_t n_cols, const int8_t *x, size_t x_stride,
                         const uint8_t *v, size_t v_stride, int32_t *y, size_t y_stride);
void  upg_hadamard_avx2(size_t n, size_t block, float *x);
void  upg_hadamard_avx512(size_t n, size_t block, float *x);

#endif
