/* dense_avx512.c: the dense kernels' part of the table. */
#include "kernels/tables.h"

void upg_kernels_dense_avx512(upg_kernels *k)
{
    (void)k;
}
