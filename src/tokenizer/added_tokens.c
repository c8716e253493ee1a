#include "tokenizer/added_tokens.h"

#include <string.h>

#include "base/alloc.h"
#include "tokenizer/char_class.h"
#include "tokenizer/utf8.h"

/* One byte of some token's content; children are a list. */
typedef struct upg_added_node {
    uint32_t child, sibling; /* 0: none (the root is nobody's child) */
    uint32_t token;          /* index + 1 of the token that ends here, 0 without */
    uint8_t  byte;
} added_node;

static uint32_t child_of(const upg_added_set *set, uint32_t node, uint8_t byte)
{
    uint32_t child = set->nodes[node].child;

    while (child != 0 && set->nodes[child].byte != byte)
        child = set->nodes[child].sibling;
    return child;
}

static void insert(upg_added_set *set, const upg_added_token *token)
{
    uint32_t node = 0;

    for (uint32_t i = 0; i < token->size; i++) {
        uint8_t  byte = (uint8_t)token->content[i];
        uint32_t child = child_of(set, node, byte);

        if (child == 0) {
            child = (uint32_t)set->n_nodes++;
            set->nodes[child] = (added_node) { .sibling = set->nodes[node].child, .byte = byte };
            set->nodes[node].child = child;
        }
        node = child;
    }
    set->tokens[set->n_tokens++] = token;
    set->nodes[node].token = (uint32_t)set->n_tokens;
}

upg_status upg_added_set_init(upg_added_set *set, const upg_added_token *tokens, size_t n,
                              bool normalized, upg_error *err)
{
    upg_status st = UPG_OK;
    size_t     n_nodes = 1, n_tokens = 0;

    *set = (upg_added_set) { .n_nodes = 1 };
    for (size_t i = 0; i < n; i++) {
        if (tokens[i].normalized != normalized)
            continue;
        n_nodes += tokens[i].size;
        n_tokens++;
    }
    set->nodes = upg_calloc(n_nodes, sizeof *set->nodes, err);
    UPG_TRY(set->nodes != NULL ? UPG_OK : UPG_E_NOMEM);
    set->tokens = upg_calloc(n_tokens, sizeof *set->tokens, err);
    UPG_TRY(set->tokens != NULL ? UPG_OK : UPG_E_NOMEM);
    for (size_t i = 0; i < n; i++) {
        if (tokens[i].normalized != normalized)
            continue;
        insert(set, &tokens[i]);
        set->only = (uint8_t)tokens[i].content[0];
        set->n_begins += !set->begins[set->only];
        set->begins[set->only] = true;
    }
out:
    if (st != UPG_OK)
        upg_added_set_deinit(set);
    return st;
}

void upg_added_set_deinit(upg_added_set *set)
{
    upg_free(set->nodes);
    upg_free(set->tokens);
    *set = (upg_added_set) { 0 };
}

/* The longest token that begins at `at`, NULL without. */
static const upg_added_token *longest_at(const upg_added_set *set, const uint8_t *text, size_t size,
                                         size_t at)
{
    uint32_t node = 0, found = 0;

    for (size_t i = at; i < size && (node = child_of(set, node, text[i])) != 0; i++)
        if (set->nodes[node].token != 0)
            found = set->nodes[node].token;
    return found != 0 ? set->tokens[found - 1] : NULL;
}

/* The next place where a token could begin; `size` without. */
static size_t next_begin(const upg_added_set *set, const uint8_t *text, size_t size, size_t at)
{
    const uint8_t *found;

    if (set->n_begins == 0 || at >= size)
        return size;
    if (set->n_begins == 1) {
        found = memchr(text + at, set->only, size - at);
        return found != NULL ? (size_t)(found - text) : size;
    }
    while (at < size && !set->begins[text[at]])
        at++;
    return at;
}

bool upg_added_set_find(const upg_added_set *set, const uint8_t *text, size_t size, size_t start,
                        bool special, upg_added_match *match)
{
    size_t at = start;

    while ((at = next_begin(set, text, size, at)) < size) {
        const upg_added_token *token = longest_at(set, text, size, at);

        if (token == NULL) {
            at++;
            continue;
        }
        if (token->control && !special) {
            at += token->size; /* plain text, but no other token begins inside it */
            continue;
        }
        match->token = token;
        match->begin = token->lstrip ? start + upg_strip_end(text + start, at - start) : at;
        match->end = at + token->size;
        if (token->rstrip)
            match->end += upg_strip_start(text + match->end, size - match->end);
        return true;
    }
    return false;
}

size_t upg_strip_end(const uint8_t *text, size_t size)
{
    while (size > 0) {
        size_t   begin = size - 1;
        uint32_t c;

        while (begin > 0 && (text[begin] & 0xC0u) == 0x80u)
            begin--;
        upg_utf8_decode(text + begin, &c);
        if (upg_char_class_of(c) != UPG_CHAR_SPACE)
            break;
        size = begin;
    }
    return size;
}

size_t upg_strip_start(const uint8_t *text, size_t size)
{
    size_t at = 0;

    while (at < size) {
        uint32_t c;
        size_t   length = upg_utf8_decode(text + at, &c);

        if (upg_char_class_of(c) != UPG_CHAR_SPACE)
            break;
        at += length;
    }
    return at;
}
