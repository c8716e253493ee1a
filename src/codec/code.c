/* code.c: the library's tap sets, checks on others, and the value of a window.
 *
 * The sets were found by simulated annealing over signed primes between 11 and 211, for the least
 * squared error on unit Gaussian targets; g is the least-squares gain. Half rates share one set
 * between even and odd rows: taking the two whole rates' sets in turn costs a third more error at
 * 2.5 bits. */
#include "codec/code.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>

static const upg_code tap_sets[] = {
    { .rate2 = 4,
      .k0 = 2,
      .k1 = 2,
      .length = 12,
      .taps = { 107, 127, 89, -47, -67, -71, 23, -11, -61, -79, 127, -107 },
      .gain = 0.0037f },
    { .rate2 = 5,
      .k0 = 2,
      .k1 = 3,
      .length = 12,
      .taps = { -151, -167, -137, 109, 37, 67, 103, -157, -107, 211, -137, 149 },
      .gain = 0.002361f },
    { .rate2 = 6,
      .k0 = 3,
      .k1 = 3,
      .length = 12,
      .taps = { -79, 101, 47, 31, 23, 29, -61, 11, -43, -83, -89, 47 },
      .gain = 0.005368f },
    { .rate2 = 6,
      .k0 = 3,
      .k1 = 3,
      .length = 14,
      .taps = { -181, 127, -101, 53, 59, 149, 83, 79, 109, 139, -89, -97, 113, 179 },
      .gain = 0.002499f },
    { .rate2 = 7,
      .k0 = 3,
      .k1 = 4,
      .length = 12,
      .taps = { 79, -103, -47, 31, 11, 37, -67, 53, 67, -89, -53, -31 },
      .gain = 0.005451f },
    { .rate2 = 8,
      .k0 = 4,
      .k1 = 4,
      .length = 12,
      .taps = { 97, 131, 197, -47, 67, -89, 67, -107, -127, 163, -79, -113 },
      .gain = 0.002899f },
    { .rate2 = 10,
      .k0 = 5,
      .k1 = 5,
      .length = 12,
      .taps = { 97, 53, 199, 167, -79, 61, 37, 127, -83, 173, -139, 109 },
      .gain = 0.00282f },
};

const upg_code *upg_code_find(uint32_t rate2, uint32_t length)
{
    for (size_t i = 0; i < sizeof tap_sets / sizeof tap_sets[0]; i++)
        if (tap_sets[i].rate2 == rate2 && tap_sets[i].length == length)
            return &tap_sets[i];
    return NULL;
}

static upg_status check_rate(const upg_code *code, upg_error *err)
{
    if (code->rate2 < 4 || code->rate2 > 10 || code->rate2 == 9)
        return upg_fail(err, UPG_E_FORMAT,
                        "rate2 is %u; twice the rate must be 4, 5, 6, 7, 8 or 10", code->rate2);
    if (code->k0 != code->rate2 / 2)
        return upg_fail(err, UPG_E_FORMAT, "k0 is %u, rate2 %u needs %u", code->k0, code->rate2,
                        code->rate2 / 2u);
    if (code->k1 != (code->rate2 + 1) / 2)
        return upg_fail(err, UPG_E_FORMAT, "k1 is %u, rate2 %u needs %u", code->k1, code->rate2,
                        (code->rate2 + 1u) / 2u);
    return UPG_OK;
}

static upg_status check_taps(const upg_code *code, upg_error *err)
{
    int32_t sum = 0;

    for (uint32_t i = 0; i < UPG_CODE_MAX_LENGTH; i++) {
        if (i >= code->length && code->taps[i] != 0)
            return upg_fail(err, UPG_E_FORMAT, "taps[%u] is %d, past length %u it must be 0", i,
                            code->taps[i], code->length);
        sum += abs(code->taps[i]);
    }
    if (sum > INT16_MAX)
        return upg_fail(err, UPG_E_FORMAT,
                        "taps have absolute values that sum to %d; at most %d keeps a value in "
                        "16 bits",
                        sum, INT16_MAX);
    return UPG_OK;
}

upg_status upg_code_check(const upg_code *code, upg_error *err)
{
    upg_status st;

    UPG_TRY(check_rate(code, err));
    if (code->length < UPG_CODE_MIN_LENGTH || code->length > UPG_CODE_MAX_LENGTH)
        return upg_fail(err, UPG_E_FORMAT, "length is %u; it must be %d to %d", code->length,
                        UPG_CODE_MIN_LENGTH, UPG_CODE_MAX_LENGTH);
    UPG_TRY(check_taps(code, err));
    if (!isfinite(code->gain) || code->gain <= 0)
        return upg_fail(err, UPG_E_FORMAT, "gain is %g; it must be finite and above 0",
                        (double)code->gain);
out:
    return st;
}

int32_t upg_code_value(const upg_code *code, uint32_t window)
{
    int32_t value = 0;

    for (uint32_t i = 0; i < code->length; i++)
        value += window >> i & 1u ? code->taps[i] : -code->taps[i];
    return value;
}

void upg_code_table(const upg_code *code, int16_t *table)
{
    /* Clearing a window's lowest one bit gives a smaller window, whose value is known already. */
    table[0] = (int16_t)upg_code_value(code, 0);
    for (uint32_t window = 1; window < 1u << code->length; window++)
        table[window] =
            (int16_t)(table[window & (window - 1)] + 2 * code->taps[__builtin_ctz(window)]);
}
