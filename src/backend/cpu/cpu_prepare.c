/* cpu_prepare.c: inputs of products: copied for dense matrices, rotated and quantised for coded
 * ones.
 *
 * This is also where values that are no numbers show: after the Hadamard transform one NaN or
 * infinity has spread over its whole block, so one look for each block finds it. */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu_backend.h"
#include "kernels/quantised.h"

static bool blocks_are_finite(const upg_rotation *rotation, const float *x)
{
    bool finite = true;

    for (uint32_t j = 0; j < rotation->width; j += rotation->block)
        finite &= isfinite(x[j]) != 0;
    return finite;
}

void upg_cpu_prepare_row(cpu_backend *b, uint16_t index, uint32_t row, float *x)
{
    const upg_slot     *slot = &b->program->slots[index];
    const cpu_slot     *bound = &b->slots[index];
    const upg_rotation *rotation = &slot->prepared.rotation;
    int8_t             *codes;
    float               inverse;

    if (bound->values != NULL)
        memcpy(bound->values + row * bound->stride, x, slot->width * sizeof *x);
    if (!slot->prepared.rotated)
        return;
    for (uint32_t j = 0; j < slot->width; j++)
        x[j] *= bound->signs[j];
    b->kernels.hadamard(slot->width, rotation->block, x);
    if (!blocks_are_finite(rotation, x))
        atomic_store_explicit(&b->bad, true, memory_order_relaxed);
    codes = bound->codes + row * bound->stride;
    bound->scales[row] = upg_int8_scale(b->kernels.max_abs(slot->width, x), &inverse);
    b->kernels.quantise_i8(slot->width, x, inverse, codes);
    memset(codes + slot->width, 0, bound->stride - slot->width);
}
