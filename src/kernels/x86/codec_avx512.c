/* codec_avx512.c: the coded matrices' part of the table. */
#include "kernels/tables.h"
#include "kernels/x86/codec_x86.h"

void upg_kernels_codec_avx512(upg_kernels *k)
{
    k->bitdot_prepare = upg_bitdot_prepare_avx512;
    k->bitdot = upg_bitdot_avx512;
    k->decode_group = upg_decode_group_avx512;
    k->gemm_i16 = upg_gemm_i16_avx512;
    k->decode_i8 = upg_decode_i8_avx512;
    k->gemm_i8 = upg_gemm_i8_avx512;
    k->fast_i8 = true;
    k->hadamard = upg_hadamard_avx512;
}
