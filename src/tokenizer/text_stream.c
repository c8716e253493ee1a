/* text_stream.c: see text_stream.h.
 *
 * Each stop string has its Knuth-Morris-Pratt automaton, whose state is the length of the longest
 * suffix of the text that is a prefix of the stop: exactly what must be held back for it.
 *
 * Invariants between calls:
 *   1. text[shown .. scanned) is what is held back; scanned is the end of the text.
 *   2. scanned - shown = the largest state of all stops, unless a flush has let everything out. */
#include "tokenizer/text_stream.h"

#include <string.h>

#include "base/alloc.h"
#include "base/arena.h"
#include "tokenizer/utf8.h"

typedef struct stop_string {
    const char *text;
    uint32_t    size;
    uint32_t    state;    /* bytes matched */
    uint32_t   *fallback; /* [size]: longest proper border of the first i + 1 bytes */
} stop_string;

struct upg_text_stream {
    const upg_tokenizer *tokenizer;
    upg_arena            arena;
    stop_string         *stops;
    size_t               n_stops;
    bool                 show_special;
    upg_utf8_gate        gate;
    upg_buffer           text;  /* from the first byte not yet given out in an earlier call */
    size_t               shown; /* bytes of text given out by the last call */
    int                  stop;
};

static upg_status add_stop(upg_text_stream *s, const char *text, upg_error *err)
{
    stop_string *stop = &s->stops[s->n_stops];
    size_t       size = text != NULL ? strnlen(text, UPG_MAX_STOP_BYTES + 1) : 0;
    uint32_t     border = 0;

    if (size == 0 || size > UPG_MAX_STOP_BYTES ||
        upg_utf8_valid_bytes((const uint8_t *)text, size) < size)
        return upg_fail(err, UPG_E_ARG, "stop string %zu is %s", s->n_stops,
                        size == 0                   ? "empty"
                        : size > UPG_MAX_STOP_BYTES ? "longer than 4096 bytes"
                                                    : "not UTF-8");
    stop->size = (uint32_t)size;
    stop->text = upg_arena_strndup(&s->arena, text, size, err);
    stop->fallback = upg_arena_alloc(&s->arena, size, sizeof *stop->fallback, err);
    if (stop->text == NULL || stop->fallback == NULL)
        return UPG_E_NOMEM;
    for (uint32_t i = 1; i < stop->size; i++) {
        while (border > 0 && text[i] != text[border])
            border = stop->fallback[border - 1];
        border += text[i] == text[border];
        stop->fallback[i] = border;
    }
    s->n_stops++;
    return UPG_OK;
}

upg_status upg_text_stream_create(const upg_tokenizer           *tokenizer,
                                  const upg_text_stream_options *options, upg_text_stream **stream,
                                  upg_error *err)
{
    upg_status       st = UPG_OK;
    size_t           n_stops = options != NULL ? options->stop_count : 0;
    upg_text_stream *s = upg_calloc(1, sizeof *s, err);

    UPG_TRY(s != NULL ? UPG_OK : UPG_E_NOMEM);
    upg_tokenizer_retain(tokenizer);
    s->tokenizer = tokenizer;
    s->stop = -1;
    s->show_special = options != NULL && options->show_special;
    upg_buffer_init(&s->text, SIZE_MAX / 2);
    if (n_stops > UPG_MAX_STOPS)
        UPG_TRY(
            upg_fail(err, UPG_E_ARG, "%zu stop strings, the limit is %d", n_stops, UPG_MAX_STOPS));
    s->stops = upg_arena_alloc(&s->arena, n_stops, sizeof *s->stops, err);
    UPG_TRY(s->stops != NULL ? UPG_OK : UPG_E_NOMEM);
    for (size_t i = 0; i < n_stops; i++)
        UPG_TRY(add_stop(s, options->stops[i], err));
out:
    if (st != UPG_OK) {
        upg_text_stream_close(s);
        s = NULL;
    }
    *stream = s;
    return st;
}

void upg_text_stream_close(upg_text_stream *stream)
{
    if (stream == NULL)
        return;
    upg_buffer_deinit(&stream->text);
    upg_arena_deinit(&stream->arena);
    upg_tokenizer_release(stream->tokenizer);
    upg_free(stream);
}

int upg_text_stream_stop(const upg_text_stream *stream)
{
    return stream->stop;
}

/* Forgets what earlier calls gave out. */
static void drop_shown(upg_text_stream *s)
{
    if (s->shown == 0)
        return;
    memmove(s->text.data, s->text.data + s->shown, s->text.size - s->shown);
    s->text.size -= s->shown;
    s->shown = 0;
}

/* Advances one stop's automaton; true when the stop is complete. */
static bool advance(stop_string *stop, char byte)
{
    while (stop->state > 0 && stop->text[stop->state] != byte)
        stop->state = stop->fallback[stop->state - 1];
    stop->state += stop->text[stop->state] == byte;
    return stop->state == stop->size;
}

/* Looks for stops in text[from ..). Cuts the text before one that is met. */
static void scan(upg_text_stream *s, size_t from)
{
    for (size_t i = from; i < s->text.size && s->n_stops > 0; i++) {
        uint32_t longest = 0;

        for (size_t k = 0; k < s->n_stops; k++) {
            if (advance(&s->stops[k], s->text.data[i]) && s->stops[k].size > longest) {
                longest = s->stops[k].size;
                s->stop = (int)k;
            }
        }
        if (longest > 0) {
            s->text.size = i + 1 - longest;
            return;
        }
    }
}

/* Bytes at the end of the text that could begin a stop. */
static size_t held_bytes(const upg_text_stream *s)
{
    size_t held = 0;

    for (size_t k = 0; k < s->n_stops; k++)
        held = s->stops[k].state > held ? s->stops[k].state : held;
    return held;
}

upg_status upg_text_stream_push(upg_text_stream *stream, int32_t token, const char **text,
                                size_t *bytes, bool *stopped, upg_error *err)
{
    upg_status       st = UPG_OK;
    upg_text_stream *s = stream;
    const char      *piece = NULL;
    size_t           size = 0, before;
    upg_utf8_gate    gate = s->gate;
    bool             special = false;

    *text = "";
    *bytes = 0;
    *stopped = s->stop >= 0;
    if (*stopped)
        return UPG_OK;
    if (token != -1)
        UPG_TRY(upg_tokenizer_token_bytes(s->tokenizer, token, &piece, &size, &special, err));
    drop_shown(s);
    before = s->text.size;
    if (token == -1)
        st = upg_utf8_gate_flush(&gate, &s->text, err);
    else if (!special || s->show_special)
        st = upg_utf8_gate_push(&gate, (const uint8_t *)piece, size, &s->text, err);
    if (st != UPG_OK)
        s->text.size = before;
    UPG_TRY(st);
    s->gate = gate;
    scan(s, before);
    *stopped = s->stop >= 0;
    s->shown = s->text.size;
    if (token != -1 && !*stopped)
        s->shown -= held_bytes(s);
    for (size_t k = 0; k < s->n_stops && token == -1; k++)
        s->stops[k].state = 0;
    if (s->shown > 0)
        *text = s->text.data;
    *bytes = s->shown;
out:
    return st;
}
