/* tokenizer.h: byte-level BPE as a checkpoint's tokenizer.json describes it.
 *
 * A tokenizer is immutable after loading: any number of threads may encode and decode at once. What
 * the file asks for is done as the reference (Hugging Face tokenizers) does it, or refused by name.
 */
#ifndef UPG_TOKENIZER_TOKENIZER_H
#define UPG_TOKENIZER_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/span.h"

typedef struct upg_tokenizer upg_tokenizer;

/** The files of a checkpoint; all but the first may be empty. Nothing is borrowed. */
typedef struct upg_tokenizer_files {
    upg_span tokenizer_json;
    upg_span config_json;   /* tokenizer_config.json: eos token, chat template */
    upg_span chat_template; /* chat_template.jinja; goes before the one in config_json */
} upg_tokenizer_files;

/** Errors: E_FORMAT (file, field, value), E_UNSUPPORTED (names what), E_NOMEM. An unknown chat
 * template is no error here but in chat_template.h's functions. */
upg_status upg_tokenizer_load_files(const upg_tokenizer_files *files, upg_tokenizer **tokenizer,
                                    upg_error *err);
upg_status upg_tokenizer_load(upg_span tokenizer_json, upg_span config_json,
                              upg_tokenizer **tokenizer, upg_error *err);
/** One more owner; the count is no part of the value, hence const. NULL is fine for release. */
void upg_tokenizer_retain(const upg_tokenizer *tokenizer);
void upg_tokenizer_release(const upg_tokenizer *tokenizer);

/** Text to ids. special: the text of special tokens in it ("<|im_end|>") becomes those tokens; else
 * it is plain text. *n is the size needed (0 after other failures); when it exceeds cap, E_BUFFER,
 * and the first cap ids are written. Time is linear in `bytes` but for single words of thousands
 * of bytes (n·log n). Errors: E_DATA (not UTF-8, with the offset), E_BUFFER, E_NOMEM, E_BUDGET
 * (4 GiB and more). */
upg_status upg_tokenizer_encode(const upg_tokenizer *tokenizer, const char *text, size_t bytes,
                                bool special, int32_t *tokens, size_t cap, size_t *n,
                                upg_error *err);

/** A growing array of ids, so that nothing need be encoded twice. A zeroed one is empty. */
typedef struct upg_token_array {
    int32_t *ids;
    size_t   size;
    size_t   cap; /* private */
} upg_token_array;
/** Appends the ids of a text; after a failure the array is as before. Errors: as encode, but no
 * E_BUFFER. */
upg_status upg_tokenizer_append(const upg_tokenizer *tokenizer, const char *text, size_t bytes,
                                bool special, upg_token_array *tokens, upg_error *err);
/** Appends one id. Errors: E_NOMEM. */
upg_status upg_token_array_add(upg_token_array *tokens, int32_t id, upg_error *err);
void       upg_token_array_deinit(upg_token_array *tokens);

/** The bytes that a token stands for, perhaps not whole characters; borrowed from the tokenizer.
 * Errors: E_ARG for an id that no token has. */
upg_status upg_tokenizer_token_bytes(const upg_tokenizer *tokenizer, int32_t id, const char **bytes,
                                     size_t *n, bool *special, upg_error *err);
/** Appends the text of ids to `text` (within its max); what is not UTF-8 becomes U+FFFD, one for
 * each ill-formed maximal subpart. Errors: E_ARG (names the index), E_NOMEM, E_BUDGET. */
upg_status upg_tokenizer_decode(const upg_tokenizer *tokenizer, const int32_t *ids, size_t n,
                                bool skip_special, upg_buffer *text, upg_error *err);

/** Largest id + 1: the least number of embedding rows that a model needs. */
size_t upg_tokenizer_vocab_size(const upg_tokenizer *tokenizer);
size_t upg_tokenizer_added_count(const upg_tokenizer *tokenizer);
/** The token with exactly this text: an added token before one of the vocabulary; -1 without. */
int32_t upg_tokenizer_find(const upg_tokenizer *tokenizer, const char *text, size_t bytes);
/** eos_token of tokenizer_config.json; -1 without. */
int32_t upg_tokenizer_eos(const upg_tokenizer *tokenizer);

#endif
