/* What becomes of a model when the GPU is too small or goes: too small, an error where it was asked
 * for by name, else the CPU, said aloud. The GPU is a module that refuses every model. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/engine.h"
#include "upg/upg.h"

typedef struct said {
    char warning[1000], choice[1000]; /* lines */
} said;

static void listen(void *user, upg_log level, const char *message)
{
    said *s = user;
    char *to = level == UPG_LOG_WARN ? s->warning : level == UPG_LOG_INFO ? s->choice : NULL;

    if (to != NULL) {
        size_t used = strlen(to);

        snprintf(to + used, sizeof s->warning - used, "%s\n", message);
    }
}

static upg_status open_on(const char *device, said *s, upg_model **model, upg_error *err)
{
    upg_model_options options = { .struct_size = sizeof options,
                                  .device = device,
                                  .threads = 1,
                                  .hooks = { .log = listen, .user = s } };

    memset(s, 0, sizeof *s);
    return upg_model_open(UPG_TEST_DATA "/phi4-micro", &options, model, err);
}

/* The first test: a module that was taken stays. */
static void no_usable_gpu(void **state)
{
    upg_model *model;
    upg_error  err;
    said       s;

    (void)state;
    setenv("SMALL_GPU_ABSENT", "1", 1);
    assert_int_equal(open_on("cuda", &s, &model, &err), UPG_E_DEVICE);
    assert_non_null(strstr(err.message, "the driver is too old"));
    assert_int_equal(open_on("auto", &s, &model, &err), UPG_OK);
    assert_string_equal(s.warning, "");
    assert_non_null(strstr(s.choice, "not on cuda: no usable GPU: the driver is too old\n"));
    assert_non_null(strstr(s.choice, "runs on cpu"));
    upg_model_close(model);
    unsetenv("SMALL_GPU_ABSENT");
}

static void passed_over_unless_asked_for(void **state)
{
    static const char *const automatic[] = { NULL, "auto" };
    upg_model               *model;
    upg_error                err;
    said                     s;

    (void)state;
    for (int i = 0; i < 2; i++) {
        upg_model_info info = { .struct_size = sizeof info };
        upg_session   *session;
        upg_token      token = 1;

        assert_int_equal(open_on(automatic[i], &s, &model, &err), UPG_OK);
        assert_non_null(strstr(s.warning, "cuda: the model needs more than a small GPU has"));
        assert_non_null(strstr(s.choice, "runs on cpu"));
        assert_int_equal(upg_model_describe(model, &info, &err), UPG_OK);
        assert_int_equal(strncmp(info.device, "cpu", 3), 0);
        assert_int_equal(upg_session_create(model, NULL, &session, &err), UPG_OK);
        assert_int_equal(upg_prefill(session, &token, 1, NULL, &err), UPG_OK);
        upg_session_close(session);
        upg_model_close(model);
    }
}

static void asked_for_is_an_error(void **state)
{
    upg_model *model;
    upg_error  err;
    said       s;

    (void)state;
    assert_int_equal(open_on("cuda:0", &s, &model, &err), UPG_E_NOMEM);
    assert_null(model);
    assert_non_null(strstr(err.message, "small GPU has: cuda:0"));
    assert_string_equal(s.warning, "");
    assert_int_equal(open_on("cpu", &s, &model, &err), UPG_OK);
    assert_string_equal(s.warning, "");
    upg_model_close(model);
}

static uint64_t little_room(upg_backend *backend)
{
    (void)backend;
    return 300000;
}

/* A device with memory of its own: the context is held against that, before anything is taken. */
static void context_that_the_device_lacks(void **state)
{
    upg_session_options options = { .struct_size = sizeof options, .context_tokens = 1024 };
    upg_backend_class   small;
    upg_session        *session;
    upg_model          *model;
    upg_error           err;
    said                s;

    (void)state;
    assert_int_equal(open_on("cpu", &s, &model, &err), UPG_OK);
    small = *model->class_;
    small.name = "small";
    small.kv_available = little_room;
    model->class_ = &small;
    assert_int_equal(upg_session_create(model, &options, &session, &err), UPG_E_BUDGET);
    assert_non_null(strstr(err.message, "there are 300000 on small: context_tokens up to "));
    options.context_tokens = 64;
    assert_int_equal(upg_session_create(model, &options, &session, &err), UPG_OK);
    upg_session_close(session);
    upg_model_close(model);
}

static int runs_left;

static upg_status run_until_lost(upg_backend *backend, const upg_batch *batch, upg_error *err)
{
    if (runs_left-- > 0)
        return upg_backend_cpu.run(backend, batch, err);
    return upg_fail(err, UPG_E_DEVICE_LOST, "CUDA failed while computing a token: Xid");
}

/* The device goes while a token is computed: every session says so from then on, and the process
 * goes on with what it opens next. */
static void lost_during_a_token(void **state)
{
    const upg_token   prompt[] = { 1, 2, 3 };
    upg_backend_class frail;
    upg_session      *sessions[2], *later;
    upg_step          steps[2] = { { 0 } };
    upg_model        *model;
    upg_error         err;
    said              s;

    (void)state;
    assert_int_equal(open_on("cpu", &s, &model, &err), UPG_OK);
    frail = *model->class_;
    frail.run = run_until_lost;
    model->class_ = &frail;
    runs_left = 4; /* two prompts, two tokens */
    for (int i = 0; i < 2; i++) {
        assert_int_equal(upg_session_create(model, NULL, &sessions[i], &err), UPG_OK);
        assert_int_equal(upg_prefill(sessions[i], prompt, 3, NULL, &err), UPG_OK);
    }
    assert_int_equal(upg_decode(sessions, 2, steps, &err), UPG_OK);
    assert_int_equal(upg_decode(sessions, 2, steps, &err), UPG_OK);
    assert_int_equal(runs_left, 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(upg_decode(sessions, 2, steps, &err), UPG_E_DEVICE_LOST);
        assert_non_null(strstr(err.message, "Xid"));
        assert_int_equal(upg_prefill(sessions[i], prompt, 3, NULL, &err), UPG_E_DEVICE_LOST);
    }
    assert_false(upg_status_retryable(UPG_E_DEVICE_LOST));
    upg_session_close(sessions[0]);
    upg_session_close(sessions[1]);
    upg_model_close(model);

    assert_int_equal(open_on("auto", &s, &model, &err), UPG_OK);
    assert_int_equal(upg_session_create(model, NULL, &later, &err), UPG_OK);
    assert_int_equal(upg_prefill(later, prompt, 3, NULL, &err), UPG_OK);
    assert_int_equal(upg_decode(&later, 1, steps, &err), UPG_OK);
    upg_session_close(later);
    upg_model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_usable_gpu),         cmocka_unit_test(passed_over_unless_asked_for),
        cmocka_unit_test(asked_for_is_an_error), cmocka_unit_test(context_that_the_device_lacks),
        cmocka_unit_test(lost_during_a_token),
    };

    setenv("UPG_CUDA_MODULE", SMALL_GPU_MODULE, 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
