/* session_test.c: whatever a session went through, its logits equal those of a fresh one that got
 * the same tokens at once, bit for bit, on every backend. */
#include "support/open_model.h"

#include <math.h>

#include "base/alloc.h"
#include "base/cpu.h"
#include "kernels/kernels.h"

enum { CONTEXT = 256, ORIGINAL = 96, MAX_TOKENS = CONTEXT };

static const char *const devices[] = { "ref", "cpu" };

static const upg_session_options keep = { .struct_size = sizeof keep, .keep_logits = true };

static test_model_shape plain_shape(void)
{
    test_model_shape shape = test_model_small();

    shape.context = CONTEXT;
    return shape;
}

static test_model_shape long_shape(void)
{
    test_model_shape shape = plain_shape();

    shape.longrope = true;
    shape.original_context = ORIGINAL;
    return shape;
}

/* ---- helpers ----------------------------------------------------------------------------------
 */

typedef struct text {
    upg_token tokens[2 * MAX_TOKENS];
    uint32_t  n;
} text;

static text some_text(upg_model *model, uint32_t n)
{
    text t = { .n = n };

    for (uint32_t i = 0; i < n; i++)
        t.tokens[i] = some_token(vocab_of(model), i);
    return t;
}

static const float *logits_of(upg_session *session)
{
    const float *logits = NULL;

    MUST(upg_session_logits(session, &logits, err));
    return logits;
}

static void assert_logits(upg_model *model, const float *got, const float *want)
{
    uint32_t vocab = vocab_of(model);

    for (uint32_t i = 0; i < vocab; i++)
        if (memcmp(&got[i], &want[i], sizeof *got) != 0)
            fail_msg("logit %u is %.9g, not %.9g", i, (double)got[i], (double)want[i]);
}

/* The session is where a fresh one with these tokens is. */
static void assert_fresh(upg_model *model, upg_session *session, const text *t)
{
    upg_session *fresh = make_session(model, &keep);

    MUST(upg_prefill(fresh, t->tokens, t->n, NULL, err));
    assert_int_equal(upg_session_length(session), t->n);
    assert_logits(model, logits_of(session), logits_of(fresh));
    upg_session_close(fresh);
}

/* Decodes one token and adds it to the text. */
static upg_token step(upg_session *session, text *t)
{
    upg_step s = { 0 };

    MUST(upg_decode(&session, 1, &s, err));
    assert_int_equal(s.status, UPG_OK);
    if (t)
        t->tokens[t->n++] = s.token;
    return s.token;
}

static void for_each_device(const test_model_shape *shape, void (*check)(upg_model *))
{
    for (size_t d = 0; d < sizeof devices / sizeof devices[0]; d++) {
        upg_model *model = open_random(shape, 7, devices[d], 2);

        check(model);
        upg_model_close(model);
    }
}

/* ---- pieces, decoding -------------------------------------------------------------------------
 */

static void check_pieces(upg_model *model)
{
    text         t = some_text(model, 150);
    upg_session *session = make_session(model, &keep);
    uint32_t     vocab = vocab_of(model), pieces[] = { 1, 62, 1, 0, 2, 84 }, done = 0;
    float       *rows = malloc((size_t)t.n * vocab * sizeof *rows);
    float       *whole = malloc((size_t)t.n * vocab * sizeof *rows);
    upg_session *other = make_session(model, NULL);

    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
        MUST(upg_prefill(session, t.tokens + done, pieces[i], rows + (size_t)done * vocab, err));
        done += pieces[i];
    }
    assert_int_equal(done, t.n);
    MUST(upg_prefill(other, t.tokens, t.n, whole, err));
    for (uint32_t i = 0; i < t.n; i++)
        assert_logits(model, rows + (size_t)i * vocab, whole + (size_t)i * vocab);
    assert_logits(model, logits_of(session), whole + (size_t)(t.n - 1) * vocab);
    assert_fresh(model, session, &t);
    upg_session_close(other);
    upg_session_close(session);
    free(whole);
    free(rows);
}

static void test_pieces_equal_the_whole(void **state)
{
    test_model_shape shape = plain_shape();

    (void)state;
    for_each_device(&shape, check_pieces);
}

static void check_decode(upg_model *model)
{
    text         t = some_text(model, 50);
    upg_session *session = make_session(model, &keep);

    MUST(upg_prefill(session, t.tokens, t.n, NULL, err));
    for (int i = 0; i < 80; i++) {
        const float *logits = logits_of(session);
        upg_token    best = 0;

        for (upg_token k = 1; k < (upg_token)vocab_of(model); k++)
            best = logits[k] > logits[best] ? k : best;
        assert_int_equal(step(session, &t), best);
    }
    assert_fresh(model, session, &t);
    upg_session_close(session);
}

static void test_decoding_equals_prefill(void **state)
{
    test_model_shape shape = plain_shape();

    (void)state;
    for_each_device(&shape, check_decode);
}

/* ---- forks and rewinds ------------------------------------------------------------------------
 */

static void check_fork_at(upg_model *model, uint32_t place)
{
    text         a = some_text(model, 130), b = a;
    upg_session *parent = make_session(model, &keep), *child = NULL;

    MUST(upg_prefill(parent, a.tokens, a.n, NULL, err));
    MUST(upg_session_fork(parent, place, &child, err));
    assert_int_equal(upg_session_length(child), place);
    b.n = place;
    for (int i = 0; i < 5; i++) { /* both write to what they share */
        upg_token other = some_token(vocab_of(model), 1000u + (uint32_t)i);

        MUST(upg_prefill(child, &other, 1, NULL, err));
        b.tokens[b.n++] = other;
        step(parent, &a);
    }
    assert_fresh(model, child, &b);
    assert_fresh(model, parent, &a);
    upg_session_close(parent);
    step(child, &b); /* its pages stay when the parent goes */
    assert_fresh(model, child, &b);
    upg_session_close(child);
}

static void check_forks(upg_model *model)
{
    static const uint32_t places[] = { 0, 1, 63, 64, 65, 127, 128, 129, 130 };

    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++)
        check_fork_at(model, places[i]);
}

static void test_forks_share_and_part(void **state)
{
    test_model_shape shape = plain_shape();

    (void)state;
    for_each_device(&shape, check_forks);
}

static void check_fork_then_decode(upg_model *model)
{
    text         t = some_text(model, 64);
    upg_session *parent = make_session(model, &keep), *child = NULL;

    MUST(upg_prefill(parent, t.tokens, t.n, NULL, err));
    MUST(upg_session_fork(parent, 64, &child, err)); /* a full page, with the logits */
    assert_int_equal(step(parent, NULL), step(child, &t));
    assert_fresh(model, child, &t);
    upg_session_close(child);
    MUST(upg_session_fork(parent, 40, &child, err)); /* without */
    t.n = 40;
    {
        upg_session *fresh = make_session(model, NULL);

        MUST(upg_prefill(fresh, t.tokens, t.n, NULL, err));
        assert_int_equal(step(child, &t), step(fresh, NULL)); /* not what follows the parent's 65 */
        upg_session_close(fresh);
    }
    assert_fresh(model, child, &t);
    upg_session_close(child);
    MUST_FAIL(UPG_E_ARG, "fork at 99 tokens", upg_session_fork(parent, 99, &child, err));
    assert_null(child);
    upg_session_close(parent);
}

static void check_rewind(upg_model *model)
{
    text         t = some_text(model, 130);
    upg_session *session = make_session(model, &keep);
    upg_token    first, again;
    const float *none;

    MUST(upg_prefill(session, t.tokens, t.n, NULL, err));
    first = step(session, NULL);
    MUST_FAIL(UPG_E_ARG, "rewind to 132", upg_session_rewind(session, 132, err));
    MUST(upg_session_rewind(session, t.n, err));
    MUST_FAIL(UPG_E_STATE, "no logits yet", upg_session_logits(session, &none, err));
    again = step(session, &t);
    assert_int_equal(again, first);
    assert_fresh(model, session, &t);
    MUST(upg_session_rewind(session, 64, err));
    t.n = 64;
    step(session, &t);
    step(session, &t);
    assert_fresh(model, session, &t);
    MUST(upg_session_rewind(session, 0, err));
    MUST(upg_prefill(session, t.tokens, t.n, NULL, err));
    assert_fresh(model, session, &t);
    upg_session_close(session);
}

static void test_rewinds(void **state)
{
    test_model_shape shape = plain_shape();

    (void)state;
    for_each_device(&shape, check_rewind);
    for_each_device(&shape, check_fork_then_decode);
}

/* ---- longrope -----------------------------------------------------------------------------------
 */

static void check_longrope(upg_model *model)
{
    text         t = some_text(model, ORIGINAL - 2), before;
    upg_session *session = make_session(model, &keep), *child = NULL;

    MUST(upg_prefill(session, t.tokens, t.n, NULL, err));
    for (int i = 0; i < 2; i++)
        step(session, &t);
    assert_fresh(model, session, &t); /* the last one with the short factors */
    before = t;
    for (int i = 0; i < 3; i++)
        step(session, &t);
    assert_fresh(model, session, &t); /* the cache was computed again */
    MUST(upg_session_fork(session, ORIGINAL, &child, err));
    step(child, &before); /* draws with the short factors, then goes on with the long ones */
    assert_fresh(model, child, &before);
    MUST(upg_session_rewind(session, ORIGINAL - 1, err));
    t.n = ORIGINAL - 1;
    step(session, &t);
    assert_fresh(model, session, &t);
    upg_session_close(child);
    upg_session_close(session);
}

/* The short and the long factors differ: else the test above would show nothing. */
static void check_factors_differ(upg_model *model)
{
    text         t = some_text(model, ORIGINAL + 1);
    uint32_t     vocab = vocab_of(model);
    float       *rows = malloc((size_t)t.n * vocab * sizeof *rows);
    upg_session *session = make_session(model, &keep);
    float        difference = 0;

    MUST(upg_prefill(session, t.tokens, t.n - 1, NULL, err));
    {
        upg_session *whole = make_session(model, NULL);

        MUST(upg_prefill(whole, t.tokens, t.n, rows, err));
        for (uint32_t i = 0; i < vocab; i++)
            difference = fmaxf(difference,
                               fabsf(logits_of(session)[i] - rows[(size_t)(t.n - 2) * vocab + i]));
        upg_session_close(whole);
    }
    assert_true(difference > 1e-3f);
    upg_session_close(session);
    free(rows);
}

static void test_longrope_changes_factors(void **state)
{
    test_model_shape shape = long_shape();

    (void)state;
    for_each_device(&shape, check_longrope);
    for_each_device(&shape, check_factors_differ);
}

/* ---- a full context
 * ------------------------------------------------------------------------------ */

static void check_full(upg_model *model)
{
    upg_session_options small = { .struct_size = sizeof small,
                                  .context_tokens = 70,
                                  .keep_logits = true };
    text                t = some_text(model, 71);
    upg_session        *session = make_session(model, &small);
    upg_step            s = { 0 };

    MUST_FAIL(UPG_E_CONTEXT, "71 more do not fit its context of 70",
              upg_prefill(session, t.tokens, 71, NULL, err));
    assert_int_equal(upg_session_length(session), 0);
    MUST(upg_prefill(session, t.tokens, 60, NULL, err));
    MUST_FAIL(UPG_E_CONTEXT, "holds 60 tokens, 11 more",
              upg_prefill(session, t.tokens, 11, NULL, err));
    t.n = 60;
    assert_fresh(model, session, &t);
    for (int i = 0; i < 10; i++)
        step(session, &t);
    MUST(upg_decode(&session, 1, &s, err));
    assert_int_equal(s.status, UPG_E_CONTEXT);
    assert_int_equal(s.token, -1);
    assert_non_null(strstr(upg_session_message(session), "shift_when_full"));
    assert_fresh(model, session, &t);
    small.context_tokens = CONTEXT + 1;
    upg_session_close(session);
    MUST_FAIL(UPG_E_ARG, "context_tokens is 257", upg_session_create(model, &small, &session, err));
}

static void check_shift(upg_model *model)
{
    upg_session_options options = { .struct_size = sizeof options,
                                    .context_tokens = 101,
                                    .keep_logits = true,
                                    .shift_when_full = true };
    text                t = some_text(model, 90);
    upg_session        *session = make_session(model, &options);

    MUST(upg_prefill(session, t.tokens, t.n, NULL, err));
    for (int i = 0; i < 12; i++)
        step(session, &t); /* 101 tokens, then one more: the oldest 51 go */
    assert_int_equal(upg_session_length(session), 51);
    memmove(t.tokens, t.tokens + 51, 51 * sizeof t.tokens[0]);
    t.n = 51;
    assert_fresh(model, session, &t);
    t = some_text(model, 101);
    MUST(upg_prefill(session, t.tokens, t.n, NULL, err)); /* drops all */
    assert_fresh(model, session, &t);
    MUST_FAIL(UPG_E_CONTEXT, "102 more", upg_prefill(session, t.tokens, 102, NULL, err));
    upg_session_close(session);
}

static void test_full_context(void **state)
{
    test_model_shape shape = plain_shape();

    (void)state;
    for_each_device(&shape, check_full);
    for_each_device(&shape, check_shift);
}

/* ---- batches and seeds
 * ---------------------------------------------------------------------------- */

enum { SESSIONS = 8, STEPS = 40 };

static const upg_sampling *warm(uint64_t seed)
{
    static upg_sampling sampling;

    sampling = (upg_sampling) { .struct_size = sizeof sampling,
                                .temperature = 1.5f,
                                .top_p = 0.95f,
                                .repetition_penalty = 1.1f,
                                .seed = seed };
    return &sampling;
}

static upg_session *warm_session(upg_model *model, uint32_t which, bool kv_int8)
{
    upg_session_options options = { .struct_size = sizeof options,
                                    .keep_logits = true,
                                    .kv_int8 = kv_int8 };
    upg_session        *session = make_session(model, &options);
    text                t = some_text(model, 3 + 17 * which);

    MUST(upg_session_set_sampling(session, warm(which), err));
    MUST(upg_prefill(session, t.tokens, t.n, NULL, err));
    return session;
}

static void check_batch(upg_model *model)
{
    upg_session *batch[SESSIONS];
    upg_token    drawn[SESSIONS][STEPS];
    upg_step     steps[SESSIONS] = { 0 };

    for (uint32_t i = 0; i < SESSIONS; i++)
        batch[i] = warm_session(model, i, i % 3 == 2);
    for (int k = 0; k < STEPS; k++) {
        MUST(upg_decode(batch, SESSIONS, steps, err));
        for (int i = 0; i < SESSIONS; i++) {
            assert_int_equal(steps[i].status, UPG_OK);
            drawn[i][k] = steps[i].token;
        }
    }
    for (uint32_t i = 0; i < SESSIONS; i++) {
        upg_session *alone = warm_session(model, i, i % 3 == 2);

        for (int k = 0; k < STEPS; k++)
            assert_int_equal(step(alone, NULL), drawn[i][k]);
        assert_logits(model, logits_of(alone), logits_of(batch[i]));
        upg_session_close(alone);
        upg_session_close(batch[i]);
    }
}

static void test_batches_change_nothing(void **state)
{
    test_model_shape shape = plain_shape();

    (void)state;
    for_each_device(&shape, check_batch);
}

static void draw_some(upg_model *model, uint64_t seed, upg_token *tokens)
{
    upg_session *session = warm_session(model, 2, false);

    MUST(upg_session_set_sampling(session, warm(seed), err));
    for (int k = 0; k < STEPS; k++)
        tokens[k] = step(session, NULL);
    upg_session_close(session);
}

/* ---- fast prompts -----------------------------------------------------------------------------
 */

/* Largest difference of the last logits after n tokens, in units of their range. */
static double fast_difference(upg_model *model, uint32_t n)
{
    upg_session_options fast = keep;
    upg_session        *a = make_session(model, &keep), *b;
    text                t = some_text(model, n);
    double              low = INFINITY, high = -INFINITY, worst = 0;

    fast.fast_prompts = true;
    b = make_session(model, &fast);
    MUST(upg_prefill(a, t.tokens, n, NULL, err));
    MUST(upg_prefill(b, t.tokens, n, NULL, err));
    for (uint32_t i = 0; i < vocab_of(model); i++) {
        double exact = (double)logits_of(a)[i], d = fabs((double)logits_of(b)[i] - exact);

        low = fmin(low, exact);
        high = fmax(high, exact);
        worst = d <= worst ? worst : d; /* NaN counts */
    }
    upg_session_close(a);
    upg_session_close(b);
    return worst / (high - low);
}

/* KL(exact ‖ with weights of 8 bits), both of one model. */
static double fast_divergence(upg_model *model, uint32_t window)
{
    text             t = some_text(model, 2 * window);
    upg_eval_options options = {
        .struct_size = sizeof options, .window = window, .against = model, .fast_prompts = true
    };
    upg_eval_result result = { .struct_size = sizeof result };

    MUST(upg_evaluate(model, t.tokens, t.n, &options, &result, err));
    return result.kl_mean;
}

/* 32 tokens at once are exact, more are near where the kernels gain by it. */
static void test_fast_prompts(void **state)
{
    upg_model_options options = { .struct_size = sizeof options, .device = "cpu", .threads = 2 };
    upg_model_info    info = { .struct_size = sizeof info };
    upg_model        *model;
    upg_kernels       kernels;

    (void)state;
    upg_kernels_select(upg_cpu_flags(), &kernels);
    MUST(upg_model_open_synthetic("phi4-micro", &options, &model, err));
    assert_true(fast_difference(model, 32) == 0);
    assert_true((fast_difference(model, 33) != 0) == kernels.fast_i8);
    assert_true(fast_difference(model, 200) < 0.05);
    MUST(upg_model_describe(model, &info, err));
    assert_true(info.fast_prompts == kernels.fast_i8);
    assert_true(fast_divergence(model, 17) == 0); /* two windows are one batch of 32 rows */
    assert_true((fast_divergence(model, 100) > 0) == kernels.fast_i8);
    assert_true(fast_divergence(model, 100) < 0.02);
    upg_model_close(model);
}

static void test_same_seed_same_text(void **state)
{
    test_model_shape shape = plain_shape();
    upg_token        tokens[4][STEPS];

    (void)state;
    for (uint32_t threads = 1; threads <= 3; threads++) {
        upg_model *model = open_random(&shape, 7, "cpu", threads);

        draw_some(model, 5, tokens[threads - 1]);
        if (threads == 3)
            draw_some(model, 6, tokens[3]);
        upg_model_close(model);
    }
    assert_memory_equal(tokens[0], tokens[1], sizeof tokens[0]);
    assert_memory_equal(tokens[0], tokens[2], sizeof tokens[0]);
    assert_memory_not_equal(tokens[0], tokens[3], sizeof tokens[0]);
}

/* One session fails and the others go on. */
static void check_one_fails(upg_model *model)
{
    upg_session_options full = { .struct_size = sizeof full, .context_tokens = 3 };
    uint32_t            nothing[(320 + 31) / 32] = { 0 };
    upg_session        *batch[5] = { warm_session(model, 0, false), make_session(model, &full),
                                     make_session(model, NULL), warm_session(model, 1, false),
                                     warm_session(model, 2, false) };
    upg_step            steps[5] = { [3] = { .allowed = nothing } };
    text                t = some_text(model, 3);

    MUST(upg_prefill(batch[1], t.tokens, 3, NULL, err));
    upg_session_cancel(batch[4]);
    MUST(upg_decode(batch, 5, steps, err));
    assert_int_equal(steps[0].status, UPG_OK);
    assert_int_equal(steps[1].status, UPG_E_CONTEXT);
    assert_int_equal(steps[2].status, UPG_E_STATE);
    assert_int_equal(steps[3].status, UPG_E_ARG);
    assert_int_equal(steps[4].status, UPG_E_CANCELLED);
    assert_int_equal(upg_session_length(batch[0]), 4);
    assert_int_equal(upg_session_length(batch[4]), 37);
    steps[3].allowed = NULL;
    MUST(upg_decode(batch + 3, 2, steps + 3, err)); /* the request to cancel is done with */
    assert_int_equal(steps[3].status, UPG_OK);
    assert_int_equal(steps[4].status, UPG_OK);
    for (int i = 0; i < 5; i++)
        upg_session_close(batch[i]);
}

static void test_one_fails_others_go_on(void **state)
{
    test_model_shape shape = plain_shape();

    (void)state;
    for_each_device(&shape, check_one_fails);
}

/* ---- memory
 * ---------------------------------------------------------------------------------------- */

static void test_decode_allocates_nothing(void **state)
{
    test_model_shape shape = plain_shape();
    upg_model       *model = open_random(&shape, 7, "cpu", 2);
    upg_session     *batch[SESSIONS];
    upg_step         steps[SESSIONS] = { 0 };
    upg_scored       top[5];

    (void)state;
    for (uint32_t i = 0; i < SESSIONS; i++) {
        text t = some_text(model, 64 + 1);

        batch[i] = warm_session(model, 0, i == 3);
        MUST(upg_prefill(batch[i], t.tokens, t.n - 3, NULL, err));
    }
    steps[0].top = top;
    steps[0].top_count = 5;
    for (uint32_t length = 65; length < 192; length++) {
        uint64_t before = upg_alloc_count();

        MUST(upg_decode(batch, SESSIONS, steps, err));
        if (length == 128) /* a page for each begins */
            assert_in_range(upg_alloc_count() - before, SESSIONS, 2 * SESSIONS);
        else
            assert_int_equal(upg_alloc_count() - before, 0);
    }
    for (uint32_t i = 0; i < SESSIONS; i++)
        upg_session_close(batch[i]);
    upg_model_close(model);
}

static void test_sessions_keep_the_model(void **state)
{
    test_model_shape shape = plain_shape();
    upg_model       *model = open_random(&shape, 7, "cpu", 1);
    upg_session     *session = warm_session(model, 1, false);
    uint64_t         bytes, halved;

    (void)state;
    MUST(upg_session_size(model, NULL, &bytes, err));
    /* K and V, 2 layers, 2 heads of 16, fp16, 256 tokens: 64 KiB */
    assert_in_range(bytes, 65536, 65536 + 8192);
    MUST(upg_session_size(model,
                          &(upg_session_options) { .struct_size = sizeof(upg_session_options),
                                                   .context_tokens = 128 },
                          &halved, err));
    assert_in_range(halved, 32768, 32768 + 8192);
    upg_model_close(model);
    step(session, NULL);
    upg_session_close(session);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pieces_equal_the_whole),
        cmocka_unit_test(test_decoding_equals_prefill),
        cmocka_unit_test(test_forks_share_and_part),
        cmocka_unit_test(test_rewinds),
        cmocka_unit_test(test_longrope_changes_factors),
        cmocka_unit_test(test_full_context),
        cmocka_unit_test(test_batches_change_nothing),
        cmocka_unit_test(test_fast_prompts),
        cmocka_unit_test(test_same_seed_same_text),
        cmocka_unit_test(test_one_fails_others_go_on),
        cmocka_unit_test(test_decode_allocates_nothing),
        cmocka_unit_test(test_sessions_keep_the_model),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
