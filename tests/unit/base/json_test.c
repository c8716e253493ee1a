/* Getters name where, key, value found and value needed; parsing is strict. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"

static json_t *parse(const char *text)
{
    json_t   *value;
    upg_error err;

    assert_int_equal(
        upg_json_parse((upg_span) { (const uint8_t *)text, strlen(text) }, &value, &err), UPG_OK);
    return value;
}

static void getters(void **state)
{
    json_t     *o = parse("{\"n\":7,\"x\":1.5,\"s\":\"t\",\"b\":true,\"z\":null,\"neg\":-1}");
    uint64_t    n;
    double      x;
    const char *s;
    bool        b;
    upg_error   err;

    (void)state;
    assert_int_equal(upg_json_u64(o, "n", 1, 7, "config.json", &n, &err), UPG_OK);
    assert_int_equal(n, 7);
    assert_int_equal(upg_json_u64(o, "n", 1, 6, "config.json", &n, &err), UPG_E_FORMAT);
    assert_string_equal(err.message,
                        "config.json: field \"n\" is 7, an integer from 1 to 6 is needed");
    assert_int_equal(upg_json_u64(o, "neg", 0, 6, "config.json", &n, &err), UPG_E_FORMAT);
    assert_int_equal(upg_json_u64(o, "x", 0, 6, "config.json", &n, &err), UPG_E_FORMAT);
    assert_int_equal(upg_json_u64(o, "none", 0, 6, "config.json", &n, &err), UPG_E_FORMAT);
    assert_string_equal(err.message,
                        "config.json: field \"none\" is missing, an integer from 0 to 6 is needed");
    assert_int_equal(upg_json_number(o, "x", 0, 2, "c", &x, &err), UPG_OK);
    assert_true(x == 1.5);
    assert_int_equal(upg_json_number(o, "n", 0, 10, "c", &x, &err), UPG_OK);
    assert_int_equal(upg_json_number(o, "x", 2, 3, "c", &x, &err), UPG_E_FORMAT);
    assert_int_equal(upg_json_string(o, "s", "c", &s, &err), UPG_OK);
    assert_string_equal(s, "t");
    assert_int_equal(upg_json_string(o, "n", "c", &s, &err), UPG_E_FORMAT);
    assert_true(upg_json_has(o, "n"));
    assert_false(upg_json_has(o, "z"));
    assert_false(upg_json_has(o, "none"));
    assert_int_equal(upg_json_bool_or(o, "b", false, "c", &b, &err), UPG_OK);
    assert_true(b);
    assert_int_equal(upg_json_bool_or(o, "z", true, "c", &b, &err), UPG_OK);
    assert_true(b);
    assert_int_equal(upg_json_bool_or(o, "n", true, "c", &b, &err), UPG_E_FORMAT);
    json_decref(o);
}

static void refused(void **state)
{
    static const char *const texts[] = {
        "",      "{",           "{\"a\":1,\"a\":2}",     "[1,]", "{} {}", "\"\xFF\"", "nul",
        "1e999", "\"\\ud800\"", "[99999999999999999999]"
    };

    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        json_t   *value;
        upg_error err;
        upg_span  text = { (const uint8_t *)texts[i], strlen(texts[i]) };

        assert_int_equal(upg_json_parse(text, &value, &err), UPG_E_FORMAT);
        assert_null(value);
        assert_non_null(strstr(err.message, "not valid JSON"));
    }
}

/* Nesting is bounded: a hostile text cannot exhaust the stack. */
static void deep_nesting(void **state)
{
    static char text[200000];
    json_t     *value;
    upg_error   err;

    (void)state;
    memset(text, '[', sizeof text);
    assert_int_equal(
        upg_json_parse((upg_span) { (const uint8_t *)text, sizeof text }, &value, &err),
        UPG_E_FORMAT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(getters),
        cmocka_unit_test(refused),
        cmocka_unit_test(deep_nesting),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
