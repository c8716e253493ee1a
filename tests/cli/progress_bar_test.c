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
    upg_progress now = { .stage = "encode",
                         .unit = "weights",
                         .done = 2000000,
                         .total = 8000000,
                         .rate = 5.3e6,
                         .seconds = 1.1,
                         .loss = -1 };

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
    upg_progress now = { .stage = "calibrate",
                         .unit = "tokens",
                         .done = 1,
                         .total = 100,
                         .rate = 999.6,
                         .seconds = 3 * 3600 + 7 * 60 + 15,
                         .loss = -1 };

    (void)state;
    shows(&now, false, 0, "calibrate    1 %  1 ktokens/s  left 3:07:15");
    now.seconds = -1; /* not known */
    shows(&now, false, 0, "calibrate    1 %  1 ktokens/s");
    now.seconds = 1e30;
    shows(&now, false, 0, "calibrate    1 %  1 ktokens/s  left 27777:46:39");
}

static void unknown_total(void **state)
{
    upg_progress now = { .stage = "read",
                         .unit = "bytes",
                         .done = 12345,
                         .total = 0,
                         .rate = 2.5e9,
                         .seconds = -1,
                         .loss = -1 };

    (void)state;
    shows(&now, true, 0, "read       12345 bytes  2.5 Gbytes/s");
}

static void shows_part(const upg_progress *now, bool bar, size_t width, const char *want)
{
    char text[256];

    cli_part_text(now, bar, width, text, sizeof text);
    assert_string_equal(text, want);
}

static void parts(void **state)
{
    upg_progress now = { .part = "layer", .part_index = 3, .parts = 40, .loss = -1 };

    (void)state;
    shows_part(&now, true, 0, "layer 3/40 ");
    now.part_total = 200;
    now.part_done = 50;
    now.loss = 0.01234;
    shows_part(&now, true, 0, "layer 3/40 [######..................]  25 %  loss 0.0123");
    shows_part(&now, true, 20, "layer 3/40 [######.");
    shows_part(&now, false, 0, "layer 3/40   25 %  loss 0.0123");
    now.part = "embedding";
    now.part_index = now.parts = 1;
    now.part_done = 300; /* more than was announced */
    shows_part(&now, false, 0, "embedding  100 %  loss 0.0123");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_total),
        cmocka_unit_test(long_times),
        cmocka_unit_test(unknown_total),
        cmocka_unit_test(parts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
