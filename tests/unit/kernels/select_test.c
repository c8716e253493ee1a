/* select.c: each set of CPU flags gets a whole table, made of the strongest ISA it allows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/cpu.h"
#include "kernels/kernels.h"

enum {
    AVX512_WHOLE = UPG_CPU_AVX2 | UPG_CPU_AVX512 | UPG_CPU_AVX512VBMI | UPG_CPU_AVX512VNNI,
    ALL_FLAGS = 64 /* sets of six */
};

static const char *expected(uint32_t flags)
{
#if defined(__x86_64__)
    if ((flags & AVX512_WHOLE) == AVX512_WHOLE)
        return "avx512vnni";
    return flags & UPG_CPU_AVX2 ? "avx2" : "scalar";
#elif defined(__aarch64__)
    if (!(flags & UPG_CPU_NEON))
        return "scalar";
    return flags & UPG_CPU_DOTPROD ? "dotprod" : "neon";
#else
    (void)flags;
    return "scalar";
#endif
}

static void every_set_of_flags_gets_its_table(void **state)
{
    (void)state;
    for (uint32_t flags = 0; flags < ALL_FLAGS; flags++) {
        upg_kernels k;

        upg_kernels_select(flags, &k);
        assert_string_equal(k.name, expected(flags));
    }
}

static void tables_have_no_holes(void **state)
{
    (void)state;
    for (uint32_t flags = 0; flags < ALL_FLAGS; flags++) {
        upg_kernels k;

        upg_kernels_select(flags, &k);
        assert_true(k.bitdot_prepare && k.bitdot && k.decode_group && k.gemm_i16);
        assert_true(k.fir && k.coded_scale && k.hadamard);
        assert_true(k.gemm_bf16 && k.gemm_f16 && k.gemm_f32);
        assert_true(k.sum_squares && k.max_abs && k.quantise_i8 && k.swiglu);
        assert_true(k.attention_scores && k.attention_values && k.exp_sum);
    }
}

/* What is different must be different: a table that forgot an ISA would pass every comparison. */
static void stronger_tables_replace_kernels(void **state)
{
    const uint32_t simd = upg_cpu_flags() & (UPG_CPU_AVX2 | UPG_CPU_NEON);
    upg_kernels    scalar, new;

    (void)state;
    if (simd == 0) {
        print_message("skipped: this machine has neither AVX2 nor NEON\n");
        skip();
    }
    upg_kernels_select(0, &scalar);
    upg_kernels_select(simd, &new);
    assert_true(new.bitdot != scalar.bitdot &&new.bitdot_prepare != scalar.bitdot_prepare);
    assert_true(new.decode_group != scalar.decode_group &&new.gemm_i16 != scalar.gemm_i16);
    assert_true(new.fir != scalar.fir &&new.coded_scale != scalar.coded_scale);
    assert_true(new.hadamard != scalar.hadamard);
    assert_true(new.gemm_bf16 != scalar.gemm_bf16 &&new.gemm_f16 != scalar.gemm_f16);
    assert_true(new.gemm_f32 != scalar.gemm_f32 &&new.sum_squares != scalar.sum_squares);
    assert_true(new.max_abs != scalar.max_abs &&new.quantise_i8 != scalar.quantise_i8);
    assert_true(new.swiglu != scalar.swiglu &&new.exp_sum != scalar.exp_sum);
    assert_true(new.attention_scores != scalar.attention_scores);
    assert_true(new.attention_values != scalar.attention_values);
}

static void masked_flags_stay_away(void **state)
{
    uint32_t all;

    (void)state;
    all = upg_cpu_flags();
    upg_cpu_mask(UPG_CPU_AVX2 | UPG_CPU_NEON);
    assert_int_equal(upg_cpu_flags(), all & (UPG_CPU_AVX2 | UPG_CPU_NEON));
    upg_cpu_mask(0);
    assert_int_equal(upg_cpu_flags(), 0);
    upg_cpu_mask(UINT32_MAX);
    assert_int_equal(upg_cpu_flags(), all);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_set_of_flags_gets_its_table),
        cmocka_unit_test(tables_have_no_holes),
        cmocka_unit_test(stronger_tables_replace_kernels),
        cmocka_unit_test(masked_flags_stay_away),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
