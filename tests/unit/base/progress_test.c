/* Meters: the last report is complete, cancelling works from the callback and from the flag. CPU
 * flags and random streams, which need no file of their own, are checked here too. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/cpu.h"
#include "base/progress.h"
#include "base/random.h"

typedef struct witness {
    int                 n_reports, answer;
    upg_progress_report last;
} witness;

static int listen(void *user, const upg_progress_report *now)
{
    witness *w = user;

    w->n_reports++;
    w->last = *now;
    return w->answer;
}

static void last_report_is_complete(void **state)
{
    witness      w = { 0 };
    upg_listener listener = { listen, &w, NULL };
    upg_meter    meter;
    upg_error    err;

    (void)state;
    upg_meter_start(&meter, &listener, "encode", "weights", 100);
    for (int i = 0; i < 100; i++) {
        upg_meter_add(&meter, 1);
        upg_meter_tick(&meter);
    }
    assert_int_equal(upg_meter_finish(&meter, &err), UPG_OK);
    assert_true(w.n_reports >= 1);
    assert_int_equal(w.last.done, 100);
    assert_int_equal(w.last.total, 100);
    assert_string_equal(w.last.stage, "encode");
}

static void parts_and_loss(void **state)
{
    witness      w = { 0 };
    upg_listener listener = { listen, &w, NULL };
    upg_meter    meter;
    upg_error    err;

    (void)state;
    upg_meter_start(&meter, &listener, "encode", "weights", 100);
    upg_meter_skip(&meter, 60);
    meter.start_ns -= 1000000000u; /* a second ago */
    assert_int_equal(upg_meter_finish(&meter, &err), UPG_OK);
    assert_null(w.last.part);
    assert_true(w.last.loss < 0);
    assert_int_equal(w.last.done, 60);
    assert_true(w.last.rate == 0); /* an earlier run's work is not this one's speed */
    upg_meter_part(&meter, "layer", 2, 4, 30);
    upg_meter_add(&meter, 10);
    upg_meter_error(&meter, 1, 50);
    upg_meter_error(&meter, 1, 50);
    assert_int_equal(upg_meter_finish(&meter, &err), UPG_OK);
    assert_string_equal(w.last.part, "layer");
    assert_int_equal(w.last.part_index, 2);
    assert_int_equal(w.last.parts, 4);
    assert_int_equal(w.last.part_done, 10);
    assert_int_equal(w.last.part_total, 30);
    assert_true(w.last.loss > 0.0199 && w.last.loss < 0.0201);
    assert_true(w.last.rate > 5 && w.last.rate <= 10);
    assert_true(w.last.seconds >= 3 && w.last.seconds < 6);
}

static void cancelling(void **state)
{
    witness      w = { .answer = 1 };
    atomic_bool  flag = false;
    upg_listener listener = { listen, &w, NULL }, flagged = { NULL, NULL, &flag };
    upg_meter    meter;
    upg_error    err;

    (void)state;
    upg_meter_start(&meter, &listener, "verify", "bytes", 0);
    assert_false(upg_meter_cancelled(&meter));
    assert_int_equal(upg_meter_finish(&meter, &err), UPG_E_CANCELLED);
    upg_meter_start(&meter, &flagged, "verify", "bytes", 0);
    assert_false(upg_meter_cancelled(&meter));
    atomic_store(&flag, true);
    assert_true(upg_meter_cancelled(&meter));
    assert_int_equal(upg_meter_finish(&meter, &err), UPG_E_CANCELLED);
    upg_meter_start(&meter, NULL, "silent", "bytes", 0);
    assert_int_equal(upg_meter_finish(&meter, &err), UPG_OK);
}

static void cpu_flags_can_be_masked(void **state)
{
    uint32_t all = upg_cpu_flags();
    char     text[128];

    (void)state;
    upg_cpu_mask(UPG_CPU_AVX2);
    assert_int_equal(upg_cpu_flags(), all & UPG_CPU_AVX2);
    upg_cpu_mask(0);
    assert_int_equal(upg_cpu_flags(), 0);
    upg_cpu_mask(UINT32_MAX);
    assert_int_equal(upg_cpu_flags(), all);
    upg_cpu_describe(0, text, sizeof text);
    assert_string_equal(text, "none");
    upg_cpu_describe(UPG_CPU_AVX2 | UPG_CPU_AVX512VNNI, text, sizeof text);
    assert_string_equal(text, "avx2 avx512vnni");
    assert_true(upg_cpu_cores() >= 1);
}

/* SplitMix64's published first values for seed 1234567: the file format depends on them. */
static void random_values_are_fixed(void **state)
{
    (void)state;
    assert_true(upg_random_u64(1234567, 0) == UINT64_C(6457827717110365317));
    assert_true(upg_random_u64(1234567, 1) == UINT64_C(3203168211198807973));
    assert_true(upg_random_u64(1234567, 2) == UINT64_C(9817491932198370423));
    for (uint64_t i = 0; i < 1000; i++) {
        double x = upg_random_unit(5, i);

        assert_true(x >= 0 && x < 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(last_report_is_complete),
        cmocka_unit_test(parts_and_loss),
        cmocka_unit_test(cancelling),
        cmocka_unit_test(cpu_flags_can_be_masked),
        cmocka_unit_test(random_values_are_fixed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
