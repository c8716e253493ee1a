/* Rewriting of pre-tokenizer expressions: what is accepted matches what it should, what would mean
 * something else in another regex engine is refused by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tokenizer/pattern.h"

/* The pieces of a text, joined by '|'. */
static void split(const char *expression, const char *text, char *out)
{
    upg_pattern pattern;
    upg_matcher matcher;
    upg_error   err;
    uint8_t     classes[256];
    size_t      n, at = 0, begin, end;

    if (upg_pattern_init(&pattern, expression, strlen(expression), &err) != UPG_OK)
        fail_msg("%s: %s", expression, err.message);
    assert_int_equal(upg_matcher_init(&matcher, &pattern, &err), UPG_OK);
    n = upg_pattern_classify((const uint8_t *)text, strlen(text), classes);
    upg_matcher_limit(&matcher, n);
    *out = '\0';
    while (upg_pattern_match(&pattern, &matcher, classes, n, at, &begin, &end) == 1) {
        strncat(out, text + begin, end - begin); /* the texts here are ASCII */
        strcat(out, "|");
        at = end;
    }
    upg_matcher_deinit(&matcher);
    upg_pattern_deinit(&pattern);
}

static void expect(const char *expression, const char *text, const char *pieces)
{
    char out[512];

    split(expression, text, out);
    assert_string_equal(out, pieces);
}

static void splits(void **state)
{
    (void)state;
    expect("\\p{L}+|\\p{N}{1,3}", "abc 12345,d", "abc|123|45|d|");
    expect("(?i:'s|'t)|[^\\s]", "'S'tx", "'S|'t|x|");
}

static void splits_by_known_patterns(void **state)
{
    static const char cl100k[] =
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
        "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
    static const char possessive[] =
        "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}{1,3}| "
        "?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+";
    static const char gpt2[] =
        "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

    (void)state;
    expect(cl100k, "Hello,  world's 12345!\r\n\n x  ",
           "Hello|,| | world|'s| |123|45|!\r\n\n| x|  |");
    expect(possessive, "I'LL go!!\n", "I|'LL| go|!!\n|");
    expect(gpt2, "I'm 12345  ok", "I|'m| 12345| | ok|");
}

static void refuses_by_name(void **state)
{
    static const struct {
        const char *expression, *named;
    } cases[] = { { "\\w+", "\\w" },
                  { "\\d", "\\d" },
                  { "\\p{Lu}", "\\p{Lu}" },
                  { "a.b", "." },
                  { "^a", "^" },
                  { "a$", "$" },
                  { "(?<=a)b", "(?<=" },
                  { "(?i)a", "(?i)" },
                  { "(a|b)+", "+" },
                  { "(ab){2}", "{" },
                  { "a{1,2}+", "{1,2}+" },
                  { "a{,2}", "{," },
                  { "\xC3\xA9", "\xC3\xA9" },
                  { "[[:alpha:]]", "[" },
                  { "[a&&b]", "&" },
                  { "*a", "*" },
                  { "(?!a)*", "*" },
                  { "(a", "unclosed" },
                  { "a)", ")" },
                  { "[a", "not closed" },
                  { "[\\s\\S-x]b", "x" },
                  { "[z-a]", "range" },
                  { "", "empty" },
                  { "a*", "empty string" },
                  { "[]a]", "]" },
                  { "a{99999}", "{9999" },
                  { "[^\\S\\s]", "nothing" },
                  { "\\1", "\\1" } };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        upg_pattern pattern;
        upg_error   err = { 0 };
        upg_status  st =
            upg_pattern_init(&pattern, cases[i].expression, strlen(cases[i].expression), &err);

        if (st != UPG_E_UNSUPPORTED && st != UPG_E_FORMAT)
            fail_msg("%s: status %d", cases[i].expression, (int)st);
        if (strstr(err.message, cases[i].named) == NULL)
            fail_msg("%s: the message does not name %s: %s", cases[i].expression, cases[i].named,
                     err.message);
    }
}

/* Where case is ignored, U+017F equals s and U+212A equals k; both are letters everywhere. */
static void folds_beyond_ascii(void **state)
{
    static const struct {
        const char *expression, *text;
        int         found;
    } cases[] = { { "(?i:'s)", "'\xC5\xBF", 1 },      { "'s", "'\xC5\xBF", 0 },
                  { "(?i:K)", "\xE2\x84\xAA", 1 },    { "(?i:[j-l])", "\xE2\x84\xAA", 1 },
                  { "(?i:[^k])", "\xE2\x84\xAA", 0 }, { "k", "\xE2\x84\xAA", 0 },
                  { "(?i:a)", "\xC5\xBF", 0 },        { "\\p{L}", "\xC5\xBF", 1 },
                  { "\\p{L}", "\xE2\x84\xAA", 1 },    { "\\P{L}", "\xE2\x84\xAA", 0 } };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        upg_pattern pattern;
        upg_matcher matcher;
        uint8_t     classes[8];
        size_t      n, begin, end;

        assert_int_equal(
            upg_pattern_init(&pattern, cases[i].expression, strlen(cases[i].expression), NULL),
            UPG_OK);
        assert_int_equal(upg_matcher_init(&matcher, &pattern, NULL), UPG_OK);
        n = upg_pattern_classify((const uint8_t *)cases[i].text, strlen(cases[i].text), classes);
        upg_matcher_limit(&matcher, n);
        if (upg_pattern_match(&pattern, &matcher, classes, n, 0, &begin, &end) != cases[i].found)
            fail_msg("%s in case %zu", cases[i].expression, i);
        upg_matcher_deinit(&matcher);
        upg_pattern_deinit(&pattern);
    }
}

/* Where PCRE2 can make machine code, it has to. */
static void jit_is_used(void **state)
{
    upg_pattern pattern;
    uint32_t    jit = 0;

    (void)state;
    assert_int_equal(upg_pattern_init(&pattern, "\\p{L}+", 6, NULL), UPG_OK);
    pcre2_config(PCRE2_CONFIG_JIT, &jit);
    if (jit)
        assert_true(pattern.jit);
    upg_pattern_deinit(&pattern);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(splits),          cmocka_unit_test(splits_by_known_patterns),
        cmocka_unit_test(refuses_by_name), cmocka_unit_test(folds_beyond_ascii),
        cmocka_unit_test(jit_is_used),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
