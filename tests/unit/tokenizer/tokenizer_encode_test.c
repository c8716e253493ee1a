/* Encoding: the buffer rule, bad text, control tokens that text cannot forge, many threads at once,
 * and millions of bytes of what makes careless tokenizers quadratic. */
#include <pthread.h>

#include "base/random.h"
#include "unit/tokenizer/tiny_tokenizer.h"

static void buffer_rule(void **state)
{
    upg_tokenizer *t = tiny_load();
    upg_error      err = { 0 };
    int32_t        ids[4] = { -7, -7, -7, -7 };
    size_t         n;

    (void)state;
    assert_int_equal(upg_tokenizer_encode(t, "xyz", 3, false, NULL, 0, &n, &err), UPG_E_BUFFER);
    assert_int_equal(n, 3);
    assert_int_equal(upg_tokenizer_encode(t, "xyz", 3, false, ids, 2, &n, &err), UPG_E_BUFFER);
    assert_int_equal(n, 3);
    assert_non_null(strstr(err.message, "3 tokens"));
    assert_int_equal(ids[2], -7);
    assert_int_equal(upg_tokenizer_encode(t, "xyz", 3, false, ids, 3, &n, &err), UPG_OK);
    assert_int_equal(n, 3);
    assert_int_equal(ids[2], 'z');
    assert_int_equal(ids[3], -7);
    assert_int_equal(upg_tokenizer_encode(t, NULL, 0, true, NULL, 0, &n, &err), UPG_OK);
    assert_int_equal(n, 0);
    upg_tokenizer_release(t);
}

static void append_keeps_what_is_there(void **state)
{
    upg_tokenizer  *t = tiny_load();
    upg_token_array ids = { 0 };
    upg_error       err;

    (void)state;
    assert_int_equal(upg_token_array_add(&ids, 42, &err), UPG_OK);
    assert_int_equal(upg_tokenizer_append(t, "a\xFF", 2, false, &ids, &err), UPG_E_DATA);
    assert_int_equal(ids.size, 1);
    for (int i = 0; i < 100; i++)
        assert_int_equal(upg_tokenizer_append(t, "xy", 2, false, &ids, &err), UPG_OK);
    assert_int_equal(ids.size, 201);
    assert_int_equal(ids.ids[0], 42);
    assert_int_equal(ids.ids[200], 'y');
    upg_token_array_deinit(&ids);
    upg_tokenizer_release(t);
}

static void bad_text_names_its_offset(void **state)
{
    upg_tokenizer *t = tiny_load();
    upg_error      err;
    int32_t        ids[32];
    size_t         n = 5;

    (void)state;
    assert_int_equal(upg_tokenizer_encode(t, "0123456789\xED\xA0\x80", 13, true, ids, 32, &n, &err),
                     UPG_E_DATA);
    assert_int_equal(n, 0);
    assert_non_null(strstr(err.message, "0xED at offset 10"));
    upg_tokenizer_release(t);
}

static void special_text_is_plain_unless_asked_for(void **state)
{
    upg_tokenizer *t = tiny_load();

    (void)state;
    TINY_EXPECT(t, "x<|b|>y", true, 'x', TINY_B, 'y');
    TINY_EXPECT(t, "x<|b|>y", false, 'x', '<', '|', 'b', '|', '>', 'y');
    TINY_EXPECT(t, "x <|b|> y", true, 'x', ' ', TINY_B, ' ', 'y');
    TINY_EXPECT(t, "x <|a|> y", true, 'x', TINY_A, 'y');
    TINY_EXPECT(t, " <|a|>\n<|a|> ", true, TINY_A, TINY_A);
    TINY_EXPECT(t, "<|<|b|>|b|>", true, '<', '|', TINY_B, '|', 'b', '|', '>');
    TINY_EXPECT(t, "<|b|", true, '<', '|', 'b', '|');
    upg_tokenizer_release(t);
}

static void nul_bytes_are_text(void **state)
{
    upg_tokenizer *t = tiny_load();
    upg_error      err;
    int32_t        ids[8];
    size_t         n;

    (void)state;
    assert_int_equal(upg_tokenizer_encode(t, "\0a\0", 3, true, ids, 8, &n, &err), UPG_OK);
    assert_int_equal(n, 3);
    assert_int_equal(ids[0], 0);
    upg_tokenizer_release(t);
}

static void decode_and_its_errors(void **state)
{
    static const int32_t ids[] = { TINY_A, 0xC3, TINY_B, 0xA9, 260, 300 };
    upg_tokenizer       *t = tiny_load();
    upg_buffer           text;
    upg_error            err;

    (void)state;
    upg_buffer_init(&text, 100);
    assert_int_equal(upg_tokenizer_decode(t, ids, 5, true, &text, &err), UPG_OK);
    assert_string_equal(text.data, "\xC3\xA9 the");
    upg_buffer_clear(&text);
    assert_int_equal(upg_tokenizer_decode(t, ids, 5, false, &text, &err), UPG_OK);
    assert_string_equal(text.data, "<|a|>\xEF\xBF\xBD<|b|>\xEF\xBF\xBD the");
    assert_int_equal(upg_tokenizer_decode(t, ids, 6, false, &text, &err), UPG_E_ARG);
    assert_non_null(strstr(err.message, "ids[5]: no token has the id 300"));
    upg_buffer_deinit(&text);
    upg_buffer_init(&text, 3);
    assert_int_equal(upg_tokenizer_decode(t, ids, 5, false, &text, &err), UPG_E_BUDGET);
    upg_buffer_deinit(&text);
    upg_tokenizer_release(t);
}

/* A text of many kinds of words, different for each seed. */
static size_t make_text(uint64_t seed, char *text, size_t cap)
{
    static const char *const words[] = {
        "the", " ",     "aaaa", "abc", "\n",       " the",
        "12",  "<|b|>", "'s",   "\t ", "\xC3\xA9", "\xE4\xB8\xAD"
    };
    size_t n = 0;

    for (uint64_t i = 0; n + 8 < cap; i++) {
        const char *word = words[upg_random_u64(seed, i) % 12];

        memcpy(text + n, word, strlen(word));
        n += strlen(word);
    }
    return n;
}

enum { THREADS = 12, ROUNDS = 40, TEXT_BYTES = 3000 };

typedef struct worker {
    const upg_tokenizer *tokenizer;
    uint64_t             seed;
    bool                 differs;
} worker;

/* Encodes and decodes: without <|a|> in the text, decoding gives it back. */
static void *work(void *context)
{
    worker         *w = context;
    upg_token_array ids = { 0 };
    char            text[TEXT_BYTES];

    for (uint64_t round = 0; round < ROUNDS; round++) {
        size_t     n = make_text(w->seed * ROUNDS + round, text, sizeof text);
        upg_buffer back;

        upg_buffer_init(&back, 2 * TEXT_BYTES);
        ids.size = 0;
        w->differs |=
            upg_tokenizer_append(w->tokenizer, text, n, true, &ids, NULL) != UPG_OK ||
            upg_tokenizer_decode(w->tokenizer, ids.ids, ids.size, false, &back, NULL) != UPG_OK ||
            back.size != n || memcmp(back.data, text, n) != 0;
        upg_buffer_deinit(&back);
    }
    upg_token_array_deinit(&ids);
    upg_tokenizer_release(w->tokenizer);
    return NULL;
}

static void many_threads(void **state)
{
    upg_tokenizer *t = tiny_load();
    worker         workers[THREADS];
    pthread_t      threads[THREADS];

    (void)state;
    for (uint64_t i = 0; i < THREADS; i++) {
        workers[i] = (worker) { .tokenizer = t, .seed = i };
        upg_tokenizer_retain(t);
        assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    upg_tokenizer_release(t);
    for (size_t i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_false(workers[i].differs);
    }
}

/* 4 MiB of each pattern repeated. One with quadratic work would take hours; the test's time limit
 * is what fails then. Where the text decodes back, it must. */
static void large_texts(void **state)
{
    static const struct {
        const char *unit;
        bool        whole; /* no white space is lost beside tokens */
    } cases[] = { { "a", true },
                  { " ", true },
                  { "\n", true },
                  { " \n", true },
                  { "\r\n \t", true },
                  { "9", true },
                  { "!", true },
                  { "! \n", true },
                  { "<|b|", true },
                  { "<|b|>", true },
                  { "<", true },
                  { "the ", true },
                  { "\xE3\x80\x80", true },
                  { "\xC3\xA9", true },
                  { "\xC5\xBF'", true },
                  { " <|a|> ", false },
                  { "   \xC2\xA0x", true },
                  { "'", true } };
    enum { BYTES = 1 << 22 };
    upg_tokenizer  *t = tiny_load();
    char           *text = malloc(BYTES);
    upg_token_array ids = { 0 };
    upg_error       err = { 0 };

    (void)state;
    assert_non_null(text);
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        size_t     unit = strlen(cases[c].unit), n = BYTES / unit * unit;
        upg_buffer back;

        for (size_t i = 0; i < n; i += unit)
            memcpy(text + i, cases[c].unit, unit);
        ids.size = 0;
        upg_buffer_init(&back, 2 * BYTES);
        if (upg_tokenizer_append(t, text, n, true, &ids, &err) != UPG_OK)
            fail_msg("case %zu: %s", c, err.message);
        assert_int_equal(upg_tokenizer_decode(t, ids.ids, ids.size, false, &back, &err), UPG_OK);
        if (cases[c].whole) {
            assert_int_equal(back.size, n);
            assert_memory_equal(back.data, text, n);
        } else {
            assert_int_equal(ids.size, n / unit);
        }
        upg_buffer_deinit(&back);
    }
    upg_token_array_deinit(&ids);
    free(text);
    upg_tokenizer_release(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(buffer_rule),
        cmocka_unit_test(append_keeps_what_is_there),
        cmocka_unit_test(bad_text_names_its_offset),
        cmocka_unit_test(special_text_is_plain_unless_asked_for),
        cmocka_unit_test(nul_bytes_are_text),
        cmocka_unit_test(decode_and_its_errors),
        cmocka_unit_test(many_threads),
        cmocka_unit_test(large_texts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
