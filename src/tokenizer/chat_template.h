/* chat_template.h: conversations as text and as ids, the way the checkpoint's template has it.
 *
 * A checkpoint's Jinja template is not run but recognised, by its text; each known one is described
 * by what stands before and after a message. A template that is not known is refused, since a
 * wrong guess gives bad answers without any error. */
#ifndef UPG_TOKENIZER_CHAT_TEMPLATE_H
#define UPG_TOKENIZER_CHAT_TEMPLATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/span.h"
#include "tokenizer/tokenizer.h"

typedef struct upg_chat_message {
    const char *role; /* NUL-terminated */
    const char *text; /* UTF-8 */
    size_t      text_bytes;
} upg_chat_message;

/** UPG_OK when chats can be rendered; else E_UNSUPPORTED, and the message says how to go on. */
upg_status upg_chat_check(const upg_tokenizer *tokenizer, upg_error *err);
/** The recognised template's name ("phi-4"), NULL without. Static. */
const char *upg_chat_name(const upg_tokenizer *tokenizer);
/** Whether the template renders messages of this role; it skips all others in silence, as the
 * reference does. */
bool upg_chat_has_role(const upg_tokenizer *tokenizer, const char *role);

/** Appends the conversation's text, exactly apply_chat_template's. Errors: E_UNSUPPORTED (as
 * upg_chat_check), E_ARG, E_NOMEM, E_BUDGET. */
upg_status upg_chat_render(const upg_tokenizer *tokenizer, const upg_chat_message *messages,
                           size_t n, bool add_generation_prompt, upg_buffer *text, upg_error *err);
/** Appends the conversation's ids. special: special-token text inside a message becomes special
 * tokens, as the reference does. Else only the template's own are control tokens and messages are
 * plain text, so that nobody can end a turn from inside a message. Both give the same ids for
 * messages without such text. After a failure the array is as before. Errors: as render; E_DATA
 * (names the message). */
upg_status upg_chat_append(const upg_tokenizer *tokenizer, const upg_chat_message *messages,
                           size_t n, bool add_generation_prompt, bool special,
                           upg_token_array *tokens, upg_error *err);

enum { UPG_CHAT_MAX_ENDS = 4 };
/** The ids that end an assistant's turn: the template's end token and the eos_token of
 * tokenizer_config.json. To be joined with those of config.json and generation_config.json.
 * Returns how many, without repetition; 0 when neither is known. */
size_t upg_chat_end_ids(const upg_tokenizer *tokenizer, int32_t ids[UPG_CHAT_MAX_ENDS]);

/** A template's state in a tokenizer. */
typedef struct upg_chat_format {
    const struct upg_chat_spec *spec; /* NULL: not known */
    bool                        present;
    const char                 *missing; /* a control token that the vocabulary lacks, or NULL */
} upg_chat_format;

/** The description of a template's text; NULL when it is not known. Static. */
const struct upg_chat_spec *upg_chat_recognise(const char *text, size_t bytes);
/** The template's k-th control token; NULL past the last. */
const char *upg_chat_control(const struct upg_chat_spec *spec, size_t k);

#endif
