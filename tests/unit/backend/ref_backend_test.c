/* The reference backend's promises one by one: mathematics of coded matrices, independence of
 * batching, KV types, errors, no allocation while running. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/ref/ref.h"
#include "base/alloc.h"
#include "base/random.h"
#include "support/coded_model.h"
#include "support/kv_sequence.h"

enum { N_TOKENS = 70, MAX_ROWS = 80 };

typedef struct fixture {
    test_model   model;
    upg_backend *backend;
    upg_error    err;
    int32_t      tokens[N_TOKENS];
} fixture;

#define OK(f, expression)                                                                          \
    do {                                                                                           \
        if ((expression) != UPG_OK)                                                                \
            fail_msg("%s", (f)->err.message);                                                      \
    } while (0)

static uint32_t vocab(const fixture *f)
{
    return f->model.weights->config.vocab;
}

static void open_backend(fixture *f, bool emulate_int8)
{
    upg_backend_options options = { .max_rows = MAX_ROWS, .emulate_int8 = emulate_int8 };

    upg_backend_ref.close(f->backend);
    OK(f, upg_backend_ref.create(f->model.program, &options, &f->backend, &f->err));
}

static void setup_shape(fixture *f, const test_model_shape *shape, bool coded)
{
    memset(f, 0, sizeof *f);
    OK(f, test_model_make(shape, coded, 5, &f->model, &f->err));
    for (uint32_t i = 0; i < N_TOKENS; i++)
        f->tokens[i] = (int32_t)(upg_random_u64(1, i) % vocab(f));
    open_backend(f, false);
}

static void setup(fixture *f, bool coded)
{
    test_model_shape shape = test_model_small();

    setup_shape(f, &shape, coded);
}

static void teardown(fixture *f)
{
    upg_backend_ref.close(f->backend);
    test_model_close(&f->model);
}

/* Logits of all tokens in batches of max_rows; upg_free them. */
static float *run_all(fixture *f, upg_kv_type type, uint32_t max_rows)
{
    test_sequence sequence;
    float        *logits = upg_calloc(N_TOKENS, vocab(f) * sizeof *logits, &f->err);

    assert_non_null(logits);
    OK(f, test_sequence_init(&sequence, &f->model.weights->config, type, N_TOKENS, false, &f->err));
    OK(f, test_sequence_append(&sequence, &upg_backend_ref, f->backend, max_rows, f->tokens,
                               N_TOKENS, false, vocab(f), logits, &f->err));
    test_sequence_deinit(&sequence);
    return logits;
}

static double difference(const float *a, const float *b, size_t n)
{
    double low = a[0], high = a[0], worst = 0;

    for (size_t i = 0; i < n; i++) {
        low = fmin(low, (double)a[i]);
        high = fmax(high, (double)a[i]);
        worst = fmax(worst, fabs((double)a[i] - (double)b[i]));
        assert_true(isfinite(a[i]) && isfinite(b[i]));
    }
    return worst / (high - low);
}

/* W'·x' = W·x: decoding every matrix to the original basis changes nothing but rounding. */
static void coded_equals_decoded_shape(const test_model_shape *shape)
{
    fixture f;
    float  *coded, *dense;

    setup_shape(&f, shape, true);
    coded = run_all(&f, UPG_KV_F32, MAX_ROWS);
    OK(&f, test_model_decode(&f.model, &f.err));
    open_backend(&f, false);
    dense = run_all(&f, UPG_KV_F32, MAX_ROWS);
    assert_true(difference(coded, dense, (size_t)N_TOKENS * vocab(&f)) < 1e-5);
    upg_free(dense);
    upg_free(coded);
    teardown(&f);
}

static void coded_equals_decoded(void **state)
{
    test_model_shape shape = test_model_small();

    (void)state;
    coded_equals_decoded_shape(&shape);
    shape.tied = true;
    coded_equals_decoded_shape(&shape);
    shape.ffn = 56; /* two groups, the second not full; blocks of 8 */
    shape.n_kv_heads = 1;
    coded_equals_decoded_shape(&shape);
}

/* A row's result does not depend on the rows beside it. */
static void batches_do_not_matter(void **state)
{
    fixture f;
    float  *whole, *single, *thirteen;
    size_t  bytes;

    (void)state;
    setup(&f, true);
    bytes = (size_t)N_TOKENS * vocab(&f) * sizeof *whole;
    whole = run_all(&f, UPG_KV_F16, MAX_ROWS);
    single = run_all(&f, UPG_KV_F16, 1);
    thirteen = run_all(&f, UPG_KV_F16, 13);
    assert_memory_equal(whole, single, bytes);
    assert_memory_equal(whole, thirteen, bytes);
    upg_free(thirteen);
    upg_free(single);
    upg_free(whole);
    teardown(&f);
}

/* fp16 keeps 11 bits of each key and value, int8 about 7; attention averages over them. */
static void kv_types_are_close(void **state)
{
    fixture f;
    float  *f32, *f16, *i8;
    double  d16, d8;
    size_t  n;

    (void)state;
    setup(&f, false);
    n = (size_t)N_TOKENS * vocab(&f);
    f32 = run_all(&f, UPG_KV_F32, MAX_ROWS);
    f16 = run_all(&f, UPG_KV_F16, MAX_ROWS);
    i8 = run_all(&f, UPG_KV_I8, MAX_ROWS);
    d16 = difference(f32, f16, n);
    d8 = difference(f32, i8, n);
    print_message("KV in fp16: %.1e, int8: %.1e of the range\n", d16, d8);
    assert_true(d16 > 0 && d16 < 1e-3);
    assert_true(d8 > d16 && d8 < 1e-2);
    upg_free(i8);
    upg_free(f16);
    upg_free(f32);
    teardown(&f);
}

static void kv_store_loads_back(void **state)
{
    upg_model_config config = { .n_layers = 2, .n_kv_heads = 2, .head_dim = 8 };
    const float      x[8] = { 1, -2, 0.5f, 3, -4, 0, 0.25f, 127 };
    float            back[8];
    test_sequence    s;

    (void)state;
    for (upg_kv_type type = UPG_KV_F16; type <= UPG_KV_I8; type++) {
        assert_int_equal(test_sequence_init(&s, &config, type, 130, false, NULL), UPG_OK);
        assert_true(upg_ref_kv_store(&s.layout, &s.view, 1, 1, 1, 129, x));
        upg_ref_kv_load(&s.layout, &s.view, 1, 1, 1, 129, back);
        for (uint32_t d = 0; d < 8;
             d++) /* max 127: the int8 step is exactly 1, halves go to even */
            assert_true(back[d] == (type == UPG_KV_I8 ? rintf(x[d]) : x[d]));
        upg_ref_kv_load(&s.layout, &s.view, 1, 1, 0, 129, back);
        for (uint32_t d = 0; d < 8; d++) /* the key beside it is untouched */
            assert_true(back[d] == 0);
        test_sequence_deinit(&s);
    }
}

/* With one layer and a window of 5, position i hears of tokens i − 4 … i and no others. */
static void window_ends_where_it_should(void **state)
{
    enum { WINDOW = 5, CHANGED = 61 };
    test_model_shape shape = test_model_small();
    fixture          f;
    float           *before, *after;

    (void)state;
    shape.sliding_window = WINDOW;
    shape.n_layers = 1;
    setup_shape(&f, &shape, false);
    before = run_all(&f, UPG_KV_F32, 7);
    f.tokens[CHANGED] = (f.tokens[CHANGED] + 1) % (int32_t)vocab(&f);
    after = run_all(&f, UPG_KV_F32, 7);
    for (uint32_t i = 0; i < N_TOKENS; i++) {
        size_t at = (size_t)i * vocab(&f);
        int    same = memcmp(before + at, after + at, vocab(&f) * sizeof *before) == 0;

        assert_int_equal(same, i < CHANGED || i >= CHANGED + WINDOW);
    }
    upg_free(after);
    upg_free(before);
    teardown(&f);
}

static void long_rope_is_the_views_choice(void **state)
{
    test_model_shape shape = test_model_small();
    fixture          f;
    test_sequence    s;
    float           *logits[3];

    (void)state;
    shape.longrope = true;
    shape.original_context = 64;
    shape.partial_rotary = 0.5;
    setup_shape(&f, &shape, false);
    assert_non_null(f.model.weights->config.rope.long_inv_freq);
    for (uint32_t i = 0; i < 3; i++) {
        logits[i] = upg_malloc(vocab(&f), sizeof **logits, &f.err);
        OK(&f, test_sequence_init(&s, &f.model.weights->config, UPG_KV_F32, 20, i > 0, &f.err));
        OK(&f, test_sequence_append(&s, &upg_backend_ref, f.backend, MAX_ROWS, f.tokens, 20, true,
                                    vocab(&f), logits[i], &f.err));
        test_sequence_deinit(&s);
    }
    assert_memory_not_equal(logits[0], logits[1], vocab(&f) * sizeof **logits);
    assert_memory_equal(logits[1], logits[2], vocab(&f) * sizeof **logits);
    for (uint32_t i = 0; i < 3; i++)
        upg_free(logits[i]);
    teardown(&f);
}

static const upg_op *last_op(const fixture *f)
{
    return &f->model.program->ops[f->model.program->n_ops - 1];
}

/* The head's product from the int8 values that the backend keeps, with matrix rows as floats. */
static void int8_product_is_exact(void **state)
{
    fixture       f;
    float        *logits, *row, scale;
    const int8_t *q;
    uint32_t      hidden;

    (void)state;
    setup(&f, true);
    open_backend(&f, true);
    hidden = f.model.weights->config.hidden;
    logits = run_all(&f, UPG_KV_F32, 1);
    row = upg_malloc(hidden, sizeof *row, &f.err);
    assert_non_null(row);
    q = upg_ref_slot_row((upg_ref *)f.backend, last_op(&f)->in, 0);
    memcpy(&scale, q + (hidden + 31) / 32 * 32, sizeof scale);
    for (uint32_t r = 0; r < vocab(&f); r++) {
        double sum = 0, size = 0;

        upg_coded_row(f.model.weights->head.coded, r, row);
        for (uint32_t j = 0; j < hidden; j++) {
            sum += (double)row[j] * q[j] * (double)scale;
            size += fabs((double)row[j] * q[j] * (double)scale);
        }
        /* row[j] is rounded to fp32 twice, the logit once */
        assert_true(fabs(sum - (double)logits[(size_t)(N_TOKENS - 1) * vocab(&f) + r]) <=
                    0x1p-22 * size);
    }
    upg_free(row);
    upg_free(logits);
    teardown(&f);
}

/* int8 values are the rotated f32 ones, rounded to the nearest step, the largest one ±127. */
static void int8_input_is_rounded(void **state)
{
    enum { WIDTH = 64 };
    fixture       f;
    float         x[WIDTH], want[WIDTH], scale, max = 0;
    const int8_t *q;
    upg_ref      *ref;

    (void)state;
    setup(&f, true);
    open_backend(&f, true);
    ref = (upg_ref *)f.backend;
    assert_int_equal(f.model.weights->config.hidden, WIDTH);
    for (uint32_t j = 0; j < WIDTH; j++)
        x[j] = want[j] = (float)(upg_random_unit(3, j) - 0.5);
    upg_rotation_signs(&f.model.weights->head.coded->rotation, ref->signs);
    upg_rotation_apply(&f.model.weights->head.coded->rotation, ref->signs, want, 1);
    upg_ref_prepare(ref, last_op(&f)->in, 0, x);
    q = upg_ref_slot_row(ref, last_op(&f)->in, 0);
    memcpy(&scale, q + WIDTH, sizeof scale);
    for (uint32_t j = 0; j < WIDTH; j++) {
        assert_true(fabsf(scale * (float)q[j] - want[j]) <= 0.5001f * scale);
        max = fmaxf(max, fabsf((float)q[j]));
    }
    assert_true(max == 127);
    memset(x, 0, sizeof x);
    upg_ref_prepare(ref, last_op(&f)->in, 0, x);
    memcpy(&scale, q + WIDTH, sizeof scale);
    assert_true(scale == 0 && q[0] == 0 && q[WIDTH - 1] == 0);
    teardown(&f);
}

static upg_status run_some(fixture *f, upg_kv_type type, const atomic_bool *cancel)
{
    test_sequence sequence;
    upg_batch_row rows[2];
    upg_batch     batch = { 2, rows, &sequence.layout, cancel };
    float        *logits = upg_malloc(vocab(f), sizeof *logits, &f->err);
    upg_status    st;

    assert_non_null(logits);
    OK(f, test_sequence_init(&sequence, &f->model.weights->config, type, 2, false, &f->err));
    rows[0] = (upg_batch_row) { f->tokens[0], 0, &sequence.view, NULL };
    rows[1] = (upg_batch_row) { f->tokens[1], 1, &sequence.view, logits };
    st = upg_backend_ref.run(f->backend, &batch, &f->err);
    test_sequence_deinit(&sequence);
    upg_free(logits);
    return st;
}

static void cancels(void **state)
{
    fixture     f;
    atomic_bool cancel = true;

    (void)state;
    setup(&f, false);
    assert_int_equal(run_some(&f, UPG_KV_F32, &cancel), UPG_E_CANCELLED);
    cancel = false;
    assert_int_equal(run_some(&f, UPG_KV_F32, &cancel), UPG_OK);
    teardown(&f);
}

/* A NaN in a matrix is found by the op that reads it, and named. */
static void names_bad_values(void **state)
{
    fixture     f;
    upg_matrix *down;
    float      *values;

    (void)state;
    setup(&f, true);
    OK(&f, test_model_decode(&f.model, &f.err));
    open_backend(&f, false);
    down = &f.model.weights->layers[1].down;
    values = (float *)(uintptr_t)down->dense; /* test_model_decode made it: writable */
    values[3 * down->n_cols + 2] = NAN;
    assert_int_equal(run_some(&f, UPG_KV_F32, NULL), UPG_E_DATA);
    assert_non_null(strstr(f.err.message, "GEMV_ADD in layer 1"));
    assert_non_null(strstr(f.err.message, "element 3 "));
    values[3 * down->n_cols + 2] = INFINITY;
    assert_int_equal(run_some(&f, UPG_KV_F32, NULL), UPG_E_DATA);
    teardown(&f);
}

/* Values of 1e5 are beyond fp16, not beyond f32 and int8 with a scale. */
static void fp16_pages_refuse_large_values(void **state)
{
    fixture     f;
    upg_matrix *v;
    float      *values;

    (void)state;
    setup(&f, true);
    OK(&f, test_model_decode(&f.model, &f.err));
    open_backend(&f, false);
    v = &f.model.weights->layers[0].v;
    values = (float *)(uintptr_t)v->dense; /* as above */
    for (uint32_t j = 0; j < v->n_cols; j++)
        values[j] *= 1e6f;
    assert_int_equal(run_some(&f, UPG_KV_F16, NULL), UPG_E_DATA);
    assert_non_null(strstr(f.err.message, "QKV_ROPE in layer 0"));
    assert_int_equal(run_some(&f, UPG_KV_F32, NULL), UPG_OK);
    assert_int_equal(run_some(&f, UPG_KV_I8, NULL), UPG_OK);
    teardown(&f);
}

static void refuses_bad_batches(void **state)
{
    fixture       f;
    test_sequence s;
    upg_batch_row rows[2];
    upg_batch     batch = { 2, rows, &s.layout, NULL };

    (void)state;
    setup(&f, false);
    OK(&f, test_sequence_init(&s, &f.model.weights->config, UPG_KV_F32, 64, false, &f.err));
    rows[0] = (upg_batch_row) { 1, 0, &s.view, NULL };
    rows[1] = (upg_batch_row) { 1, 1, &s.view, NULL };
    OK(&f, upg_backend_ref.run(f.backend, &batch, &f.err));
    rows[1].position = 2;
    assert_int_equal(upg_backend_ref.run(f.backend, &batch, &f.err), UPG_E_ARG);
    rows[0].position = 63;
    rows[1].position = 64; /* past the only page */
    assert_int_equal(upg_backend_ref.run(f.backend, &batch, &f.err), UPG_E_ARG);
    rows[0].position = 0;
    rows[1] = (upg_batch_row) { (int32_t)vocab(&f), 1, &s.view, NULL };
    assert_int_equal(upg_backend_ref.run(f.backend, &batch, &f.err), UPG_E_ARG);
    rows[1].token = -1;
    assert_int_equal(upg_backend_ref.run(f.backend, &batch, &f.err), UPG_E_ARG);
    rows[1].token = 1;
    batch.n_rows = MAX_ROWS + 1;
    assert_int_equal(upg_backend_ref.run(f.backend, &batch, &f.err), UPG_E_ARG);
    batch.n_rows = 2;
    s.layout.n_layers++;
    assert_int_equal(upg_backend_ref.run(f.backend, &batch, &f.err), UPG_E_ARG);
    s.layout.n_layers--;
    OK(&f, upg_backend_ref.run(f.backend, &batch, &f.err));
    test_sequence_deinit(&s);
    teardown(&f);
}

static void refuses_bad_options(void **state)
{
    upg_backend_options options = { .max_rows = 0 };
    fixture             f;
    upg_backend        *backend = (upg_backend *)&f;
    upg_op              op = { .code = UPG_OP_COUNT };
    upg_program         program;

    (void)state;
    setup(&f, false);
    assert_int_equal(upg_backend_ref.create(f.model.program, &options, &backend, &f.err),
                     UPG_E_ARG);
    assert_null(backend);
    options.max_rows = 1;
    program = *f.model.program;
    program.ops = &op;
    program.n_ops = 1;
    assert_int_equal(upg_backend_ref.create(&program, &options, &backend, &f.err),
                     UPG_E_UNSUPPORTED);
    assert_null(backend);
    teardown(&f);
}

/* create under failing allocations: E_NOMEM each time until it succeeds; run allocates nothing. */
static void allocates_only_in_create(void **state)
{
    upg_backend_options options = { .max_rows = 3 };
    fixture             f;
    upg_backend        *backend;
    upg_status          st = UPG_E_NOMEM;
    uint64_t            n = 0, count;

    (void)state;
    setup(&f, true);
    for (; st != UPG_OK && n < 100; n++) {
        upg_alloc_fail_after(n);
        st = upg_backend_ref.create(f.model.program, &options, &backend, &f.err);
        assert_true(st == UPG_OK ? backend != NULL : st == UPG_E_NOMEM && backend == NULL);
    }
    upg_alloc_fail_after(UINT64_MAX);
    assert_int_equal(st, UPG_OK);
    assert_true(n > 10);
    assert_true(upg_backend_ref.memory(backend) > f.model.program->arena_bytes * 3);
    assert_non_null(strstr(upg_backend_ref.describe(backend), "ref"));
    upg_backend_ref.close(f.backend);
    f.backend = backend;
    OK(&f, run_some(&f, UPG_KV_F16, NULL));
    {
        test_sequence s;
        upg_batch_row row = { 1, 0, &s.view, NULL };
        upg_batch     batch = { 1, &row, &s.layout, NULL };

        OK(&f, test_sequence_init(&s, &f.model.weights->config, UPG_KV_F16, 1, false, &f.err));
        count = upg_alloc_count();
        OK(&f, upg_backend_ref.run(f.backend, &batch, &f.err));
        assert_int_equal(upg_alloc_count(), count);
        test_sequence_deinit(&s);
    }
    teardown(&f);
    upg_backend_ref.close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(coded_equals_decoded),
        cmocka_unit_test(batches_do_not_matter),
        cmocka_unit_test(kv_types_are_close),
        cmocka_unit_test(kv_store_loads_back),
        cmocka_unit_test(int8_product_is_exact),
        cmocka_unit_test(int8_input_is_rounded),
        cmocka_unit_test(cancels),
        cmocka_unit_test(names_bad_values),
        cmocka_unit_test(refuses_bad_batches),
        cmocka_unit_test(refuses_bad_options),
        cmocka_unit_test(allocates_only_in_create),
        cmocka_unit_test(window_ends_where_it_should),
        cmocka_unit_test(long_rope_is_the_views_choice),
        cmocka_unit_test(fp16_pages_refuse_large_values),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
