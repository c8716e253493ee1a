/* The sampler on distributions small enough to know the answer. */
#include "runtime/sampler.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cpu.h"

enum { N = 8, MANY = 5000 };

static upg_kernels       kernels;
static float             values[MANY];
static uint32_t          counts[MANY];
static upg_scored        candidates[MANY];
static upg_sampler_space space = { values, counts, candidates };

/* Probabilities .3 .25 .2 .1 .08 .04 .02 .01, in a mixed order of ids. */
static const double probability[N] = { .1, .3, .01, .2, .08, .25, .02, .04 };
static float        logits[N];

static int set_up(void **state)
{
    (void)state;
    upg_kernels_select(upg_cpu_flags(), &kernels);
    for (int i = 0; i < N; i++)
        logits[i] = (float)log(probability[i]) + 3;
    return 0;
}

static upg_token choose(const upg_sampling *settings, const uint32_t *allowed,
                        const upg_sampler_history *history, uint64_t position)
{
    static const upg_sampler_history none;
    upg_sampler                      sampler = { 0 };
    upg_token                        token;

    assert_int_equal(upg_sampler_set(&sampler, settings, N, NULL), UPG_OK);
    token = upg_sampler_choose(&sampler, &kernels, &space, logits, N, allowed,
                               history ? history : &none, position);
    upg_sampler_deinit(&sampler);
    return token;
}

/* Draws 20,000 times: exactly the tokens of `set` appear, each within 5 standard deviations of its
 * share of the set. */
static void check_set(const upg_sampling *settings, uint32_t set)
{
    enum { DRAWS = 20000 };
    unsigned seen[N] = { 0 };
    double   total = 0;

    for (int i = 0; i < DRAWS; i++) {
        upg_token token = choose(settings, NULL, NULL, (uint64_t)i);

        assert_in_range(token, 0, N - 1);
        seen[token]++;
    }
    for (int t = 0; t < N; t++)
        total += set >> t & 1 ? probability[t] : 0;
    for (int t = 0; t < N; t++) {
        double p = set >> t & 1 ? probability[t] / total : 0;

        if (fabs(seen[t] - DRAWS * p) > 5 * sqrt(DRAWS * p * (1 - p)))
            fail_msg("token %d: %u of %d draws, its share is %g", t, seen[t], (int)DRAWS, p);
    }
}

static upg_sampling at_temperature(float temperature)
{
    return (upg_sampling) { .struct_size = sizeof(upg_sampling),
                            .temperature = temperature,
                            .seed = 11 };
}

static void test_greedy_and_ties(void **state)
{
    upg_sampling greedy = at_temperature(0);

    (void)state;
    assert_int_equal(choose(&greedy, NULL, NULL, 0), 1);
    logits[5] = logits[1];
    assert_int_equal(choose(&greedy, NULL, NULL, 0), 1); /* the lowest of equals */
    logits[0] = logits[1];
    assert_int_equal(choose(&greedy, NULL, NULL, 0), 0);
    greedy.temperature = 1e-30f; /* colder than fp32 can divide by */
    assert_int_equal(choose(&greedy, NULL, NULL, 0), 0);
}

static void test_shares(void **state)
{
    upg_sampling s = at_temperature(1);

    (void)state;
    check_set(&s, 0xFF);
    s.top_k = 3; /* 1, 5, 3 */
    check_set(&s, 1u << 1 | 1u << 5 | 1u << 3);
    s.top_k = 8;
    check_set(&s, 0xFF);
    s.top_k = 0;
    s.top_p = 0.74f; /* .3 + .25 + .2 reach it */
    check_set(&s, 1u << 1 | 1u << 5 | 1u << 3);
    s.top_p = 0.76f;
    check_set(&s, 1u << 1 | 1u << 5 | 1u << 3 | 1u << 0);
    s.top_p = 1e-6f; /* one at least */
    check_set(&s, 1u << 1);
    s.top_p = 0;
    s.min_p = 0.3f; /* of .3: .09 */
    check_set(&s, 1u << 1 | 1u << 5 | 1u << 3 | 1u << 0);
}

static void test_shares_together(void **state)
{
    upg_sampling s = at_temperature(1);

    (void)state;
    s.top_k = 3;    /* .3 .25 .2 of .75 */
    s.top_p = 0.7f; /* .525: the share is of what top_k left */
    check_set(&s, 1u << 1 | 1u << 5);
    s.top_p = 0.99f;
    s.min_p = 0.7f; /* .21 */
    check_set(&s, 1u << 1 | 1u << 5);
    s = at_temperature(1);
    s.top_p = 0.97f;
    s.min_p = 0.9f;
    check_set(&s, 1u << 1);
}

static void test_temperature(void **state)
{
    enum { DRAWS = 20000 };
    upg_sampling s = at_temperature(2);
    double       total = 0;
    unsigned     seen = 0;

    (void)state;
    for (int t = 0; t < N; t++)
        total += sqrt(probability[t]);
    for (int i = 0; i < DRAWS; i++)
        seen += choose(&s, NULL, NULL, (uint64_t)i) == 1;
    total = sqrt(probability[1]) / total;
    assert_true(fabs(seen - DRAWS * total) < 5 * sqrt(DRAWS * total * (1 - total)));
}

static void test_seed_and_position(void **state)
{
    upg_sampling s = at_temperature(1), other = s;
    unsigned     unlike_seed = 0, unlike_place = 0;

    (void)state;
    other.seed = 12;
    for (uint64_t i = 0; i < 200; i++) {
        assert_int_equal(choose(&s, NULL, NULL, i), choose(&s, NULL, NULL, i));
        unlike_seed += choose(&s, NULL, NULL, i) != choose(&other, NULL, NULL, i);
        unlike_place += choose(&s, NULL, NULL, i) != choose(&s, NULL, NULL, i + 1);
    }
    assert_true(unlike_seed > 100 && unlike_place > 100);
}

static void test_biases_and_masks(void **state)
{
    upg_scored   biases[] = { { 2, 100 }, { 1, -INFINITY } };
    upg_sampling s = at_temperature(0);
    uint32_t     allowed = 1u << 0 | 1u << 4, none = 0, far = 1u << 1 | 0xFFFFFF00u;

    (void)state;
    s.biases = biases;
    s.bias_count = 2;
    assert_int_equal(choose(&s, NULL, NULL, 0), 2);
    assert_int_equal(choose(&s, &allowed, NULL, 0), 0);
    assert_int_equal(choose(&s, &none, NULL, 0), -1);
    assert_int_equal(choose(&s, &far, NULL, 0), -1); /* forbidden by its bias, others too large */
    s.temperature = 1;
    for (uint64_t i = 0; i < 100; i++)
        assert_int_equal(choose(&s, &allowed, NULL, i) & ~4, 0);
    assert_int_equal(choose(&s, &none, NULL, 0), -1);
}

static void test_penalties(void **state)
{
    upg_token           tokens[] = { 1, 5, 1, 3 };
    uint8_t             drawn[] = { 0, 1, 0, 1 };
    upg_sampler_history history = { tokens, drawn, 4 };
    upg_sampling        s = at_temperature(0);

    (void)state;
    for (int i = 0; i < N; i++)
        logits[i] = i == 1 ? 2.0f : i == 5 ? 1.5f : i == 3 ? 1.4f : i == 0 ? 1.0f : -1.0f;
    s.repetition_penalty = 1.9f; /* 1.05, .79, .74: once, though 1 stands there twice */
    assert_int_equal(choose(&s, NULL, &history, 0), 1);
    s.repetition_penalty = 2.1f; /* all below 1 */
    assert_int_equal(choose(&s, NULL, &history, 0), 0);
    s.repetition_penalty = 0;
    s.presence_penalty = 1.2f; /* only 5 and 3 were drawn */
    assert_int_equal(choose(&s, NULL, &history, 0), 1);
    drawn[0] = drawn[2] = 1;
    s.presence_penalty = 0.9f; /* 1.1, .6, .5 */
    assert_int_equal(choose(&s, NULL, &history, 0), 1);
    s.presence_penalty = 0;
    s.frequency_penalty = 0.45f; /* 2 − 2·.45, 1.05, .95, and 1 */
    assert_int_equal(choose(&s, NULL, &history, 0), 1);
    s.frequency_penalty = 0.49f; /* 1.02, 1.01, .91 */
    assert_int_equal(choose(&s, NULL, &history, 0), 1);
    s.frequency_penalty = 0.52f;
    assert_int_equal(choose(&s, NULL, &history, 0), 0);
    for (int i = 0; i < N; i++)
        assert_int_equal(counts[i], 0); /* left clean for the next session */
    /* A negative logit moves away from 0 as well. */
    for (int i = 0; i < N; i++)
        logits[i] = -2.0f;
    logits[1] = -1.5f;
    s = at_temperature(0);
    s.repetition_penalty = 1.5f;
    assert_int_equal(choose(&s, NULL, &history, 0), 0);
}

static void refuse(upg_sampling settings, const char *field)
{
    upg_sampler sampler = { 0 };
    upg_error   err;

    assert_int_equal(upg_sampler_set(&sampler, &settings, N, &err), UPG_E_ARG);
    if (!strstr(err.message, field))
        fail_msg("\"%s\" does not name %s", err.message, field);
    upg_sampler_deinit(&sampler);
}

static void test_settings_are_checked(void **state)
{
    upg_scored far = { N, 1 }, nan = { 0, NAN }, infinite = { 0, INFINITY };

    (void)state;
    refuse((upg_sampling) { .temperature = -1 }, "temperature");
    refuse((upg_sampling) { .temperature = NAN }, "temperature");
    refuse((upg_sampling) { .top_p = 1.1f }, "top_p");
    refuse((upg_sampling) { .min_p = -0.1f }, "min_p");
    refuse((upg_sampling) { .repetition_penalty = -1 }, "repetition_penalty");
    refuse((upg_sampling) { .presence_penalty = INFINITY }, "presence_penalty");
    refuse((upg_sampling) { .frequency_penalty = NAN }, "frequency_penalty");
    refuse((upg_sampling) { .bias_count = 1 }, "biases is NULL");
    refuse((upg_sampling) { .biases = &far, .bias_count = 1 }, "biases[0].token is 8");
    refuse((upg_sampling) { .biases = &nan, .bias_count = 1 }, "biases[0].value");
    refuse((upg_sampling) { .biases = &infinite, .bias_count = 1 }, "biases[0].value");
}

/* Against a plain sort, with many equal values. */
static void test_order_of_many(void **state)
{
    static float        x[MANY];
    upg_scored          top[20];
    double              sum = 0, log_sum;
    upg_sampler         sampler = { .settings = { .temperature = 1, .top_k = 20, .seed = 3 } };
    upg_sampler_history none = { 0 };

    (void)state;
    for (uint32_t i = 0; i < MANY; i++) {
        x[i] = (float)((i * 2654435761u >> 7) % 1000) / 100;
        sum += exp((double)x[i]);
    }
    log_sum = upg_log_sum_exp(&kernels, x, MANY, x[upg_argmax(x, MANY)]);
    assert_true(fabs(log_sum - log(sum)) < 1e-6);
    upg_top_tokens(x, MANY, log_sum, top, 20);
    for (int k = 0; k < 20; k++) {
        uint32_t before = 0;

        for (uint32_t i = 0; i < MANY; i++)
            before +=
                x[i] > x[top[k].token] || (x[i] == x[top[k].token] && i < (uint32_t)top[k].token);
        assert_int_equal(before, k);
        assert_true(fabs((double)top[k].value - ((double)x[top[k].token] - log_sum)) < 1e-5);
    }
    for (uint64_t i = 0; i < 500; i++) { /* top_k takes the very same ones */
        upg_token token = upg_sampler_choose(&sampler, &kernels, &space, x, MANY, NULL, &none, i);
        bool      found = false;

        for (int k = 0; k < 20; k++)
            found = found || top[k].token == token;
        assert_true(found);
    }
}

static void test_argmax_of_every_length(void **state)
{
    float x[70];

    (void)state;
    for (uint32_t n = 1; n <= 70; n++)
        for (uint32_t at = 0; at < n; at++) {
            for (uint32_t i = 0; i < n; i++)
                x[i] = i >= at && (i - at) % 7 == 0 ? 2.0f : -(float)i;
            assert_int_equal(upg_argmax(x, n), at);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_greedy_and_ties, set_up),
        cmocka_unit_test_setup(test_shares, set_up),
        cmocka_unit_test_setup(test_shares_together, set_up),
        cmocka_unit_test_setup(test_temperature, set_up),
        cmocka_unit_test_setup(test_seed_and_position, set_up),
        cmocka_unit_test_setup(test_biases_and_masks, set_up),
        cmocka_unit_test_setup(test_penalties, set_up),
        cmocka_unit_test_setup(test_settings_are_checked, set_up),
        cmocka_unit_test_setup(test_order_of_many, set_up),
        cmocka_unit_test(test_argmax_of_every_length),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
