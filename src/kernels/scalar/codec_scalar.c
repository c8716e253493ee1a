/* codec_scalar.c: the coded matrices' part of the table. */
#include "kernels/tables.h"

void upg_kernels_codec_scalar(upg_kernels *k)
{
    (void)k;
}
