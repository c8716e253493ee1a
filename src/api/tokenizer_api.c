/* tokenizer_api.c: upg_tokenizer_*, upg_tokenize, upg_detokenize, upg_chat_* and upg_stream_*. */
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

#include "api/struct_options.h"
#include "base/alloc.h"
#include "runtime/tokenizer_files.h"
#include "tokenizer/chat_template.h"
#include "tokenizer/text_stream.h"
#include "upg/upg.h"

/* Text may take what the address space has. */
#define MAX_TEXT (SIZE_MAX / 4)

/* ---- objects -------------------------------------------------------------------------------- */

UPG_API upg_status upg_tokenizer_open(const char *path, upg_tokenizer **tokenizer, upg_error *err)
{
    if (!tokenizer)
        return upg_fail(err, UPG_E_ARG, "tokenizer is NULL");
    *tokenizer = NULL;
    if (!path)
        return upg_fail(err, UPG_E_ARG, "path is NULL");
    return upg_tokenizer_load_path(path, tokenizer, err);
}

UPG_API void upg_tokenizer_close(upg_tokenizer *tokenizer)
{
    upg_tokenizer_release(tokenizer);
}

UPG_API uint32_t upg_tokenizer_size(const upg_tokenizer *tokenizer)
{
    return tokenizer ? (uint32_t)upg_tokenizer_vocab_size(tokenizer) : 0;
}

/* ---- buffers -------------------------------------------------------------------------------- */

/* The common checks of a (buf, cap, *n) function. */
static upg_status check_buffer(const upg_tokenizer *tokenizer, const void *in, size_t in_size,
                               const void *out, size_t cap, size_t *n, upg_error *err)
{
    if (n)
        *n = 0;
    if (!tokenizer)
        return upg_fail(err, UPG_E_ARG, "tokenizer is NULL: the model has none");
    if ((!in && in_size > 0) || (!out && cap > 0) || !n)
        return upg_fail(err, UPG_E_ARG, "%s is NULL",
                        !n                ? "n"
                        : !out && cap > 0 ? "buffer"
                                          : "input");
    return UPG_OK;
}

/* Hands `size` elements out, or tells that they do not fit. */
static upg_status hand_out(const void *from, size_t size, size_t element, void *out, size_t cap,
                           size_t *n, upg_error *err)
{
    *n = size;
    if (size > cap)
        return upg_fail(err, UPG_E_BUFFER, "%zu needed, the buffer has room for %zu", size, cap);
    if (size > 0)
        memcpy(out, from, size * element);
    return UPG_OK;
}

static upg_status check_flags(uint32_t flags, upg_error *err)
{
    if ((flags & ~(uint32_t)UPG_TOK_SPECIAL) == 0)
        return UPG_OK;
    return upg_fail(err, UPG_E_UNSUPPORTED, "flags are 0x%x: only UPG_TOK_SPECIAL is known", flags);
}

/* ---- text ----------------------------------------------------------------------------------- */

UPG_API upg_status upg_tokenize(const upg_tokenizer *tokenizer, const char *text, size_t bytes,
                                uint32_t flags, upg_token *tokens, size_t cap, size_t *n,
                                upg_error *err)
{
    upg_status st;

    UPG_TRY(check_buffer(tokenizer, text, bytes, tokens, cap, n, err));
    UPG_TRY(check_flags(flags, err));
    st = upg_tokenizer_encode(tokenizer, text ? text : "", bytes, (flags & UPG_TOK_SPECIAL) != 0,
                              tokens, cap, n, err);
out:
    return st;
}

UPG_API upg_status upg_detokenize(const upg_tokenizer *tokenizer, const upg_token *tokens,
                                  size_t count, bool skip_special, char *text, size_t cap,
                                  size_t *n, upg_error *err)
{
    upg_buffer whole;
    upg_status st;

    upg_buffer_init(&whole, MAX_TEXT);
    UPG_TRY(check_buffer(tokenizer, tokens, count, text, cap, n, err));
    UPG_TRY(upg_tokenizer_decode(tokenizer, tokens, count, skip_special, &whole, err));
    UPG_TRY(hand_out(whole.data, whole.size, 1, text, cap, n, err));
out:
    upg_buffer_deinit(&whole);
    return st;
}

/* ---- chats ---------------------------------------------------------------------------------- */

static upg_status copy_messages(const upg_message *messages, size_t count, upg_chat_message **copy,
                                upg_error *err)
{
    upg_chat_message *m = upg_calloc(count, sizeof *m, err);

    *copy = m;
    if (!m)
        return UPG_E_NOMEM;
    for (size_t i = 0; i < count; i++) {
        if (!messages[i].role || (!messages[i].text && messages[i].text_bytes > 0))
            return upg_fail(err, UPG_E_ARG, "messages[%zu].%s is NULL", i,
                            messages[i].role ? "text" : "role");
        m[i] = (upg_chat_message) { messages[i].role, messages[i].text ? messages[i].text : "",
                                    messages[i].text_bytes };
    }
    return UPG_OK;
}

UPG_API upg_status upg_chat_tokens(const upg_tokenizer *tokenizer, const upg_message *messages,
                                   size_t count, bool add_generation_prompt, uint32_t flags,
                                   upg_token *tokens, size_t cap, size_t *n, upg_error *err)
{
    upg_chat_message *copy = NULL;
    upg_token_array   all = { 0 };
    upg_status        st;

    UPG_TRY(check_buffer(tokenizer, messages, count, tokens, cap, n, err));
    UPG_TRY(check_flags(flags, err));
    UPG_TRY(copy_messages(messages, count, &copy, err));
    UPG_TRY(upg_chat_append(tokenizer, copy, count, add_generation_prompt,
                            (flags & UPG_TOK_SPECIAL) != 0, &all, err));
    UPG_TRY(hand_out(all.ids, all.size, sizeof *all.ids, tokens, cap, n, err));
out:
    upg_token_array_deinit(&all);
    upg_free(copy);
    return st;
}

UPG_API upg_status upg_chat_text(const upg_tokenizer *tokenizer, const upg_message *messages,
                                 size_t count, bool add_generation_prompt, char *text, size_t cap,
                                 size_t *n, upg_error *err)
{
    upg_chat_message *copy = NULL;
    upg_buffer        whole;
    upg_status        st;

    upg_buffer_init(&whole, MAX_TEXT);
    UPG_TRY(check_buffer(tokenizer, messages, count, text, cap, n, err));
    UPG_TRY(copy_messages(messages, count, &copy, err));
    UPG_TRY(upg_chat_render(tokenizer, copy, count, add_generation_prompt, &whole, err));
    UPG_TRY(hand_out(whole.data, whole.size, 1, text, cap, n, err));
out:
    upg_buffer_deinit(&whole);
    upg_free(copy);
    return st;
}

/* ---- streams -------------------------------------------------------------------------------- */

struct upg_stream {
    upg_text_stream *inner;
    atomic_bool      in_use; /* acquire when taken, release when given back, in this file */
};

UPG_API upg_status upg_stream_create(const upg_tokenizer      *tokenizer,
                                     const upg_stream_options *options, upg_stream **stream,
                                     upg_error *err)
{
    upg_stream_options      o;
    upg_text_stream_options inner;
    upg_stream             *s = NULL;
    upg_status              st;

    if (!stream)
        return upg_fail(err, UPG_E_ARG, "stream is NULL");
    *stream = NULL;
    if (!tokenizer)
        return upg_fail(err, UPG_E_ARG, "tokenizer is NULL: the model has none");
    UPG_TRY(upg_struct_in(options, &o, sizeof o, "upg_stream_options", err));
    if (!o.stops && o.stop_count > 0)
        UPG_TRY(upg_fail(err, UPG_E_ARG, "upg_stream_options.stops is NULL"));
    inner = (upg_text_stream_options) { o.stops, o.stop_count, o.show_special };
    s = upg_calloc(1, sizeof *s, err);
    UPG_TRY(s ? UPG_OK : UPG_E_NOMEM);
    UPG_TRY(upg_text_stream_create(tokenizer, &inner, &s->inner, err));
out:
    if (st != UPG_OK) {
        upg_stream_close(s);
        s = NULL;
    }
    *stream = s;
    return st;
}

UPG_API upg_status upg_stream_push(upg_stream *stream, upg_token token, const char **text,
                                   size_t *bytes, bool *stopped, upg_error *err)
{
    upg_status st;

    if (!stream || !text || !bytes || !stopped)
        return upg_fail(err, UPG_E_ARG, "an argument is NULL");
    *text = "";
    *bytes = 0;
    *stopped = false;
    if (atomic_exchange_explicit(&stream->in_use, true, memory_order_acquire))
        return upg_fail(err, UPG_E_BUSY, "the stream is in use by another thread");
    st = upg_text_stream_push(stream->inner, token, text, bytes, stopped, err);
    atomic_store_explicit(&stream->in_use, false, memory_order_release);
    return st;
}

UPG_API void upg_stream_close(upg_stream *stream)
{
    if (!stream)
        return;
    upg_text_stream_close(stream->inner);
    upg_free(stream);
}
