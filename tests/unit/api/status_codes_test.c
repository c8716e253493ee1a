/* Every status code of status.h, provoked through the public API.
 *
 * Two cannot be, and stand here so that nobody looks for them:
 *   E_DEVICE_LOST  only devices with a driver of their own can be lost; ref and cpu run in the
 *                  process itself
 *   E_INTERNAL     a bug in upg, by definition; the program verifier's tests make it happen below
 *                  the API, with programs that the builder never makes */
#include "support/open_model.h"

#include <errno.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/file.h"
#include "runtime/session.h"

static char      *checkpoint, *work; /* folders */
static upg_model *model;

/* ---- files -------------------------------------------------------------------------------------
 */

static void compress(const char *output, upg_status expected)
{
    upg_compress_options options = { .struct_size = sizeof options, .calibration = "" };
    upg_compress        *job = NULL;
    upg_error            err = { 0 };
    upg_status           st = upg_compress_open(checkpoint, output, &options, &job, &err);

    if (st == UPG_OK)
        st = upg_compress_run(job, &err);
    upg_compress_close(job);
    if (st != expected)
        fail_msg("%s: \"%s\", not %s", upg_status_text(st), err.message, upg_status_text(expected));
}

/* Copies model.upg and changes the bytes at `offset` from the start, or from the end if negative.
 */
static const char *damaged(const char *name, long offset, const char *bytes)
{
    size_t      size;
    char       *file = read_file(in_folder(work, "model.upg"), &size);
    const char *path = in_folder(work, name);

    memcpy(offset < 0 ? file + size + offset : file + offset, bytes, strlen(bytes));
    write_file(path, file, size);
    free(file);
    return path;
}

static upg_status open_file(const char *path, upg_error *err)
{
    upg_model *opened = NULL;
    upg_status st = upg_model_open(path, NULL, &opened, err);

    upg_model_close(opened);
    return st;
}

static int set_up(void **state)
{
    test_model_shape shape = test_model_small();

    (void)state;
    shape.tokenizer = true;
    shape.vocab = 8192;
    checkpoint = make_folder();
    work = make_folder();
    MUST(make_checkpoint(checkpoint, &shape, 1, err));
    model = open_path(checkpoint, "cpu", 1);
    compress(in_folder(work, "model.upg"), UPG_OK);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    upg_model_close(model);
    remove_folder(checkpoint);
    remove_folder(work);
    return 0;
}

/* ---- the caller --------------------------------------------------------------------------------
 */

static void test_arg(void **state)
{
    upg_session *session = make_session(model, NULL);
    upg_token    tokens[] = { 1, 2, 8192 };
    upg_step     step = { 0 };

    (void)state;
    MUST_FAIL(UPG_E_ARG, "index 2", upg_prefill(session, tokens, 3, NULL, err));
    tokens[1] = -1;
    MUST_FAIL(UPG_E_ARG, "token -1 at index 1", upg_prefill(session, tokens, 3, NULL, err));
    assert_int_equal(upg_session_length(session), 0);
    MUST_FAIL(UPG_E_ARG, "path is NULL", upg_model_open(NULL, NULL, &model, err));
    model = session->model; /* upg_model_open cleared it */
    MUST_FAIL(UPG_E_ARG, "are the same",
              upg_decode((upg_session *[]) { session, session }, 2, (upg_step[2]) { 0 }, err));
    step.top = (upg_scored[1]) { 0 };
    step.top_count = 8193;
    MUST_FAIL(UPG_E_ARG, "top_count is 8193", upg_decode(&session, 1, &step, err));
    upg_session_close(session);
}

static void test_state(void **state)
{
    upg_session *session = make_session(model, NULL);
    const float *logits;
    upg_step     step = { 0 };

    (void)state;
    MUST_FAIL(UPG_E_STATE, "without keep_logits", upg_session_logits(session, &logits, err));
    MUST(upg_decode(&session, 1, &step, err));
    assert_int_equal(step.status, UPG_E_STATE);
    assert_non_null(strstr(upg_session_message(session), "upg_prefill"));
    upg_session_close(session);
}

static void test_busy(void **state)
{
    upg_session *session = make_session(model, NULL), *child;
    upg_token    token = 1;
    upg_sampling sampling = { .struct_size = sizeof sampling };
    const float *logits;

    (void)state;
    atomic_store(&session->in_use, true); /* as during a call of another thread */
    MUST_FAIL(UPG_E_BUSY, "another thread", upg_prefill(session, &token, 1, NULL, err));
    MUST_FAIL(UPG_E_BUSY, "sessions[0]", upg_decode(&session, 1, &(upg_step) { 0 }, err));
    MUST_FAIL(UPG_E_BUSY, "another thread", upg_session_fork(session, 0, &child, err));
    MUST_FAIL(UPG_E_BUSY, "another thread", upg_session_rewind(session, 0, err));
    MUST_FAIL(UPG_E_BUSY, "another thread", upg_session_set_sampling(session, &sampling, err));
    MUST_FAIL(UPG_E_BUSY, "another thread", upg_session_logits(session, &logits, err));
    assert_int_equal(upg_session_length(session), 0);
    upg_session_cancel(session); /* always possible */
    atomic_store(&session->in_use, false);
    MUST_FAIL(UPG_E_CANCELLED, "before", upg_prefill(session, &token, 1, NULL, err));
    upg_session_close(session);
}

static void test_buffer(void **state)
{
    upg_token tokens[2];
    size_t    n;

    (void)state;
    MUST_FAIL(
        UPG_E_BUFFER, "",
        upg_tokenize(upg_model_tokenizer(model), "a long way home", 15, 0, tokens, 2, &n, err));
    assert_in_range(n, 3, 15);
}

/* ---- resources ----------------------------------------------------------------------------------
 */

static void test_nomem(void **state)
{
    upg_session *session;
    unsigned     failures = 0;

    (void)state;
    for (uint64_t n = 0;; n++) {
        upg_status st;

        upg_alloc_fail_after(n);
        st = upg_session_create(model, NULL, &session, NULL);
        upg_alloc_fail_after(UINT64_MAX);
        if (st == UPG_OK)
            break;
        assert_int_equal(st, UPG_E_NOMEM);
        assert_null(session);
        failures++;
    }
    assert_true(failures >= 4);
    {
        upg_token token = 1;
        upg_step  step = { 0 };

        upg_alloc_fail_after(0); /* no page */
        MUST_FAIL(UPG_E_NOMEM, "out of memory", upg_prefill(session, &token, 1, NULL, err));
        upg_alloc_fail_after(UINT64_MAX);
        assert_int_equal(upg_session_length(session), 0);
        for (int i = 0; i < 64; i++)
            MUST(upg_prefill(session, &token, 1, NULL, err));
        upg_alloc_fail_after(0);
        MUST(upg_decode(&session, 1, &step, err));
        upg_alloc_fail_after(UINT64_MAX);
        assert_int_equal(step.status, UPG_E_NOMEM);
        MUST(upg_decode(&session, 1, &step, err));
        assert_int_equal(step.status, UPG_OK);
    }
    upg_session_close(session);
}

static void test_budget(void **state)
{
    upg_model_options options = { .struct_size = sizeof options, .max_memory = 100000 };
    upg_model        *opened;

    (void)state;
    MUST_FAIL(UPG_E_BUDGET, "max_memory is 100000 bytes; the model needs",
              upg_model_open(checkpoint, &options, &opened, err));
    assert_null(opened);
    /* Less than 256 rows at a time take, enough for fewer: slower, but it runs. */
    options.max_memory = model->weights->weight_bytes + model->class_->memory(model->backend);
    MUST(upg_model_open(checkpoint, &options, &opened, err));
    assert_true(opened->max_rows < model->max_rows);
    upg_model_close(opened);
}

static void test_context(void **state)
{
    upg_session *session = make_session(model, NULL);
    upg_token    tokens[129] = { 0 };

    (void)state;
    MUST_FAIL(UPG_E_CONTEXT, "129 more do not fit its context of 128",
              upg_prefill(session, tokens, 129, NULL, err));
    upg_session_close(session);
}

/* ---- files
 * ---------------------------------------------------------------------------------------- */

static void test_io_and_nospace(void **state)
{
    const char *path = in_folder(work, "never.upg");

    (void)state;
    upg_file_fail_after(3, EIO);
    compress(path, UPG_E_IO);
    upg_file_fail_after(3, ENOSPC);
    compress(path, UPG_E_NOSPACE);
    upg_file_fail_after(UINT64_MAX, 0);
    assert_int_not_equal(access(path, F_OK), 0);
}

static void test_not_found(void **state)
{
    upg_tokenizer *tokenizer;

    (void)state;
    MUST_FAIL(UPG_E_NOT_FOUND, "/nowhere/x.upg", open_file("/nowhere/x.upg", err));
    MUST_FAIL(UPG_E_NOT_FOUND, "/nowhere", upg_tokenizer_open("/nowhere", &tokenizer, err));
}

static void test_exists(void **state)
{
    (void)state;
    compress(in_folder(work, "model.upg"), UPG_E_EXISTS);
}

static void test_format(void **state)
{
    const char *path = in_folder(work, "text.upg");

    (void)state;
    write_file(path, "this is no model, but long enough to be read as one", 51);
    MUST_FAIL(UPG_E_FORMAT, "text.upg", open_file(path, err));
}

static void test_version(void **state)
{
    size_t      size;
    char       *file = read_file(in_folder(work, "model.upg"), &size), *place = NULL;
    const char *path = in_folder(work, "newer.upg");

    (void)state;
    for (size_t i = 0; i + 15 < size && !place; i++)
        if (memcmp(file + i, "\"version\":\"1.0\"", 15) == 0)
            place = file + i;
    assert_non_null(place);
    place[11] = '2';
    memset(file + size - 32, 0, 32); /* a newer format may end otherwise */
    write_file(path, file, size);
    free(file);
    MUST_FAIL(UPG_E_VERSION, "newer.upg", open_file(path, err));
}

static void test_corrupt(void **state)
{
    const char       *path = damaged("corrupt.upg", 100000, "damage");
    upg_model_options options = { .struct_size = sizeof options, .verify = 2 };
    upg_model        *opened;
    uint64_t          bad_offset = 1;

    (void)state;
    MUST(upg_verify(in_folder(work, "model.upg"), 2, NULL, &bad_offset, err));
    assert_int_equal(bad_offset, 0);
    bad_offset = 1;
    MUST_FAIL(UPG_E_CORRUPT, "corrupt.upg", upg_verify(path, 2, NULL, &bad_offset, err));
    assert_int_equal(bad_offset, 0); /* of the first MiB */
    MUST_FAIL(UPG_E_CORRUPT, "corrupt.upg", upg_model_open(path, &options, &opened, err));
    assert_null(opened);
}

/* verify = 1: opening looks at no weights, the first pass does. */
static void test_corrupt_at_first_pass(void **state)
{
    upg_model_options options = { .struct_size = sizeof options, .verify = 1 };
    const char       *whole = in_folder(work, "model.upg");
    size_t            size;
    char             *file = read_file(whole, &size);
    const char       *path = in_folder(work, "late.upg");
    upg_model        *opened = NULL;
    upg_session      *session;
    upg_token         token = 1;

    (void)state;
    MUST(upg_model_open(whole, &options, &opened, err));
    session = make_session(opened, NULL);
    MUST(upg_prefill(session, &token, 1, NULL, err));
    assert_true(upg_weight_check_count(opened->check) > 0);
    upg_session_close(session);
    upg_model_close(opened);
    /* The file changes behind an open model, as a bad disk would have it. */
    write_file(path, file, size);
    free(file);
    MUST(upg_model_open(path, &options, &opened, err));
    session = make_session(opened, NULL);
    {
        FILE *f = fopen(path, "r+b");

        assert_non_null(f);
        assert_int_equal(fseek(f, 100000, SEEK_SET), 0);
        assert_int_equal(fwrite("damage", 1, 6, f), 6);
        fclose(f);
    }
    MUST_FAIL(UPG_E_CORRUPT, "chunk 0, bytes 0", upg_prefill(session, &token, 1, NULL, err));
    upg_session_close(session);
    upg_model_close(opened);
}

static void test_unsupported(void **state)
{
    upg_session_options options = { .struct_size = sizeof options, .draft_tokens = 8 };
    upg_session        *session;
    size_t              n;

    (void)state;
    MUST_FAIL(UPG_E_ARG, "draft_tokens is 8", upg_session_create(model, &options, &session, err));
    MUST_FAIL(UPG_E_UNSUPPORTED, "flags are 0x6",
              upg_tokenize(upg_model_tokenizer(model), "a", 1, 6, NULL, 0, &n, err));
}

static void test_data(void **state)
{
    test_model_shape  shape = test_model_small();
    char             *folder = make_folder();
    upg_model_options options = { .struct_size = sizeof options, .verify = 2 };
    upg_model        *opened;
    size_t            n, size;
    char             *file;

    (void)state;
    MUST_FAIL(UPG_E_DATA, "",
              upg_tokenize(upg_model_tokenizer(model), "a\xFF", 2, 0, NULL, 0, &n, err));
    MUST(make_checkpoint(folder, &shape, 1, err));
    file = read_file(in_folder(checkpoint, "tokenizer.json"), &size);
    write_file(in_folder(folder, "tokenizer.json"), file, size);
    free(file);
    MUST_FAIL(UPG_E_DATA, "up to 8191, the embedding has 320 rows", open_file(folder, err));
    unlink(in_folder(folder, "tokenizer.json"));
    file = read_file(in_folder(folder, "model.safetensors"), &size);
    memset(file + size - 2, 0xFF, 2); /* NaN in bf16 */
    write_file(in_folder(folder, "model.safetensors"), file, size);
    free(file);
    MUST_FAIL(UPG_E_DATA, "NaN", upg_model_open(folder, &options, &opened, err));
    remove_folder(folder);
}

/* ---- devices, cancelling
 * ---------------------------------------------------------------------------- */

static void test_device(void **state)
{
    upg_model_options options = { .struct_size = sizeof options, .device = "abacus:0" };
    upg_model        *opened;

    (void)state;
    MUST_FAIL(UPG_E_DEVICE, "cpu", upg_model_open(checkpoint, &options, &opened, err));
}

static int refuse(void *user, const upg_progress *now)
{
    ++*(unsigned *)user;
    assert_true(now->stage && now->unit && now->done <= now->total);
    return 1;
}

static void test_cancelled(void **state)
{
    unsigned         calls = 0;
    upg_token        tokens[64] = { 0 };
    upg_eval_options options = { .struct_size = sizeof options,
                                 .window = 32,
                                 .hooks = { .progress = refuse, .user = &calls } };
    upg_eval_result  result = { .struct_size = sizeof result };
    uint64_t         bad_offset;

    (void)state;
    MUST_FAIL(UPG_E_CANCELLED, "evaluate", upg_evaluate(model, tokens, 64, &options, &result, err));
    assert_int_equal(calls, 1);
    assert_true(result.tokens == 0 && result.nll == 0);
    MUST_FAIL(UPG_E_CANCELLED, "verify",
              upg_verify(in_folder(work, "model.upg"), 1, &options.hooks, &bad_offset, err));
}

static void test_texts(void **state)
{
    (void)state;
#define CHECK_TEXT(name, value, text) assert_string_equal(upg_status_text(UPG_##name), text);
    UPG_STATUS_MAP(CHECK_TEXT)
#undef CHECK_TEXT
    assert_true(upg_status_retryable(UPG_E_BUSY));
    assert_false(upg_status_retryable(UPG_E_FORMAT));
    assert_string_equal(upg_version(), UPG_VERSION);
    assert_int_equal(upg_abi_version(), UPG_ABI_VERSION);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arg),         cmocka_unit_test(test_state),
        cmocka_unit_test(test_busy),        cmocka_unit_test(test_buffer),
        cmocka_unit_test(test_nomem),       cmocka_unit_test(test_budget),
        cmocka_unit_test(test_context),     cmocka_unit_test(test_io_and_nospace),
        cmocka_unit_test(test_not_found),   cmocka_unit_test(test_exists),
        cmocka_unit_test(test_format),      cmocka_unit_test(test_version),
        cmocka_unit_test(test_corrupt),     cmocka_unit_test(test_corrupt_at_first_pass),
        cmocka_unit_test(test_unsupported), cmocka_unit_test(test_data),
        cmocka_unit_test(test_device),      cmocka_unit_test(test_cancelled),
        cmocka_unit_test(test_texts),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
