/* ids_file.c: a strict reader. The header is a Python dictionary literal; of that grammar exactly
 * what NumPy writes is accepted: quoted keys, one string, True or False, and a tuple of numbers.
 *
 * Invariant: `at` never passes `end`; every byte read goes through peek(). */
#include "ids_file.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "report.h"

enum { MAGIC_BYTES = 6, RANK_MAX = 2, WORD_BYTES = 24 };

typedef struct header {
    char     dtype[WORD_BYTES];
    bool     fortran;
    uint32_t rank;
    uint64_t shape[RANK_MAX];
    bool     has_dtype, has_order, has_shape;
} header;

typedef struct cursor {
    const uint8_t *at, *end;
} cursor;

static int peek(const cursor *c)
{
    return c->at < c->end ? *c->at : -1;
}

static void skip_space(cursor *c)
{
    while (peek(c) == ' ' || peek(c) == '\n' || peek(c) == '\t')
        c->at++;
}

static bool accept(cursor *c, int symbol)
{
    skip_space(c);
    if (peek(c) != symbol)
        return false;
    c->at++;
    return true;
}

static bool parse_quoted(cursor *c, char word[WORD_BYTES])
{
    int    quote;
    size_t n = 0;

    skip_space(c);
    quote = peek(c);
    if (quote != '\'' && quote != '"')
        return false;
    for (c->at++; peek(c) != quote; c->at++) {
        if (peek(c) < ' ' || n == WORD_BYTES - 1)
            return false;
        word[n++] = (char)*c->at;
    }
    c->at++;
    word[n] = '\0';
    return true;
}

static bool parse_number(cursor *c, uint64_t *value)
{
    skip_space(c);
    if (peek(c) < '0' || peek(c) > '9')
        return false;
    for (*value = 0; peek(c) >= '0' && peek(c) <= '9'; c->at++)
        if (__builtin_mul_overflow(*value, 10, value) ||
            __builtin_add_overflow(*value, (uint64_t)(*c->at - '0'), value))
            return false;
    return true;
}

static bool parse_shape(cursor *c, header *h)
{
    if (!accept(c, '('))
        return false;
    for (h->rank = 0; !accept(c, ')'); h->rank++) {
        uint64_t size;

        if (!parse_number(c, &size))
            return false;
        if (h->rank < RANK_MAX)
            h->shape[h->rank] = size;
        if (!accept(c, ',')) {
            h->rank++;
            return accept(c, ')');
        }
    }
    return true;
}

static bool parse_bool(cursor *c, bool *value)
{
    static const char words[2][6] = { "False", "True" };

    skip_space(c);
    for (int i = 0; i < 2; i++) {
        size_t n = strlen(words[i]);

        if ((size_t)(c->end - c->at) >= n && memcmp(c->at, words[i], n) == 0) {
            c->at += n;
            *value = i == 1;
            return true;
        }
    }
    return false;
}

static bool parse_entry(cursor *c, header *h)
{
    char key[WORD_BYTES];
    bool ok = parse_quoted(c, key) && accept(c, ':');

    if (!ok)
        return false;
    if (strcmp(key, "descr") == 0 && !h->has_dtype)
        return (h->has_dtype = parse_quoted(c, h->dtype));
    if (strcmp(key, "fortran_order") == 0 && !h->has_order)
        return (h->has_order = parse_bool(c, &h->fortran));
    if (strcmp(key, "shape") == 0 && !h->has_shape)
        return (h->has_shape = parse_shape(c, h));
    return false;
}

static bool parse_header(cursor *c, header *h)
{
    if (!accept(c, '{'))
        return false;
    while (!accept(c, '}')) {
        if (!parse_entry(c, h))
            return false;
        if (!accept(c, ',')) {
            if (!accept(c, '}'))
                return false;
            break;
        }
    }
    skip_space(c);
    return c->at == c->end && h->has_dtype && h->has_order && h->has_shape;
}

/* Splits the file into header text and data. */
static upg_status find_header(const char *name, const uint8_t *bytes, size_t size, cursor *text,
                              const uint8_t **data, upg_error *err)
{
    static const uint8_t magic[MAGIC_BYTES] = { 0x93, 'N', 'U', 'M', 'P', 'Y' };
    size_t               length_bytes, start;
    uint64_t             length = 0;

    if (size < MAGIC_BYTES + 2 || memcmp(bytes, magic, MAGIC_BYTES) != 0)
        return cli_error(err, UPG_E_FORMAT, "%s: not a .npy file (its first bytes are others)",
                         name);
    if (bytes[MAGIC_BYTES] < 1 || bytes[MAGIC_BYTES] > 3)
        return cli_error(err, UPG_E_VERSION, "%s: .npy version %u, 1 to 3 are supported", name,
                         bytes[MAGIC_BYTES]);
    length_bytes = bytes[MAGIC_BYTES] == 1 ? 2 : 4;
    start = MAGIC_BYTES + 2 + length_bytes;
    if (size < start)
        return cli_error(err, UPG_E_FORMAT, "%s: ends inside its header: is it truncated?", name);
    for (size_t i = 0; i < length_bytes; i++)
        length |= (uint64_t)bytes[MAGIC_BYTES + 2 + i] << 8 * i;
    if (length > size - start)
        return cli_error(err, UPG_E_FORMAT,
                         "%s: the header has %" PRIu64 " bytes, the file %zu: is it truncated?",
                         name, length, size);
    *text = (cursor) { bytes + start, bytes + start + length };
    *data = text->end;
    return UPG_OK;
}

/* Checks what the header asks for against what is there; *width = bytes of an element. */
static upg_status check_header(const char *name, const header *h, size_t data_size, cli_ids *array,
                               size_t *width, upg_error *err)
{
    uint64_t need;

    *width = strcmp(h->dtype, "<u2") == 0 ? 2 : strcmp(h->dtype, "<i4") == 0 ? 4 : 0;
    if (*width == 0)
        return cli_error(err, UPG_E_UNSUPPORTED,
                         "%s: descr is \"%s\"; token ids are \"<u2\" (uint16) or \"<i4\" (int32)",
                         name, h->dtype);
    if (h->rank < 1 || h->rank > RANK_MAX)
        return cli_error(err, UPG_E_UNSUPPORTED,
                         "%s: shape has %" PRIu32 " dimensions; needed: [windows, window]", name,
                         h->rank);
    if (h->fortran && h->rank > 1)
        return cli_error(err, UPG_E_UNSUPPORTED,
                         "%s: fortran_order is True; save the array in C order", name);
    array->windows = h->rank == 2 ? h->shape[0] : 1;
    array->window = h->shape[h->rank - 1];
    if (__builtin_mul_overflow(array->windows, array->window, &need) ||
        __builtin_mul_overflow(need, *width, &need) || need != data_size)
        return cli_error(err, UPG_E_FORMAT,
                         "%s: shape (%" PRIu64 ", %" PRIu64 ") of \"%s\" does not fit the %zu data "
                         "bytes: is the file truncated?",
                         name, array->windows, array->window, h->dtype, data_size);
    array->n = data_size / *width;
    return UPG_OK;
}

static upg_token token_at(const uint8_t *data, size_t width)
{
    uint32_t value = (uint32_t)data[0] | (uint32_t)data[1] << 8;

    if (width == 4)
        value |= (uint32_t)data[2] << 16 | (uint32_t)data[3] << 24;
    return (upg_token)value;
}

upg_status cli_ids_parse(const char *name, const uint8_t *bytes, size_t size, cli_ids *array,
                         upg_error *err)
{
    header         h = { 0 };
    cursor         text = { 0 };
    const uint8_t *data = bytes;
    size_t         width = 0;
    upg_status     st;

    *array = (cli_ids) { 0 };
    st = find_header(name, bytes, size, &text, &data, err);
    if (st == UPG_OK && !parse_header(&text, &h))
        st = cli_error(err, UPG_E_FORMAT,
                       "%s: the header is not what NumPy writes (descr, fortran_order, shape)",
                       name);
    if (st == UPG_OK)
        st = check_header(name, &h, size - (size_t)(data - bytes), array, &width, err);
    if (st == UPG_OK && !(array->tokens = malloc((array->n + 1) * sizeof *array->tokens)))
        st = cli_error(err, UPG_E_NOMEM, "%s: no memory for %zu tokens", name, array->n);
    if (st != UPG_OK || !array->tokens) {
        *array = (cli_ids) { 0 };
        return st;
    }
    for (size_t i = 0; i < array->n; i++)
        array->tokens[i] = token_at(data + i * width, width);
    return UPG_OK;
}
