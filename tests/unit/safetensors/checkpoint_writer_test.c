/* Folders written tensor by tensor read back as they should, and nothing remains of failures. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
/* cmocka.h wants the above first. */
#include <cmocka.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/system.h"
#include "safetensors/checkpoint.h"
#include "safetensors/checkpoint_writer.h"
#include "support/temp_folder.h"

static const upg_st_entry entries[] = {
    { "z.first", UPG_BF16, 2, { 4, 8 } },
    { "a.second", UPG_F32, 1, { 3 } },
    { "m.third", UPG_BF16, 2, { 100, 2 } }, /* alone above the limit of 100 bytes */
    { "b.last", UPG_BF16, 1, { 5 } },
};
enum { N = 4 };
static const size_t sizes[N] = { 64, 12, 400, 10 };

/* FOLDER/out, in memory of its own: in_folder's is used again soon. */
static const char *output_in(const char *folder)
{
    static char path[512];

    snprintf(path, sizeof path, "%s/out", folder);
    return path;
}

static int set_up(void **state)
{
    *state = make_folder();
    return 0;
}

static int tear_down(void **state)
{
    remove_folder(*state);
    return 0;
}

static void remove_output(const char *path)
{
    static const char *const names[] = { "model.safetensors",
                                         "model.safetensors.index.json",
                                         "model-00001-of-00003.safetensors",
                                         "model-00002-of-00003.safetensors",
                                         "model-00003-of-00003.safetensors",
                                         "config.json" };

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        (void)unlink(in_folder(path, names[i]));
    assert_int_equal(rmdir(path), 0);
}

static uint8_t byte_of(size_t tensor, size_t i)
{
    return (uint8_t)(31 * tensor + i);
}

/* Writes all tensors in pieces of at most 7 bytes. */
static upg_status write_all(const char *path, uint64_t shard_bytes, upg_error *err)
{
    upg_checkpoint_writer *w = NULL;
    upg_status             st;

    UPG_TRY(upg_checkpoint_writer_create(path, entries, N, shard_bytes, &w, err));
    UPG_TRY(
        upg_checkpoint_write_file(w, "config.json", (upg_span) { (const uint8_t *)"{}", 2 }, err));
    for (size_t t = 0; t < N; t++)
        for (size_t i = 0, n; i < sizes[t]; i += n) {
            uint8_t piece[7];

            n = sizes[t] - i < sizeof piece ? sizes[t] - i : sizeof piece;
            for (size_t j = 0; j < n; j++)
                piece[j] = byte_of(t, i + j);
            UPG_TRY(upg_checkpoint_write(w, piece, n, err));
        }
    st = upg_checkpoint_writer_commit(w, err);
    w = NULL;
out:
    upg_checkpoint_writer_discard(w);
    return st;
}

static void check_content(const char *path)
{
    upg_checkpoint *c = NULL;
    upg_error       err = { 0 };

    if (upg_checkpoint_open(path, &c, &err) != UPG_OK)
        fail_msg("%s", err.message);
    assert_int_equal(upg_checkpoint_count(c), N);
    assert_int_equal(upg_checkpoint_source_bytes(c), 486);
    for (size_t t = 0; t < N; t++) {
        const upg_st_tensor *tensor = upg_checkpoint_find(c, entries[t].name);

        assert_non_null(tensor);
        assert_int_equal(tensor->dtype, entries[t].dtype);
        assert_int_equal(tensor->bytes.size, sizes[t]);
        for (size_t i = 0; i < sizes[t]; i++)
            assert_int_equal(tensor->bytes.data[i], byte_of(t, i));
    }
    upg_checkpoint_close(c);
}

static void one_file_without_index(void **state)
{
    const char *path = output_in(*state);
    upg_error   err = { 0 };

    assert_int_equal(write_all(path, 0, &err), UPG_OK);
    check_content(path);
    assert_int_equal(access(in_folder(path, "model.safetensors.index.json"), F_OK), -1);
    remove_output(path);
}

static void shards_with_index(void **state)
{
    const char *path = output_in(*state);
    char       *index;
    upg_error   err = { 0 };

    assert_int_equal(write_all(path, 100, &err), UPG_OK);
    check_content(path);
    index = read_file(in_folder(path, "model.safetensors.index.json"), NULL);
    assert_string_equal(index, "{\n  \"metadata\": {\n    \"total_size\": 486\n  },\n"
                               "  \"weight_map\": {\n"
                               "    \"a.second\": \"model-00001-of-00003.safetensors\",\n"
                               "    \"b.last\": \"model-00003-of-00003.safetensors\",\n"
                               "    \"m.third\": \"model-00002-of-00003.safetensors\",\n"
                               "    \"z.first\": \"model-00001-of-00003.safetensors\"\n"
                               "  }\n}\n");
    free(index);
    remove_output(path);
}

static upg_checkpoint_writer *begin(const char *path)
{
    upg_checkpoint_writer *w = NULL;

    assert_int_equal(upg_checkpoint_writer_create(path, entries, N, 0, &w, NULL), UPG_OK);
    return w;
}

static void refuses_misuse(void **state)
{
    static const upg_st_entry empty = { "e", UPG_BF16, 1, { 0 } };
    static const upg_st_entry huge = { "h", UPG_BF16, 2, { UINT64_MAX, 2 } };
    const char               *path = output_in(*state);
    uint8_t                   bytes[65] = { 0 };
    upg_error                 err = { 0 };
    upg_checkpoint_writer    *w = begin(path);

    assert_int_equal(upg_checkpoint_write(w, bytes, sizeof bytes, &err), UPG_E_ARG);
    assert_non_null(strstr(err.message, "\"z.first\" takes 64 bytes, 65 came"));
    assert_int_equal(upg_checkpoint_write(w, bytes, 64, &err), UPG_OK);
    assert_int_equal(upg_checkpoint_write(w, bytes, 5, &err), UPG_OK);
    assert_int_equal(upg_checkpoint_writer_commit(w, &err), UPG_E_STATE);
    assert_non_null(strstr(err.message, "\"a.second\": 5 of 12 bytes"));
    assert_int_equal(upg_checkpoint_writer_create(path, entries, 0, 0, &w, &err), UPG_E_ARG);
    assert_int_equal(upg_checkpoint_writer_create(path, &empty, 1, 0, &w, &err), UPG_E_ARG);
    assert_int_equal(upg_checkpoint_writer_create(path, &huge, 1, 0, &w, &err), UPG_E_FORMAT);
    upg_system_disk_cap(485);
    assert_int_equal(upg_checkpoint_writer_create(path, entries, N, 0, &w, &err), UPG_E_NOSPACE);
    upg_system_disk_cap(UINT64_MAX);
    assert_non_null(strstr(err.message, "take 486 bytes, the disk has room for 485"));
    assert_null(w);
    assert_int_equal(access(path, F_OK), -1);
}

static void too_many_shards(void **state)
{
    enum { MANY = 100000 };
    upg_st_entry *many = calloc(MANY, sizeof *many);
    uint32_t     *shard_of = calloc(MANY, sizeof *shard_of), n;
    upg_error     err = { 0 };

    (void)state;
    assert_true(many != NULL && shard_of != NULL);
    for (size_t i = 0; i < MANY; i++)
        many[i] = entries[0];
    assert_int_equal(upg_shards_assign(many, MANY, 1, shard_of, &n, &err), UPG_E_ARG);
    assert_int_equal(upg_shards_assign(many, MANY, 128, shard_of, &n, &err), UPG_OK);
    assert_int_equal(n, MANY / 2);
    free(many);
    free(shard_of);
}

static void every_failure_leaves_nothing(void **state)
{
    const char *path = output_in(*state);
    upg_error   err;
    upg_status  st;

    for (uint64_t n = 0;; n++) {
        upg_file_fail_after(n, 28 /* ENOSPC */);
        st = write_all(path, 100, &err);
        upg_file_fail_after(UINT64_MAX, 0);
        if (st == UPG_OK)
            break;
        assert_int_equal(st, UPG_E_NOSPACE);
        assert_int_equal(access(path, F_OK), -1);
    }
    remove_output(path);
    for (uint64_t n = 0;; n++) {
        upg_alloc_fail_after(n);
        st = write_all(path, 100, &err);
        upg_alloc_fail_after(UINT64_MAX);
        if (st == UPG_OK)
            break;
        assert_int_equal(st, UPG_E_NOMEM);
        assert_int_equal(access(path, F_OK), -1);
    }
    check_content(path);
    remove_output(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(one_file_without_index, set_up, tear_down),
        cmocka_unit_test_setup_teardown(shards_with_index, set_up, tear_down),
        cmocka_unit_test_setup_teardown(refuses_misuse, set_up, tear_down),
        cmocka_unit_test(too_many_shards),
        cmocka_unit_test_setup_teardown(every_failure_leaves_nothing, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
