/* Finding added tokens: leftmost, then longest; tokens not marked "normalized" before the others,
 * which only see what is left; white space goes to the token that strips on its side. The expected
 * splits were checked against the reference. */
#include "tokenizer/added_tokens.h"
#include "unit/tokenizer/tiny_tokenizer.h"

static json_t *with_tokens(void)
{
    static const struct {
        const char *content;
        int         lstrip, rstrip, normalized;
    } more[] = { { "[ab]", 0, 0, 0 },   { "[ab", 0, 0, 0 }, { "[abc]", 0, 0, 0 },
                 { "xx[ab]", 0, 0, 1 }, { "zz", 1, 0, 1 },  { "zzz", 0, 1, 1 } };
    json_t *root = tiny_json();

    for (int i = 0; i < 6; i++) {
        json_t *token = tiny_added(more[i].content, TINY_B + 1 + i, more[i].lstrip, more[i].rstrip);

        json_object_set_new(token, "normalized", json_boolean(more[i].normalized));
        json_array_append_new(json_object_get(root, "added_tokens"), token);
    }
    return root;
}

enum { AB = TINY_B + 1, AB_OPEN, ABC, XX, ZZ, ZZZ };

static void longest_of_the_leftmost(void **state)
{
    upg_tokenizer *t;

    (void)state;
    assert_int_equal(tiny_load_json(with_tokens(), NULL, &t, NULL), UPG_OK);
    TINY_EXPECT(t, "[ab][abc][ab", true, AB, ABC, AB_OPEN);
    TINY_EXPECT(t, "[[ab][abc", true, '[', AB, AB_OPEN, 'c');
    TINY_EXPECT(t, "zzzzz", true, ZZZ, ZZ);
    upg_tokenizer_release(t);
}

static void normalized_tokens_come_second(void **state)
{
    upg_tokenizer *t;

    (void)state;
    assert_int_equal(tiny_load_json(with_tokens(), NULL, &t, NULL), UPG_OK);
    TINY_EXPECT(t, "xx[ab]", true, 'x', 'x', AB); /* [ab] is found first, xx[ab] no more */
    TINY_EXPECT(t, "q  zz[ab]zzz  x", true, 'q', ZZ, AB, ZZZ, 'x');
    upg_tokenizer_release(t);
}

static void strips_white_space_alone(void **state)
{
    static const char text[] = "a\xC2\xA0\xE3\x80\x80 ";

    (void)state;
    assert_int_equal(upg_strip_end((const uint8_t *)text, strlen(text)), 1);
    assert_int_equal(upg_strip_start((const uint8_t *)text + 1, strlen(text) - 1), 6);
    assert_int_equal(upg_strip_end((const uint8_t *)"a\xE2\x80\x8B", 4), 4); /* U+200B stays */
    assert_int_equal(upg_strip_start((const uint8_t *)"\x1C", 1), 0);
    assert_int_equal(upg_strip_end((const uint8_t *)" \n\x85", 2), 0);
}

static void an_empty_set_finds_nothing(void **state)
{
    upg_added_set   set;
    upg_added_match match;

    (void)state;
    assert_int_equal(upg_added_set_init(&set, NULL, 0, false, NULL), UPG_OK);
    assert_false(upg_added_set_find(&set, (const uint8_t *)"abc", 3, 0, true, &match));
    upg_added_set_deinit(&set);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(longest_of_the_leftmost),
        cmocka_unit_test(normalized_tokens_come_second),
        cmocka_unit_test(strips_white_space_alone),
        cmocka_unit_test(an_empty_set_finds_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
