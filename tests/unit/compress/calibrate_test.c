/* Calibrated encoding of phi4-micro: what each step is worth, order, threads, failures. */
#include "micro_model.h"

#include <stdatomic.h>

#include "support/make_checkpoint.h"
#include "support/temp_folder.h"

static void each_step_is_worth_it(void **state)
{
    micro_model m;
    upg_plan    plan;
    double      nearest, independent, sequential, relative[2];

    (void)state;
    micro_open(&m, 512, 24);
    plan = micro_plan(&m, 6);
    for (uint32_t u = 0, n; u < plan.n_units; u += n) {
        upg_encoded_matrix encoded;

        n = upg_plan_units_of(&plan, u);
        OK(upg_encode_matrix(&m.env.context, &plan.units[u], n, NULL, &encoded, &err));
        OK(keep_decoded(&m, &plan.units[u], n, &encoded, &err));
        upg_encoded_deinit(&encoded);
    }
    relative[0] = m.error2 / m.energy2;
    nearest = micro_divergence(&m, 30);
    micro_encode(&m, &plan, false);
    relative[1] = m.error2 / m.energy2;
    independent = micro_divergence(&m, 30);
    micro_encode(&m, &plan, true);
    sequential = micro_divergence(&m, 30);
    print_message("KL at 3 bits: nearest %.4f, independent %.4f, sequential %.4f\n", nearest,
                  independent, sequential);
    /* feedback pays although (and because) it gives up plain squared error */
    assert_true(relative[1] > relative[0]);
    assert_true(independent < .8 * nearest);
    assert_true(sequential < .98 * independent);
    micro_close(&m);
}

/* Keeps the order of names, and a hash of all bytes. */
typedef struct record {
    uint32_t n;
    char     names[64][64];
    uint64_t hash;
    uint32_t fail_at; /* the put that fails; 0 = none */
} record;

static void add_hash(uint64_t *hash, const void *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        *hash = (*hash ^ ((const unsigned char *)bytes)[i]) * UINT64_C(0x100000001B3);
}

static upg_status put_record(void *user, const upg_plan_unit *units, uint32_t n_units,
                             const upg_encoded_matrix *encoded, upg_error *e)
{
    record *r = user;

    (void)n_units;
    if (r->n + 1 == r->fail_at)
        return upg_fail(e, UPG_E_NOSPACE, "the sink is full");
    assert_true(r->n < 64);
    strncpy(r->names[r->n++], units[0].matrix->name, 63);
    add_hash(&r->hash, encoded->bits, encoded->n_words * sizeof *encoded->bits);
    add_hash(&r->hash, encoded->scales, units[0].matrix->n_rows * sizeof *encoded->scales);
    add_hash(&r->hash, &encoded->error2, sizeof encoded->error2);
    return UPG_OK;
}

/* A tiny model with random tokens, for what has nothing to do with quality. */
enum { WINDOW = 40, MAX_WINDOWS = 11 };

typedef struct tiny_model {
    char        *folder;
    upg_weights *weights;
    upg_arena    arena;
    upg_plan     plan;
    int32_t      tokens[MAX_WINDOWS * WINDOW];
} tiny_model;

static void tiny_open(tiny_model *m, bool tied)
{
    test_model_shape shape = test_model_small();

    *m = (tiny_model) { .folder = make_folder() };
    shape.tied = tied;
    OK(make_checkpoint(m->folder, &shape, 3, &err));
    OK(upg_weights_open(m->folder, &m->weights, &err));
    OK(upg_plan_create(m->weights, &m->arena, &m->plan, &err));
    for (size_t i = 0; i < sizeof m->tokens / sizeof *m->tokens; i++)
        m->tokens[i] = (int32_t)(upg_random_u64(5, i) % shape.vocab);
}

static void tiny_close(tiny_model *m)
{
    upg_weights_close(m->weights);
    upg_arena_deinit(&m->arena);
    remove_folder(m->folder);
}

static upg_status run(tiny_model *m, encode_env *e, uint32_t n_windows, bool sequential, record *r)
{
    upg_calibration  c = { m->tokens, n_windows, WINDOW, sequential, 0 };
    upg_encoded_sink sink = { put_record, r };

    return upg_calibrated_encode(&e->context, m->weights, &m->plan, &c, &sink, &err);
}

static void every_matrix_once_and_threads_change_nothing(void **state)
{
    (void)state;
    for (int kind = 0; kind < 4; kind++) {
        bool       tied = kind / 2, sequential = kind % 2;
        tiny_model m;
        record     first = { 0 };

        tiny_open(&m, tied);
        for (uint32_t threads = 1; threads <= 3; threads++) {
            record     r = { 0 };
            encode_env e;

            env_open(&e, threads);
            /* 11 windows: a group of 8 and a part of one */
            OK(run(&m, &e, 11, sequential, threads == 1 ? &first : &r));
            env_close(&e);
            if (threads > 1)
                assert_true(r.hash == first.hash);
        }
        assert_int_equal(first.n, upg_weights_matrix_count(m.weights));
        for (uint32_t i = 0; i < first.n; i++)
            assert_string_equal(first.names[i], upg_weights_matrix(m.weights, i)->name);
        tiny_close(&m);
    }
}

static void failures_stop_it(void **state)
{
    tiny_model  m;
    encode_env  e;
    atomic_bool cancel = true;
    record      r = { .fail_at = 7 };
    upg_status  st = UPG_E_NOMEM;

    (void)state;
    tiny_open(&m, false);
    env_open(&e, 2);
    assert_int_equal(run(&m, &e, 2, true, &r), UPG_E_NOSPACE);
    assert_string_equal(err.message, "the sink is full");
    assert_int_equal(r.n, 6);
    e.listener.cancel = &cancel;
    r = (record) { 0 };
    assert_int_equal(run(&m, &e, 2, true, &r), UPG_E_CANCELLED);
    assert_int_equal(r.n, 0);
    env_close(&e);
    env_open(&e, 1);
    for (uint64_t n = 0; st == UPG_E_NOMEM; n += 1 + n / 40) {
        r = (record) { 0 };
        upg_alloc_fail_after(n);
        st = run(&m, &e, 2, true, &r);
        upg_alloc_fail_after(UINT64_MAX);
        assert_true(st == UPG_OK ? n > 100 : st == UPG_E_NOMEM);
    }
    OK(st);
    env_close(&e);
    tiny_close(&m);
}

/* A model whose residual stream is zero: its moments are zero and cannot be factored. */
static void dead_inputs_are_named(void **state)
{
    tiny_model m;
    encode_env e;
    record     r = { 0 };
    float     *zeros;

    (void)state;
    tiny_open(&m, false);
    zeros = calloc((size_t)m.weights->embed.n_rows * m.weights->embed.n_cols, sizeof *zeros);
    assert_non_null(zeros);
    m.weights->embed.dense = zeros;
    m.weights->embed.dtype = UPG_F32;
    env_open(&e, 2);
    assert_int_equal(run(&m, &e, 2, true, &r), UPG_E_DATA);
    if (!strstr(err.message, "layers.0.self_attn.q_proj"))
        fail_msg("not named: %s", err.message);
    env_close(&e);
    free(zeros);
    tiny_close(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_step_is_worth_it),
        cmocka_unit_test(every_matrix_once_and_threads_change_nothing),
        cmocka_unit_test(failures_stop_it),
        cmocka_unit_test(dead_inputs_are_named),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
