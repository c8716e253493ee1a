/* Probes of the machine's limits: figures that are possible, and no memory left behind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h wants the above first. */
#include <cmocka.h>

#include "base/alloc.h"
#include "runtime/probe.h"

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
        cmocka_unit_test(test_out_of_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
