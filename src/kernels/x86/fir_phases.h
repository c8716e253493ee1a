/* fir_phases.h: u sorted by phase, so that an FIR with a stride becomes one without.
 *
 * Rows of one kind (all of them at a whole rate; even or odd ones at a half rate) have their newest
 * bits `stride` binary rows apart. With u cut into `stride` phases, u[base + stride·s + f] at
 * phase[f][s], tap i of consecutive rows of a kind reads consecutive places. */
#ifndef UPG_KERNELS_X86_FIR_PHASES_H
#define UPG_KERNELS_X86_FIR_PHASES_H

#include "codec/coded_matrix.h"

/* Steps of a chunk; the vector loads of the last step may read 8 places further, and the window
 * reaches back by up to L places. */
enum { UPG_FIR_STEPS = 64, UPG_FIR_PITCH = UPG_FIR_STEPS + 24, UPG_FIR_MAX_STRIDE = 10 };

typedef struct upg_fir_phases {
    int32_t u[UPG_FIR_MAX_STRIDE][UPG_FIR_PITCH];
} upg_fir_phases;

/* Sorts u[0 … count − 1]. count ≤ stride·UPG_FIR_PITCH. */
static inline void upg_fir_sort(const int32_t *u, uint32_t count, uint32_t stride,
                                upg_fir_phases *phases)
{
    uint32_t full = count / stride;

    for (uint32_t f = 0; f < stride; f++)
        for (uint32_t s = 0; s < full; s++)
            phases->u[f][s] = u[s * stride + f];
    for (uint32_t f = 0; f < count - full * stride; f++)
        phases->u[f][full] = u[full * stride + f];
}

/* Where tap i of the first row finds its values: `place` is its newest bit, counted from base. */
static inline const int32_t *upg_fir_tap(const upg_fir_phases *phases, uint32_t place,
                                         uint32_t stride)
{
    return phases->u[place % stride] + place / stride;
}

#endif
