/* Tuning scales and norms: gradients against differences, what it gains on text that it has not
 * seen, and that threads and memory change nothing. */
#include "compress_fixture.h"

#include <stdatomic.h>
#include <stdio.h>

#include "compress/calibration_text.h"
#include "compress/default_calibration.h"
#include "compress/job.h"
#include "compress/tune_impl.h"
#include "support/coded_model.h"
#include "support/temp_folder.h"

enum { WINDOW = 24, N_WINDOWS = 8 };

static test_model_shape shape_of(int index)
{
    test_model_shape s = test_model_small();

    switch (index) {
    case 1:
        s.n_kv_heads = 4;
        s.partial_rotary = .5;
        break;
    case 2:
        s.sliding_window = 9;
        break;
    case 3:
        s.tied = true;
        break;
    default:
        break;
    }
    return s;
}

/* An exact model and one of random code. */
typedef struct pair {
    encode_env     env;
    test_model     exact, coded;
    int32_t        tokens[N_WINDOWS * WINDOW];
    upg_tune_input input;
} pair;

static void pair_open(pair *p, int index, uint32_t threads)
{
    test_model_shape shape = shape_of(index);

    env_open(&p->env, threads);
    OK(test_model_make(&shape, false, 5, &p->exact, &err));
    OK(test_model_make(&shape, true, 6, &p->coded, &err));
    for (int i = 0; i < N_WINDOWS * WINDOW; i++)
        p->tokens[i] = (int32_t)(upg_random_u64(1, (uint64_t)i) % shape.vocab);
    p->input = (upg_tune_input) { .context = &p->env.context,
                                  .exact = p->exact.weights,
                                  .coded = p->coded.weights,
                                  .tokens = p->tokens,
                                  .n_windows = N_WINDOWS,
                                  .window = WINDOW,
                                  .epochs = 2 };
}

static void pair_close(pair *p)
{
    test_model_close(&p->exact);
    test_model_close(&p->coded);
    env_close(&p->env);
}

static double loss(upg_tuner *t)
{
    double sum = 0;

    t->backward = false;
    OK(upg_tuner_run_batch(t, &err));
    for (uint32_t i = 0; i < t->n_batch; i++)
        sum += t->losses[i];
    return sum / t->n_batch;
}

/* n factors from `at` on, moved together along a random direction. */
static void check_factors(upg_tuner *t, const double *gradient, size_t at, size_t n,
                          const char *name)
{
    float *direction = gaussian(n, at), *before = malloc(n * sizeof *before);
    float  step = 4e-3f;
    double want[2], got = 0, norm = 0;

    assert_non_null(before);
    memcpy(before, t->log_factors + at, n * sizeof *before);
    for (int side = 0; side < 2; side++) {
        for (size_t i = 0; i < n; i++)
            t->log_factors[at + i] = before[i] + (side ? step : -step) * direction[i];
        want[side] = loss(t);
    }
    memcpy(t->log_factors + at, before, n * sizeof *before);
    for (size_t i = 0; i < n; i++) {
        got += gradient[at + i] * (double)direction[i];
        norm += gradient[at + i] * gradient[at + i];
    }
    want[1] = (want[1] - want[0]) / (2 * (double)step);
    if (!(norm > 0 && fabs(got - want[1]) < .02 * sqrt(norm) + 2e-5))
        fail_msg("%s: gradient %g along the direction, difference %g, norm %g", name, got, want[1],
                 sqrt(norm));
    free(direction);
    free(before);
}

static void gradients_are_differences(void **state)
{
    (void)state;
    for (int index = 0; index < 4; index++) {
        pair      p;
        upg_tuner t;
        double   *gradient;
        uint32_t  n_matrices;

        pair_open(&p, index, 2);
        n_matrices = upg_weights_matrix_count(p.coded.weights);
        OK(upg_tuner_init(&t, &p.input, &err));
        OK(upg_tuner_run_exact(&t, &err));
        for (size_t i = 0; i < t.n_factors; i++) /* not at 1, where a factor would not show */
            t.log_factors[i] = .2f * (float)upg_random_unit(3, i);
        t.n_batch = 3;
        for (uint32_t i = 0; i < t.n_batch; i++)
            t.batch[i] = 2 * i + 1;
        t.backward = true;
        OK(upg_tuner_run_batch(&t, &err));
        gradient = calloc(t.n_factors, sizeof *gradient);
        assert_non_null(gradient);
        for (uint32_t w = 0; w < t.n_batch; w++)
            for (size_t i = 0; i < t.n_factors; i++)
                gradient[i] += (double)upg_tuner_gradients(&t, w)[i];
        for (uint32_t m = 0; m < n_matrices; m++) {
            const upg_matrix *matrix = upg_weights_matrix(p.coded.weights, m);

            if (m > 0 || p.coded.weights->config.tied_embeddings) /* else it stays */
                check_factors(&t, gradient, t.matrix_at[m], matrix->n_rows, matrix->name);
        }
        for (uint32_t i = 0; i < 2 * t.n_layers + 1; i++)
            check_factors(&t, gradient, t.norm_at[i], t.hidden, "norm");
        free(gradient);
        upg_tuner_deinit(&t);
        pair_close(&p);
    }
}

/* The same factors with any number of threads, with decoded matrices kept or not, with states in
 * memory or in files. */
static void nothing_depends_on_how(void **state)
{
    char      *folder = make_folder(), beside[512];
    upg_tuning first = { 0 };

    (void)state;
    snprintf(beside, sizeof beside, "%s/model.upg", folder);
    for (int how = 0; how < 4; how++) {
        pair       p;
        upg_tuning tuning;

        pair_open(&p, 0, how == 0 ? 1 : 3);
        p.input.keep_decoded = how == 2;
        p.env.context.spill_beside = how == 3 ? beside : NULL;
        OK(upg_tune(&p.input, &tuning, &err));
        assert_true(tuning.kl_before > 0 && tuning.helped);
        for (uint32_t m = 0; how > 0 && m < upg_weights_matrix_count(p.coded.weights); m++)
            assert_memory_equal(tuning.rows[m], first.rows[m],
                                upg_weights_matrix(p.coded.weights, m)->n_rows * sizeof(float));
        for (uint32_t i = 0; how > 0 && i < 2 * p.coded.weights->config.n_layers + 1; i++)
            assert_memory_equal(tuning.norms[i], first.norms[i],
                                p.coded.weights->config.hidden * sizeof(float));
        pair_close(&p);
        if (how == 0)
            first = tuning;
        else
            upg_tuning_deinit(&tuning);
    }
    upg_tuning_deinit(&first);
    remove_folder(folder);
}

static void held_windows_are_spread(void **state)
{
    (void)state;
    assert_int_equal(upg_tune_held(8), 2);
    assert_int_equal(upg_tune_held(48), UPG_TUNE_HELD);
    assert_int_equal(upg_tune_held(160), UPG_TUNE_HELD);
}

static void cancelling_and_memory(void **state)
{
    pair        p;
    upg_tuning  tuning;
    atomic_bool cancel = true;

    (void)state;
    pair_open(&p, 0, 2);
    p.env.listener.cancel = &cancel;
    assert_int_equal(upg_tune(&p.input, &tuning, &err), UPG_E_CANCELLED);
    upg_tuning_deinit(&tuning);
    p.env.listener.cancel = NULL;
    pair_close(&p);
}

/* Mean KL over windows of the end of the default text, which tuning has not seen. */
static double divergence(upg_weights *exact, const char *path, encode_env *env)
{
    upg_weights      *coded;
    upg_token_windows windows;
    upg_tune_input    input = { .context = &env->context, .exact = exact };
    upg_tuner         t;
    double            kl;
    size_t            cut = upg_default_calibration_size * 4 / 5;

    while ((upg_default_calibration[cut] & 0xC0) == 0x80)
        cut++;
    OK(upg_weights_open(path, &coded, &err));
    OK(upg_token_windows_make(
        exact, (upg_span) { upg_default_calibration + cut, upg_default_calibration_size - cut },
        256, UPG_TUNE_BATCH, &windows, &err));
    input.coded = coded;
    input.tokens = windows.tokens;
    input.n_windows = t.n_batch = windows.n_windows;
    input.window = windows.window;
    OK(upg_tuner_init(&t, &input, &err));
    OK(upg_tuner_run_exact(&t, &err));
    t.n_batch = windows.n_windows;
    for (uint32_t i = 0; i < t.n_batch; i++)
        t.batch[i] = i;
    kl = loss(&t);
    upg_tuner_deinit(&t);
    upg_token_windows_deinit(&windows);
    upg_weights_close(coded);
    return kl;
}

static void unseen_text_gains(void **state)
{
    char                  *folder = make_folder(), path[512];
    const upg_effort_level level = { "default", UPG_CODE_DEFAULT_LENGTH, 24, 4, 24, 1 };
    upg_job_settings       settings = { .overwrite = true, .effort = &level };
    upg_weights           *exact;
    encode_env             env;
    double                 kl[2];

    (void)state;
    env_open(&env, 2);
    snprintf(path, sizeof path, "%s/model.upg", folder);
    OK(upg_weights_open(UPG_TEST_DATA "/phi4-micro", &exact, &err));
    settings.calibration = (upg_span) { upg_default_calibration, upg_default_calibration_size / 2 };
    for (int tuned = 0; tuned < 2; tuned++) {
        upg_job *job;

        settings.without_tuning = tuned == 0;
        OK(upg_job_open(UPG_TEST_DATA "/phi4-micro", path, &settings, &job, &err));
        OK(upg_job_run(job, &err));
        upg_job_close(job);
        kl[tuned] = divergence(exact, path, &env);
    }
    print_message("KL on unseen windows: %.4f as coded, %.4f tuned\n", kl[0], kl[1]);
    assert_true(kl[1] < .99 * kl[0]);
    upg_weights_close(exact);
    env_close(&env);
    remove_folder(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_are_differences), cmocka_unit_test(nothing_depends_on_how),
        cmocka_unit_test(held_windows_are_spread),   cmocka_unit_test(cancelling_and_memory),
        cmocka_unit_test(unseen_text_gains),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
