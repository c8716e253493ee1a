/* A context that does not fit the memory is refused before any is taken, with what would fit. */
#include "support/open_model.h"

#include "base/alloc.h"
#include "base/system.h"

static void test_budget(void **state)
{
    test_model_shape    shape = test_model_small();
    upg_session_options options = { .struct_size = sizeof options };
    upg_session        *session = NULL;
    upg_model          *model;
    uint64_t            bytes, bytes_int8, before;

    (void)state;
    shape.context = 8192;
    model = open_random(&shape, 1, "cpu", 1);
    MUST(upg_session_size(model, &options, &bytes, err));
    options.kv_int8 = true;
    MUST(upg_session_size(model, &options, &bytes_int8, err));
    upg_system_memory_cap(bytes - 1);
    options.kv_int8 = false;
    before = upg_alloc_count();
    MUST_FAIL(UPG_E_BUDGET, "a context of 8192 tokens needs ",
              upg_session_create(model, &options, &session, err));
    assert_true(upg_alloc_count() == before);
    assert_null(session);
    {
        upg_error   err = { 0 };
        char        text[64];
        const char *fit;

        assert_int_equal(upg_session_create(model, &options, &session, &err), UPG_E_BUDGET);
        snprintf(text, sizeof text, "kv_int8 would need %llu", (unsigned long long)bytes_int8);
        assert_non_null(strstr(err.message, text));
        fit = strstr(err.message, "context_tokens up to ");
        assert_non_null(fit);
        options.context_tokens = (uint32_t)strtoul(fit + strlen("context_tokens up to "), NULL, 10);
        assert_in_range(options.context_tokens, 1000, 8191);
    }
    MUST(upg_session_create(model, &options, &session, err)); /* what was said to fit does */
    upg_session_close(session);
    options.context_tokens = 0;
    options.kv_int8 = true;
    MUST(upg_session_create(model, &options, &session, err));
    upg_session_close(session);
    upg_system_memory_cap(UINT64_MAX);
    upg_model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_budget) };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
