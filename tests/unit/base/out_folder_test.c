/* Folders appear whole or not at all: every system call fails in turn, every allocation too. */
#include <dirent.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
/* cmocka.h wants the above first. */
#include <cmocka.h>

#include "base/alloc.h"
#include "base/out_folder.h"
#include "base/system.h"
#include "support/temp_folder.h"

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

static int count_entries(const char *folder)
{
    int  n = 0;
    DIR *dir = opendir(folder);

    if (dir == NULL)
        return -1;
    for (struct dirent *entry = readdir(dir); entry != NULL; entry = readdir(dir))
        n += entry->d_name[0] != '.';
    closedir(dir);
    return n;
}

static void empty_and_remove(const char *folder)
{
    (void)unlink(in_folder(folder, "a"));
    (void)unlink(in_folder(folder, "b"));
    assert_int_equal(rmdir(folder), 0);
}

static upg_status make_output(const char *path, upg_error *err)
{
    upg_outfolder *folder = NULL;
    upg_outfile   *file = NULL;
    upg_status     st;

    UPG_TRY(upg_outfolder_create(path, &folder, err));
    UPG_TRY(upg_outfolder_put(folder, "a", (upg_span) { (const uint8_t *)"hello", 5 }, err));
    UPG_TRY(upg_outfolder_file(folder, "b", &file, err));
    UPG_TRY(upg_outfile_write_at(file, 0, "world", 5, err));
    st = upg_outfile_commit(file, err);
    file = NULL;
    UPG_TRY(st);
    st = upg_outfolder_commit(folder, err);
    folder = NULL;
out:
    upg_outfile_discard(file);
    upg_outfolder_discard(folder);
    return st;
}

static void appears_whole(void **state)
{
    const char *path = output_in(*state);
    char       *text, slashed[520];
    upg_error   err;

    assert_int_equal(make_output(path, &err), UPG_OK);
    assert_int_equal(count_entries(path), 2);
    assert_int_equal(count_entries(*state), 1);
    text = read_file(in_folder(path, "a"), NULL);
    assert_string_equal(text, "hello");
    free(text);
    assert_int_equal(make_output(path, &err), UPG_E_EXISTS); /* it has files now */
    assert_non_null(strstr(err.message, "no empty folder"));
    empty_and_remove(path);
    assert_int_equal(mkdir(path, 0755), 0); /* an empty one is taken; slashes at the end are fine */
    snprintf(slashed, sizeof slashed, "%s//", path);
    assert_int_equal(make_output(slashed, &err), UPG_OK);
    assert_int_equal(count_entries(path), 2);
    empty_and_remove(path);
}

static void refuses_bad_places(void **state)
{
    upg_outfolder *folder;
    upg_error      err;
    char           path[512];

    write_file(in_folder(*state, "file"), "x", 1);
    assert_int_equal(upg_outfolder_create(in_folder(*state, "file"), &folder, &err), UPG_E_EXISTS);
    assert_null(folder);
    assert_int_equal(upg_outfolder_create("", &folder, &err), UPG_E_ARG);
    snprintf(path, sizeof path, "%s/none/out", (char *)*state);
    assert_int_equal(upg_outfolder_create(path, &folder, &err), UPG_E_NOT_FOUND);
}

/* Somebody takes the name while the folder is being filled. */
static void loses_a_race_cleanly(void **state)
{
    const char    *path = output_in(*state);
    upg_outfolder *folder;
    upg_error      err;

    assert_int_equal(upg_outfolder_create(path, &folder, &err), UPG_OK);
    write_file(path, "precious", 8);
    assert_int_equal(upg_outfolder_commit(folder, &err), UPG_E_EXISTS);
    assert_int_equal(count_entries(*state), 1);
}

static void every_call_fails_once(void **state)
{
    const char *path = output_in(*state);
    upg_error   err;
    uint64_t    n = 0;
    upg_status  st;

    for (;; n++) {
        upg_file_fail_after(n, ENOSPC);
        st = make_output(path, &err);
        upg_file_fail_after(UINT64_MAX, 0);
        if (st == UPG_OK)
            break;
        assert_int_equal(st, UPG_E_NOSPACE);
        assert_int_equal(count_entries(*state), 0);
    }
    assert_true(n > 5);
    empty_and_remove(path);
    for (n = 0;; n++) {
        upg_alloc_fail_after(n);
        st = make_output(path, &err);
        upg_alloc_fail_after(UINT64_MAX);
        if (st == UPG_OK)
            break;
        assert_int_equal(st, UPG_E_NOMEM);
        assert_int_equal(count_entries(*state), 0);
    }
    assert_true(n > 3);
    empty_and_remove(path);
}

static void tells_free_disk(void **state)
{
    uint64_t here = 0, below = 0, other = 0;
    char     path[512];

    assert_true(upg_system_disk(*state, &here));
    assert_true(here > 0);
    assert_true(upg_system_disk(in_folder(*state, "not-there-yet/"), &below));
    assert_true(below > 0);
    assert_true(upg_system_disk("not-there-yet", &other)); /* the folder at hand */
    snprintf(path, sizeof path, "%s/none/out", (char *)*state);
    assert_false(upg_system_disk(path, &other));
    assert_false(upg_system_disk("", &other));
    upg_system_disk_cap(1000);
    assert_true(upg_system_disk(*state, &here));
    assert_int_equal(here, 1000);
    upg_system_disk_cap(UINT64_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(appears_whole, set_up, tear_down),
        cmocka_unit_test_setup_teardown(refuses_bad_places, set_up, tear_down),
        cmocka_unit_test_setup_teardown(loses_a_race_cleanly, set_up, tear_down),
        cmocka_unit_test_setup_teardown(every_call_fails_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(tells_free_disk, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
