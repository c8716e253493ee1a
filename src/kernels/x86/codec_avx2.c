/* codec_avx2.c: the coded matrices' part of the table. */
#include "kernels/tables.h"

void upg_kernels_codec_avx2(upg_kernels *k)
{
    (void)k;
}
