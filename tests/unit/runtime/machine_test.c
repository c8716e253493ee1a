/* What can be said of any machine: figures are there and make sense together. */
#include "runtime/machine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/cpu.h"

static void test_figures(void **state)
{
    upg_machine_info info;

    (void)state;
    memset(&info, 0x55, sizeof info);
    assert_int_equal(upg_machine_measure(&info, NULL), UPG_OK);
    assert_non_null(memchr(info.cpu, '\0', sizeof info.cpu));
    assert_non_null(memchr(info.gpu, '\0', sizeof info.gpu));
    assert_true(strlen(info.isa) > 0);
    assert_int_equal(info.cores, upg_cpu_cores());
    assert_true(info.memory_available <= info.memory_total);
    assert_true(info.read_gb_s_1 > 0.05 && info.read_gb_s_1 < 2000);
    assert_true(info.read_gb_s_all > 0.05 && info.read_gb_s_all < 20000);
}

static void test_no_memory(void **state)
{
    upg_machine_info info;
    upg_error        err;

    (void)state;
    for (uint64_t n = 0; n < 2; n++) {
        upg_alloc_fail_after(n);
        assert_int_equal(upg_machine_measure(&info, &err), UPG_E_NOMEM);
        assert_int_equal(err.code, UPG_E_NOMEM);
    }
    upg_alloc_fail_after(UINT64_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_figures),
        cmocka_unit_test(test_no_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
