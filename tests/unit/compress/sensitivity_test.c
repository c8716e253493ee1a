/* Predicted divergences of phi4-micro against those measured with matrices really coded. */
#include "micro_model.h"

#include <stdatomic.h>

#include "compress/moments.h"

/* KL of each rate relative to that at 3 bits: plan.h's model of it. */
static double relative(uint32_t rate2)
{
    return rate2 == 4 ? 4.07 : rate2 == 8 ? .26 : 1;
}

static double predicted(const upg_plan *plan, const upg_matrix *matrix, uint32_t rate2)
{
    double sum = 0;

    for (uint32_t u = 0; u < plan->n_units; u++)
        if (plan->units[u].matrix == matrix)
            sum += plan->units[u].sensitivity * relative(rate2);
    return sum;
}

static upg_plan measured_plan(micro_model *m)
{
    upg_plan plan = micro_plan(m, 0);

    OK(upg_sensitivity_measure(&m->env.context, m->weights, m->calibration.tokens,
                               m->calibration.n_windows < 8 ? m->calibration.n_windows : 8,
                               m->calibration.window, &plan, &err));
    return plan;
}

static void single_matrices(void **state)
{
    /* embed, one of every role in the four layers of seven, head */
    static const uint32_t which[] = { 0, 1, 3, 9, 11, 19, 20, 28, 29 };
    static const uint32_t rates[] = { 4, 8 };
    micro_model           m;
    upg_plan              plan;
    double                log_sum = 0;

    (void)state;
    micro_open(&m, 512, 16);
    plan = measured_plan(&m);
    assert_int_equal(upg_weights_matrix_count(m.weights), 30);
    for (size_t r = 0; r < sizeof rates / sizeof *rates; r++) {
        upg_plan uniform = micro_plan(&m, rates[r]);

        micro_encode(&m, &uniform, false);
        for (size_t i = 0; i < sizeof which / sizeof *which; i++) {
            const upg_matrix *matrix = upg_weights_matrix(m.weights, which[i]);
            double want = micro_divergence(&m, which[i]), got = predicted(&plan, matrix, rates[r]);

            print_message("%-40s %u bits: measured %.5f, predicted %.5f\n", matrix->name,
                          rates[r] / 2, want, got);
            log_sum += log(got / want);
            if (!(got > want / 2.5 && got < want * 2.5))
                fail_msg("%s at %u bits: predicted %g, measured %g", matrix->name, rates[r] / 2,
                         got, want);
        }
    }
    /* and not all to one side */
    assert_true(fabs(log_sum / 18) < log(1.5));
    micro_close(&m);
}

static void a_whole_plan(void **state)
{
    micro_model m;
    upg_plan    plan;
    double      kl;

    (void)state;
    micro_open(&m, 512, 16);
    plan = measured_plan(&m);
    OK(upg_plan_fill(&plan, (uint64_t)(3.2 / 8 * (double)m.weights->n_parameters), &err));
    micro_encode(&m, &plan, false);
    kl = micro_divergence(&m, 30);
    print_message("plan at 3.2 bits: measured %.4f, predicted %.4f\n", kl, plan.predicted_kl);
    assert_true(plan.predicted_kl > kl / 1.8 && plan.predicted_kl < kl * 1.8);
    micro_close(&m);
}

static void threads_and_failures(void **state)
{
    micro_model m;
    upg_plan    first, other;
    encode_env  one;
    atomic_bool cancel = true;
    upg_status  st = UPG_E_NOMEM;

    (void)state;
    micro_open(&m, 256, 8);
    first = measured_plan(&m);
    for (uint32_t threads = 1; threads <= 3; threads++) {
        env_open(&one, threads);
        other = micro_plan(&m, 0);
        OK(upg_sensitivity_measure(&one.context, m.weights, m.calibration.tokens, 8, 256, &other,
                                   &err));
        for (uint32_t u = 0; u < first.n_units; u++)
            assert_true(first.units[u].sensitivity == other.units[u].sensitivity);
        env_close(&one);
    }
    env_open(&one, 1);
    one.listener.cancel = &cancel;
    assert_int_equal(
        upg_sensitivity_measure(&one.context, m.weights, m.calibration.tokens, 3, 64, &other, &err),
        UPG_E_CANCELLED);
    env_close(&one);
    env_open(&one, 1);
    for (uint64_t n = 0, step = 1; st == UPG_E_NOMEM; n += step, step += n / 8) {
        upg_alloc_fail_after(n);
        st = upg_sensitivity_measure(&one.context, m.weights, m.calibration.tokens, 1, 64, &other,
                                     &err);
        upg_alloc_fail_after(UINT64_MAX);
        assert_true(st == UPG_OK ? n > 20 : st == UPG_E_NOMEM);
    }
    OK(st);
    env_close(&one);
    micro_close(&m);
}

static void bad_weights_are_named(void **state)
{
    micro_model m;
    upg_plan    plan;
    upg_matrix *k;
    float      *values;

    (void)state;
    micro_open(&m, 64, 1);
    plan = micro_plan(&m, 0);
    k = &m.weights->layers[1].k;
    values = malloc((size_t)k->n_rows * k->n_cols * sizeof *values);
    assert_non_null(values);
    for (uint32_t r = 0; r < k->n_rows; r++)
        upg_dense_row_part(k, r, 0, k->n_cols, values + (size_t)r * k->n_cols);
    values[5 * k->n_cols + 17] = NAN;
    k->dense = values;
    k->dtype = UPG_F32;
    assert_int_equal(upg_sensitivity_measure(&m.env.context, m.weights, m.calibration.tokens, 1, 64,
                                             &plan, &err),
                     UPG_E_DATA);
    if (!strstr(err.message, "layers.1.self_attn.k_proj") || !strstr(err.message, "row 5") ||
        !strstr(err.message, "17"))
        fail_msg("not named: %s", err.message);
    free(values);
    micro_close(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(single_matrices),
        cmocka_unit_test(a_whole_plan),
        cmocka_unit_test(threads_and_failures),
        cmocka_unit_test(bad_weights_are_named),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
