/* upg_decode_timed: the same tokens as upg_decode, and times of every op in their order. */
#include "support/open_model.h"

#include "base/alloc.h"

enum { MAX_OPS = 64 };

static upg_model *model;

static int set_up(void **state)
{
    upg_model_options options = { .struct_size = sizeof options, .device = "cpu", .threads = 2 };

    (void)state;
    MUST(upg_model_open_synthetic("phi4-micro:2", &options, &model, err));
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    upg_model_close(model);
    return 0;
}

static upg_session *with_prompt(void)
{
    upg_token    prompt[] = { 5, 77, 8000 };
    upg_session *session = make_session(model, NULL);

    MUST(upg_prefill(session, prompt, 3, NULL, err));
    return session;
}

static void test_times(void **state)
{
    upg_session *plain = with_prompt(), *timed = with_prompt();
    upg_op_time  times[MAX_OPS];
    uint64_t     bytes = 0;
    size_t       n;

    (void)state;
    for (int i = 0; i < 5; i++) {
        upg_step a = { 0 }, b = { 0 };

        MUST(upg_decode(&plain, 1, &a, err));
        MUST(upg_decode_timed(timed, &b, times, MAX_OPS, &n, err));
        assert_int_equal(b.status, UPG_OK);
        assert_int_equal(a.token, b.token);
        assert_int_equal(n, 2 * 7 + 3);
    }
    assert_string_equal(times[0].op, "EMBED");
    assert_string_equal(times[n - 1].op, "LOGITS");
    assert_int_equal(times[n - 1].layer, 2);
    for (size_t i = 0; i < n; i++) {
        assert_true(times[i].begin_ns <= times[i].end_ns);
        assert_true(i == 0 || times[i].begin_ns == times[i - 1].end_ns);
        if (strcmp(times[i].op, "ATTENTION") != 0)
            bytes += times[i].bytes;
        else
            assert_int_equal(times[i].bytes, 8 * 2 * 64 * 2); /* 8 tokens, K and V of 64 in fp16 */
    }
    {
        upg_model_info info = { .struct_size = sizeof info };

        MUST(upg_model_describe(model, &info, err));
        assert_int_equal(bytes, info.token_bytes);
    }
    upg_session_close(plain);
    upg_session_close(timed);
}

static void test_refusals(void **state)
{
    upg_session *session = with_prompt(), *empty = make_session(model, NULL);
    upg_op_time  times[MAX_OPS];
    upg_step     step = { 0 };
    size_t       n = 99;

    (void)state;
    MUST_FAIL(UPG_E_BUFFER, "room for 3 ops", upg_decode_timed(session, &step, times, 3, &n, err));
    assert_int_equal(n, 17);
    assert_int_equal(upg_session_length(session), 3); /* nothing decoded */
    MUST_FAIL(UPG_E_ARG, "n is NULL", upg_decode_timed(session, &step, times, 99, NULL, err));
    MUST_FAIL(UPG_E_ARG, "times is NULL", upg_decode_timed(session, &step, NULL, 99, &n, err));
    MUST_FAIL(UPG_E_ARG, "sessions[0] is NULL", upg_decode_timed(NULL, &step, times, 99, &n, err));
    upg_alloc_fail_after(0);
    MUST_FAIL(UPG_E_NOMEM, "", upg_decode_timed(session, &step, times, MAX_OPS, &n, err));
    upg_alloc_fail_after(UINT64_MAX);
    MUST(upg_decode_timed(empty, &step, times, MAX_OPS, &n, err));
    assert_int_equal(step.status, UPG_E_STATE);
    assert_int_equal(n, 0);
    upg_session_close(session);
    upg_session_close(empty);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_times),
        cmocka_unit_test(test_refusals),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
