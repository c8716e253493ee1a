/* Structs of callers compiled against an older or a newer upg.h. */
#include "api/struct_options.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

typedef struct known {
    size_t   struct_size;
    uint64_t first, second;
} known;

typedef struct newer {
    size_t   struct_size;
    uint64_t first, second, third;
} newer;

static void test_reading(void **state)
{
    newer     given = { sizeof(known), 1, 2, 3 };
    known     k = { 9, 9, 9 };
    upg_error err;

    (void)state;
    assert_int_equal(upg_struct_in(NULL, &k, sizeof k, "known", &err), UPG_OK);
    assert_true(k.struct_size == sizeof k && k.first == 0 && k.second == 0);
    assert_int_equal(upg_struct_in(&given, &k, sizeof k, "known", &err), UPG_OK);
    assert_true(k.struct_size == sizeof k && k.first == 1 && k.second == 2);
    given.struct_size = offsetof(known, second); /* older */
    assert_int_equal(upg_struct_in(&given, &k, sizeof k, "known", &err), UPG_OK);
    assert_true(k.struct_size == sizeof k && k.first == 1 && k.second == 0);
    given = (newer) { sizeof given, 1, 2, 0 }; /* newer, but asks for nothing new */
    assert_int_equal(upg_struct_in(&given, &k, sizeof k, "known", &err), UPG_OK);
    assert_true(k.struct_size == sizeof k && k.second == 2);
    given.third = 1;
    assert_int_equal(upg_struct_in(&given, &k, sizeof k, "known", &err), UPG_E_UNSUPPORTED);
    assert_non_null(strstr(err.message, "known has a value at byte 24"));
}

static void test_unset_sizes(void **state)
{
    known     given = { 0, 1, 2 }, k;
    upg_error err;

    (void)state;
    assert_int_equal(upg_struct_in(&given, &k, sizeof k, "known", &err), UPG_E_ARG);
    assert_non_null(strstr(err.message, "known.struct_size is 0"));
    given.struct_size = sizeof(size_t) - 1;
    assert_int_equal(upg_struct_in(&given, &k, sizeof k, "known", &err), UPG_E_ARG);
    given.struct_size = SIZE_MAX; /* never set: what stood on the stack */
    assert_int_equal(upg_struct_in(&given, &k, sizeof k, "known", &err), UPG_E_ARG);
    assert_int_equal(upg_struct_check(NULL, "known", &err), UPG_E_ARG);
}

static void test_writing(void **state)
{
    known k = { 0, 1, 2 };
    newer given = { sizeof given, 7, 8, 9 };

    (void)state;
    upg_struct_out(&k, sizeof k, &given);
    assert_true(given.struct_size == sizeof given && given.first == 1 && given.second == 2 &&
                given.third == 0);
    given = (newer) { offsetof(known, second), 7, 8, 9 };
    upg_struct_out(&k, sizeof k, &given); /* an older caller's memory ends there */
    assert_true(given.struct_size == offsetof(known, second) && given.first == 1 &&
                given.second == 8 && given.third == 9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reading),
        cmocka_unit_test(test_unset_sizes),
        cmocka_unit_test(test_writing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
