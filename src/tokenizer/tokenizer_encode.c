/* tokenizer_encode.c: text to ids.
 *
 *   text ── added tokens ──► segments ── pattern ──► pieces ── cache, else merges ──► ids
 *
 * The text is checked once, at the start; everything after that relies on its being UTF-8. */
#include <string.h>

#include "base/alloc.h"
#include "tokenizer/hash.h"
#include "tokenizer/tokenizer_impl.h"
#include "tokenizer/utf8.h"

/* Where ids go: a caller's fixed buffer, or a growing array. */
typedef struct sink {
    int32_t *ids;
    size_t   n, cap; /* n counts on past cap in a fixed buffer */
    bool     grows;
} sink;

/* One call's state. */
typedef struct job {
    const upg_tokenizer *tokenizer;
    upg_encoder         *encoder;
    const uint8_t       *end; /* of the whole text: words may be read up to here */
    bool                 special;
    sink                 out;
    upg_error           *err;
} job;

static upg_status grow(sink *out, size_t n, upg_error *err)
{
    size_t   cap = out->cap + out->cap / 2 + n + 64;
    int32_t *ids = upg_realloc(out->ids, cap, sizeof *ids, err);

    if (ids == NULL)
        return UPG_E_NOMEM;
    out->ids = ids;
    out->cap = cap;
    return UPG_OK;
}

static upg_status put(job *j, const int32_t *ids, size_t n)
{
    sink  *out = &j->out;
    size_t room;

    if (out->n + n > out->cap && out->grows && grow(out, n, j->err) != UPG_OK)
        return UPG_E_NOMEM;
    room = out->n < out->cap ? out->cap - out->n : 0;
    if (room > 0)
        memcpy(out->ids + out->n, ids, (n < room ? n : room) * sizeof *ids);
    out->n += n;
    return UPG_OK;
}

/* A short piece as a key; reading 16 bytes at once where the text has them. */
static void make_key(const uint8_t *piece, size_t size, const uint8_t *end, uint64_t key[2])
{
    key[0] = key[1] = 0;
    if ((size_t)(end - piece) < 16) {
        memcpy(key, piece, size);
    } else {
        memcpy(key, piece, 16);
        if (size < 8) {
            key[0] &= (UINT64_C(1) << 8 * size) - 1;
            key[1] = 0;
        } else {
            key[1] &= (UINT64_C(1) << 8 * (size - 8)) - 1;
        }
    }
    key[1] |= (uint64_t)size << 56;
}

/* Merges a piece that the cache does not have; *ids is borrowed until the next call. */
static upg_status merge_piece(job *j, const uint8_t *piece, size_t size,
                              int32_t room[UPG_BPE_SHORT], const int32_t **ids, size_t *n)
{
    const upg_tokenizer *t = j->tokenizer;

    *ids = room;
    if (t->ignore_merges) {
        room[0] = upg_token_table_find(&t->table, piece, size, false);
        *n = 1;
        if (room[0] >= 0)
            return UPG_OK;
    }
    if (size > UPG_BPE_SHORT)
        return upg_bpe_long(&t->merges, &j->encoder->bpe, piece, size, ids, n, j->err);
    *n = upg_bpe_short(&t->merges, piece, size, room);
    return UPG_OK;
}

static upg_status encode_piece(job *j, const uint8_t *piece, size_t size)
{
    upg_status      st;
    uint64_t        key[2] = { 0, 0 };
    upg_cache_slot *slot = NULL;
    int32_t         room[UPG_BPE_SHORT];
    const int32_t  *ids;
    size_t          n;

    if (size <= UPG_CACHE_BYTES) {
        make_key(piece, size, j->end, key);
        slot = &j->encoder->cache[upg_hash_pair(key[0], key[1]) % UPG_CACHE_SLOTS];
        if (slot->key[0] == key[0] && slot->key[1] == key[1]) {
            for (n = 1; n < UPG_CACHE_IDS && slot->ids[n] >= 0; n++)
                continue;
            return put(j, slot->ids, n);
        }
    }
    UPG_TRY(merge_piece(j, piece, size, room, &ids, &n));
    if (slot != NULL && n <= UPG_CACHE_IDS) {
        slot->key[0] = key[0];
        slot->key[1] = key[1];
        for (size_t i = 0; i < UPG_CACHE_IDS; i++)
            slot->ids[i] = i < n ? ids[i] : -1;
    }
    st = put(j, ids, n);
out:
    return st;
}

/* The segment's characters as bytes of the pattern's alphabet; ASCII is that already. */
static upg_status classify(job *j, const uint8_t *segment, size_t size, const uint8_t **classes,
                           size_t *n_characters)
{
    upg_encoder *e = j->encoder;
    bool         ascii = true;

    for (size_t i = 0; i < size && ascii; i++)
        ascii = segment[i] < 0x80;
    *classes = segment;
    *n_characters = size;
    if (ascii)
        return UPG_OK;
    if (size > e->classes_cap) {
        upg_free(e->classes);
        e->classes_cap = 0;
        e->classes = upg_malloc(size, 1, j->err);
        if (e->classes == NULL)
            return UPG_E_NOMEM;
        e->classes_cap = size;
    }
    *n_characters = upg_pattern_classify(segment, size, e->classes);
    *classes = e->classes;
    return UPG_OK;
}

/* Bytes of the next n characters; in ASCII they are the same. */
static size_t skip_characters(const uint8_t *text, size_t n, bool ascii)
{
    size_t bytes = 0;

    if (ascii)
        return n;
    while (n-- > 0)
        bytes += upg_utf8_length(text[bytes]);
    return bytes;
}

static upg_status match_failed(job *j, int code)
{
    if (code == PCRE2_ERROR_NOMEMORY || code == PCRE2_ERROR_HEAPLIMIT)
        return upg_fail(j->err, UPG_E_NOMEM, "out of memory while matching the pattern");
    return upg_fail(j->err, UPG_E_UNSUPPORTED,
                    "the pre-tokenizer's pattern takes too long on this text (PCRE2 error %d): is "
                    "tokenizer.json the original?",
                    code);
}

/* Text without added tokens: split by the pattern. */
static upg_status encode_segment(job *j, const uint8_t *segment, size_t size)
{
    upg_status           st = UPG_OK;
    const upg_tokenizer *t = j->tokenizer;
    const uint8_t       *classes, *at = segment;
    size_t               n, done = 0, begin = 0, end = 0;
    int                  found;
    bool                 ascii;

    UPG_TRY(classify(j, segment, size, &classes, &n));
    ascii = classes == segment;
    upg_matcher_limit(&j->encoder->matcher, n);
    while (done < n) {
        size_t gap, length;

        found =
            upg_pattern_match(&t->pattern, &j->encoder->matcher, classes, n, done, &begin, &end);
        if (found < 0)
            UPG_TRY(match_failed(j, found));
        if (found == 0)
            begin = end = n;
        gap = skip_characters(at, begin - done, ascii);
        if (gap > 0 && t->keep_gaps)
            UPG_TRY(encode_piece(j, at, gap));
        length = skip_characters(at + gap, end - begin, ascii);
        if (length > 0)
            UPG_TRY(encode_piece(j, at + gap, length));
        at += gap + length;
        done = end;
    }
out:
    return st;
}

/* Text in which the tokens of sets[which] are found, then those of the next set. */
static upg_status encode_text(job *j, const uint8_t *text, size_t size, size_t which)
{
    upg_status           st = UPG_OK;
    const upg_added_set *set = &j->tokenizer->sets[which];
    upg_added_match      match;
    size_t               done = 0;

    while (upg_added_set_find(set, text, size, done, j->special, &match)) {
        if (match.begin > done)
            UPG_TRY(which == 0 ? encode_text(j, text + done, match.begin - done, 1)
                               : encode_segment(j, text + done, match.begin - done));
        UPG_TRY(put(j, &match.token->id, 1));
        done = match.end;
    }
    if (done < size)
        st = which == 0 ? encode_text(j, text + done, size - done, 1)
                        : encode_segment(j, text + done, size - done);
out:
    return st;
}

static upg_status encode(const upg_tokenizer *tokenizer, const char *text, size_t bytes,
                         bool special, sink *out, upg_error *err)
{
    upg_status     st;
    const uint8_t *utf8 = (const uint8_t *)text;
    /* The pool is no part of the tokenizer's value. */
    upg_encoder_pool *pool = (upg_encoder_pool *)&tokenizer->encoders;
    job               j = { .tokenizer = tokenizer, .special = special, .out = *out, .err = err };
    size_t            valid;

    if (bytes == 0)
        return UPG_OK;
    if (bytes >= UINT32_MAX)
        return upg_fail(err, UPG_E_BUDGET, "the text has %zu bytes, the limit is 4 GiB", bytes);
    valid = upg_utf8_valid_bytes(utf8, bytes);
    if (valid < bytes)
        return upg_fail(err, UPG_E_DATA, "the text is not UTF-8: byte 0x%02X at offset %zu",
                        utf8[valid], valid);
    j.end = utf8 + bytes;
    j.encoder = upg_encoder_take(pool, &tokenizer->pattern, err);
    UPG_TRY(j.encoder != NULL ? UPG_OK : UPG_E_NOMEM);
    UPG_TRY(encode_text(&j, utf8, bytes, 0));
out:
    upg_encoder_give(pool, j.encoder);
    *out = j.out;
    return st;
}

upg_status upg_tokenizer_encode(const upg_tokenizer *tokenizer, const char *text, size_t bytes,
                                bool special, int32_t *tokens, size_t cap, size_t *n,
                                upg_error *err)
{
    sink       out = { .ids = tokens, .cap = cap };
    upg_status st = encode(tokenizer, text, bytes, special, &out, err);

    *n = st == UPG_OK ? out.n : 0;
    if (st == UPG_OK && out.n > cap)
        st = upg_fail(err, UPG_E_BUFFER, "the text has %zu tokens, the buffer has room for %zu",
                      out.n, cap);
    return st;
}

upg_status upg_tokenizer_append(const upg_tokenizer *tokenizer, const char *text, size_t bytes,
                                bool special, upg_token_array *tokens, upg_error *err)
{
    sink       out = { .ids = tokens->ids, .n = tokens->size, .cap = tokens->cap, .grows = true };
    upg_status st = encode(tokenizer, text, bytes, special, &out, err);

    tokens->ids = out.ids;
    tokens->cap = out.cap;
    if (st == UPG_OK)
        tokens->size = out.n;
    return st;
}

upg_status upg_token_array_add(upg_token_array *tokens, int32_t id, upg_error *err)
{
    sink out = { .ids = tokens->ids, .n = tokens->size, .cap = tokens->cap, .grows = true };

    if (out.n == out.cap && grow(&out, 1, err) != UPG_OK)
        return UPG_E_NOMEM;
    out.ids[out.n] = id;
    *tokens = (upg_token_array) { .ids = out.ids, .size = out.n + 1, .cap = out.cap };
    return UPG_OK;
}

void upg_token_array_deinit(upg_token_array *tokens)
{
    upg_free(tokens->ids);
    *tokens = (upg_token_array) { 0 };
}
