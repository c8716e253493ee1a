/* Probes of the machine's limits: figures that are possible, and no memory left behind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
/* cmocka.h wants the above first. */
#include <cmocka.h>

#include "base/alloc.h"
#include "runtime/kernel_speed.h"

static void test_figures(void **state)
{
    upg_probe *probe = NULL;

    (void)state;
    assert_int_equal(upg_probe_make(2, &probe, NULL), UPG_OK);
    assert_int_equal(upg_probe_thread_count(probe), 2);
    assert_true(upg_probe_read_pass(probe) > 0.01 && upg_probe_read_pass(probe) < 1e5);
    assert_true(upg_probe_int8_pass(probe) > 0.001 && upg_probe_int8_pass(probe) < 1e7);
    upg_probe_free(probe);
    upg_probe_free(NULL);
}

static void test_kernels(void **state)
{
    upg_kernel_speed s = { 0 };
    upg_probe       *probe = NULL;
    upg_error        err = { 0 };

    (void)state;
    assert_int_equal(upg_probe_make(1, &probe, NULL), UPG_OK);
    assert_int_equal(upg_kernel_speed_measure(probe, 0, &s, &err), UPG_OK);
    assert_string_equal(s.isa, "scalar");
    assert_string_equal(s.kernel, "bitdot");
    assert_true(s.rate > 0 && s.limit_rate > 0 && s.fraction > 0);
    assert_int_equal(upg_kernel_speed_measure(probe, 1000, &s, &err), UPG_E_ARG);
    assert_non_null(strstr(err.message, "kernel 1000: there are "));
    for (uint64_t n = 0; n < 2; n++) { /* scratch and sums */
        upg_alloc_fail_after(n);
        assert_int_equal(upg_kernel_speed_measure(probe, 0, &s, &err), UPG_E_NOMEM);
        upg_alloc_fail_after(UINT64_MAX);
    }
    upg_probe_free(probe);
}

static void test_out_of_memory(void **state)
{
    upg_status st = UPG_E_NOMEM;

    (void)state;
    for (uint64_t n = 0; st != UPG_OK; n++) {
        upg_probe *probe;
        upg_error  err = { 0 };

        upg_alloc_fail_after(n);
        st = upg_probe_make(1, &probe, &err);
        upg_alloc_fail_after(UINT64_MAX);
        assert_true(st == UPG_OK || (st == UPG_E_NOMEM && probe == NULL));
        upg_probe_free(probe);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_figures),
        cmocka_unit_test(test_kernels),
        cmocka_unit_test(test_out_of_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
