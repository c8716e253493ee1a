/* Backends by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "backend/backend.h"

static void finds(void **state)
{
    const upg_backend_class *class_;
    upg_error                err;

    (void)state;
    assert_int_equal(upg_backend_find("ref", &class_, &err), UPG_OK);
    assert_ptr_equal(class_, &upg_backend_ref);
    assert_int_equal(upg_backend_find("cpu", &class_, &err), UPG_OK);
    assert_ptr_equal(class_, &upg_backend_cpu);
    assert_int_equal(upg_backend_find(NULL, &class_, &err), UPG_OK);
    assert_ptr_equal(class_, &upg_backend_cpu);
}

static void names_those_there_are(void **state)
{
    const upg_backend_class *class_ = &upg_backend_ref;
    upg_error                err;

    (void)state;
    assert_int_equal(upg_backend_find("abacus", &class_, &err), UPG_E_DEVICE);
    assert_null(class_);
    assert_non_null(strstr(err.message, "\"abacus\""));
    assert_non_null(strstr(err.message, "cpu, ref"));
    assert_int_equal(upg_backend_find("", &class_, NULL), UPG_E_DEVICE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds),
        cmocka_unit_test(names_those_there_are),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
