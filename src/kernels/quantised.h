/* quantised.h: the arithmetic of rotated int8 inputs, the same in every backend and kernel.
 *
 * An input x' is stored as q = round to nearest even(x'·inverse) with one scale s_x for the row; a
 * coded matrix gives the exact integer Y_r = Σ_j V[r][j]·q_j, and the result is rounded to fp32
 * once. A backend that follows these three functions gives equal bits, whatever its kernels are. */
#ifndef UPG_KERNELS_QUANTISED_H
#define UPG_KERNELS_QUANTISED_H

#include <stdint.h>

#include "base/halffloat.h"

/** s_x = max/127 and *inverse = 127/max for a row whose largest magnitude is `max`; both 0 for a
 * row that is zero or so small (below 2^-100) that its inverse could overflow. */
static inline float upg_int8_scale(float max, float *inverse)
{
    if (!(max >= 0x1p-100f)) {
        *inverse = 0.0f;
        return 0.0f;
    }
    *inverse = 127.0f / max;
    return max / 127.0f;
}

/** s_r·g·s_x: the first product is exact in fp64 (11 and 24 bits), the second is rounded. */
static inline double upg_coded_factor(uint16_t row_scale_f16, float gain, float s_x)
{
    return (double)upg_f32_from_f16(row_scale_f16) * (double)gain * (double)s_x;
}

/** y_r from the exact sum Y, |Y| < 2^53. */
static inline float upg_coded_output(int64_t sum, double factor)
{
    return (float)((double)sum * factor);
}

#endif
