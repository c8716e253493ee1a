/* text_stream.h: tokens to text as they come: never half a character, never part of a stop string.
 *
 *   token ─► bytes ─► UTF-8 gate ─► held text ─► shown
 *                     (whole         (the longest suffix that is a proper prefix of a stop)
 *                     characters)
 *
 * Time is linear in the bytes that pass, for a given number of stops. */
#ifndef UPG_TOKENIZER_TEXT_STREAM_H
#define UPG_TOKENIZER_TEXT_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "tokenizer/tokenizer.h"

typedef struct upg_text_stream upg_text_stream;

typedef struct upg_text_stream_options {
    const char *const *stops; /* NUL-terminated, not empty, valid UTF-8 */
    size_t             stop_count;
    bool               show_special; /* the text of special tokens belongs to the text */
} upg_text_stream_options;

enum { UPG_MAX_STOPS = 64, UPG_MAX_STOP_BYTES = 4096 };

/** options may be NULL; they are copied, and the tokenizer is retained. Errors: E_ARG (names the
 * stop), E_NOMEM. */
upg_status upg_text_stream_create(const upg_tokenizer           *tokenizer,
                                  const upg_text_stream_options *options, upg_text_stream **stream,
                                  upg_error *err);
/** Adds a token; -1 flushes what is held back (half a character becomes U+FFFD) and starts afresh.
 * *text [*bytes] may be shown; borrowed until the next call. *stopped: a stop was met, and from
 * then on every call gives nothing. The stop met is the one that ends first; of several that end
 * together the longest; so the result does not depend on how the text is cut into tokens. Errors:
 * E_ARG for an id that no token has, E_NOMEM; the stream is as before. */
upg_status upg_text_stream_push(upg_text_stream *stream, int32_t token, const char **text,
                                size_t *bytes, bool *stopped, upg_error *err);
/** Which stop was met; -1 while none was. */
int  upg_text_stream_stop(const upg_text_stream *stream);
void upg_text_stream_close(upg_text_stream *stream);

#endif
