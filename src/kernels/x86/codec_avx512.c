/* codec_avx512.c: the coded matrices' part of the table. */
#include "kernels/tables.h"

void upg_kernels_codec_avx512(upg_kernels *k)
{
    (void)k;
}
