/* codec_avx2.c: the coded matrices' part of the table. */
#include "kernels/tables.h"
#include "kernels/x86/codec_x86.h"

void upg_kernels_codec_avx2(upg_kernels *k)
{
    k->bitdot_prepare = upg_bitdot_prepare_avx2;
    k->bitdot = upg_bitdot_avx2;
    k->lut8_prepare = upg_lut8_prepare_avx2;
    k->lut8 = upg_lut8_avx2;
    k->decode_group = upg_decode_group_avx2;
    k->gemm_i16 = upg_gemm_i16_avx2;
    k->hadamard = upg_hadamard_avx2;
}
