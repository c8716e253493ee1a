/* greedy_oracle_test.c: the checkpoint phi4-micro through upg.h alone against what transformers
 * computed from it in fp32 (oracle.json): greedy text, a chat answer, likelihood of windows. */
#include "support/open_model.h"

#include <math.h>

#include <jansson.h>

#include "base/alloc.h"
#include "support/npy.h"

#define FOLDER UPG_TEST_DATA "/phi4-micro"

enum { MAX_IDS = 512 };

/* Text is compared up to the first place where two tokens were this close. */
#define CLOSE 1e-2

static json_t *oracle;

static size_t ids_of(const json_t *object, const char *key, upg_token *ids)
{
    const json_t *array = json_object_get(object, key);
    size_t        n = json_array_size(array);

    assert_in_range(n, 1, MAX_IDS);
    for (size_t i = 0; i < n; i++)
        ids[i] = (upg_token)json_integer_value(json_array_get(array, i));
    return n;
}

/* Decodes along `want`; returns how many tokens were compared. */
static size_t follow(upg_session *session, const json_t *greedy, const upg_token *want, size_t n)
{
    const json_t *margins = json_object_get(greedy, "margins");
    size_t        i = 0;

    for (; i < n; i++) {
        upg_step step = { 0 };

        if (margins && json_real_value(json_array_get(margins, i)) < CLOSE)
            break;
        MUST(upg_decode(&session, 1, &step, err));
        assert_int_equal(step.status, UPG_OK);
        if (step.token != want[i])
            fail_msg("token %zu is %d, not %d", i, step.token, want[i]);
        assert_true(step.logprob < 0);
    }
    return i;
}

static void check_greedy(upg_model *model, const json_t *greedy)
{
    upg_token    prompt[MAX_IDS], want[MAX_IDS], got[MAX_IDS];
    size_t       n = ids_of(greedy, "prompt_ids", prompt), n_want = ids_of(greedy, "ids", want), m;
    const char  *text = json_string_value(json_object_get(greedy, "prompt"));
    upg_session *session = make_session(model, NULL);

    MUST(upg_tokenize(upg_model_tokenizer(model), text, strlen(text), 0, got, MAX_IDS, &m, err));
    assert_int_equal(m, n);
    assert_memory_equal(got, prompt, n * sizeof *got);
    MUST(upg_prefill(session, got, m, NULL, err));
    assert_int_equal(follow(session, greedy, want, n_want), n_want);
    upg_session_close(session);
}

static void check_chat(upg_model *model, const json_t *chat)
{
    upg_token   prompt[MAX_IDS], want[MAX_IDS], got[MAX_IDS];
    size_t      n = ids_of(chat, "prompt_ids", prompt), n_want = ids_of(chat, "ids", want), m;
    const char *user = json_string_value(json_object_get(chat, "user"));
    const char *whole = json_string_value(json_object_get(chat, "prompt"));
    upg_message message = { "user", user, strlen(user) };
    const upg_tokenizer *tokenizer = upg_model_tokenizer(model);
    upg_session         *session = make_session(model, NULL);
    char                 text[1024];

    MUST(upg_chat_text(tokenizer, &message, 1, true, text, sizeof text, &m, err));
    assert_int_equal(m, strlen(whole));
    assert_memory_equal(text, whole, m);
    MUST(upg_chat_tokens(tokenizer, &message, 1, true, 0, got, MAX_IDS, &m, err));
    assert_int_equal(m, n);
    assert_memory_equal(got, prompt, n * sizeof *got);
    MUST(upg_prefill(session, got, m, NULL, err));
    assert_int_equal(follow(session, chat, want, n_want), n_want);
    for (size_t i = 0; i + 1 < n_want; i++)
        assert_false(upg_model_is_end(model, want[i]));
    assert_true(upg_model_is_end(model, want[n_want - 1])); /* <|im_end|> */
    upg_session_close(session);
}

static void check_device(const char *device)
{
    upg_model *model = open_path(FOLDER, device, 2);
    json_t    *greedy = json_object_get(oracle, "greedy");

    for (size_t i = 0; i < json_array_size(greedy); i++)
        check_greedy(model, json_array_get(greedy, i));
    check_chat(model, json_object_get(oracle, "chat_greedy"));
    upg_model_close(model);
}

static void test_greedy_on_ref(void **state)
{
    (void)state;
    check_device("ref");
}

static void test_greedy_on_cpu(void **state)
{
    (void)state;
    check_device("cpu");
}

/* The first windows of the validation text; every window on its own to 0.1 %, since fp32 sums of
 * 511 terms of about 4 in another order agree far better, and together to the 0.02 % that is
 * promised. */
static void check_windows(const char *device, uint32_t windows)
{
    const json_t    *want = json_object_get(json_object_get(oracle, "valid"), "window_nll");
    upg_model       *model = open_path(FOLDER, device, 2);
    double           nll[16], sum = 0;
    test_ids         ids;
    upg_eval_options options = { .struct_size = sizeof options,
                                 .windows = windows,
                                 .window_nll = nll };
    upg_eval_result  result = { .struct_size = sizeof result };

    MUST(test_npy_read(FOLDER "/valid_ids.npy", &ids, err));
    assert_int_equal(ids.window, 512);
    MUST(upg_evaluate(model, ids.ids, (size_t)ids.n_windows * ids.window, &options, &result, err));
    assert_int_equal(result.windows, windows);
    assert_int_equal(result.tokens, windows * 511);
    for (uint32_t w = 0; w < windows; w++) {
        double oracle_nll = json_real_value(json_array_get(want, w));

        sum += oracle_nll;
        assert_true(fabs(nll[w] - oracle_nll) < 1e-3 * oracle_nll);
    }
    assert_true(fabs(result.perplexity / exp(sum / (windows * 511)) - 1) < 2e-4);
    assert_true(result.top1 > 0.2 && result.top1 < 0.4);
    assert_true(result.kl_mean == 0 && result.against_perplexity == 0);
    upg_free(ids.ids);
    upg_model_close(model);
}

static void test_windows_on_ref(void **state)
{
    (void)state;
    check_windows("ref", 2);
}

static void test_windows_on_cpu(void **state)
{
    (void)state;
    check_windows("cpu", 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy_on_ref),
        cmocka_unit_test(test_greedy_on_cpu),
        cmocka_unit_test(test_windows_on_ref),
        cmocka_unit_test(test_windows_on_cpu),
    };
    int failed;

    oracle = json_load_file(FOLDER "/oracle.json", 0, NULL);
    if (!oracle)
        return 1;
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    json_decref(oracle);
    return failed;
}
