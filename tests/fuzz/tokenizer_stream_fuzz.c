/* Stop strings, one a line up to a NUL byte, then tokens: a byte is its own token, 0xFF and another
 * byte one of the last nine. The text shown is UTF-8, never holds a stop, is a beginning of the
 * whole decoded text, and ends where a plain search says. */
#include <string.h>

#include "tokenizer/text_stream.h"
#include "tokenizer/utf8.h"
#include "tokenizer_sample.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_STOPS = 8, MAX_INPUT = 512 };

typedef struct input {
    char        lines[MAX_INPUT + 1];
    const char *stops[MAX_STOPS];
    size_t      n_stops, n_ids;
    int32_t     ids[MAX_INPUT];
} input;

static void read_input(input *in, const uint8_t *data, size_t size)
{
    size_t i = 0, begin = 0;

    for (; i < size && data[i] != 0; i++) {
        in->lines[i] = (char)data[i];
        if (data[i] != '\n' || in->n_stops == MAX_STOPS)
            continue;
        in->lines[i] = '\0';
        in->stops[in->n_stops++] = in->lines + begin;
        begin = i + 1;
    }
    for (i++; i < size; i++) {
        int32_t id = data[i];

        if (id == 0xFF && i + 1 < size)
            id = 256 + data[++i] % 9;
        in->ids[in->n_ids++] = id;
    }
}

/* Where the text ends: before the stop that is complete first, of several the longest. */
static size_t end_of_text(const input *in, const upg_buffer *whole)
{
    for (size_t end = 1; end <= whole->size; end++) {
        size_t longest = 0;

        for (size_t s = 0; s < in->n_stops; s++) {
            size_t n = strlen(in->stops[s]);

            if (n <= end && n > longest && memcmp(whole->data + end - n, in->stops[s], n) == 0)
                longest = n;
        }
        if (longest > 0)
            return end - longest;
    }
    return whole->size;
}

static void run(const upg_tokenizer *t, upg_text_stream *stream, const input *in, bool show)
{
    upg_buffer  whole, shown;
    const char *text;
    size_t      n;
    bool        stopped = false;

    upg_buffer_init(&whole, 1 << 20);
    upg_buffer_init(&shown, 1 << 20);
    must(upg_tokenizer_decode(t, in->ids, in->n_ids, !show, &whole, NULL) == UPG_OK);
    for (size_t i = 0; i <= in->n_ids; i++) {
        must(upg_text_stream_push(stream, i < in->n_ids ? in->ids[i] : -1, &text, &n, &stopped,
                                  NULL) == UPG_OK);
        must(upg_utf8_valid_bytes((const uint8_t *)text, n) == n);
        must(upg_buffer_add(&shown, text, n, NULL) == UPG_OK);
        must(shown.size <= whole.size);
    }
    must(shown.size == end_of_text(in, &whole));
    must(shown.size == 0 || memcmp(shown.data, whole.data, shown.size) == 0);
    must(stopped == (upg_text_stream_stop(stream) >= 0));
    upg_buffer_deinit(&whole);
    upg_buffer_deinit(&shown);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static upg_tokenizer *t;
    input                 in = { 0 };

    if (t == NULL)
        t = sample_tokenizer();
    if (size > MAX_INPUT)
        return 0;
    read_input(&in, data, size);
    for (int show = 0; show < 2; show++) {
        upg_text_stream_options options = { .stops = in.stops,
                                            .stop_count = in.n_stops,
                                            .show_special = show };
        upg_text_stream        *stream;
        upg_error               err = { 0 };
        upg_status              st = upg_text_stream_create(t, &options, &stream, &err);

        must(st == UPG_OK || (st == UPG_E_ARG && stream == NULL && err.message[0] != '\0'));
        if (st == UPG_OK)
            run(t, stream, &in, show);
        upg_text_stream_close(stream);
    }
    return 0;
}
