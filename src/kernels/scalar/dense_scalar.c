/* dense_scalar.c: the dense kernels' part of the table. */
#include "kernels/tables.h"

void upg_kernels_dense_scalar(upg_kernels *k)
{
    (void)k;
}
