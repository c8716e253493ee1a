/* tables.h: the parts from which select.c builds a kernel table.
 *
 * Each function sets the members that its files implement and leaves the others alone. The scalar
 * pair sets all of them; the others need the CPU flags that their compile flags assume. */
#ifndef UPG_KERNELS_TABLES_H
#define UPG_KERNELS_TABLES_H

#include "base/cpu.h"
#include "kernels/kernels.h"

/* The *_avx512.c files are compiled for all of these at once: the compiler may use any of them. */
enum { UPG_KERNELS_AVX512_NEEDS = UPG_CPU_AVX512 | UPG_CPU_AVX512VBMI | UPG_CPU_AVX512VNNI };

/* Coded matrices: bitdot_prepare, bitdot, lut8_prepare, lut8, decode_group, gemm_i16, hadamard. */
void upg_kernels_codec_scalar(upg_kernels *k);
void upg_kernels_codec_avx2(upg_kernels *k);
void upg_kernels_codec_avx512(upg_kernels *k); /* F, BW, DQ, VL, VBMI, VNNI */
void upg_kernels_codec_neon(upg_kernels *k);
void upg_kernels_codec_dotprod(upg_kernels *k); /* over neon */

/* The last step of a coded product: fir, coded_scale. */
void upg_kernels_fir_scalar(upg_kernels *k);
void upg_kernels_fir_avx2(upg_kernels *k);
void upg_kernels_fir_avx512(upg_kernels *k);
void upg_kernels_fir_neon(upg_kernels *k);

/* Dense matrices, vectors and attention: the rest. */
void upg_kernels_dense_scalar(upg_kernels *k);
void upg_kernels_dense_avx2(upg_kernels *k);
void upg_kernels_dense_avx512(upg_kernels *k);
void upg_kernels_dense_neon(upg_kernels *k);

/* Their attention part, in files of its own; called by the functions above. */
void upg_kernels_attention_scalar(upg_kernels *k);
void upg_kernels_attention_avx2(upg_kernels *k);
void upg_kernels_attention_avx512(upg_kernels *k);
void upg_kernels_attention_neon(upg_kernels *k);

#endif
