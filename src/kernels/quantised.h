/* quantised.h: the arithmetic of rotated int8 inputs, the same in every backend and kernel.
 *
 * An input x' is stored as q = round to nearest even(x'·inverse) with one scale s_x for the row; a
 * coded matrix gives the exact integer Y_r = Σ_j V[r][j]·q_j, and the result is rounded to fp32
 * once. A backend that follows these three functions gives equal bits, whatever its kernels are. */
#ifndef UPG_KERNELS_QUANTISED_H
#define UPG_KERNELS_QUANTISED_H

#include <stdint.h>

#include "base/halffloat.h"
#include "codec/code.h"

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

/* ---- values rounded to 8 bits, for long inputs -----------------------------------------------
 *
 * v = (V·M + 2^14) >> 15 with M = ⌊127·2^15 / Σ|p_i|⌋, so that |v| ≤ 127, stands for V to within
 * half a step of 2^15/M. Rounding errors of random codes are uniform: their square is step²/12 on
 * average, 6e-5 of V²'s at 3 bits (Σ|p| = 644, V² = 186²). Then Y_r ≈ (2^15/M)·Σ_j v[r][j]·q_j, and
 * |error| ≤ 2^14/M·Σ_j |q_j| for every row. */

/** M; 2^15 − 1 at most. */
static inline int16_t upg_int8_multiplier(const upg_code *code)
{
    int32_t sum = 0, m;

    for (int i = 0; i < code->length; i++)
        sum += code->taps[i] < 0 ? -code->taps[i] : code->taps[i];
    m = sum > 0 ? 127 * 32768 / sum : INT16_MAX;
    return (int16_t)(m < INT16_MAX ? m : INT16_MAX);
}

static inline int32_t upg_int8_value(int32_t v, int16_t multiplier)
{
    return (v * multiplier + 16384) >> 15;
}

/** What g becomes for sums of such values. */
static inline float upg_int8_gain(const upg_code *code)
{
    return (float)((double)code->gain * 32768 / upg_int8_multiplier(code));
}

/* ---- tables of 8 bits, for few inputs ---------------------------------------------------------
 *
 * A nibble of code stands for v = Σ (2·b − 1)·x of four inputs. With V = max Σ|x| over all nibbles
 * and M = ⌊127·2^15 / V⌋, the entry e = (v·M + 2^14) >> 15 has 8 bits, |e| ≤ 127, and stands for
 * v to within 2^14/M (half a step). So u[t] ≈ (2^15/M)·Σ e with
 *
 *     |error of u| ≤ 8·groups·2^14/M        |error of Y_r| ≤ Σ|p_i|·8·groups·2^14/M
 *
 * for 8 nibbles a group of 32 inputs. V ≤ 127 makes all of it exact (factor 1). */

/** M for V ≥ 0; 2^15 − 1 at most, which keeps |v| ≤ 127 as it is. */
static inline int16_t upg_lut8_multiplier(int32_t largest)
{
    return (int16_t)(largest <= 127 ? INT16_MAX : 127 * 32768 / largest);
}

static inline int32_t upg_lut8_entry(int32_t v, int16_t multiplier)
{
    return (v * multiplier + 16384) >> 15;
}

/** What Σ e is multiplied by: 2^15/M. */
static inline float upg_lut8_factor(int16_t multiplier)
{
    return multiplier == INT16_MAX ? 1.0f : 32768.0f / (float)multiplier;
}

/** y_r from the exact sum Y, |Y| < 2^53. */
static inline float upg_coded_output(int64_t sum, double factor)
{
    return (float)((double)sum * factor);
}

#endif
