/* The int8 peak: every ISA's loop does the multiply-adds that it is counted for. */
#include "kernel_check.h"

#include "kernels/int8_peak.h"

static void check(uint32_t flags)
{
    static const uint32_t rounds[] = { 0, 1, 2, 1000, 300000 };
    upg_int8_peak         peak = upg_int8_peak_find(flags);

    print_message("%s: %u a round\n", peak.instruction, peak.per_round);
    for (size_t i = 0; i < sizeof rounds / sizeof rounds[0]; i++)
        assert_int_equal(peak.run(rounds[i]), 15 * peak.per_round * rounds[i]);
}

static void test_every_isa(void **state)
{
    (void)state;
    check(0);
    for (size_t level = 0; level < kc_level_count(); level++)
        check(kc_flags(level));
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_every_isa) };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
