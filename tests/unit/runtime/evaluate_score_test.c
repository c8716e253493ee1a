/* Scores of single rows against sums in double, and the percentile. */
#include "runtime/evaluate.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/cpu.h"
#include "base/random.h"

enum { VOCAB = 2500 };

static upg_kernels kernels;

static int set_up(void **state)
{
    (void)state;
    upg_kernels_select(upg_cpu_flags(), &kernels);
    return 0;
}

static double log_sum(const float *x)
{
    double sum = 0;

    for (int i = 0; i < VOCAB; i++)
        sum += exp((double)x[i] - 30);
    return 30 + log(sum);
}

static void fill(float *x, uint64_t seed, double spread)
{
    for (uint64_t i = 0; i < VOCAB; i++)
        x[i] = (float)(spread * (upg_random_unit(seed, i) - 0.5));
}

/* fp32 weights are good to 4e-7, so a divergence of d nats between logits that differ by up to w is
 * good to about 4e-7·w. */
static void test_against_double(void **state)
{
    static float model[VOCAB], against[VOCAB];

    (void)state;
    for (int round = 0; round < 20; round++) {
        double        spread = round % 2 ? 60 : 4, noise = round < 10 ? 0.1 : 5, kl = 0;
        upg_token     target = round * 100;
        uint32_t      best = 0, other = 0;
        upg_row_score s;

        fill(model, (uint64_t)round, spread);
        fill(against, 100 + (uint64_t)round, noise);
        for (int i = 0; i < VOCAB; i++)
            against[i] += model[i];
        for (uint32_t i = 0; i < VOCAB; i++) {
            kl += exp((double)against[i] - log_sum(against)) *
                  ((double)against[i] - log_sum(against) - ((double)model[i] - log_sum(model)));
            best = model[i] > model[best] ? i : best;
            other = against[i] > against[other] ? i : other;
        }
        s = upg_score_row(&kernels, model, against, VOCAB, target);
        assert_true(fabs(s.nll - (log_sum(model) - (double)model[target])) < 2e-6);
        assert_true(fabs(s.against_nll - (log_sum(against) - (double)against[target])) < 2e-6);
        if (fabs(s.kl - kl) > 4e-6 + 1e-6 * kl)
            fail_msg("round %d: KL %.9g, in double %.9g", round, s.kl, kl);
        assert_int_equal(s.hit, best == (uint32_t)target);
        assert_int_equal(s.agrees, best == other);
    }
}

static void test_equal_models(void **state)
{
    static float  model[VOCAB];
    upg_row_score s;

    (void)state;
    fill(model, 5, 20);
    model[77] = 50;
    s = upg_score_row(&kernels, model, model, VOCAB, 77);
    assert_true(s.kl == 0 && s.nll == s.against_nll && s.hit && s.agrees);
    s = upg_score_row(&kernels, model, NULL, VOCAB, 76);
    assert_true(s.kl == 0 && s.against_nll == 0 && !s.hit && !s.agrees);
}

static void test_percentile(void **state)
{
    static double values[1000];

    (void)state;
    for (size_t n = 1; n <= 1000; n++) {
        size_t rank = (99 * n + 99) / 100; /* ⌈.99·n⌉ */

        for (size_t i = 0; i < n; i++)
            values[i] = (double)(n - i);
        assert_true(upg_percentile_99(values, n) == (double)rank);
    }
    assert_true(upg_percentile_99(values, 0) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_double),
        cmocka_unit_test(test_equal_models),
        cmocka_unit_test(test_percentile),
    };

    return cmocka_run_group_tests(tests, set_up, NULL);
}
