/* Every fp16 and bf16 value goes to fp32 and back unchanged; rounding is to nearest even. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/halffloat.h"

static void f16_round_trip(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits < 0x10000u; bits++) {
        float value = upg_f32_from_f16((uint16_t)bits);

        if (isnan(value))
            assert_true(isnan(upg_f32_from_f16(upg_f16_from_f32(value))));
        else
            assert_int_equal(upg_f16_from_f32(value), bits);
    }
}

static void bf16_round_trip(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits < 0x10000u; bits++) {
        float value = upg_f32_from_bf16((uint16_t)bits);

        if (!isnan(value))
            assert_int_equal(upg_bf16_from_f32(value), bits);
    }
}

/* Halfway between two neighbours the even one is taken, a hair above the upper one. */
static void f16_rounds_to_nearest_even(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits < 0x7BFFu; bits++) {
        float low = upg_f32_from_f16((uint16_t)bits), high = upg_f32_from_f16((uint16_t)(bits + 1));
        float middle = low + (high - low) / 2;

        assert_int_equal(upg_f16_from_f32(middle), bits + (bits & 1));
        assert_int_equal(upg_f16_from_f32(nextafterf(middle, INFINITY)), bits + 1);
        assert_int_equal(upg_f16_from_f32(nextafterf(middle, 0)), bits);
    }
    assert_int_equal(upg_f16_from_f32(65519.996f), 0x7BFF);
    assert_int_equal(upg_f16_from_f32(65520.0f), 0x7C00);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(f16_round_trip),
        cmocka_unit_test(bf16_round_trip),
        cmocka_unit_test(f16_rounds_to_nearest_even),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
