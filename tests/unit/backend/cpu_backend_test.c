/* The cpu backend against ref and against itself: whatever the shape, the weights' form, the KV
 * type, the number of threads and the cut into batches. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/cpu.h"
#include "base/random.h"
#include "kernels/kernels.h"
#include "support/coded_weights.h"
#include "support/kv_sequence.h"
#include "support/make_checkpoint.h"
#include "support/temp_folder.h"

enum { N_TOKENS = 150, DENSE = 1 };

typedef struct model {
    char        *folder;
    upg_weights *weights;
    upg_program *program;
    upg_arena    arena;
    upg_error    err;
    int32_t      tokens[N_TOKENS];
} model;

/* How a model is run. */
typedef struct way {
    const upg_backend_class *class_;
    upg_backend_options      options;
    upg_kv_type              kv;
    uint32_t                 batch; /* rows at once; options.max_rows = batch when 0 there */
    bool                     fast;
} way;

#define OK(m, expression)                                                                          \
    do {                                                                                           \
        if ((expression) != UPG_OK)                                                                \
            fail_msg("%s", (m)->err.message);                                                      \
    } while (0)

/* length: of codes; 0 = lengths in turn, DENSE = no codes */
static void open_model_at(model *m, const test_model_shape *shape, uint32_t length)
{
    memset(m, 0, sizeof *m);
    m->folder = make_folder();
    OK(m, make_checkpoint(m->folder, shape, 7, &m->err));
    OK(m, upg_weights_open(m->folder, &m->weights, &m->err));
    if (length != DENSE)
        OK(m, test_code_weights_at(m->weights, 0, length, 11, &m->arena, &m->err));
    OK(m, upg_program_build(m->weights, &m->program, &m->err));
    for (uint32_t i = 0; i < N_TOKENS; i++)
        m->tokens[i] = (int32_t)(upg_random_u64(3, i) % shape->vocab);
}

static void open_model(model *m, const test_model_shape *shape, bool coded)
{
    open_model_at(m, shape, coded ? UPG_CODE_DEFAULT_LENGTH : DENSE);
}

static void close_model(model *m)
{
    upg_program_close(m->program);
    upg_weights_close(m->weights);
    upg_arena_deinit(&m->arena);
    remove_folder(m->folder);
}

/* Replaces every coded matrix by the f32 values that it stands for. */
static void make_dense(model *m)
{
    for (uint32_t i = 0; i < upg_weights_matrix_count(m->weights); i++) {
        /* the walk is over constant matrices; these are the test's own */
        upg_matrix *w = (upg_matrix *)(uintptr_t)upg_weights_matrix(m->weights, i);
        float      *values =
            upg_arena_alloc(&m->arena, (size_t)w->n_rows * w->n_cols, sizeof *values, &m->err);

        assert_non_null(values);
        for (uint32_t r = 0; r < w->n_rows; r++)
            upg_matrix_row(w, r, values + (size_t)r * w->n_cols);
        w->kind = UPG_MATRIX_DENSE;
        w->dtype = UPG_F32;
        w->dense = values;
    }
    if (m->weights->config.tied_embeddings)
        m->weights->head = m->weights->embed;
    upg_program_close(m->program);
    OK(m, upg_program_build(m->weights, &m->program, &m->err));
}

/* Logits of all tokens, f32 [N_TOKENS][vocab]; the caller frees. */
static float *run_model(model *m, way w)
{
    uint32_t      vocab = m->weights->config.vocab;
    float        *logits = upg_malloc((size_t)N_TOKENS * vocab, sizeof *logits, &m->err);
    upg_backend  *backend;
    test_sequence sequence;

    assert_non_null(logits);
    if (w.options.max_rows == 0)
        w.options.max_rows = w.batch;
    OK(m, w.class_->create(m->program, &w.options, &backend, &m->err));
    OK(m, test_sequence_init(&sequence, &m->weights->config, w.kv, N_TOKENS, false, &m->err));
    sequence.fast = w.fast;
    OK(m, test_sequence_append(&sequence, w.class_, backend, w.batch, m->tokens, N_TOKENS, false,
                               vocab, logits, &m->err));
    test_sequence_deinit(&sequence);
    w.class_->close(backend);
    return logits;
}

/* Largest difference in units of the range of `want`. */
static double difference(const model *m, const float *got, const float *want)
{
    double low = want[0], high = want[0], worst = 0;

    for (size_t i = 0; i < (size_t)N_TOKENS * m->weights->config.vocab; i++) {
        double d = fabs((double)got[i] - want[i]);

        low = fmin(low, want[i]);
        high = fmax(high, want[i]);
        worst = d <= worst ? worst : d; /* NaN counts */
    }
    return worst / (high - low);
}

static void expect_equal(model *m, const float *want, way w, const char *what)
{
    float *got = run_model(m, w);

    if (memcmp(got, want, (size_t)N_TOKENS * m->weights->config.vocab * sizeof *got) != 0)
        fail_msg("%s: differs by %g of the range", what, difference(m, got, want));
    upg_free(got);
}

static void expect_close(model *m, const float *want, way w, double tolerance, const char *what)
{
    float *got = run_model(m, w);
    double d = difference(m, got, want);

    print_message("%s: %.2g of the range\n", what, d);
    if (!(d <= tolerance))
        fail_msg("%s: differs by %g of the range", what, d);
    upg_free(got);
}

/* Every cut into batches and every number of threads gives the bits of one row at a time. */
static void check_cuts(model *m, upg_kv_type kv)
{
    const upg_backend_class *cpu = &upg_backend_cpu;
    upg_backend_options      one = { .threads = 1 };
    float                   *single = run_model(m, (way) { cpu, one, kv, 1 });

    expect_equal(m, single, (way) { cpu, { .threads = 3 }, kv, 1 }, "3 threads");
    expect_equal(m, single, (way) { cpu, one, kv, 7 }, "batches of 7");
    expect_equal(m, single, (way) { cpu, { .threads = 2 }, kv, 64 }, "batches of 64, 2 threads");
    expect_equal(m, single, (way) { cpu, { .threads = 2 }, kv, N_TOKENS }, "one batch");
    expect_equal(m, single,
                 (way) { cpu, { .threads = 2, .decode_kernels_only = true }, kv, N_TOKENS },
                 "one batch, stored bits only");
    upg_free(single);
}

/* Rounding of fp32 sums: a few hundred terms of relative error 2^-24, through a few layers. */
static const double dense_tolerance = 2e-5;
/* A sum that rounds the other way can turn an int8 code of an input by one, 1/127 of its largest
 * value at one of the inputs: this model's logits move by about 1e-3 of their range for each. */
static const double coded_tolerance = 1e-2;

static void check_shape(const test_model_shape *shape)
{
    const upg_backend_class *ref = &upg_backend_ref, *cpu = &upg_backend_cpu;
    model                    m;

    for (int coded = 0; coded < 2; coded++) {
        upg_backend_options int8 = { .emulate_int8 = true };
        double              tolerance = coded ? coded_tolerance : dense_tolerance;

        open_model(&m, shape, coded);
        for (upg_kv_type kv = UPG_KV_F16; kv <= UPG_KV_I8; kv++) {
            float *want = run_model(&m, (way) { ref, int8, kv, 64 });

            print_message("%s weights, KV type %d\n", coded ? "coded" : "dense", kv);
            expect_close(&m, want, (way) { cpu, { .threads = 2 }, kv, 1 },
                         kv == UPG_KV_F32 ? tolerance : coded_tolerance, "cpu against ref");
            check_cuts(&m, kv);
            upg_free(want);
        }
        close_model(&m);
    }
}

static void usual_shape(void **state)
{
    test_model_shape shape = test_model_small();

    (void)state;
    shape.context = 256;
    check_shape(&shape);
}

/* Widths that are multiples of nothing, rotations of block 2 and 1, heads of 10. */
static void awkward_widths(void **state)
{
    test_model_shape shape = test_model_small();

    (void)state;
    shape.hidden = 70;
    shape.n_heads = 7;
    shape.n_kv_heads = 1;
    shape.ffn = 99;
    shape.vocab = 333;
    shape.context = 256;
    check_shape(&shape);
}

/* Constraint lengths 14 and 16, alone and mixed with 12, at widths that are multiples of nothing.
 */
static void long_codes(void **state)
{
    static const uint32_t lengths[] = { 14, 16, 0 };
    test_model_shape      shape = test_model_small();

    (void)state;
    shape.hidden = 70;
    shape.n_heads = 7;
    shape.n_kv_heads = 1;
    shape.ffn = 99;
    shape.vocab = 333;
    shape.context = 256;
    for (int i = 0; i < 3; i++) {
        upg_backend_options int8 = { .emulate_int8 = true };
        model               m;
        float              *want;

        open_model_at(&m, &shape, lengths[i]);
        want = run_model(&m, (way) { &upg_backend_ref, int8, UPG_KV_F16, 64 });
        print_message("codes of length %u\n", lengths[i]);
        expect_close(&m, want, (way) { &upg_backend_cpu, { .threads = 2 }, UPG_KV_F16, 1 },
                     coded_tolerance, "cpu against ref");
        check_cuts(&m, UPG_KV_F16);
        upg_free(want);
        close_model(&m);
    }
}

static void sliding_window(void **state)
{
    test_model_shape shape = test_model_small();

    (void)state;
    shape.context = 256;
    shape.sliding_window = 37;
    shape.tied = true;
    check_shape(&shape);
}

/* Outliers of both kinds in most matrices: cpu as ref, in decode and by tiles, whatever the cut;
 * and what they add is what the same numbers add as dense weights. */
static void outliers(void **state)
{
    test_model_shape         shape = test_model_small();
    const upg_backend_class *ref = &upg_backend_ref, *cpu = &upg_backend_cpu;
    upg_backend_options      exact = { 0 }, int8 = { .emulate_int8 = true };

    (void)state;
    shape.context = 256;
    for (int tied = 0; tied < 2; tied++) {
        model  m;
        float *without, *want, *plain;

        shape.tied = tied;
        open_model(&m, &shape, true);
        without = run_model(&m, (way) { ref, exact, UPG_KV_F32, 64 });
        OK(&m, test_add_outliers(m.weights, 5, &m.arena, &m.err));
        upg_program_close(m.program);
        OK(&m, upg_program_build(m.weights, &m.program, &m.err));
        want = run_model(&m, (way) { ref, int8, UPG_KV_F32, 64 });
        assert_true(difference(&m, without, want) > 0.05); /* they matter */
        expect_close(&m, want, (way) { cpu, { .threads = 2 }, UPG_KV_F32, 1 }, coded_tolerance,
                     "outliers, cpu against ref");
        check_cuts(&m, UPG_KV_F16);
        plain = run_model(&m, (way) { ref, exact, UPG_KV_F32, 64 });
        make_dense(&m);
        expect_close(&m, plain, (way) { cpu, { .threads = 2 }, UPG_KV_F32, 64 }, dense_tolerance,
                     "outliers against dense weights");
        upg_free(without);
        upg_free(want);
        upg_free(plain);
        close_model(&m);
    }
}

/* Rows of several sequences in one batch give what each gives alone. */
static void mixed_sequences(void **state)
{
    test_model_shape    shape = test_model_small();
    upg_backend_options options = { .threads = 2, .max_rows = 12 };
    test_sequence       sequence[3];
    upg_batch_row       rows[12];
    upg_backend        *backend;
    model               m;
    float              *alone, *mixed;
    size_t              row_bytes;

    (void)state;
    open_model(&m, &shape, true);
    row_bytes = m.weights->config.vocab * sizeof *alone;
    alone = run_model(&m, (way) { &upg_backend_cpu, { .threads = 1 }, UPG_KV_F16, 1 });
    mixed = upg_malloc(12, row_bytes, NULL);
    assert_non_null(mixed);
    OK(&m, upg_backend_cpu.create(m.program, &options, &backend, &m.err));
    for (uint32_t s = 0, n = 0; s < 3; s++) {
        OK(&m, test_sequence_init(&sequence[s], &m.weights->config, UPG_KV_F16, 64, false, &m.err));
        for (uint32_t i = 0; i < 3 + s; i++, n++)
            rows[n] = (upg_batch_row) { m.tokens[i], i, &sequence[s].view,
                                        mixed + n * m.weights->config.vocab };
    }
    rows[1].logits = rows[6].logits = NULL; /* not every row wants them */
    OK(&m,
       upg_backend_cpu.run(backend, &(upg_batch) { 12, rows, &sequence[0].layout, NULL }, &m.err));
    for (uint32_t n = 0; n < 12; n++)
        if (rows[n].logits)
            assert_memory_equal(rows[n].logits, alone + rows[n].position * m.weights->config.vocab,
                                row_bytes);
    for (uint32_t s = 0; s < 3; s++)
        test_sequence_deinit(&sequence[s]);
    upg_backend_cpu.close(backend);
    upg_free(alone);
    upg_free(mixed);
    close_model(&m);
}

/* Fast batches are an arithmetic of their own, near the exact one, and a row's result depends
 * neither on the cut into batches nor on threads. Weights err by .8 % of their size at 3 bits, the
 * model multiplies eight times in a row, and the worst of all logits is looked at. */
static void check_fast(uint32_t length)
{
    test_model_shape shape = test_model_small();
    upg_kernels      kernels;
    float           *exact, *fast;
    model            m;

    upg_kernels_select(upg_cpu_flags(), &kernels);
    open_model_at(&m, &shape, length);
    exact = run_model(&m, (way) { &upg_backend_cpu, { .threads = 1 }, UPG_KV_F16, 50 });
    fast = run_model(&m, (way) { &upg_backend_cpu, { .threads = 1 }, UPG_KV_F16, 150, true });
    printf("fast against exact: %.1e of the range\n", difference(&m, fast, exact));
    assert_true((difference(&m, fast, exact) != 0) == kernels.fast_i8);
    assert_true(difference(&m, fast, exact) < 0.05);
    expect_equal(&m, fast, (way) { &upg_backend_cpu, { .threads = 2 }, UPG_KV_F16, 1, true },
                 "fast, single rows");
    expect_equal(&m, fast, (way) { &upg_backend_cpu, { .threads = 3 }, UPG_KV_F16, 7, true },
                 "fast, batches of 7");
    expect_equal(&m, fast, (way) { &upg_backend_cpu, { .threads = 2 }, UPG_KV_F16, 64, true },
                 "fast, batches of 64");
    upg_free(exact);
    upg_free(fast);
    close_model(&m);
}

static void fast_batches(void **state)
{
    (void)state;
    check_fast(UPG_CODE_DEFAULT_LENGTH);
    check_fast(14);
    check_fast(16);
}

static void runs_without_allocating(void **state)
{
    test_model_shape    shape = test_model_small();
    upg_backend_options options = { .threads = 2, .max_rows = 32 };
    upg_backend        *backend;
    test_sequence       sequence;
    model               m;
    float              *logits;
    uint64_t            before;

    (void)state;
    shape.context = 256;
    open_model(&m, &shape, true);
    logits = upg_malloc(N_TOKENS, m.weights->config.vocab * sizeof *logits, NULL);
    assert_non_null(logits);
    OK(&m, upg_backend_cpu.create(m.program, &options, &backend, &m.err));
    assert_true(upg_backend_cpu.memory(backend) > 32 * 64 * sizeof(float));
    OK(&m, test_sequence_init(&sequence, &m.weights->config, UPG_KV_F16, N_TOKENS, false, &m.err));
    before = upg_alloc_count();
    OK(&m, test_sequence_append(&sequence, &upg_backend_cpu, backend, 32, m.tokens, 128, false,
                                m.weights->config.vocab, logits, &m.err));
    OK(&m, test_sequence_append(&sequence, &upg_backend_cpu, backend, 1, m.tokens + 128, 22, false,
                                m.weights->config.vocab, logits, &m.err));
    assert_int_equal(upg_alloc_count(), before);
    test_sequence_deinit(&sequence);
    upg_backend_cpu.close(backend);
    upg_free(logits);
    close_model(&m);
}

/* The first failing allocation, then the second, …: E_NOMEM each time, nothing leaked. */
static void create_survives_every_failure(void **state)
{
    test_model_shape    shape = test_model_small();
    upg_backend_options options = { .threads = 2, .max_rows = 4 };
    upg_backend        *backend;
    upg_status          st = UPG_E_NOMEM;
    uint64_t            n = 0;
    model               m;

    (void)state;
    open_model(&m, &shape, true);
    for (; st != UPG_OK; n++) {
        upg_alloc_fail_after(n);
        st = upg_backend_cpu.create(m.program, &options, &backend, &m.err);
        upg_alloc_fail_after(UINT64_MAX);
        if (st != UPG_OK) {
            assert_int_equal(st, UPG_E_NOMEM);
            assert_null(backend);
        }
    }
    assert_true(n > 20);
    upg_backend_cpu.close(backend);
    close_model(&m);
}

static void bad_values_and_cancelling(void **state)
{
    test_model_shape    shape = test_model_small();
    upg_backend_options options = { .threads = 2, .max_rows = 4 };
    upg_backend        *backend;
    test_sequence       sequence;
    atomic_bool         cancel = true;
    model               m;

    (void)state;
    for (int coded = 0; coded < 2; coded++) {
        upg_batch_row row;
        upg_batch     batch;

        open_model(&m, &shape, coded);
        ((float *)(uintptr_t)m.weights->layers[1].ffn_norm.values)[5] = NAN;
        OK(&m, upg_backend_cpu.create(m.program, &options, &backend, &m.err));
        OK(&m, test_sequence_init(&sequence, &m.weights->config, UPG_KV_F16, 64, false, &m.err));
        row = (upg_batch_row) { m.tokens[0], 0, &sequence.view, NULL };
        batch = (upg_batch) { 1, &row, &sequence.layout, &cancel };
        assert_int_equal(upg_backend_cpu.run(backend, &batch, &m.err), UPG_E_CANCELLED);
        batch.cancel = NULL;
        assert_int_equal(upg_backend_cpu.run(backend, &batch, &m.err), UPG_E_DATA);
        assert_non_null(strstr(m.err.message, coded ? "layer 1" : "layer 2"));
        test_sequence_deinit(&sequence);
        upg_backend_cpu.close(backend);
        close_model(&m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(usual_shape),
        cmocka_unit_test(awkward_widths),
        cmocka_unit_test(long_codes),
        cmocka_unit_test(sliding_window),
        cmocka_unit_test(outliers),
        cmocka_unit_test(mixed_sequences),
        cmocka_unit_test(fast_batches),
        cmocka_unit_test(runs_without_allocating),
        cmocka_unit_test(create_survives_every_failure),
        cmocka_unit_test(bad_values_and_cancelling),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
