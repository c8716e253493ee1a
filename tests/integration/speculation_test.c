/* speculation_test.c: with guesses a session gives the text that it gives without, bit for bit:
 * tokens, log-probabilities, logits, whatever the sampling, the company and what happens between.
 */
#include "support/open_model.h"

#include "base/alloc.h"
#include "base/random.h"

enum { CONTEXT = 256, ORIGINAL = 96, MAX_STEPS = 220 };

static const char *const devices[] = { "ref", "cpu" };

static test_model_shape shape_of(bool longrope, uint32_t window)
{
    test_model_shape shape = test_model_small();

    shape.context = CONTEXT;
    shape.longrope = longrope;
    shape.original_context = longrope ? ORIGINAL : 0;
    shape.sliding_window = window;
    return shape;
}

static upg_session *make(upg_model *model, uint32_t draft, bool int8, bool shift)
{
    upg_session_options options = { .struct_size = sizeof options,
                                    .context_tokens = CONTEXT,
                                    .draft_tokens = draft,
                                    .kv_int8 = int8,
                                    .shift_when_full = shift,
                                    .keep_logits = true };

    return make_session(model, &options);
}

/* A prompt in which pieces come again, so that there is something to guess. */
static uint32_t make_prompt(uint32_t vocab, uint64_t seed, upg_token *prompt)
{
    uint32_t n = 10 + (uint32_t)(upg_random_u64(seed, 0) % 60);

    for (uint32_t i = 0; i < n; i++) {
        uint64_t r = upg_random_u64(seed, i + 1);

        prompt[i] = i > 8 && r % 4 != 0 ? prompt[i - 5 - r % 2] : some_token(vocab, r % 1000);
    }
    return n;
}

/* Greedy, sampled narrowly so that texts loop, with penalties, with a bias. */
static void set_sampling(upg_session *session, uint64_t seed)
{
    static const upg_scored bias[] = { { .token = 3, .value = 2.5f } };
    upg_sampling            s = { .struct_size = sizeof s, .seed = seed };

    s.temperature = seed % 4 == 0 ? 0 : 0.25f;
    s.top_k = seed % 4 == 1 ? 4 : 0;
    s.repetition_penalty = seed % 4 == 2 ? 1.1f : 0;
    s.frequency_penalty = seed % 4 == 3 ? 0.2f : 0;
    s.biases = bias;
    s.bias_count = seed % 3 == 0;
    MUST(upg_session_set_sampling(session, &s, err));
}

static void compare(upg_session *plain, upg_session *guessing, const upg_step *a, const upg_step *b,
                    uint32_t vocab, uint32_t i)
{
    const float *x = NULL, *y = NULL;

    if (a->status != b->status || a->token != b->token || a->logprob != b->logprob ||
        a->end != b->end)
        fail_msg("step %u: token %d (%s), not %d (%s)", i, b->token, upg_status_text(b->status),
                 a->token, upg_status_text(a->status));
    assert_int_equal(upg_session_length(plain), upg_session_length(guessing));
    if (a->status != UPG_OK)
        return;
    MUST(upg_session_logits(plain, &x, err));
    MUST(upg_session_logits(guessing, &y, err));
    assert_memory_equal(x, y, vocab * sizeof *x);
}

/* ---- one session ------------------------------------------------------------------------------
 */

static uint32_t check_text(upg_model *model, uint64_t seed, uint32_t draft, bool int8, bool shift,
                           uint32_t n_steps)
{
    uint32_t     vocab = vocab_of(model), guessed = 0;
    upg_session *plain = make(model, 0, int8, shift), *guessing = make(model, draft, int8, shift);
    upg_token    prompt[128];
    uint32_t     n = make_prompt(vocab, seed, prompt);

    set_sampling(plain, seed);
    set_sampling(guessing, seed);
    MUST(upg_prefill(plain, prompt, n, NULL, err));
    MUST(upg_prefill(guessing, prompt, n, NULL, err));
    for (uint32_t i = 0; i < n_steps; i++) {
        upg_scored ta[3], tb[3];
        upg_step   a = { .top = ta, .top_count = 3 }, b = { .top = tb, .top_count = 3 };

        MUST(upg_decode(&plain, 1, &a, err));
        MUST(upg_decode(&guessing, 1, &b, err));
        compare(plain, guessing, &a, &b, vocab, i);
        if (a.status != UPG_OK)
            break;
        assert_memory_equal(ta, tb, sizeof ta);
        assert_false(a.guessed);
        guessed += b.guessed;
    }
    upg_session_close(plain);
    upg_session_close(guessing);
    return guessed;
}

static void test_same_text(void **state)
{
    (void)state;
    for (size_t d = 0; d < 2; d++) {
        test_model_shape shape = shape_of(false, 0);
        upg_model       *model = open_random(&shape, 7, devices[d], 2);
        uint32_t         guessed = 0;

        for (uint64_t seed = 0; seed < (d == 0 ? 8 : 40); seed++)
            guessed += check_text(model, seed, 1 + seed % 7, seed % 5 == 4, false, 60);
        print_message("%s: %u tokens came true\n", devices[d], guessed);
        assert_true(guessed > 20); /* else nothing was tried */
        upg_model_close(model);
    }
}

/* To the end of the context, over the point where longrope changes, with a sliding window, and
 * through shifts. */
static void test_long_texts(void **state)
{
    (void)state;
    for (uint32_t kind = 0; kind < 3; kind++) {
        test_model_shape shape = shape_of(kind == 1, kind == 2 ? 40 : 0);
        upg_model       *model = open_random(&shape, 8, "cpu", 2);

        for (uint64_t seed = 0; seed < 8; seed++) {
            check_text(model, seed, 7, false, false, CONTEXT + 5);
            check_text(model, seed, 7, false, true, CONTEXT + 100);
        }
        upg_model_close(model);
    }
}

/* ---- several sessions -------------------------------------------------------------------------
 */

static void test_company(void **state)
{
    enum { N = 6 };
    test_model_shape shape = shape_of(false, 0);
    upg_model       *model = open_random(&shape, 9, "cpu", 2);
    upg_session     *plain[N], *guessing[N];
    upg_token        prompt[128];
    uint32_t         vocab = vocab_of(model), guessed = 0;
    uint32_t         few[16] = { 7u << 5 }; /* three tokens: texts repeat themselves */

    (void)state;
    for (uint32_t k = 0; k < N; k++) {
        uint32_t n = make_prompt(vocab, 50 + k, prompt);

        plain[k] = make(model, 0, k == 4, false);
        guessing[k] = make(model, k == 1 ? 0 : 7, k == 4, false);
        set_sampling(plain[k], k < 4 ? 4 * k : k);
        set_sampling(guessing[k], k < 4 ? 4 * k : k);
        MUST(upg_prefill(plain[k], prompt, n, NULL, err));
        MUST(upg_prefill(guessing[k], prompt, n, NULL, err));
    }
    for (uint32_t i = 0; i < 100; i++) {
        uint32_t n = 1 + i % N; /* companies of every size */
        upg_step a[N] = { 0 }, b[N] = { 0 };

        for (uint32_t k = 0; k < n; k++)
            a[k].allowed = b[k].allowed = few;
        MUST(upg_decode(plain, n, a, err));
        MUST(upg_decode(guessing, n, b, err));
        for (uint32_t k = 0; k < n; k++) {
            compare(plain[k], guessing[k], &a[k], &b[k], vocab, i);
            guessed += b[k].guessed;
        }
    }
    print_message("in company: %u tokens came true\n", guessed);
    assert_true(guessed > 20);
    for (uint32_t k = 0; k < N; k++) {
        upg_session_close(plain[k]);
        upg_session_close(guessing[k]);
    }
    upg_model_close(model);
}

/* ---- what happens between steps ---------------------------------------------------------------
 */

/* Does the same to both: prompts, rewinds, masks, other sampling, forks, cancellation. */
static void disturb(upg_session **session, uint64_t r, uint32_t vocab, upg_step *step,
                    const uint32_t *mask)
{
    upg_token    tokens[] = { some_token(vocab, r % 977), some_token(vocab, r % 971) };
    upg_session *child = NULL;
    uint32_t     length = upg_session_length(*session);

    switch (r % 12) {
    case 0:
        MUST(upg_session_rewind(*session, length - (uint32_t)(r / 12 % 6 < length ? r / 12 % 6 : 0),
                                err));
        break;
    case 1:
        MUST(upg_prefill(*session, tokens, 1 + r / 12 % 2, NULL, err));
        break;
    case 2:
        step->allowed = mask;
        break;
    case 3:
        set_sampling(*session, r / 12);
        break;
    case 4: /* the child goes on, the parent ends */
        MUST(upg_session_fork(*session, length, &child, err));
        upg_session_close(*session);
        *session = child;
        break;
    case 5: /* the child writes into shared pages and ends, the parent goes on */
        MUST(upg_session_fork(*session, length, &child, err));
        MUST(upg_prefill(child, tokens, 2, NULL, err));
        upg_session_close(child);
        break;
    case 6:
        upg_session_cancel(*session);
        break;
    default:
        break;
    }
}

static void test_disturbances(void **state)
{
    test_model_shape shape = shape_of(true, 0);
    upg_model       *model = open_random(&shape, 10, "cpu", 2);
    uint32_t         vocab = vocab_of(model), guessed = 0;
    uint32_t        *mask = calloc(vocab / 32 + 1, sizeof *mask);

    (void)state;
    assert_non_null(mask);
    for (uint32_t i = 0; i < vocab; i++)
        mask[i / 32] |= (uint32_t)(i % 3 != 0) << i % 32;
    for (uint64_t seed = 0; seed < 12; seed++) {
        upg_session *plain = make(model, 0, false, true), *guessing = make(model, 7, false, true);
        upg_token    prompt[128];
        uint32_t     n = make_prompt(vocab, seed, prompt);

        set_sampling(plain, seed);
        set_sampling(guessing, seed);
        MUST(upg_prefill(plain, prompt, n, NULL, err));
        MUST(upg_prefill(guessing, prompt, n, NULL, err));
        for (uint32_t i = 0; i < MAX_STEPS; i++) {
            upg_step a = { 0 }, b = { 0 };
            uint64_t r = upg_random_u64(1000 + seed, i);

            if (r % 3 == 0) {
                disturb(&plain, r / 3, vocab, &a, mask);
                disturb(&guessing, r / 3, vocab, &b, mask);
            }
            MUST(upg_decode(&plain, 1, &a, err));
            MUST(upg_decode(&guessing, 1, &b, err));
            compare(plain, guessing, &a, &b, vocab, i);
            guessed += b.guessed;
        }
        upg_session_close(plain);
        upg_session_close(guessing);
    }
    print_message("disturbed: %u tokens came true\n", guessed);
    assert_true(guessed > 50);
    free(mask);
    upg_model_close(model);
}

/* Memory that is only wanted for guesses may be missing: the text goes on without them. */
static void test_no_memory_for_guesses(void **state)
{
    test_model_shape shape = shape_of(false, 0);
    upg_model       *model = open_random(&shape, 7, "cpu", 1);
    upg_session     *plain = make(model, 0, false, false), *guessing = make(model, 7, false, false);
    upg_token        loop[60];
    uint32_t         vocab = vocab_of(model);

    (void)state;
    for (uint32_t i = 0; i < 60; i++)
        loop[i] = (upg_token)(10 + i % 4);
    MUST(upg_prefill(plain, loop, 60, NULL, err));
    MUST(upg_prefill(guessing, loop, 60, NULL, err));
    for (uint32_t i = 0; i < 4; i++) { /* tokens 60 … 63 fill the first page */
        upg_step a = { 0 }, b = { 0 };

        MUST(upg_decode(&plain, 1, &a, err));
        upg_alloc_fail_after(0);
        MUST(upg_decode(&guessing, 1, &b, err));
        upg_alloc_fail_after(UINT64_MAX);
        compare(plain, guessing, &a, &b, vocab, i);
    }
    upg_session_close(plain);
    upg_session_close(guessing);
    upg_model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_text),
        cmocka_unit_test(test_long_texts),
        cmocka_unit_test(test_company),
        cmocka_unit_test(test_disturbances),
        cmocka_unit_test(test_no_memory_for_guesses),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
