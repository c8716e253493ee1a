/* Unfused programs give the bits of fused ones, on ref and on cpu, whatever the weights' form, the
 * KV type, the cut into batches and the number of threads; so each checks the other's fusing. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/random.h"
#include "support/coded_model.h"
#include "support/coded_weights.h"
#include "support/kv_sequence.h"

enum { N_TOKENS = 90 };

typedef struct models {
    test_model   fused;
    upg_program *plain;
    upg_arena    arena;
    int32_t      tokens[N_TOKENS];
    upg_error    err;
} models;

typedef struct way {
    const upg_backend_class *class_;
    upg_backend_options      options;
    upg_kv_type              kv;
    uint32_t                 batch;
    bool                     fast;
} way;

#define OK(m, expression)                                                                          \
    do {                                                                                           \
        if ((expression) != UPG_OK)                                                                \
            fail_msg("%s", (m)->err.message);                                                      \
    } while (0)

static void make(models *m, const test_model_shape *shape, bool coded, bool with_outliers)
{
    memset(m, 0, sizeof *m);
    OK(m, test_model_make(shape, coded, 5, &m->fused, &m->err));
    if (with_outliers) {
        OK(m, test_add_outliers(m->fused.weights, 5, &m->arena, &m->err));
        OK(m, test_model_rebuild(&m->fused, &m->err));
    }
    OK(m, upg_program_build_as(UPG_PROGRAM_UNFUSED, m->fused.weights, &m->plain, &m->err));
    for (uint32_t i = 0; i < N_TOKENS; i++)
        m->tokens[i] = (int32_t)(upg_random_u64(3, i) % shape->vocab);
}

static void unmake(models *m)
{
    upg_program_close(m->plain);
    test_model_close(&m->fused);
    upg_arena_deinit(&m->arena);
}

/* Logits of all tokens, f32 [N_TOKENS][vocab]; the caller frees. */
static float *run(models *m, const upg_program *program, way w)
{
    const upg_model_config *config = &program->weights->config;
    float                  *logits = upg_malloc((size_t)N_TOKENS * config->vocab, 4, &m->err);
    upg_backend            *backend;
    test_sequence           sequence;

    assert_non_null(logits);
    w.options.max_rows = w.batch;
    OK(m, w.class_->create(program, &w.options, &backend, &m->err));
    OK(m, test_sequence_init(&sequence, config, w.kv, N_TOKENS, false, &m->err));
    sequence.fast = w.fast;
    OK(m, test_sequence_append(&sequence, w.class_, backend, w.batch, m->tokens, N_TOKENS, false,
                               config->vocab, logits, &m->err));
    test_sequence_deinit(&sequence);
    w.class_->close(backend);
    return logits;
}

/* Largest difference in units of the range of `want`. */
static double difference(const float *got, const float *want, size_t n)
{
    double low = want[0], high = want[0], worst = 0;

    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - want[i]);

        low = fmin(low, want[i]);
        high = fmax(high, want[i]);
        worst = d <= worst ? worst : d; /* NaN counts */
    }
    return worst / (high - low);
}

static void expect_same(models *m, way w, const char *what)
{
    size_t n = (size_t)N_TOKENS * m->plain->weights->config.vocab;
    float *fused = run(m, m->fused.program, w), *plain = run(m, m->plain, w);

    assert_true(isfinite(fused[0]) && fused[0] != fused[1]);
    if (memcmp(fused, plain, n * sizeof *fused) != 0)
        fail_msg("%s: differs by %g of the range", what, difference(plain, fused, n));
    upg_free(fused);
    upg_free(plain);
}

static void check_all(models *m)
{
    const upg_backend_class *ref = &upg_backend_ref, *cpu = &upg_backend_cpu;

    expect_same(m, (way) { ref, { 0 }, UPG_KV_F32, 32 }, "ref");
    expect_same(m, (way) { ref, { .emulate_int8 = true }, UPG_KV_I8, 7 }, "ref, int8");
    expect_same(m, (way) { cpu, { .threads = 1 }, UPG_KV_F16, 1 }, "cpu");
    expect_same(m, (way) { cpu, { .threads = 2 }, UPG_KV_I8, 7 }, "cpu, batches of 7");
    expect_same(m, (way) { cpu, { .threads = 3 }, UPG_KV_F16, 64 }, "cpu, batches of 64");
    expect_same(m, (way) { cpu, { .threads = 2 }, UPG_KV_F16, 64, true }, "cpu, fast");
    expect_same(m, (way) { cpu, { .threads = 2, .lut8 = true }, UPG_KV_F16, 1 }, "cpu, lut8");
}

static void usual_shape(void **state)
{
    test_model_shape shape = test_model_small();
    models           m;

    (void)state;
    for (int form = 0; form < 3; form++) {
        make(&m, &shape, form > 0, form == 2);
        check_all(&m);
        unmake(&m);
    }
}

static void awkward_widths(void **state)
{
    test_model_shape shape = test_model_small();
    models           m;

    (void)state;
    shape.hidden = 70;
    shape.n_heads = 7;
    shape.n_kv_heads = 1;
    shape.ffn = 99;
    shape.vocab = 333;
    shape.tied = true;
    make(&m, &shape, true, false);
    check_all(&m);
    unmake(&m);
}

/* As cpu_backend_test bounds the fused form: the worst logit of a code that rounds the other way.
 */
static void plain_cpu_agrees_with_plain_ref(void **state)
{
    test_model_shape shape = test_model_small();
    models           m;
    float           *want, *got;

    (void)state;
    make(&m, &shape, false, false);
    want = run(&m, m.plain, (way) { &upg_backend_ref, { .emulate_int8 = true }, UPG_KV_F32, 32 });
    got = run(&m, m.plain, (way) { &upg_backend_cpu, { .threads = 2 }, UPG_KV_F32, 1 });
    print_message("%.2g of the range\n", difference(got, want, (size_t)N_TOKENS * shape.vocab));
    assert_true(difference(got, want, (size_t)N_TOKENS * shape.vocab) <= 2e-5);
    upg_free(want);
    upg_free(got);
    unmake(&m);
}

/* NaN in a plain op is found and named, by both. */
static void bad_values(void **state)
{
    const upg_backend_class *classes[] = { &upg_backend_ref, &upg_backend_cpu };
    test_model_shape         shape = test_model_small();
    models                   m;

    (void)state;
    make(&m, &shape, true, false);
    ((float *)(uintptr_t)m.fused.weights->layers[1].ffn_norm.values)[5] = NAN;
    for (int i = 0; i < 2; i++) {
        upg_backend_options options = { .threads = 2, .max_rows = 1 };
        upg_backend        *backend;
        test_sequence       sequence;
        upg_batch_row       row = { m.tokens[0], 0, &sequence.view, NULL };

        OK(&m, classes[i]->create(m.plain, &options, &backend, &m.err));
        OK(&m,
           test_sequence_init(&sequence, &m.plain->weights->config, UPG_KV_F16, 64, false, &m.err));
        assert_int_equal(
            classes[i]->run(backend, &(upg_batch) { 1, &row, &sequence.layout, NULL }, &m.err),
            UPG_E_DATA);
        assert_non_null(strstr(m.err.message, i == 0 ? "NORM in layer 1" : "PREPARE of layer 1"));
        test_sequence_deinit(&sequence);
        classes[i]->close(backend);
    }
    unmake(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(usual_shape),
        cmocka_unit_test(awkward_widths),
        cmocka_unit_test(plain_cpu_agrees_with_plain_ref),
        cmocka_unit_test(bad_values),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
