/* code.c: the library's tap sets, checks on others, and the value of a window. */
#include "codec/code.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>

#include "codec/code_tables.h"

static const upg_code_set *find_set(uint32_t rate2, uint32_t length)
{
    for (size_t i = 0; i < upg_code_set_count; i++)
        if (upg_code_sets[i].code.rate2 == rate2 && upg_code_sets[i].code.length == length)
            return &upg_code_sets[i];
    return NULL;
}

const upg_code *upg_code_find(uint32_t rate2, uint32_t length)
{
    const upg_code_set *set = find_set(rate2, length);

    return set != NULL ? &set->code : NULL;
}

double upg_code_error(const upg_code *code)
{
    const upg_code_set *set = find_set(code->rate2, code->length);

    return set != NULL ? set->error : 0;
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
