/* Compression through upg.h: a job's life, its calibration, and the model that comes out. */
#include "support/open_model.h"

#include <jansson.h>
#include <unistd.h>

#include "base/system.h"

static char *source, *work;

static int set_up(void **state)
{
    test_model_shape shape = test_model_small();

    (void)state;
    shape.tokenizer = true;
    shape.vocab = 8192;
    source = make_folder();
    work = make_folder();
    MUST(make_checkpoint(source, &shape, 1, err));
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    remove_folder(source);
    remove_folder(work);
    return 0;
}

static upg_compress_options options_with(const char *calibration, uint32_t threads)
{
    return (upg_compress_options) { .struct_size = sizeof(upg_compress_options),
                                    .calibration = calibration,
                                    .threads = threads };
}

/* Compresses into work/name; the bytes are the caller's to free. */
static char *compress(const char *name, const upg_compress_options *options, size_t *size)
{
    char          path[256];
    upg_compress *job;

    snprintf(path, sizeof path, "%s", in_folder(work, name));
    MUST(upg_compress_open(source, path, options, &job, err));
    MUST(upg_compress_run(job, err));
    upg_compress_close(job);
    return read_file(path, size);
}

static double number(const char *text, const char *key)
{
    json_t *object = json_loads(text, 0, NULL);
    double  value = -1;

    assert_non_null(object);
    value = json_number_value(json_object_get(object, key));
    json_decref(object);
    return value;
}

static void test_life_of_a_job(void **state)
{
    upg_compress_options options = options_with("", 2);
    const char          *path = in_folder(work, "life.upg");
    upg_model_info       info = { .struct_size = sizeof info };
    upg_compress        *job, *other;
    upg_model           *model;
    const char          *result;

    (void)state;
    MUST(upg_compress_open(source, path, &options, &job, err));
    assert_true(number(upg_compress_plan(job), "parameters") > 0);
    assert_null(upg_compress_result(job));
    assert_int_not_equal(access(path, F_OK), 0);
    MUST(upg_compress_run(job, err));
    result = upg_compress_result(job);
    model = open_path(path, "cpu", 2);
    MUST(upg_model_describe(model, &info, err));
    assert_true(number(result, "file_bytes") == (double)info.file_bytes);
    assert_true(number(result, "parameters") == (double)info.parameters);
    assert_true(number(result, "weight_bytes") == (double)info.weight_bytes);
    assert_true(number(result, "seconds") >= 0);
    assert_true(8 * (double)info.weight_bytes / (double)info.parameters <= 3.2);
    MUST_FAIL(UPG_E_STATE, "", upg_compress_run(job, err));
    MUST_FAIL(UPG_E_EXISTS, "life.upg", upg_compress_open(source, path, &options, &other, err));
    assert_null(other);
    options.overwrite = true;
    MUST(upg_compress_open(source, path, &options, &other, err));
    upg_compress_close(other);
    upg_model_close(model);
    upg_compress_close(job);
    upg_compress_close(NULL);
    assert_null(upg_compress_plan(NULL));
    MUST_FAIL(UPG_E_ARG, "output is NULL", upg_compress_open(source, NULL, &options, &other, err));
}

static void test_calibration(void **state)
{
    upg_compress_options none = options_with("", 1), built_in = options_with(NULL, 1);
    upg_compress        *job;
    size_t               n_none, n_built_in, n_again;
    char                *without = compress("none.upg", &none, &n_none);
    char                *with = compress("built-in.upg", &built_in, &n_built_in), *again;

    (void)state;
    assert_true(n_none != n_built_in || memcmp(without, with, n_none) != 0);
    built_in.threads = 3;
    again = compress("again.upg", &built_in, &n_again);
    assert_int_equal(n_again, n_built_in);
    assert_memory_equal(again, with, n_again); /* whatever the threads */
    free(again);
    free(with);
    free(without);
    none.effort = (upg_effort)4;
    MUST_FAIL(UPG_E_ARG, "effort is 4",
              upg_compress_open(source, in_folder(work, "x"), &none, &job, err));
    none.effort = UPG_EFFORT_DEFAULT;
    none.calibration = "/nowhere/text";
    MUST_FAIL(UPG_E_NOT_FOUND, "calibration: /nowhere/text",
              upg_compress_open(source, in_folder(work, "x"), &none, &job, err));
    write_file(in_folder(work, "empty"), "", 0);
    none.calibration = in_folder(work, "empty");
    MUST_FAIL(UPG_E_DATA, "is empty",
              upg_compress_open(source, in_folder(work, "x"), &none, &job, err));
    assert_null(job);
}

static int count(void *user, const upg_progress *now)
{
    (void)now;
    ++*(int *)user;
    return 0;
}

static void test_cancelling(void **state)
{
    int                  reports = 0;
    upg_compress_options options = options_with("", 1);
    char                 path[256];
    upg_compress        *job;

    (void)state;
    snprintf(path, sizeof path, "%s", in_folder(work, "cancelled.upg"));
    options.hooks.progress = count;
    options.hooks.user = &reports;
    MUST(upg_compress_open(source, path, &options, &job, err));
    upg_compress_cancel(job);
    MUST_FAIL(UPG_E_CANCELLED, "", upg_compress_run(job, err));
    upg_compress_close(job);
    assert_int_not_equal(access(path, F_OK), 0);
    reports = 0;
    MUST(upg_compress_open(source, path, &options, &job, err)); /* another job is not concerned */
    MUST(upg_compress_run(job, err));
    assert_true(reports > 0);
    upg_compress_close(job);
}

/* The coded model gives one text on one device, alone and beside others. */
static void test_coded_model_decodes(void **state)
{
    upg_compress_options options = options_with("", 2);
    size_t               size;

    (void)state;
    free(compress("model.upg", &options, &size));
    for (int d = 0; d < 2; d++) {
        upg_model   *model = open_path(in_folder(work, "model.upg"), d ? "cpu" : "ref", 2);
        upg_session *batch[3];
        upg_step     steps[3] = { 0 }, alone = { 0 };

        for (int i = 0; i < 3; i++) {
            upg_token tokens[] = { 5 + i, 6, 7 };

            batch[i] = make_session(model, NULL);
            MUST(upg_prefill(batch[i], tokens, 3, NULL, err));
        }
        for (int k = 0; k < 10; k++) {
            upg_session *fork;

            MUST(upg_session_fork(batch[1], upg_session_length(batch[1]), &fork, err));
            MUST(upg_decode(&fork, 1, &alone, err));
            MUST(upg_decode(batch, 3, steps, err));
            assert_int_equal(steps[1].status, UPG_OK);
            assert_int_equal(steps[1].token, alone.token);
            assert_memory_equal(&steps[1].logprob, &alone.logprob, sizeof alone.logprob);
            upg_session_close(fork);
        }
        for (int i = 0; i < 3; i++)
            upg_session_close(batch[i]);
        upg_model_close(model);
    }
}

static upg_status estimate(const upg_compress_options *options, upg_estimate *e, upg_error *err)
{
    *e = (upg_estimate) { .struct_size = sizeof *e };
    return upg_compress_estimate(source, in_folder(work, "unwritten.upg"), options, e, err);
}

/* What is computed is what the job then makes; what is estimated is there and adds up. */
static void test_estimate(void **state)
{
    upg_compress_options options = options_with("", 2);
    upg_estimate         e, with_text;
    size_t               size;

    (void)state;
    MUST(estimate(&options, &e, err));
    free(compress("estimated.upg", &options, &size));
    assert_true(size <= e.file_bytes && e.file_bytes < size + 8192);
    assert_true(e.ratio_fp32 == 4.0 * (double)e.parameters / (double)e.file_bytes);
    assert_true(e.ratio_source == (double)e.source_bytes / (double)e.file_bytes);
    assert_true(e.source_bytes == 2 * e.parameters && e.disk_bytes >= e.file_bytes);
    assert_true(e.weight_bytes < e.file_bytes && e.memory_bytes > 0);
    assert_true(e.fits_memory && e.fits_disk && e.disk_available > 0);
    assert_true(e.code_rate > 0 && e.product_rate == 0 && e.text_seconds == 0);
    assert_true(e.seconds == e.plan_seconds + e.text_seconds + e.code_seconds && e.seconds > 0);
    assert_int_not_equal(access(in_folder(work, "unwritten.upg"), F_OK), 0);
    options.calibration = NULL;
    MUST(estimate(&options, &with_text, err));
    assert_true(with_text.product_rate > 0 && with_text.text_seconds > 0);
    assert_int_equal(with_text.file_bytes / 8192, e.file_bytes / 8192); /* the recipe differs */
}

static void test_estimate_of_little_room(void **state)
{
    upg_compress_options options = options_with("", 2);
    upg_estimate         e;

    (void)state;
    upg_system_disk_cap(1000);
    upg_system_memory_cap(1000);
    MUST(estimate(&options, &e, err));
    upg_system_disk_cap(UINT64_MAX);
    upg_system_memory_cap(UINT64_MAX);
    assert_false(e.fits_disk);
    assert_false(e.fits_memory);
    assert_int_equal(e.disk_available, 1000);
}

static void test_estimate_refuses(void **state)
{
    upg_compress_options options = options_with("", 2);
    upg_estimate         e = { .struct_size = sizeof e };

    (void)state;
    MUST_FAIL(UPG_E_ARG, "upg_estimate is NULL",
              upg_compress_estimate(source, "x", &options, NULL, err));
    MUST_FAIL(UPG_E_ARG, "checkpoint", upg_compress_estimate(NULL, "x", &options, &e, err));
    MUST_FAIL(UPG_E_ARG, "output", upg_compress_estimate(source, NULL, &options, &e, err));
    MUST_FAIL(UPG_E_NOT_FOUND, "", upg_compress_estimate(work, "x", &options, &e, err));
    options.evaluation = "text";
    MUST_FAIL(UPG_E_UNSUPPORTED, "evaluation", estimate(&options, &e, err));
    options.evaluation = NULL;
    options.bits_per_parameter = 0.1;
    MUST_FAIL(UPG_E_BUDGET, "cannot be reached", estimate(&options, &e, err));
    options.bits_per_parameter = 0;
    options.max_memory = 1000;
    MUST_FAIL(UPG_E_BUDGET, "memory", estimate(&options, &e, err));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_life_of_a_job),    cmocka_unit_test(test_calibration),
        cmocka_unit_test(test_cancelling),       cmocka_unit_test(test_coded_model_decodes),
        cmocka_unit_test(test_estimate),         cmocka_unit_test(test_estimate_of_little_room),
        cmocka_unit_test(test_estimate_refuses),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
