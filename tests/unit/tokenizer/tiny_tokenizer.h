/* tiny_tokenizer.h: a tokenizer.json of 256 bytes, a few merges and two special tokens, as a JSON
 * value that a test can change before it is loaded. */
#ifndef UPG_TESTS_TINY_TOKENIZER_H
#define UPG_TESTS_TINY_TOKENIZER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "tokenizer/chat_template.h"
#include "tokenizer/text_stream.h"
#include "tokenizer/tokenizer.h"

/* Ids: bytes 0 … 255 as themselves, then one for each merge, then <|a|> and <|b|>. */
static const char *const tiny_merges[][2] = { { "t", "h" },   { "th", "e" },         { "a", "a" },
                                              { "aa", "aa" }, { "\xC4\xA0", "the" }, { "b", "c" },
                                              { "a", "bc" } };
enum { TINY_MERGES = 7, TINY_THE = 257, TINY_A = 256 + TINY_MERGES, TINY_B };

static inline void tiny_utf8(uint32_t c, char text[3])
{
    text[0] = (char)(c < 0x80 ? c : 0xC0 | c >> 6);
    text[1] = (char)(c < 0x80 ? 0 : 0x80 | (c & 0x3F));
    text[2] = '\0';
}

static inline json_t *tiny_vocab(void)
{
    json_t *vocab = json_object();
    int     next = 256;
    char    text[32];

    for (int b = 0; b < 256; b++) {
        int kept = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;

        tiny_utf8((uint32_t)(kept ? b : next++), text);
        json_object_set_new(vocab, text, json_integer(b));
    }
    for (int m = 0; m < TINY_MERGES; m++) {
        snprintf(text, sizeof text, "%s%s", tiny_merges[m][0], tiny_merges[m][1]);
        json_object_set_new(vocab, text, json_integer(256 + m));
    }
    return vocab;
}

static inline json_t *tiny_added(const char *content, int id, int lstrip, int rstrip)
{
    return json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", id, "content", content,
                     "single_word", 0, "lstrip", lstrip, "rstrip", rstrip, "normalized", 0,
                     "special", 1);
}

/** The whole file; the caller changes it and gives it to tiny_load. */
static inline json_t *tiny_json(void)
{
    static const char pattern[] =
        "(?i:'s|'t)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
        "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
    json_t *merges = json_array();

    for (int m = 0; m < TINY_MERGES; m++)
        json_array_append_new(merges, json_pack("[s, s]", tiny_merges[m][0], tiny_merges[m][1]));
    return json_pack(
        "{s:s, s:n, s:[o, o], s:{s:s, s:[{s:s, s:{s:s}, s:s, s:b}, {s:s, s:b, s:b}]}, s:{s:s},"
        " s:{s:s, s:b, s:o, s:o}}",
        "version", "1.0", "normalizer", "added_tokens", tiny_added("<|a|>", TINY_A, 1, 1),
        tiny_added("<|b|>", TINY_B, 0, 0), "pre_tokenizer", "type", "Sequence", "pretokenizers",
        "type", "Split", "pattern", "Regex", pattern, "behavior", "Removed", "invert", 1, "type",
        "ByteLevel", "add_prefix_space", 0, "use_regex", 0, "decoder", "type", "ByteLevel", "model",
        "type", "BPE", "byte_fallback", 0, "vocab", tiny_vocab(), "merges", merges);
}

/** Loads the value (taken), with a config text that may be NULL. */
static inline upg_status tiny_load_json(json_t *root, const char *config, upg_tokenizer **tokenizer,
                                        upg_error *err)
{
    char      *text = json_dumps(root, JSON_COMPACT);
    upg_span   json = { .data = (const uint8_t *)text, .size = text != NULL ? strlen(text) : 0 };
    upg_span   more = { .data = (const uint8_t *)config, .size = config ? strlen(config) : 0 };
    upg_status st;

    assert_non_null(text);
    st = upg_tokenizer_load(json, more, tokenizer, err);
    free(text);
    json_decref(root);
    return st;
}

static inline upg_tokenizer *tiny_load(void)
{
    upg_tokenizer *tokenizer;
    upg_error      err;

    if (tiny_load_json(tiny_json(), NULL, &tokenizer, &err) != UPG_OK)
        fail_msg("%s", err.message);
    return tokenizer;
}

/** Encodes and compares with n ids. */
static inline void tiny_expect(const upg_tokenizer *tokenizer, const char *text, bool special,
                               const int32_t *want, size_t n_want)
{
    int32_t   ids[64];
    size_t    n;
    upg_error err;

    if (upg_tokenizer_encode(tokenizer, text, strlen(text), special, ids, 64, &n, &err) != UPG_OK)
        fail_msg("%s", err.message);
    assert_int_equal(n, n_want);
    if (n > 0)
        assert_memory_equal(ids, want, n * sizeof *ids);
}

#define TINY_EXPECT(tokenizer, text, special, ...)                                                 \
    tiny_expect(tokenizer, text, special, (const int32_t[]) { __VA_ARGS__ },                       \
                sizeof(const int32_t[]) { __VA_ARGS__ } / sizeof(int32_t))

#endif
