/* Maps whose file loses bytes: zeros and an error with the handler, the old ways for all others. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* cmocka.h wants the above first. */
#include <cmocka.h>

#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/map_guard.h"
#include "support/temp_folder.h"

enum { PAGES = 8 };

static char  *folder;
static size_t page;

static int set_up(void **state)
{
    (void)state;
    folder = make_folder();
    page = (size_t)sysconf(_SC_PAGESIZE);
    return folder == NULL;
}

static int tear_down(void **state)
{
    (void)state;
    remove_folder(folder);
    return 0;
}

static const char *make_file(const char *name)
{
    const char *path = in_folder(folder, name);
    char       *bytes = malloc(PAGES * page);

    assert_non_null(bytes);
    memset(bytes, 7, PAGES * page);
    write_file(path, bytes, PAGES * page);
    free(bytes);
    return path;
}

static uint64_t sum(const upg_map *map)
{
    uint64_t total = 0;

    for (size_t i = 0; i < map->bytes.size; i++)
        total += ((const volatile uint8_t *)map->bytes.data)[i];
    return total;
}

/* Reads a page that its file lost, through a mapping that nobody guards. */
static void fault_elsewhere(void)
{
    const char          *path = make_file("elsewhere");
    FILE                *file = fopen(path, "r");
    volatile const char *bytes = mmap(NULL, PAGES * page, PROT_READ, MAP_SHARED, fileno(file), 0);

    if (truncate(path, 0) == 0)
        (void)bytes[page];
}

static void end_with_42(int number)
{
    (void)number;
    _exit(42);
}

/* Runs in a child, since it ends; returns how. */
static int in_child(void (*run)(void))
{
    int   how = 0;
    pid_t child = fork();

    assert_true(child >= 0);
    if (child == 0) {
        fclose(stderr); /* a sanitizer's report of what is wanted here */
        run();
        _exit(0);
    }
    assert_int_equal(waitpid(child, &how, 0), child);
    return how;
}

static void own_handler_first(void)
{
    signal(SIGBUS, end_with_42);
    if (upg_map_guard_install(NULL) == UPG_OK)
        fault_elsewhere();
}

static void no_handler(void)
{
    signal(SIGBUS, SIG_DFL);
    if (upg_map_guard_install(NULL) == UPG_OK)
        fault_elsewhere();
}

static void sent_by_kill(void)
{
    signal(SIGBUS, end_with_42);
    if (upg_map_guard_install(NULL) == UPG_OK)
        raise(SIGBUS);
}

static void test_faults_of_others(void **state)
{
    int how = in_child(own_handler_first);

    (void)state;
    assert_true(WIFEXITED(how) && WEXITSTATUS(how) == 42);
    how = in_child(no_handler);
    assert_true(WIFSIGNALED(how) && WTERMSIG(how) == SIGBUS);
    how = in_child(sent_by_kill);
    assert_true(WIFEXITED(how) && WEXITSTATUS(how) == 42);
}

static void test_lost_bytes(void **state)
{
    const char *path = make_file("shrinks");
    upg_map     map, other;
    upg_error   err = { 0 };
    char        offset[32];

    (void)state;
    assert_int_equal(upg_map_guard_install(&err), UPG_OK);
    assert_int_equal(upg_map_guard_install(&err), UPG_OK); /* once is enough */
    assert_int_equal(upg_map_open(path, &map, &err), UPG_OK);
    assert_int_equal(upg_map_open(make_file("stays"), &other, &err), UPG_OK);
    assert_int_equal(sum(&map), 7 * PAGES * page);
    assert_int_equal(upg_map_check(&map, &err), UPG_OK);
    assert_int_equal(truncate(path, (off_t)(5 * page)), 0);
    assert_int_equal(sum(&map), 7 * 5 * page); /* zeros from there on */
    assert_int_equal(upg_map_check(&map, &err), UPG_E_IO);
    snprintf(offset, sizeof offset, "offset %zu ", 5 * page);
    assert_non_null(strstr(err.message, offset));
    assert_int_equal(truncate(path, (off_t)(2 * page)), 0); /* more is lost */
    assert_int_equal(sum(&map), 7 * 2 * page);
    assert_int_equal(upg_map_check(&map, &err), UPG_E_IO);
    snprintf(offset, sizeof offset, "offset %zu ", 2 * page);
    assert_non_null(strstr(err.message, offset));
    assert_int_equal(sum(&other), 7 * PAGES * page);
    assert_int_equal(upg_map_check(&other, &err), UPG_OK);
    upg_map_close(&map);
    upg_map_close(&other);
    assert_int_equal(upg_map_open(path, &map, &err), UPG_OK); /* a new map knows nothing of it */
    assert_int_equal(upg_map_check(&map, &err), UPG_OK);
    upg_map_close(&map);
    assert_int_equal(upg_map_check(&map, &err), UPG_OK);
}

/* A full table guards no more, and says nothing wrong about what it does not know. */
static void test_full_table(void **state)
{
    static uint32_t guards[2000];
    size_t          n = 0;

    (void)state;
    while (n < 2000 && (guards[n] = upg_map_guard_add(guards, sizeof guards)) != 0)
        n++;
    assert_in_range(n, 900, 1024);
    assert_true(upg_map_guard_lost(0) == UINT64_MAX);
    upg_map_guard_remove(0);
    while (n > 0)
        upg_map_guard_remove(guards[--n]);
    guards[0] = upg_map_guard_add(guards, sizeof guards);
    assert_int_not_equal(guards[0], 0);
    upg_map_guard_remove(guards[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_faults_of_others), /* before this process has the handler */
        cmocka_unit_test(test_lost_bytes),
        cmocka_unit_test(test_full_table),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
