/* fir_phases.h: u sorted by phase, so that an FIR with a stride becomes one without.
 *
 * Rows of one kind (all of them at a whole rate; even or odd ones at a half rate) have their newest
 * bits `stride` binary rows apart. With u cut into `stride` phases, u[base + stride·s + f] at
 * phase[f][s], tap i of consecutive rows of a kind reads consecutive places. */
#ifndef UPG_KERNELS_FIR_PHASES_H
#define UPG_KERNELS_FIR_PHASES_H

#include "codec/coded_matrix.h"

/* Steps of a chunk. Vectors of the last step may read up to 32 places, and a window reaches back by
 * at most 16 binary rows, 8 places at stride 2. */
enum { UPG_FIR_STEPS = 64, UPG_FIR_PITCH = UPG_FIR_STEPS + 32, UPG_FIR_MAX_STRIDE = 10 };

typedef struct upg_fir_phases {
    int32_t u[UPG_FIR_MAX_STRIDE][UPG_FIR_PITCH];
} upg_fir_phases;

/* Where each tap of one kind of rows finds its values, and the taps in fp64. */
typedef struct upg_fir_taps {
    const int32_t *u[UPG_CODE_MAX_LENGTH];
    double         p[UPG_CODE_MAX_LENGTH];
} upg_fir_taps;

/* Sorts u[0 … count − 1]; with a constant stride compilers make shuffles of it. */
static inline __attribute__((always_inline)) void upg_fir_sort_by(const int32_t *restrict u,
                                                                  uint32_t count, uint32_t stride,
                                                                  upg_fir_phases *restrict phases)
{
    uint32_t full = count / stride;

    for (uint32_t s = 0; s < full; s++)
        for (uint32_t f = 0; f < stride; f++)
            phases->u[f][s] = u[s * stride + f];
    for (uint32_t f = 0; f < count - full * stride; f++)
        phases->u[f][full] = u[full * stride + f];
}

/* count ≤ stride·(UPG_FIR_STEPS + 8). */
static inline void upg_fir_sort(const int32_t *u, uint32_t count, uint32_t stride,
                                upg_fir_phases *phases)
{
    switch (stride) {
    case 2:
        upg_fir_sort_by(u, count, 2, phases);
        break;
    case 3:
        upg_fir_sort_by(u, count, 3, phases);
        break;
    case 4:
        upg_fir_sort_by(u, count, 4, phases);
        break;
    case 5:
        upg_fir_sort_by(u, count, 5, phases);
        break;
    case 7:
        upg_fir_sort_by(u, count, 7, phases);
        break;
    default:
        upg_fir_sort_by(u, count, stride, phases);
        break;
    }
}

/* `place` is the newest bit of the first row of this kind, counted from the sorted u's begin. */
static inline void upg_fir_place_taps(const upg_code *code, const upg_fir_phases *phases,
                                      uint32_t place, uint32_t stride, upg_fir_taps *taps)
{
    uint32_t phase = place % stride, step = place / stride;

    for (uint32_t i = 0; i < code->length; i++) {
        taps->u[i] = phases->u[phase] + step;
        taps->p[i] = code->taps[i];
        if (phase == 0) {
            phase = stride;
            step--;
        }
        phase--;
    }
}

#endif
