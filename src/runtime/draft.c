/* draft.c: finding what followed before, and how far to trust it. */
#include "runtime/draft.h"

#include "base/alloc.h"

enum {
    LONGEST_RUN = 16,   /* tokens compared; longer ones say no more */
    SHORTEST_RUN = 2,   /* that must repeat before anything is guessed */
    MISSES_COUNTED = 6, /* each asks for a run longer by one */
    FIRST_WIDTH = 3
};

upg_status upg_draft_init(upg_draft *draft, uint32_t max, uint32_t vocab, upg_error *err)
{
    *draft = (upg_draft) { .max = max, .width = FIRST_WIDTH };
    if (max == 0)
        return UPG_OK;
    draft->logits = upg_alloc_aligned((size_t)max * vocab * sizeof *draft->logits, err);
    return draft->logits ? UPG_OK : UPG_E_NOMEM;
}

void upg_draft_deinit(upg_draft *draft)
{
    upg_free(draft->logits);
    *draft = (upg_draft) { 0 };
}

/* How many tokens before a and before b agree. */
static uint32_t run_length(const upg_token *tokens, uint32_t a, uint32_t b)
{
    uint32_t n = 0;

    while (n < LONGEST_RUN && n < a && tokens[a - 1 - n] == tokens[b - 1 - n])
        n++;
    return n;
}

/* The place whose past resembles the end most, the latest one of equals; 0 = none is good enough.
 */
static uint32_t find_place(const upg_token *tokens, uint32_t n, uint32_t shortest)
{
    uint32_t best = 0, best_run = shortest - 1;

    for (uint32_t at = n - 1; at >= shortest; at--) {
        uint32_t run;

        if (tokens[at - 1] != tokens[n - 1])
            continue;
        run = run_length(tokens, at, n);
        if (run > best_run) {
            best = at;
            best_run = run;
        }
        if (best_run == LONGEST_RUN)
            break;
    }
    return best;
}

void upg_draft_guess(upg_draft *draft, const upg_token *tokens, uint32_t n, uint32_t limit)
{
    uint32_t shortest = SHORTEST_RUN + draft->misses, place;

    draft->planned = 0;
    limit = limit < draft->max ? limit : draft->max;
    limit = limit < draft->width ? limit : draft->width;
    if (limit == 0 || n <= shortest)
        return;
    place = find_place(tokens, n, shortest);
    if (place == 0)
        return;
    /* Past the end the run goes on with what was guessed: a text that repeats itself. */
    for (uint32_t i = 0; i < limit; i++) {
        uint32_t from = place + i;

        draft->tokens[i] = from < n ? tokens[from] : draft->tokens[from - n];
    }
    draft->planned = limit;
}

void upg_draft_keep(upg_draft *draft)
{
    draft->n = draft->planned;
    draft->at = 0;
    draft->planned = 0;
}

bool upg_draft_take(upg_draft *draft, upg_token token, uint32_t vocab, const float **logits)
{
    if (draft->at == draft->n)
        return false;
    if (draft->tokens[draft->at] != token) {
        draft->width = draft->at + 1;
        if (draft->at == 0 && draft->misses < MISSES_COUNTED)
            draft->misses++;
        upg_draft_drop(draft);
        return false;
    }
    *logits = draft->logits + (size_t)draft->at * vocab;
    draft->at++;
    draft->misses = 0;
    if (draft->at == draft->n && draft->width <= draft->n) /* all came true */
        draft->width = 2 * draft->n + 1;
    return true;
}

void upg_draft_drop(upg_draft *draft)
{
    draft->n = draft->at = draft->planned = 0;
}
