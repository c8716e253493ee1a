/* Child processes: outputs of any length, exit codes, the environment, programs that are not there.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
/* cmocka.h wants the above first. */
#include <cmocka.h>

#include "child.h"

static cli_child run(const char *script, const char *variable, const char *value)
{
    const char *argv[] = { "sh", "-c", script, NULL };
    cli_child   child;

    assert_true(cli_child_run(argv, variable, value, &child));
    return child;
}

static void test_outputs(void **state)
{
    cli_child child = run("echo one; echo two >&2; exit 3", NULL, NULL);

    (void)state;
    assert_string_equal(child.output, "one\n");
    assert_string_equal(child.errors, "two\n");
    assert_int_equal(child.exit_code, 3);
    cli_child_free(&child);
    child = run("cat; echo \"$SOME_NAME\"", "SOME_NAME", "its value"); /* standard input is empty */
    assert_string_equal(child.output, "its value\n");
    assert_string_equal(child.errors, "");
    assert_int_equal(child.exit_code, 0);
    cli_child_free(&child);
    child = run("kill -9 $$", NULL, NULL);
    assert_int_equal(child.exit_code, 128 + 9);
    cli_child_free(&child);
    cli_child_free(&child); /* zeroed now */
}

/* More than pipes hold, in both at once: neither side waits for ever. */
static void test_long_outputs(void **state)
{
    cli_child child = run("i=0; while [ $i -lt 20000 ]; do echo 0123456789; echo abcdefghij >&2; "
                          "i=$((i+1)); done",
                          NULL, NULL);

    (void)state;
    assert_int_equal(strlen(child.output), 20000 * 11);
    assert_int_equal(strlen(child.errors), 20000 * 11);
    cli_child_free(&child);
}

static void test_no_such_program(void **state)
{
    const char *argv[] = { "there-is-no-such-program", NULL };
    cli_child   child;
    char        path[512];

    (void)state;
    assert_true(cli_child_run(argv, NULL, NULL, &child));
    assert_int_equal(child.exit_code, 127);
    cli_child_free(&child);
    if (cli_own_path(path, sizeof path))
        assert_non_null(strstr(path, "child_test"));
    assert_false(cli_own_path(path, 4)); /* too short for any */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_outputs),
        cmocka_unit_test(test_long_outputs),
        cmocka_unit_test(test_no_such_program),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
