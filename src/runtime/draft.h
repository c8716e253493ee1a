/* draft.h: speculation by prompt lookup (Saxena, "Prompt Lookup Decoding", 2023): what followed the
 * last tokens when they stood in the text before is guessed to follow again.
 *
 * Guessed tokens ride along in the pass of a drawn one and leave their keys, values and logits.
 * When the next draw, made as always from the logits of its place, gives the guessed token, it
 * needs no pass; else the guesses are dropped. So nothing about the text changes, whatever the
 * sampling: rows of a pass do not depend on each other (backend.h).
 *
 *     history … t │ g1 g2 g3        the pass of t holds rows t, g1, g2, g3
 *          draw = g1: taken         logits of g1's row are those of the last token now
 *          draw ≠ g2: g2, g3 dropped, the pass of what was drawn begins
 *
 * How much is guessed only costs time: more after guesses that came true, less after misses, and
 * after misses only what repeats longer runs. */
#ifndef UPG_RUNTIME_DRAFT_H
#define UPG_RUNTIME_DRAFT_H

#include "base/error.h"
#include "upg/upg.h"

enum { UPG_DRAFT_MAX = 7 }; /* with the drawn token 8 rows: read once on the CPU */

typedef struct upg_draft {
    uint32_t  max;                   /* 0 = off */
    uint32_t  n, at;                 /* guesses in the cache; the first `at` came true */
    uint32_t  planned;               /* for the pass that comes, in tokens */
    upg_token tokens[UPG_DRAFT_MAX]; /* guesses, in the order of their places */
    float    *logits;                /* f32 [max][vocab] of their rows */
    uint32_t  width, misses;         /* how many to guess next; misses without a hit between */
} upg_draft;

/** max ≤ UPG_DRAFT_MAX; 0 = off. Errors: E_NOMEM. */
upg_status upg_draft_init(upg_draft *draft, uint32_t max, uint32_t vocab, upg_error *err);
void       upg_draft_deinit(upg_draft *draft); /* a zeroed one is fine */
/** Plans up to `limit` guesses of what follows tokens [0, n). */
void upg_draft_guess(upg_draft *draft, const upg_token *tokens, uint32_t n, uint32_t limit);
/** The pass with the planned guesses went well: they are in the cache now. */
void upg_draft_keep(upg_draft *draft);
/** True when `token` is the next guess: *logits [vocab] is then what follows it. Else the guesses
 * are dropped. */
bool upg_draft_take(upg_draft *draft, upg_token token, uint32_t vocab, const float **logits);
/** Forgets guesses and plans: the cache past the history is void. */
void upg_draft_drop(upg_draft *draft);

#endif
