/* Every allocation of loading, encoding, rendering and streaming fails once: each time the answer
 * is E_NOMEM, nothing leaks (the sanitizer's part) and the objects stay usable. */
#include "base/alloc.h"
#include "unit/tokenizer/tiny_tokenizer.h"

enum { MOST_ALLOCATIONS = 500 };

static upg_span to_span(json_t *root, char **text)
{
    *text = json_dumps(root, JSON_COMPACT);
    json_decref(root);
    assert_non_null(*text);
    return (upg_span) { .data = (const uint8_t *)*text, .size = strlen(*text) };
}

static void load(void **state)
{
    char          *text;
    upg_span       json = to_span(tiny_json(), &text);
    upg_tokenizer *t = NULL;
    uint64_t       n = 0;

    (void)state;
    for (; n < MOST_ALLOCATIONS && t == NULL; n++) {
        upg_error  err = { 0 };
        upg_status st;

        upg_alloc_fail_after(n);
        st = upg_tokenizer_load(json, (upg_span) { 0 }, &t, &err);
        upg_alloc_fail_after(UINT64_MAX);
        if (st != UPG_OK) {
            assert_int_equal(st, UPG_E_NOMEM);
            assert_int_equal(err.code, UPG_E_NOMEM);
            assert_null(t);
        }
    }
    assert_non_null(t);
    assert_true(n > 10);
    upg_tokenizer_release(t);
    free(text);
}

/* A text whose encoding needs all kinds of scratch: class bytes, long pieces, a growing array. */
static size_t make_text(char *text, size_t cap)
{
    size_t n = cap - 16;

    memset(text, 'a', n);
    memcpy(text + n, " the\xC3\xA9\n<|b|>12", 14);
    return n + 14;
}

static void encode(void **state)
{
    upg_tokenizer *t = tiny_load();
    char           text[512];
    size_t         size = make_text(text, sizeof text), want = 0;
    bool           done = false;

    (void)state;
    for (uint64_t n = 0; n < MOST_ALLOCATIONS && !done; n++) {
        upg_token_array ids = { 0 };
        upg_error       err = { 0 };
        upg_status      st;

        upg_alloc_fail_after(n);
        st = upg_tokenizer_append(t, text, size, true, &ids, &err);
        upg_alloc_fail_after(UINT64_MAX);
        assert_int_equal(st, st == UPG_OK ? UPG_OK : UPG_E_NOMEM);
        assert_int_equal(ids.size == 0, st != UPG_OK);
        done = st == UPG_OK && n > 3;
        want = ids.size;
        upg_token_array_deinit(&ids);
        upg_tokenizer_release(t); /* a fresh one, so that no encoder waits in the pool */
        t = tiny_load();
    }
    assert_true(done);
    assert_true(want > 10);
    upg_tokenizer_release(t);
}

static void decode_and_stream(void **state)
{
    static const char *const stops[] = { "xyz" };
    upg_text_stream_options  options = { .stops = stops, .stop_count = 1 };
    upg_tokenizer           *t = tiny_load();
    bool                     done = false;

    (void)state;
    for (uint64_t n = 0; n < MOST_ALLOCATIONS && !done; n++) {
        upg_text_stream *stream = NULL;
        upg_error        err = { 0 };
        upg_status       st;
        const char      *text;
        size_t           bytes;
        bool             stopped;

        upg_alloc_fail_after(n);
        st = upg_text_stream_create(t, &options, &stream, &err);
        if (st == UPG_OK)
            st = upg_text_stream_push(stream, TINY_THE, &text, &bytes, &stopped, &err);
        upg_alloc_fail_after(UINT64_MAX);
        assert_int_equal(st, st == UPG_OK ? UPG_OK : UPG_E_NOMEM);
        if (st != UPG_OK && stream != NULL) { /* the push failed: it can be tried again */
            assert_int_equal(upg_text_stream_push(stream, TINY_THE, &text, &bytes, &stopped, &err),
                             UPG_OK);
            assert_int_equal(bytes, 3);
        }
        done = st == UPG_OK;
        upg_text_stream_close(stream);
    }
    assert_true(done);
    upg_tokenizer_release(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(load),
        cmocka_unit_test(encode),
        cmocka_unit_test(decode_and_stream),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
