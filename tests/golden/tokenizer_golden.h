/* tokenizer_golden.h: loading tokenizers and lines of JSON, for the golden and unit tests of the
 * tokenizer. Every failure fails the test that calls. */
#ifndef UPG_TESTS_TOKENIZER_GOLDEN_H
#define UPG_TESTS_TOKENIZER_GOLDEN_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/file.h"
#include "tokenizer/chat_template.h"
#include "tokenizer/text_stream.h"
#include "tokenizer/tokenizer.h"

#define TG_PHI4  UPG_SHARED_DATA "/tokenizer/phi4"
#define TG_MICRO UPG_TEST_DATA "/phi4-micro"

/** Fails the test with the library's message. */
static inline void tg_ok(upg_status st, const upg_error *err)
{
    if (st != UPG_OK)
        fail_msg("status %d: %s", (int)st, err->message);
}

static inline upg_span tg_span(const char *text)
{
    return (upg_span) { .data = (const uint8_t *)text, .size = strlen(text) };
}

static inline upg_tokenizer *tg_load(const char *folder)
{
    upg_tokenizer *tokenizer;
    upg_map        json, config;
    upg_error      err;
    char           path[512];

    snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    tg_ok(upg_map_open(path, &json, &err), &err);
    snprintf(path, sizeof path, "%s/tokenizer_config.json", folder);
    tg_ok(upg_map_open(path, &config, &err), &err);
    tg_ok(upg_tokenizer_load(json.bytes, config.bytes, &tokenizer, &err), &err);
    upg_map_close(&json);
    upg_map_close(&config);
    return tokenizer;
}

/** Skips the calling test when a file of the shared data is not there. */
static inline void tg_need(const char *path)
{
    if (upg_file_exists(path))
        return;
    print_message("skipped: %s is not there\n", path);
    skip();
}

/** Calls check(context, case) for each line of a file; returns the number of lines. */
static inline size_t tg_each_line(const char *path, void (*check)(void *, const json_t *),
                                  void       *context)
{
    upg_map   map;
    upg_error err;
    size_t    n = 0;

    tg_ok(upg_map_open(path, &map, &err), &err);
    for (size_t at = 0; at < map.bytes.size; n++) {
        const uint8_t *line = map.bytes.data + at;
        const uint8_t *end = memchr(line, '\n', map.bytes.size - at);
        size_t         size = end != NULL ? (size_t)(end - line) : map.bytes.size - at;
        json_t        *value =
            json_loadb((const char *)line, size, JSON_ALLOW_NUL | JSON_DECODE_ANY, NULL);

        assert_non_null(value);
        check(context, value);
        json_decref(value);
        at += size + 1;
    }
    upg_map_close(&map);
    return n;
}

/** The ids of a JSON list; returns how many. */
static inline size_t tg_ids(const json_t *list, int32_t *ids, size_t cap)
{
    size_t n = json_array_size(list);

    assert_true(json_is_array(list) && n <= cap);
    for (size_t i = 0; i < n; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(list, i));
    return n;
}

/** Fails, naming `what`, unless the bytes equal a JSON string. */
static inline void tg_equal_text(const char *what, const char *text, size_t size,
                                 const json_t *want)
{
    size_t n = json_string_length(want);

    assert_true(json_is_string(want));
    if (size != n || (n > 0 && memcmp(text, json_string_value(want), n) != 0))
        fail_msg("%s: got \"%.*s\" (%zu bytes), want \"%.200s\" (%zu bytes)", what,
                 (int)(size < 200 ? size : 200), text == NULL ? "" : text, size,
                 json_string_value(want), n);
}

static inline void tg_equal_ids(const char *what, const int32_t *got, size_t n_got,
                                const int32_t *want, size_t n_want)
{
    size_t n = n_got < n_want ? n_got : n_want;

    for (size_t i = 0; i < n; i++)
        if (got[i] != want[i])
            fail_msg("%.200s: ids[%zu] is %d, want %d", what, i, (int)got[i], (int)want[i]);
    if (n_got != n_want)
        fail_msg("%.200s: %zu ids, want %zu", what, n_got, n_want);
}

#endif
