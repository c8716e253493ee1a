/* Files appear whole or not at all: every system call of the writer fails in turn. */
#include <dirent.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/file.h"
#include "support/temp_folder.h"

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

static int count_files(const char *folder)
{
    int  n = 0;
    DIR *dir = opendir(folder);

    assert_non_null(dir);
    for (struct dirent *entry = readdir(dir); entry != NULL; entry = readdir(dir))
        n += entry->d_name[0] != '.';
    closedir(dir);
    return n;
}

static char *path_in(const char *folder, const char *name)
{
    upg_error err;
    char     *path = upg_path_join(folder, name, &err);

    assert_non_null(path);
    return path;
}

/* Writes "hello" + hole + "world" to PATH. */
static upg_status make_output(const char *path, bool overwrite, upg_error *err)
{
    upg_status   st;
    upg_outfile *file = NULL;
    char         back[5];

    UPG_TRY(upg_outfile_create(path, overwrite, &file, err));
    UPG_TRY(upg_outfile_reserve(file, 20, err));
    UPG_TRY(upg_outfile_write_at(file, 15, "world", 5, err));
    UPG_TRY(upg_outfile_write_at(file, 0, "hello", 5, err));
    UPG_TRY(upg_outfile_read_at(file, 15, back, 5, err));
    assert_memory_equal(back, "world", 5);
    st = upg_outfile_commit(file, err);
    file = NULL;
out:
    upg_outfile_discard(file);
    return st;
}

static void check_content(const char *path)
{
    upg_map   map;
    upg_error err;

    assert_int_equal(upg_map_open(path, &map, &err), UPG_OK);
    assert_int_equal(map.bytes.size, 20);
    assert_memory_equal(map.bytes.data, "hello\0\0\0\0\0\0\0\0\0\0world", 20);
    upg_map_close(&map);
    upg_map_close(&map);
}

static void written_whole(void **state)
{
    char     *path = path_in(*state, "out.bin");
    upg_error err;

    assert_int_equal(make_output(path, false, &err), UPG_OK);
    check_content(path);
    assert_int_equal(make_output(path, false, &err), UPG_E_EXISTS);
    assert_non_null(strstr(err.message, "out.bin"));
    assert_int_equal(make_output(path, true, &err), UPG_OK);
    check_content(path);
    assert_int_equal(count_files(*state), 1);
    upg_free(path);
}

/* The Nth call fails with ENOSPC: nothing new remains, the old file is as it was. */
static void every_failure_leaves_the_old_file(void **state)
{
    char      *path = path_in(*state, "out.bin");
    upg_error  err;
    upg_status st = UPG_E_NOSPACE;
    uint64_t   n = 0;

    assert_int_equal(make_output(path, false, &err), UPG_OK);
    for (; st != UPG_OK; n++) {
        assert_true(n < 100);
        upg_file_fail_after(n, ENOSPC);
        st = make_output(path, true, &err);
        upg_file_fail_after(UINT64_MAX, 0);
        assert_true(st == UPG_OK || st == UPG_E_NOSPACE);
        check_content(path);
        assert_int_equal(count_files(*state), 1);
    }
    assert_true(n > 6); /* create, reserve, two writes, read, fsync, rename */
    upg_free(path);
}

/* A target that appears while we write is not replaced unless asked for. */
static void late_rival_is_kept(void **state)
{
    char        *path = path_in(*state, "out.bin");
    upg_error    err;
    upg_outfile *file;

    assert_int_equal(upg_outfile_create(path, false, &file, &err), UPG_OK);
    assert_non_null(strstr(upg_outfile_temporary(file), "out.bin.tmp-"));
    assert_int_equal(make_output(path, false, &err), UPG_OK);
    assert_int_equal(upg_outfile_commit(file, &err), UPG_E_EXISTS);
    check_content(path);
    assert_int_equal(count_files(*state), 1);
    upg_free(path);
}

static void reading(void **state)
{
    char      *path = path_in(*state, "out.bin"), *none = path_in(*state, "none");
    upg_error  err;
    upg_map    map;
    upg_buffer text;

    upg_buffer_init(&text, 20);
    assert_int_equal(make_output(path, false, &err), UPG_OK);
    assert_int_equal(upg_file_read(path, &text, &err), UPG_OK);
    assert_int_equal(text.size, 20);
    upg_buffer_deinit(&text);
    upg_buffer_init(&text, 19);
    assert_int_equal(upg_file_read(path, &text, &err), UPG_E_BUDGET);
    assert_int_equal(upg_file_read(none, &text, &err), UPG_E_NOT_FOUND);
    assert_int_equal(upg_map_open(none, &map, &err), UPG_E_NOT_FOUND);
    assert_int_equal(err.os_errno, ENOENT);
    assert_int_equal(upg_map_open(*state, &map, &err), UPG_E_UNSUPPORTED);
    assert_true(upg_file_is_folder(*state));
    assert_false(upg_file_is_folder(path));
    assert_true(upg_file_exists(path));
    assert_false(upg_file_exists(none));
    upg_buffer_deinit(&text);
    upg_free(path);
    upg_free(none);
}

static void creating_in_no_folder(void **state)
{
    upg_outfile *file;
    upg_error    err;
    char        *path = path_in(*state, "absent/out.bin");

    assert_int_equal(upg_outfile_create(path, false, &file, &err), UPG_E_NOT_FOUND);
    assert_null(file);
    assert_non_null(strstr(err.message, "absent/out.bin"));
    upg_outfile_discard(NULL);
    upg_free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(written_whole, set_up, tear_down),
        cmocka_unit_test_setup_teardown(every_failure_leaves_the_old_file, set_up, tear_down),
        cmocka_unit_test_setup_teardown(late_rival_is_kept, set_up, tear_down),
        cmocka_unit_test_setup_teardown(reading, set_up, tear_down),
        cmocka_unit_test_setup_teardown(creating_in_no_folder, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
