/* Ids and text of the reference tokenizer: thousands of cases for Phi-4's vocabulary where the
 * shared data is at hand, and a few hundred for the vocabulary that the source tree carries
 * (made by make_tokenizer_vectors.py). */
#include <stdlib.h>

#include "golden/tokenizer_golden.h"

enum { MAX_IDS = 1 << 16 };

typedef struct fixture {
    upg_tokenizer *tokenizer;
    int32_t        got[MAX_IDS], want[MAX_IDS];
} fixture;

static void check_encode(fixture *f, const char *text, size_t size, const json_t *ids)
{
    upg_error err = { 0 };
    size_t    n, n_want = tg_ids(ids, f->want, MAX_IDS);

    tg_ok(upg_tokenizer_encode(f->tokenizer, text, size, true, f->got, MAX_IDS, &n, &err), &err);
    tg_equal_ids(text, f->got, n, f->want, n_want);
}

static void check_decode(fixture *f, const json_t *ids, bool skip, const json_t *want)
{
    upg_error  err = { 0 };
    upg_buffer text;
    size_t     n = tg_ids(ids, f->want, MAX_IDS);

    upg_buffer_init(&text, 1 << 20);
    tg_ok(upg_tokenizer_decode(f->tokenizer, f->want, n, skip, &text, &err), &err);
    tg_equal_text("decoded", text.data, text.size, want);
    upg_buffer_deinit(&text);
}

static void check_case(void *context, const json_t *c)
{
    const json_t *text = json_object_get(c, "text"), *ids = json_object_get(c, "ids");

    check_encode(context, json_string_value(text), json_string_length(text), ids);
    check_decode(context, ids, false, json_object_get(c, "decoded"));
    check_decode(context, ids, true, json_object_get(c, "decoded_skip"));
}

/* Pushes the ids one by one and compares every chunk. */
static void check_stream(void *context, const json_t *c)
{
    fixture                *f = context;
    upg_error               err = { 0 };
    upg_text_stream_options options = { .show_special = true };
    upg_text_stream        *stream;
    const json_t           *chunks = json_object_get(c, "chunks");
    const char             *text;
    size_t                  size, n = tg_ids(json_object_get(c, "ids"), f->want, MAX_IDS);
    bool                    stopped;

    tg_ok(upg_text_stream_create(f->tokenizer, &options, &stream, &err), &err);
    assert_int_equal(json_array_size(chunks), n);
    for (size_t i = 0; i < n; i++) {
        tg_ok(upg_text_stream_push(stream, f->want[i], &text, &size, &stopped, &err), &err);
        assert_false(stopped);
        tg_equal_text("chunk", text, size, json_array_get(chunks, i));
    }
    tg_ok(upg_text_stream_push(stream, -1, &text, &size, &stopped, &err), &err);
    tg_equal_text("flush", text, size, json_object_get(c, "flush"));
    upg_text_stream_close(stream);
    check_decode(f, json_object_get(c, "ids"), false, json_object_get(c, "decoded"));
    check_decode(f, json_object_get(c, "ids"), true, json_object_get(c, "decoded_skip"));
}

/* A stream that hides special tokens gives decoded_skip in all, whatever its chunks. */
static void check_hidden_stream(void *context, const json_t *c)
{
    fixture         *f = context;
    upg_error        err = { 0 };
    upg_text_stream *stream;
    upg_buffer       all;
    const char      *text;
    size_t           size, n = tg_ids(json_object_get(c, "ids"), f->want, MAX_IDS);
    bool             stopped;

    upg_buffer_init(&all, 1 << 20);
    tg_ok(upg_text_stream_create(f->tokenizer, NULL, &stream, &err), &err);
    for (size_t i = 0; i <= n; i++) {
        tg_ok(upg_text_stream_push(stream, i < n ? f->want[i] : -1, &text, &size, &stopped, &err),
              &err);
        tg_ok(upg_buffer_add(&all, text, size, &err), &err);
    }
    tg_equal_text("hidden stream", all.data, all.size, json_object_get(c, "decoded_skip"));
    upg_text_stream_close(stream);
    upg_buffer_deinit(&all);
}

static void run(const char *folder, const char *path, void (*check)(void *, const json_t *),
                size_t least)
{
    fixture *f;
    size_t   n;
    char     tokenizer[512];

    snprintf(tokenizer, sizeof tokenizer, "%s/tokenizer.json", folder);
    tg_need(tokenizer);
    tg_need(path);
    f = calloc(1, sizeof *f);
    assert_non_null(f);
    f->tokenizer = tg_load(folder);
    n = tg_each_line(path, check, f);
    print_message("%zu cases of %s\n", n, path);
    assert_true(n >= least);
    upg_tokenizer_release(f->tokenizer);
    free(f);
}

static void phi4_cases(void **state)
{
    (void)state;
    run(TG_PHI4, UPG_SHARED_DATA "/vectors/phi4_tokenizer.jsonl", check_case, 3000);
}

static void phi4_streams(void **state)
{
    (void)state;
    run(TG_PHI4, UPG_SHARED_DATA "/vectors/phi4_incremental.jsonl", check_stream, 82);
}

static void phi4_hidden_streams(void **state)
{
    (void)state;
    run(TG_PHI4, UPG_SHARED_DATA "/vectors/phi4_incremental.jsonl", check_hidden_stream, 82);
}

static void micro_cases(void **state)
{
    (void)state;
    run(TG_MICRO, UPG_TEST_DATA "/phi4_micro_tokenizer.jsonl", check_case, 200);
}

static void micro_streams(void **state)
{
    (void)state;
    run(TG_MICRO, UPG_TEST_DATA "/phi4_micro_streams.jsonl", check_stream, 60);
    run(TG_MICRO, UPG_TEST_DATA "/phi4_micro_streams.jsonl", check_hidden_stream, 60);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(phi4_cases),          cmocka_unit_test(phi4_streams),
        cmocka_unit_test(phi4_hidden_streams), cmocka_unit_test(micro_cases),
        cmocka_unit_test(micro_streams),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
