/* codec_neon.c: the coded matrices' part of the table; DotProd has a matrix product of its own. */
#include "kernels/arm/codec_arm.h"
#include "kernels/tables.h"

void upg_kernels_codec_neon(upg_kernels *k)
{
    k->bitdot_prepare = upg_bitdot_prepare_neon;
    k->bitdot = upg_bitdot_neon;
    k->lut8_prepare = upg_lut8_prepare_neon;
    k->lut8 = upg_lut8_neon;
    k->decode_group = upg_decode_group_neon;
    k->gemm_i16 = upg_gemm_i16_neon;
    k->hadamard = upg_hadamard_neon;
}

void upg_kernels_codec_dotprod(upg_kernels *k)
{
    k->gemm_i16 = upg_gemm_i16_dotprod;
}
