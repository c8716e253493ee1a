/* lost_file_test.c: files that are truncated while a model is open: an error that names the file,
 * never a crash and never a text computed from zeros. */
#include "support/open_model.h"

#include <sys/stat.h>
#include <unistd.h>

static char *folder;

static int set_up(void **state)
{
    test_model_shape shape = test_model_small();

    (void)state;
    folder = make_folder();
    shape.hidden = 256; /* weights of many pages */
    shape.ffn = 512;
    shape.n_shards = 2;
    MUST(make_checkpoint(folder, &shape, 1, err));
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    remove_folder(folder);
    return 0;
}

static void cut_in_half(const char *path)
{
    struct stat info;

    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(truncate(path, info.st_size / 2), 0);
}

static char *compressed(const char *name)
{
    upg_compress_options options = { .struct_size = sizeof options,
                                     .bits_per_parameter = 4,
                                     .calibration = "" };
    upg_compress        *job = NULL;
    char                *path = strdup(in_folder(folder, name));

    assert_non_null(path);
    MUST(upg_compress_open(folder, path, &options, &job, err));
    MUST(upg_compress_run(job, err));
    upg_compress_close(job);
    return path;
}

/* The model runs, its file is cut, it runs no more; what another model has stays right. */
static void check(const char *path, const char *victim, const char *named)
{
    upg_token    prompt[] = { 5, 6, 7, 8 };
    upg_model   *model = open_path(path, "cpu", 2);
    upg_session *session = make_session(model, NULL), *other = make_session(model, NULL);
    upg_step     steps[2] = { { 0 }, { 0 } };

    MUST(upg_prefill(session, prompt, 4, NULL, err));
    MUST(upg_prefill(other, prompt, 4, NULL, err));
    MUST(upg_decode(&session, 1, steps, err));
    assert_int_equal(steps[0].status, UPG_OK);
    cut_in_half(victim);
    MUST_FAIL(UPG_E_IO, named, upg_prefill(session, prompt, 4, NULL, err));
    assert_int_equal(upg_session_length(session), 5); /* as before the call */
    MUST(upg_decode((upg_session *[]) { session, other }, 2, steps, err));
    assert_int_equal(steps[0].status, UPG_E_IO);
    assert_int_equal(steps[1].status, UPG_E_IO);
    assert_int_equal(steps[1].token, -1);
    assert_non_null(strstr(upg_session_message(other), named));
    assert_non_null(strstr(upg_session_message(other), "lost its bytes from offset"));
    upg_session_close(session);
    upg_session_close(other);
    upg_model_close(model);
}

/* In one test, since cmocka puts handlers of its own in place before each. */
static void test_files(void **state)
{
    char *path = compressed("model.upg");
    char *shard = strdup(in_folder(folder, "model-00001-of-00002.safetensors"));

    (void)state;
    assert_non_null(shard);
    MUST(upg_guard_maps(err));
    check(path, path, "model.upg: ");
    check(folder, shard, "model-00001-of-00002.safetensors: ");
    free(path);
    free(shard);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_files) };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
