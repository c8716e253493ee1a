/* Loading: the forms that tokenizer.json comes in give the same tokenizer; what is not supported or
 * contradicts itself is refused, and the message names it. */
#include "unit/tokenizer/tiny_tokenizer.h"

typedef void change(json_t *root);

static json_t *model(json_t *root)
{
    return json_object_get(root, "model");
}

static json_t *split_step(json_t *root)
{
    return json_array_get(json_object_get(json_object_get(root, "pre_tokenizer"), "pretokenizers"),
                          0);
}

static json_t *added(json_t *root, size_t i)
{
    return json_array_get(json_object_get(root, "added_tokens"), i);
}

static void set_text(json_t *object, const char *key, const char *value)
{
    json_object_set_new(object, key, json_string(value));
}

static void expect_same(json_t *root)
{
    upg_tokenizer *t;
    upg_error      err;

    if (tiny_load_json(root, NULL, &t, &err) != UPG_OK)
        fail_msg("%s", err.message);
    assert_int_equal(upg_tokenizer_vocab_size(t), TINY_B + 1);
    assert_int_equal(upg_tokenizer_added_count(t), 2);
    assert_int_equal(upg_tokenizer_find(t, "<|b|>", 5), TINY_B);
    assert_int_equal(upg_tokenizer_find(t, "the", 3), TINY_THE);
    assert_int_equal(upg_tokenizer_find(t, "xyz", 3), -1);
    TINY_EXPECT(t, "the the<|b|>abcaaaaa", true, TINY_THE, 260, TINY_B, 262, 259, 'a');
    TINY_EXPECT(t, " \n<|a|>\t\xE3\x80\x80x", true, TINY_A, 'x');
    upg_tokenizer_release(t);
}

static void merges_as_pairs(void **state)
{
    (void)state;
    expect_same(tiny_json());
}

static void merges_as_strings(void **state)
{
    json_t *root = tiny_json(), *merges = json_array();
    char    text[64];

    (void)state;
    for (int m = 0; m < TINY_MERGES; m++) {
        snprintf(text, sizeof text, "%s %s", tiny_merges[m][0], tiny_merges[m][1]);
        json_array_append_new(merges, json_string(text));
    }
    json_object_set_new(model(root), "merges", merges);
    expect_same(root);
}

static void added_tokens_in_the_vocabulary(void **state)
{
    json_t *root = tiny_json(), *vocab = json_object_get(model(root), "vocab");

    (void)state;
    json_object_set_new(vocab, "<|a|>", json_integer(TINY_A));
    json_object_set_new(vocab, "<|b|>", json_integer(TINY_B));
    expect_same(root);
}

static void absent_and_null_fields(void **state)
{
    json_t *root = tiny_json();

    (void)state;
    json_object_del(model(root), "type");
    json_object_del(root, "version");
    json_object_set_new(model(root), "dropout", json_null());
    json_object_set_new(model(root), "unk_token", json_null());
    json_object_set_new(root, "post_processor", json_pack("{s:s}", "type", "ByteLevel"));
    json_object_set_new(root, "truncation", json_null());
    set_text(model(root), "continuing_subword_prefix", "");
    expect_same(root);
}

static void isolated_keeps_gaps(void **state)
{
    json_t        *root = tiny_json();
    upg_tokenizer *t;

    (void)state;
    set_text(json_object_get(split_step(root), "pattern"), "Regex", "\\p{L}+");

    assert_int_equal(tiny_load_json(json_deep_copy(root), NULL, &t, NULL), UPG_OK);
    TINY_EXPECT(t, "1 a!", false, 'a'); /* Removed, inverted: only matches are kept */
    upg_tokenizer_release(t);
    set_text(split_step(root), "behavior", "Isolated");
    assert_int_equal(tiny_load_json(root, NULL, &t, NULL), UPG_OK);
    TINY_EXPECT(t, "1 a!", false, '1', ' ', 'a', '!');
    upg_tokenizer_release(t);
}

static void ignore_merges_takes_whole_pieces(void **state)
{
    json_t        *root = tiny_json();
    upg_tokenizer *t;

    (void)state;
    json_array_clear(json_object_get(model(root), "merges"));
    json_object_set_new(model(root), "ignore_merges", json_true());
    assert_int_equal(tiny_load_json(root, NULL, &t, NULL), UPG_OK);
    TINY_EXPECT(t, "the thex", false, TINY_THE, ' ', 't', 'h', 'e', 'x');
    upg_tokenizer_release(t);
}

static void change_type(json_t *root)
{
    set_text(model(root), "type", "Unigram");
}
static void change_normalizer(json_t *root)
{
    json_object_set_new(root, "normalizer", json_pack("{s:s}", "type", "NFC"));
}
static void change_pre_tokenizer(json_t *root)
{
    json_object_set_new(root, "pre_tokenizer", json_pack("{s:s}", "type", "Metaspace"));
}
static void change_behavior(json_t *root)
{
    set_text(split_step(root), "behavior", "MergedWithNext");
}
static void change_pattern(json_t *root)
{
    set_text(json_object_get(split_step(root), "pattern"), "Regex", "\\p{Lu}+");
}
static void change_decoder(json_t *root)
{
    set_text(json_object_get(root, "decoder"), "type", "WordPiece");
}
static void change_post_processor(json_t *root)
{
    json_object_set_new(root, "post_processor", json_pack("{s:s}", "type", "TemplateProcessing"));
}
static void change_byte_fallback(json_t *root)
{
    json_object_set_new(model(root), "byte_fallback", json_true());
}
static void change_dropout(json_t *root)
{
    json_object_set_new(model(root), "dropout", json_real(0.1));
}
static void change_prefix(json_t *root)
{
    set_text(model(root), "continuing_subword_prefix", "##");
}
static void change_version(json_t *root)
{
    set_text(root, "version", "2.0");
}
static void change_single_word(json_t *root)
{
    json_object_set_new(added(root, 0), "single_word", json_true());
}
static void change_bytes(json_t *root)
{
    json_object_del(json_object_get(model(root), "vocab"), "~");
}
static void change_prefix_space(json_t *root)
{
    json_object_set_new(
        json_array_get(json_object_get(json_object_get(root, "pre_tokenizer"), "pretokenizers"), 1),
        "add_prefix_space", json_true());
}
static void change_id(json_t *root)
{
    json_object_set_new(json_object_get(model(root), "vocab"), "zzz", json_integer(-1));
}
static void change_id_large(json_t *root)
{
    json_object_set_new(json_object_get(model(root), "vocab"), "zzz", json_integer(1 << 30));
}
static void change_id_twice(json_t *root)
{
    json_object_set_new(json_object_get(model(root), "vocab"), "zzz", json_integer(5));
}
static void change_added_id(json_t *root)
{
    json_object_set_new(added(root, 1), "id", json_integer(7));
}
static void change_added_twice(json_t *root)
{
    json_object_set_new(added(root, 1), "id", json_integer(TINY_A));
    set_text(added(root, 1), "content", "<|a|>");
}
static void change_added_empty(json_t *root)
{
    set_text(added(root, 1), "content", "");
}
static void change_added_flag(json_t *root)
{
    set_text(added(root, 1), "lstrip", "yes");
}
static void change_merge(json_t *root)
{
    json_array_append_new(json_object_get(model(root), "merges"), json_pack("[s, s]", "q", "q"));
}
static void change_merge_form(json_t *root)
{
    json_array_append_new(json_object_get(model(root), "merges"), json_string("a b c"));
}
static void change_merge_raw(json_t *root)
{
    json_array_append_new(json_object_get(model(root), "merges"),
                          json_pack("[s, s]", "\xE4\xB8\xAD", "a"));
}
static void change_merges(json_t *root)
{
    json_object_set_new(model(root), "merges", json_object());
}
static void change_vocab(json_t *root)
{
    json_object_set_new(model(root), "vocab", json_array());
}
static void change_model(json_t *root)
{
    json_object_del(root, "model");
}

static void refuses_by_name(void **state)
{
    static const struct {
        change     *apply;
        upg_status  status;
        const char *named;
    } cases[] = { { change_type, UPG_E_UNSUPPORTED, "Unigram" },
                  { change_normalizer, UPG_E_UNSUPPORTED, "NFC" },
                  { change_pre_tokenizer, UPG_E_UNSUPPORTED, "Metaspace" },
                  { change_behavior, UPG_E_UNSUPPORTED, "MergedWithNext" },
                  { change_pattern, UPG_E_UNSUPPORTED, "\\p{Lu}" },
                  { change_decoder, UPG_E_UNSUPPORTED, "WordPiece" },
                  { change_post_processor, UPG_E_UNSUPPORTED, "TemplateProcessing" },
                  { change_byte_fallback, UPG_E_UNSUPPORTED, "byte_fallback" },
                  { change_dropout, UPG_E_UNSUPPORTED, "dropout" },
                  { change_prefix, UPG_E_UNSUPPORTED, "##" },
                  { change_version, UPG_E_UNSUPPORTED, "2.0" },
                  { change_single_word, UPG_E_UNSUPPORTED, "single_word" },
                  { change_bytes, UPG_E_UNSUPPORTED, "0x7E" },
                  { change_prefix_space, UPG_E_UNSUPPORTED, "add_prefix_space" },
                  { change_id, UPG_E_FORMAT, "zzz" },
                  { change_id_large, UPG_E_FORMAT, "zzz" },
                  { change_id_twice, UPG_E_FORMAT, "id 5" },
                  { change_added_id, UPG_E_FORMAT, "<|b|>" },
                  { change_added_twice, UPG_E_FORMAT, "twice" },
                  { change_added_empty, UPG_E_FORMAT, "added_tokens[1]" },
                  { change_added_flag, UPG_E_FORMAT, "lstrip" },
                  { change_merge, UPG_E_FORMAT, "merges[7]" },
                  { change_merge_form, UPG_E_FORMAT, "merges[7]" },
                  { change_merge_raw, UPG_E_FORMAT, "the first" },
                  { change_merges, UPG_E_FORMAT, "model.merges" },
                  { change_vocab, UPG_E_FORMAT, "model.vocab" },
                  { change_model, UPG_E_FORMAT, "model" } };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        json_t        *root = tiny_json();
        upg_tokenizer *t;
        upg_error      err = { 0 };
        upg_status     st;

        cases[i].apply(root);
        st = tiny_load_json(root, NULL, &t, &err);
        if (st != cases[i].status || strstr(err.message, cases[i].named) == NULL ||
            strstr(err.message, "tokenizer.json") == NULL)
            fail_msg("case %zu (%s): status %d, \"%s\"", i, cases[i].named, (int)st, err.message);
        assert_null(t);
    }
}

static void refuses_configs_by_name(void **state)
{
    static const struct {
        const char *config;
        upg_status  status;
        const char *named;
    } cases[] = {
        { "{\"add_prefix_space\": true}", UPG_E_UNSUPPORTED, "add_prefix_space" },
        { "{\"eos_token\": \"<|zz|>\"}", UPG_E_FORMAT, "<|zz|>" },
        { "{\"eos_token\": 7}", UPG_E_FORMAT, "eos_token" },
        { "{\"added_tokens_decoder\": {\"300\": {\"content\": \"<|new|>\"}}}", UPG_E_UNSUPPORTED,
          "<|new|>" },
        { "{\"added_tokens_decoder\": {\"300\": {\"content\": \"<|b|>\"}}}", UPG_E_FORMAT,
          "<|b|>" },
        { "{\"added_tokens_decoder\": {\"300\": {}}}", UPG_E_FORMAT, "300" },
        { "{", UPG_E_FORMAT, "tokenizer_config.json" },
        { "[]", UPG_E_FORMAT, "tokenizer_config.json" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        upg_tokenizer *t;
        upg_error      err = { 0 };
        upg_status     st = tiny_load_json(tiny_json(), cases[i].config, &t, &err);

        if (st != cases[i].status || strstr(err.message, cases[i].named) == NULL)
            fail_msg("%s: status %d, \"%s\"", cases[i].config, (int)st, err.message);
        assert_null(t);
    }
}

static void reads_eos(void **state)
{
    upg_tokenizer *t;
    int32_t        ends[UPG_CHAT_MAX_ENDS];

    (void)state;
    assert_int_equal(
        tiny_load_json(tiny_json(), "{\"eos_token\": {\"content\": \"<|b|>\"}}", &t, NULL), UPG_OK);
    assert_int_equal(upg_tokenizer_eos(t), TINY_B);
    assert_int_equal(upg_chat_end_ids(t, ends), 1);
    assert_int_equal(ends[0], TINY_B);
    upg_tokenizer_release(t);
    t = tiny_load();
    assert_int_equal(upg_tokenizer_eos(t), -1);
    upg_tokenizer_release(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merges_as_pairs),
        cmocka_unit_test(merges_as_strings),
        cmocka_unit_test(added_tokens_in_the_vocabulary),
        cmocka_unit_test(absent_and_null_fields),
        cmocka_unit_test(isolated_keeps_gaps),
        cmocka_unit_test(ignore_merges_takes_whole_pieces),
        cmocka_unit_test(refuses_by_name),
        cmocka_unit_test(refuses_configs_by_name),
        cmocka_unit_test(reads_eos),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
