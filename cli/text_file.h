/* text_file.h: whole files and standard input as bytes. */
#ifndef UPG_CLI_TEXT_FILE_H
#define UPG_CLI_TEXT_FILE_H

#include <stddef.h>

#include "upg/upg.h"

typedef struct cli_bytes {
    char  *data; /* NUL-terminated; the caller frees */
    size_t size;
} cli_bytes;

/** Reads a file, or standard input for "-". Errors: E_NOT_FOUND, E_IO, E_NOMEM, E_BUDGET above
 * `max` bytes. */
upg_status cli_file_read(const char *path, size_t max, cli_bytes *bytes, upg_error *err);

/** Tokenizes text: allocates *tokens, which the caller frees. Errors: as upg_tokenize, E_NOMEM. */
upg_status cli_tokens_of(const upg_tokenizer *tokenizer, const char *text, size_t size,
                         uint32_t flags, upg_token **tokens, size_t *n, upg_error *err);

#endif
