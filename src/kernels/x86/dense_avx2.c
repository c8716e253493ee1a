/* dense_avx2.c: the dense kernels' part of the table. */
#include "kernels/tables.h"

void upg_kernels_dense_avx2(upg_kernels *k)
{
    (void)k;
}
