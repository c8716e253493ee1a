/* progress_bar_test.c: the text of one report. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "progress_bar.h"

static void shows(const upg_progress *now, bool bar, size_t width, const char *want)
{
    char text[256];

    cli_progress_text(now, bar, width, text, sizeof text);
    assert_string_equal(text, want);
}

static void known_total(void **state)
{
    upg_progress now = { "encode", "weights", 2000000, 8000000, 5.3e6, 1.1 };

    (void)state;
    shows(&now, true, 0, "encode     [######..................]  25 %  5.3 Mweights/s  left 0:01");
    shows(&now, false, 0, "encode      25 %  5.3 Mweights/s  left 0:01");
    shows(&now, true, 20, "encode     [######.");
    now.done = 8000000;
    shows(&now, false, 0, "encode     100 %  5.3 Mweights/s");
    now.done = 9000000; /* more than was announced */
    shows(&now, false, 0, "encode     100 %  5.3 Mweights/s");
}

static void long_times(void **state)
{
    upg_progress now = { "calibrate", "tokens", 1, 100, 999.6, 3 * 3600 + 7 * 60 + 15 };

    (void)state;
    shows(&now, false, 0, "calibrate    1 %  1 ktokens/s  left 3:07:15");
    now.seconds = -1; /* not known */
    shows(&now, false, 0, "calibrate    1 %  1 ktokens/s");
    now.seconds = 1e30;
    shows(&now, false, 0, "calibrate    1 %  1 ktokens/s  left 27777:46:39");
}

static void unknown_total(void **state)
{
    upg_progress now = { "read", "bytes", 12345, 0, 2.5e9, -1 };

    (void)state;
    shows(&now, true, 0, "read       12345 bytes  2.5 Gbytes/s");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_total),
        cmocka_unit_test(long_times),
        cmocka_unit_test(unknown_total),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
