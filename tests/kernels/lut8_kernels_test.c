/* Products by tables of 8 bits: every ISA gives the scalar kernel's bits, which stay within the
 * error that kernels/quantised.h derives, for u and for Y. */
#include "kernel_check.h"

#include <math.h>

#include "kernels/quantised.h"

/* random, bits 0, bits 1, x −127, x 127, x 0, x so small that all is exact */
enum { FILLS = 7, EXACT_FILL = 6 };

typedef struct sample {
    size_t    groups, rows;
    uint32_t *code;
    int8_t   *x;
} sample;

static sample make_sample(size_t groups, size_t rows, int fill)
{
    uint64_t counter = groups * 1000 + rows;
    sample s = { groups, rows, kc_alloc(groups * rows * sizeof(uint32_t)), kc_alloc(32 * groups) };

    for (size_t i = 0; i < groups * rows; i++)
        s.code[i] = fill == 1   ? 0
                    : fill == 2 ? UINT32_MAX
                                : (uint32_t)upg_random_u64(KC_SEED, counter++);
    for (size_t i = 0; i < 32 * groups; i++)
        s.x[i] = (int8_t)(fill == 3            ? -127
                          : fill == 4          ? 127
                          : fill == 5          ? 0
                          : fill == EXACT_FILL ? kc_int(&counter, -31, 31)
                                               : kc_int(&counter, -127, 127));
    return s;
}

static void free_sample(sample *s)
{
    kc_free(s->code);
    kc_free(s->x);
}

static float run_lut8(const upg_kernels *k, const sample *s, int32_t *u)
{
    size_t bytes = s->groups * UPG_PREPARED_BYTES_PER_GROUP;
    void  *prepared = kc_alloc(bytes);
    float  factor = k->lut8_prepare(s->groups, s->x, prepared);

    k->lut8(s->groups, s->rows, s->code, prepared, u);
    kc_check_guards(prepared, bytes);
    kc_check_guards(u, s->rows * sizeof *u);
    kc_free(prepared);
    return factor;
}

static void compare(const upg_kernels *ref, const upg_kernels *new, size_t groups, size_t rows,
                    int fill)
{
    sample   s = make_sample(groups, rows, fill);
    int32_t *want = kc_alloc(rows * sizeof *want), *got = kc_alloc(rows * sizeof *got);

    assert_true(run_lut8(ref, &s, want) == run_lut8(new, &s, got));
    for (size_t t = 0; t < rows; t++)
        if (want[t] != got[t])
            fail_msg("%s: groups %zu, rows %zu, fill %d: u[%zu] is %d, not %d", new->name, groups,
                     rows, fill, t, got[t], want[t]);
    kc_free(want);
    kc_free(got);
    free_sample(&s);
}

static void lut8_equals_scalar(void **state)
{
    static const size_t more[] = { 15, 31, 32, 33, 64, 160, 561 };
    upg_kernels         ref, new;

    (void)state;
    upg_kernels_select(0, &ref);
    for (size_t level = 0; level < kc_level_count(); level++) {
        upg_kernels_select(kc_flags(level), &new);
        for (size_t rows = 16; rows <= 64; rows += 16)
            for (int fill = 0; fill < FILLS; fill++) {
                for (size_t groups = 0; groups <= 9; groups++)
                    compare(&ref, &new, groups, rows, fill);
                for (size_t i = 0; i < sizeof more / sizeof more[0]; i++)
                    compare(&ref, &new, more[i], rows, fill);
            }
    }
}

/* Against the exact kernel: |error of u| ≤ 8·groups·2^14/M, 2^15/M being the factor. */
static void check_error(size_t groups, int fill)
{
    enum { ROWS = 64 };
    sample      s = make_sample(groups, ROWS, fill);
    int32_t    *exact = kc_alloc(ROWS * sizeof *exact), *got = kc_alloc(ROWS * sizeof *got);
    void       *prepared = kc_alloc(groups * UPG_PREPARED_BYTES_PER_GROUP);
    double      factor, bound, taps = 0, y = 0, y_exact = 0;
    upg_code    code = *upg_code_find(6, UPG_CODE_DEFAULT_LENGTH);
    upg_kernels k;

    upg_kernels_select(0, &k);
    k.bitdot_prepare(groups, s.x, prepared);
    k.bitdot(groups, ROWS, s.code, prepared, exact);
    factor = (double)run_lut8(&k, &s, got);
    bound = factor == 1 ? 0 : 4.0 * (double)groups * factor;
    if (fill == EXACT_FILL)
        assert_true(factor == 1);
    for (size_t t = 0; t < ROWS; t++) /* factor is a float: 2^-24 of u */
        if (!(fabs(factor * got[t] - exact[t]) <= bound + 1e-6 * fabs(factor * got[t])))
            fail_msg("groups %zu, fill %d: u[%zu] is %g, exactly %d, bound %g", groups, fill, t,
                     factor * got[t], exact[t], bound);
    for (uint32_t i = 0; i < code.length; i++) {
        taps += abs(code.taps[i]);
        y += code.taps[i] * factor * got[ROWS - 1 - i];
        y_exact += code.taps[i] * (double)exact[ROWS - 1 - i];
    }
    assert_true(fabs(y - y_exact) <= taps * bound + 1e-6 * fabs(y));
    kc_free(exact);
    kc_free(got);
    kc_free(prepared);
    free_sample(&s);
}

static void lut8_error_is_bounded(void **state)
{
    (void)state;
    for (int fill = 0; fill < FILLS; fill++)
        for (size_t groups = 1; groups <= 160; groups = groups * 3 + 1)
            check_error(groups, fill);
}

/* Entries: exact up to 127, then half a step of V/127 at most, never outside of 8 bits. */
static void entries_round(void **state)
{
    (void)state;
    for (int32_t largest = 0; largest <= 508; largest++) {
        int16_t m = upg_lut8_multiplier(largest);
        double  step = (double)upg_lut8_factor(m);

        for (int32_t v = -largest; v <= largest; v++) {
            int32_t e = upg_lut8_entry(v, m);

            assert_in_range(e + 127, 0, 254);
            assert_true(largest <= 127 ? e == v : fabs(e * step - v) <= step / 2 + 1e-4);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lut8_equals_scalar),
        cmocka_unit_test(lut8_error_is_bounded),
        cmocka_unit_test(entries_round),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
