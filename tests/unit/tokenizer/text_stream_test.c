/* The stream: no half character and no part of a stop is shown, whatever the cut into tokens; what
 * is held back is never more than a proper prefix of a stop. */
#include "base/random.h"
#include "unit/tokenizer/tiny_tokenizer.h"

/* Tokens 0 … 255 are single bytes: the text is pushed byte by byte, the worst cut there is. */
typedef struct feed {
    upg_text_stream *stream;
    upg_buffer       shown;
    bool             stopped;
    size_t           held; /* bytes pushed and not shown */
} feed;

static void feed_open(feed *f, const upg_tokenizer *t, const char *const *stops, size_t n_stops)
{
    upg_text_stream_options options = { .stops = stops, .stop_count = n_stops };
    upg_error               err;

    *f = (feed) { 0 };
    upg_buffer_init(&f->shown, 1 << 20);
    if (upg_text_stream_create(t, &options, &f->stream, &err) != UPG_OK)
        fail_msg("%s", err.message);
}

static void feed_push(feed *f, int32_t token)
{
    const char *text;
    size_t      n;

    assert_int_equal(upg_text_stream_push(f->stream, token, &text, &n, &f->stopped, NULL), UPG_OK);
    assert_int_equal(upg_buffer_add(&f->shown, text, n, NULL), UPG_OK);
    f->held += token >= 0 ? 1 : 0;
    f->held -= n < f->held ? n : f->held;
}

static void feed_text(feed *f, const char *text)
{
    for (const char *p = text; *p != '\0'; p++)
        feed_push(f, (uint8_t)*p);
}

static void feed_close(feed *f, const char *want, bool stopped)
{
    assert_int_equal(f->stopped, stopped);
    assert_int_equal(upg_buffer_add(&f->shown, "", 0, NULL), UPG_OK);
    assert_string_equal(f->shown.data, want);
    upg_text_stream_close(f->stream);
    upg_buffer_deinit(&f->shown);
}

static void stops(void **state)
{
    static const struct {
        const char *stops[3];
        size_t      n;
        const char *text, *shown;
        int         met;
    } cases[] = {
        { { "END" }, 1, "abcENDdef", "abc", 0 },
        { { "END" }, 1, "abcENEND", "abcEN", 0 },
        { { "END" }, 1, "abcEN", "abcEN", -1 },
        { { "aab" }, 1, "aaab", "a", 0 },
        { { "abab", "abc" }, 2, "ababc", "", 0 },
        { { "abcd", "bc" }, 2, "xabcd", "xa", 1 },
        { { "cd", "bcd", "d" }, 3, "abcd", "a", 1 },
        { { "\xF0\x9F\x98\x80" }, 1, "a\xF0\x9F\x98\x81\xF0\x9F\x98\x80z", "a\xF0\x9F\x98\x81", 0 },
        { { "\n\n", "\nUser:" }, 2, "one\ntwo\nUse\nUser: x", "one\ntwo\nUse", 1 },
        { { "x" }, 1, "x", "", 0 },
        { { "zz" }, 1, "", "", -1 }
    };
    upg_tokenizer *t = tiny_load();

    (void)state;
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        feed f;

        feed_open(&f, t, cases[c].stops, cases[c].n);
        feed_text(&f, cases[c].text);
        feed_push(&f, -1);
        assert_int_equal(upg_text_stream_stop(f.stream), cases[c].met);
        feed_close(&f, cases[c].shown, cases[c].met >= 0);
    }
    upg_tokenizer_release(t);
}

/* Whether the end of text, of any length up to `held`, begins a stop. */
static bool begins_stop(const char *text, size_t size, size_t held, const char *stop)
{
    return held < strlen(stop) && held <= size && memcmp(text + size - held, stop, held) == 0;
}

/* Random texts of few letters: after each byte exactly the longest suffix that is a proper prefix
 * of some stop is held, and the whole ends before the first stop to be complete. */
static void holds_back_no_more_than_needed(void **state)
{
    static const char *const stop_list[] = { "aba", "bbab", "abaab" };
    upg_tokenizer           *t = tiny_load();

    (void)state;
    for (uint64_t seed = 0; seed < 3000; seed++) {
        char   text[40] = { 0 };
        feed   f;
        size_t n = 0;

        feed_open(&f, t, stop_list, 3);
        for (; n < 30 && !f.stopped; n++) {
            size_t longest = 0;

            text[n] = (char)('a' + upg_random_u64(seed, n) % 2);
            feed_push(&f, text[n]);
            for (size_t held = 0; held < 5; held++)
                for (size_t s = 0; s < 3; s++)
                    if (begins_stop(text, n + 1, held, stop_list[s]))
                        longest = held;
            if (!f.stopped)
                assert_int_equal(f.held, longest);
        }
        if (f.stopped) {
            const char *met = stop_list[upg_text_stream_stop(f.stream)];

            assert_int_equal(memcmp(text + n - strlen(met), met, strlen(met)), 0);
            text[n - strlen(met)] = '\0';
            for (size_t s = 0; s < 3; s++)
                assert_null(strstr(text, stop_list[s]));
        } else {
            feed_push(&f, -1);
        }
        feed_close(&f, text, f.stopped);
    }
    upg_tokenizer_release(t);
}

static void special_tokens_hide_or_show(void **state)
{
    upg_tokenizer *t = tiny_load();

    (void)state;
    for (int show = 0; show < 2; show++) {
        upg_text_stream_options options = { .show_special = show };
        feed                    f = { 0 };

        upg_buffer_init(&f.shown, 1000);
        assert_int_equal(upg_text_stream_create(t, &options, &f.stream, NULL), UPG_OK);
        feed_push(&f, 0xC3); /* half a character, then a special token, then the other half */
        feed_push(&f, TINY_B);
        feed_push(&f, 0xA9);
        feed_push(&f, -1);
        feed_close(&f, show ? "\xEF\xBF\xBD<|b|>\xEF\xBF\xBD" : "\xC3\xA9", false);
    }
    upg_tokenizer_release(t);
}

static void flush_starts_afresh(void **state)
{
    static const char *const stop[] = { "abc" };
    upg_tokenizer           *t = tiny_load();
    feed                     f;

    (void)state;
    feed_open(&f, t, stop, 1);
    feed_text(&f, "ab\xE4\xB8");
    feed_push(&f, -1);
    feed_text(&f, "c ab"); /* the flushed "ab" does not count any more */
    feed_text(&f, "c");
    feed_close(&f,
               "ab\xEF\xBF\xBD"
               "c ",
               true);
    upg_tokenizer_release(t);
}

static void nothing_after_a_stop(void **state)
{
    static const char *const stop[] = { "." };
    upg_tokenizer           *t = tiny_load();
    feed                     f;

    (void)state;
    feed_open(&f, t, stop, 1);
    feed_text(&f, "a.b");
    assert_true(f.stopped);
    feed_push(&f, -1);
    feed_close(&f, "a", true);
    upg_tokenizer_release(t);
}

static void refuses_bad_arguments(void **state)
{
    static const char *const bad[] = { "", "\xFF", NULL };
    upg_tokenizer           *t = tiny_load();
    upg_text_stream         *stream;
    upg_error                err;
    const char              *text;
    size_t                   n;
    bool                     stopped;
    char                     large[UPG_MAX_STOP_BYTES + 2];
    const char              *stops_large[] = { "ok", large };

    (void)state;
    memset(large, 'x', sizeof large - 1);
    large[sizeof large - 1] = '\0';
    for (size_t i = 0; i < 3; i++) {
        upg_text_stream_options options = { .stops = &bad[i], .stop_count = 1 };

        assert_int_equal(upg_text_stream_create(t, &options, &stream, &err), UPG_E_ARG);
        assert_null(stream);
        assert_non_null(strstr(err.message, "stop string 0"));
    }
    assert_int_equal(
        upg_text_stream_create(
            t, &(upg_text_stream_options) { .stops = stops_large, .stop_count = 2 }, &stream, &err),
        UPG_E_ARG);
    assert_non_null(strstr(err.message, "stop string 1"));
    assert_int_equal(
        upg_text_stream_create(t, &(upg_text_stream_options) { .stops = bad, .stop_count = 65 },
                               &stream, &err),
        UPG_E_ARG);
    assert_int_equal(upg_text_stream_create(t, NULL, &stream, &err), UPG_OK);
    assert_int_equal(upg_text_stream_push(stream, 99999, &text, &n, &stopped, &err), UPG_E_ARG);
    assert_non_null(strstr(err.message, "99999"));
    assert_int_equal(upg_text_stream_push(stream, -2, &text, &n, &stopped, &err), UPG_E_ARG);
    upg_text_stream_close(stream);
    upg_text_stream_close(NULL);
    upg_tokenizer_release(t);
}

/* The stream keeps its tokenizer. */
static void outlives_the_tokenizer(void **state)
{
    upg_tokenizer *t = tiny_load();
    feed           f;

    (void)state;
    feed_open(&f, t, NULL, 0);
    upg_tokenizer_release(t);
    feed_push(&f, TINY_THE);
    feed_close(&f, "the", false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stops),
        cmocka_unit_test(holds_back_no_more_than_needed),
        cmocka_unit_test(special_tokens_hide_or_show),
        cmocka_unit_test(flush_starts_afresh),
        cmocka_unit_test(nothing_after_a_stop),
        cmocka_unit_test(refuses_bad_arguments),
        cmocka_unit_test(outlives_the_tokenizer),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
