/* Messages: formatted, prefixed, with the system's own words, never cut inside a character. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"

static void message_and_prefix(void **state)
{
    upg_error err;

    (void)state;
    assert_int_equal(upg_fail(&err, UPG_E_FORMAT, "tensor \"%s\" has %d rows", "x", 3),
                     UPG_E_FORMAT);
    upg_error_prefix(&err, "%s: ", "model.safetensors");
    assert_int_equal(err.code, UPG_E_FORMAT);
    assert_int_equal(err.os_errno, 0);
    assert_string_equal(err.message, "model.safetensors: tensor \"x\" has 3 rows");
    assert_int_equal(upg_fail(NULL, UPG_E_ARG, "nobody listens"), UPG_E_ARG);
    upg_error_prefix(NULL, "nobody ");
}

/* The system's text follows, and well-known numbers choose the code. */
static void system_errors(void **state)
{
    static const struct {
        int         number;
        upg_status  code;
        const char *text;
    } cases[] = { { ENOENT, UPG_E_NOT_FOUND, "open: No such file or directory" },
                  { ENOSPC, UPG_E_NOSPACE, "open: No space left on device" },
                  { EDQUOT, UPG_E_NOSPACE, "open: Disk quota exceeded" },
                  { ENOMEM, UPG_E_NOMEM, "open: Cannot allocate memory" },
                  { EEXIST, UPG_E_EXISTS, "open: File exists" },
                  { EIO, UPG_E_IO, "open: Input/output error" } };
    upg_error err;

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(upg_fail_os(&err, UPG_E_IO, cases[i].number, "open"), cases[i].code);
        assert_string_equal(err.message, cases[i].text);
        assert_int_equal(err.os_errno, cases[i].number);
    }
}

/* Whatever the length, a message ends with a whole character. */
static void cut_between_characters(void **state)
{
    upg_error err;
    char      text[1200];

    (void)state;
    for (size_t pad = 0; pad < 4; pad++) {
        size_t n = pad;

        memset(text, 'a', pad);
        while (n + 4 < sizeof text) {
            memcpy(text + n, "\xF0\x9F\x98\x80", 4);
            n += 4;
        }
        text[n] = '\0';
        (void)upg_fail(&err, UPG_E_DATA, "%s", text);
        assert_true(strlen(err.message) < sizeof err.message);
        assert_true(strlen(err.message) > sizeof err.message - 6);
        assert_int_equal((strlen(err.message) - pad) % 4, 0);
    }
}

static void every_status_has_a_text(void **state)
{
    (void)state;
#define CHECK_TEXT(name, value, text)                                                              \
    assert_string_equal(upg_status_text(UPG_##name), text);                                        \
    assert_int_equal(UPG_##name, value);
    UPG_STATUS_MAP(CHECK_TEXT)
    assert_string_equal(upg_status_text((upg_status)77), "unknown status");
    assert_true(upg_status_retryable(UPG_E_NOSPACE));
    assert_false(upg_status_retryable(UPG_E_FORMAT));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(message_and_prefix),
        cmocka_unit_test(system_errors),
        cmocka_unit_test(cut_between_characters),
        cmocka_unit_test(every_status_has_a_text),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
