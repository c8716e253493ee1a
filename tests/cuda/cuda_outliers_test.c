/* Models with outliers on the GPU against `ref` with int8 inputs: single tokens and batches, odd
 * shapes, the micro model. Skips, and says so, where there is no GPU. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/backend.h"
#include "base/random.h"
#include "support/coded_weights.h"
#include "support/device_sequence.h"
#include "support/make_checkpoint.h"
#include "support/temp_folder.h"

enum { N_TOKENS = 90, MAX_BATCH = 64 };

static const upg_backend_class *cuda;

/* As in cuda_backend_test.c: a code that rounds to the other side moves logits by so much. */
static const double worst_difference = 5e-2, typical_difference = 4e-3;

static upg_error err;

#define OK(expression)                                                                             \
    do {                                                                                           \
        if ((expression) != UPG_OK)                                                                \
            fail_msg("%s", err.message);                                                           \
    } while (0)

static bool no_gpu(void)
{
    if (cuda != NULL || upg_backend_find("cuda", &cuda, &err) == UPG_OK)
        return false;
    print_message("skipped: %s\n", err.message);
    assert_int_equal(err.code, UPG_E_DEVICE);
    return true;
}

/* Logits of all tokens, f32 [N_TOKENS][vocab]. */
static float *run(const upg_program *program, const upg_backend_class *class_,
                  upg_backend_options options, uint32_t n_batch)
{
    const upg_model_config *c = &program->weights->config;
    float                  *logits = upg_malloc(N_TOKENS * c->vocab, sizeof *logits, &err);
    upg_batch_row           rows[MAX_BATCH];
    upg_backend            *backend;
    device_sequence         s;

    assert_non_null(logits);
    memset(logits, 0xFF, (size_t)N_TOKENS * c->vocab * sizeof *logits); /* NaN shows */
    options.max_rows = n_batch;
    OK(class_->create(program, &options, &backend, &err));
    OK(device_sequence_open(&s, class_, backend, c, UPG_KV_F32, &err));
    for (uint32_t done = 0; done < N_TOKENS;) {
        upg_batch batch = { .rows = rows, .kv_layout = &s.layout };

        for (; batch.n_rows < n_batch && done < N_TOKENS; done++)
            rows[batch.n_rows++] =
                (upg_batch_row) { (int32_t)(upg_random_u64(3, done) % c->vocab), done, &s.view,
                                  logits + (size_t)done * c->vocab };
        OK(class_->run(backend, &batch, &err));
    }
    device_sequence_close(&s);
    class_->close(backend);
    return logits;
}

static void expect_close(const upg_program *program, const float *want, uint32_t n_batch,
                         bool by_op)
{
    size_t n = (size_t)N_TOKENS * program->weights->config.vocab;
    float *got =
        run(program, cuda, (upg_backend_options) { .decode_kernels_only = by_op }, n_batch);
    double low = want[0], high = want[0], worst = 0, squares = 0, rms;

    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - want[i]);

        low = fmin(low, want[i]);
        high = fmax(high, want[i]);
        worst = d <= worst ? worst : d; /* NaN counts */
        squares += d * d;
    }
    worst /= high - low;
    rms = sqrt(squares / (double)n) / (high - low);
    print_message("  batches of %u%s: %.2g of the range, rms %.2g\n", n_batch,
                  by_op ? ", by op" : "", worst, rms);
    if (!(worst <= worst_difference && rms <= typical_difference))
        fail_msg("batches of %u: differ by %g of the range, rms %g", n_batch, worst, rms);
    upg_free(got);
}

/* The outliers must matter, or nothing is tested. */
static void expect_other(const float *want, const float *without, size_t n)
{
    double low = want[0], high = want[0], squares = 0;

    for (size_t i = 0; i < n; i++) {
        low = fmin(low, want[i]);
        high = fmax(high, want[i]);
        squares += ((double)want[i] - without[i]) * ((double)want[i] - without[i]);
    }
    assert_true(sqrt(squares / (double)n) / (high - low) > 10 * typical_difference);
}

static void check(upg_weights *weights, upg_arena *arena)
{
    upg_backend_options ref = { .emulate_int8 = true };
    upg_program        *program;
    float              *want, *without;

    OK(upg_program_build(weights, &program, &err));
    without = run(program, &upg_backend_ref, ref, MAX_BATCH);
    upg_program_close(program);
    OK(test_add_outliers(weights, 5, arena, &err));
    OK(upg_program_build(weights, &program, &err));
    want = run(program, &upg_backend_ref, ref, MAX_BATCH);
    expect_other(want, without, (size_t)N_TOKENS * weights->config.vocab);
    expect_close(program, want, 1, false);
    expect_close(program, want, 1, true);
    expect_close(program, want, 5, false);
    expect_close(program, want, MAX_BATCH, false);
    upg_program_close(program);
    upg_free(without);
    upg_free(want);
}

static void check_shape(const test_model_shape *shape, uint32_t rate2)
{
    char        *folder = make_folder();
    upg_arena    arena = { 0 };
    upg_weights *weights;

    OK(make_checkpoint(folder, shape, 7, &err));
    OK(upg_weights_open(folder, &weights, &err));
    OK(test_code_weights(weights, rate2, 11, &arena, &err));
    check(weights, &arena);
    upg_weights_close(weights);
    upg_arena_deinit(&arena);
    remove_folder(folder);
}

static void odd_shapes(void **state)
{
    test_model_shape shape = test_model_small();

    (void)state;
    if (no_gpu())
        skip();
    print_message("small\n");
    check_shape(&shape, 0);
    shape.hidden = 200;
    shape.n_heads = 6;
    shape.n_kv_heads = 3;
    shape.head_dim = 20;
    shape.ffn = 328;
    shape.vocab = 331;
    shape.partial_rotary = 0.5;
    print_message("awkward widths\n");
    check_shape(&shape, 7);
    shape.tied = true;
    print_message("tied\n");
    check_shape(&shape, 0);
}

static void micro(void **state)
{
    upg_arena    arena = { 0 };
    upg_weights *weights;

    (void)state;
    if (no_gpu())
        skip();
    print_message("micro\n");
    OK(upg_weights_open(UPG_TEST_DATA "/phi4-micro", &weights, &err));
    OK(test_code_weights(weights, 6, 5, &arena, &err));
    check(weights, &arena);
    upg_weights_close(weights);
    upg_arena_deinit(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(odd_shapes), cmocka_unit_test(micro) };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
