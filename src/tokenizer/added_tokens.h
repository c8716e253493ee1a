/* added_tokens.h: finding added tokens ("<|im_start|>") in a text before it is split into words.
 *
 * Of all occurrences the leftmost is taken, of those the longest; what follows is searched after
 * its end. White space beside a token that strips on that side belongs to the match and is lost.
 * Two sets are searched one after the other, as the reference does: tokens not marked "normalized"
 * first, then, in what is left, the others. */
#ifndef UPG_TOKENIZER_ADDED_TOKENS_H
#define UPG_TOKENIZER_ADDED_TOKENS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/error.h"

enum { UPG_ADDED_MAX_BYTES = 1024 }; /* bounds the work at each byte of a text */

typedef struct upg_added_token {
    const char *content;
    uint32_t    size;
    int32_t     id;
    bool        lstrip, rstrip, special, normalized;
    bool        control; /* special, or named by the chat template */
} upg_added_token;

typedef struct upg_added_set {
    struct upg_added_node  *nodes; /* a trie; node 0 is the root */
    size_t                  n_nodes, nodes_cap;
    const upg_added_token **tokens; /* by the index that nodes hold */
    size_t                  n_tokens;
    bool                    begins[256]; /* some token begins with this byte */
    uint8_t                 only;        /* the one such byte, when there is just one */
    uint32_t                n_begins;
} upg_added_set;

/** Builds the set of those of n tokens whose `normalized` is the one given. The tokens are borrowed
 * until deinit. Errors: E_NOMEM. */
upg_status upg_added_set_init(upg_added_set *set, const upg_added_token *tokens, size_t n,
                              bool normalized, upg_error *err);
void       upg_added_set_deinit(upg_added_set *set);

/** A match: bytes [begin, end) of the text, stripped white space included. */
typedef struct upg_added_match {
    const upg_added_token *token;
    size_t                 begin, end;
} upg_added_match;

/** The first match at or after `start`, where the text before `start` is used up. With
 * `special` false, special tokens are passed over: they are plain text. */
bool upg_added_set_find(const upg_added_set *set, const uint8_t *text, size_t size, size_t start,
                        bool special, upg_added_match *match);

/** Drops White_Space characters at the end (start) of checked text: the bytes that remain (the
 * bytes dropped). */
size_t upg_strip_end(const uint8_t *text, size_t size);
size_t upg_strip_start(const uint8_t *text, size_t size);

#endif
