/* Guesses by prompt lookup: where they come from, and what hits and misses change. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h wants the above first. */
#include <cmocka.h>

#include "base/alloc.h"
#include "runtime/draft.h"

enum { VOCAB = 8 };

static upg_draft make(uint32_t max)
{
    upg_draft draft;

    assert_int_equal(upg_draft_init(&draft, max, VOCAB, NULL), UPG_OK);
    return draft;
}

static void test_guesses_what_followed(void **state)
{
    upg_draft       d = make(7);
    const upg_token text[] = { 1, 2, 3, 4, 5, 6, 9, 2, 3 };

    (void)state;
    upg_draft_guess(&d, text, 9, 7);
    assert_int_equal(d.planned, 3); /* the first width */
    assert_int_equal(d.tokens[0], 4);
    assert_int_equal(d.tokens[2], 6);
    upg_draft_guess(&d, text, 9, 2);
    assert_int_equal(d.planned, 2); /* the caller's limit */
    upg_draft_guess(&d, text, 6, 7);
    assert_int_equal(d.planned, 0); /* 6 was never there */
    upg_draft_guess(&d, text, 8, 7);
    assert_int_equal(d.planned, 0); /* a run of one token is too short */
    upg_draft_guess(&d, text, 1, 7);
    assert_int_equal(d.planned, 0);
    upg_draft_deinit(&d);
}

/* The longest run wins, of equals the latest; behind the end the repetition goes on. */
static void test_places(void **state)
{
    upg_draft       d = make(7);
    const upg_token longest[] = { 1, 2, 3, 7, 5, 2, 3, 8, 1, 2, 3 };
    const upg_token latest[] = { 2, 3, 7, 2, 3, 8, 2, 3 };
    const upg_token loop[] = { 4, 5, 4, 5 };

    (void)state;
    upg_draft_guess(&d, longest, 11, 1);
    assert_int_equal(d.tokens[0], 7);
    upg_draft_guess(&d, latest, 8, 1);
    assert_int_equal(d.tokens[0], 8);
    upg_draft_guess(&d, loop, 4, 7);
    assert_int_equal(d.planned, 3);
    assert_int_equal(d.tokens[0], 4);
    assert_int_equal(d.tokens[1], 5);
    assert_int_equal(d.tokens[2], 4);
    upg_draft_deinit(&d);
}

static void test_hits_and_misses(void **state)
{
    upg_draft       d = make(7);
    const upg_token loop[] = { 4, 5, 4, 5, 4, 5, 4, 5, 4, 5, 4, 5 };
    const float    *logits = NULL;

    (void)state;
    assert_false(upg_draft_take(&d, 4, VOCAB, &logits)); /* nothing is guessed */
    upg_draft_guess(&d, loop, 12, 7);
    assert_false(upg_draft_take(&d, 4, VOCAB, &logits)); /* planned, not computed */
    upg_draft_keep(&d);
    assert_true(upg_draft_take(&d, 4, VOCAB, &logits));
    assert_ptr_equal(logits, d.logits);
    assert_true(upg_draft_take(&d, 5, VOCAB, &logits));
    assert_true(upg_draft_take(&d, 4, VOCAB, &logits));
    assert_ptr_equal(logits, d.logits + 2 * VOCAB);
    assert_false(upg_draft_take(&d, 5, VOCAB, &logits)); /* used up, no miss */
    upg_draft_guess(&d, loop, 12, 7);
    assert_int_equal(d.planned, 7); /* all came true: wider */
    upg_draft_keep(&d);
    assert_true(upg_draft_take(&d, 4, VOCAB, &logits));
    assert_false(upg_draft_take(&d, 4, VOCAB, &logits));
    assert_false(upg_draft_take(&d, 5, VOCAB, &logits)); /* the rest is dropped */
    upg_draft_guess(&d, loop, 12, 7);
    assert_int_equal(d.planned, 2);
    for (int i = 0; i < 20; i++) { /* misses from the first token on ask for longer runs */
        upg_draft_guess(&d, loop, 5, 7);
        upg_draft_keep(&d);
        assert_false(upg_draft_take(&d, 7, VOCAB, &logits));
    }
    upg_draft_guess(&d, loop, 5, 7);
    assert_int_equal(d.planned, 0);
    upg_draft_guess(&d, loop, 12, 7);
    assert_int_equal(d.planned, 1); /* ten that repeat are enough */
    upg_draft_drop(&d);
    assert_int_equal(d.planned, 0);
    upg_draft_deinit(&d);
}

static void test_off_and_out_of_memory(void **state)
{
    upg_draft       d;
    upg_error       err = { 0 };
    const upg_token loop[] = { 4, 5, 4, 5 };

    (void)state;
    d = make(0);
    upg_draft_guess(&d, loop, 4, 7);
    assert_int_equal(d.planned, 0);
    upg_draft_deinit(&d);
    upg_alloc_fail_after(0);
    assert_int_equal(upg_draft_init(&d, 7, VOCAB, &err), UPG_E_NOMEM);
    upg_alloc_fail_after(UINT64_MAX);
    upg_draft_deinit(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_guesses_what_followed),
        cmocka_unit_test(test_places),
        cmocka_unit_test(test_hits_and_misses),
        cmocka_unit_test(test_off_and_out_of_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
