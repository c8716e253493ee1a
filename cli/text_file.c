/* text_file.c: files grow while they are read (pipes, /proc), so their size is never asked for. */
#include "text_file.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "report.h"

enum { FIRST_BYTES = 1 << 16 };

/* Makes room for at least one more byte and a NUL. */
static upg_status grow(const char *path, size_t max, cli_bytes *bytes, size_t *cap, upg_error *err)
{
    size_t larger = *cap ? 2 * *cap : FIRST_BYTES;
    char  *data;

    if (bytes->size > max)
        return cli_error(err, UPG_E_BUDGET, "%s: larger than the limit of %zu bytes", path, max);
    if (larger > max + 2)
        larger = max + 2; /* one byte too many shows that the file is too large */
    data = realloc(bytes->data, larger);
    if (!data)
        return cli_error(err, UPG_E_NOMEM, "%s: no memory for %zu bytes", path, larger);
    bytes->data = data;
    *cap = larger;
    return UPG_OK;
}

static upg_status read_all(FILE *file, const char *path, size_t max, cli_bytes *bytes,
                           upg_error *err)
{
    size_t cap = 0;

    for (;;) {
        size_t got;

        if (bytes->size + 1 >= cap) {
            upg_status st = grow(path, max, bytes, &cap, err);

            if (st != UPG_OK)
                return st;
        }
        errno = 0;
        got = fread(bytes->data + bytes->size, 1, cap - 1 - bytes->size, file);
        bytes->size += got;
        if (ferror(file))
            return cli_error(err, errno == EINTR ? UPG_E_CANCELLED : UPG_E_IO, "%s: %s", path,
                             strerror(errno));
        if (feof(file))
            break;
    }
    bytes->data[bytes->size] = '\0';
    if (bytes->size > max)
        return cli_error(err, UPG_E_BUDGET, "%s: larger than the limit of %zu bytes", path, max);
    return UPG_OK;
}

upg_status cli_file_read(const char *path, size_t max, cli_bytes *bytes, upg_error *err)
{
    bool       is_stdin = strcmp(path, "-") == 0;
    FILE      *file = is_stdin ? stdin : fopen(path, "rbe");
    upg_status st;

    *bytes = (cli_bytes) { 0 };
    if (!file)
        return cli_error(err, errno == ENOENT ? UPG_E_NOT_FOUND : UPG_E_IO, "%s: %s", path,
                         strerror(errno));
    st = read_all(file, is_stdin ? "standard input" : path, max, bytes, err);
    if (!is_stdin)
        fclose(file);
    if (st != UPG_OK) {
        free(bytes->data);
        *bytes = (cli_bytes) { 0 };
    }
    return st;
}

upg_status cli_tokens_of(const upg_tokenizer *tokenizer, const char *text, size_t size,
                         uint32_t flags, upg_token **tokens, size_t *n, upg_error *err)
{
    size_t     cap = size / 2 + 16; /* ordinary text has fewer; the loop finds out */
    upg_status st = UPG_E_BUFFER;

    *tokens = NULL;
    while (st == UPG_E_BUFFER) {
        upg_token *larger = realloc(*tokens, cap * sizeof **tokens);

        if (!larger) {
            st = cli_error(err, UPG_E_NOMEM, "no memory for %zu tokens", cap);
            break;
        }
        *tokens = larger;
        st = upg_tokenize(tokenizer, text, size, flags, *tokens, cap, n, err);
        if (st == UPG_E_BUFFER && *n <= cap)
            st =
                cli_error(err, UPG_E_INTERNAL, "the tokenizer asks for %zu of %zu tokens", *n, cap);
        cap = *n;
    }
    if (st != UPG_OK) {
        free(*tokens);
        *tokens = NULL;
        *n = 0;
    }
    return st;
}
