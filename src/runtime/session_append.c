/* session_append.c: from the history to the cache, and appending a prompt.
 *
 * Longrope (Ding et al., "LongRoPE", 2024) turns ALL positions by other frequencies once a sequence
 * is longer than the original context. So a session whose length passes that point, in either
 * direction, computes its whole cache again; what it then holds is what one forward pass over all
 * its tokens would give. */
#include "runtime/session.h"

#include <inttypes.h>
#include <string.h>

bool upg_session_take_cancel(upg_session *session)
{
    return atomic_load_explicit(&session->cancel, memory_order_relaxed) &&
           atomic_exchange_explicit(&session->cancel, false, memory_order_relaxed);
}

/* ---- catching up ------------------------------------------------------------------------------
 */

static void set_mode(upg_session *s, uint32_t n_tokens)
{
    bool long_rope = upg_engine_long_rope(s->model, n_tokens);

    if (s->cache.view.long_rope == long_rope)
        return;
    s->cache.view.long_rope = long_rope;
    s->computed = 0;
    upg_draft_drop(&s->draft);
}

/* Fills model->rows with positions from `computed` on; returns how many. */
static uint32_t fill_rows(upg_session *s, const upg_catch_up *goal)
{
    upg_model *m = s->model;
    size_t     vocab = m->weights->config.vocab;
    uint32_t   n = goal->end - s->computed;

    if (n > m->max_rows)
        n = m->max_rows;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t position = s->computed + i;
        float   *logits = NULL;

        if (goal->logits && position >= goal->logits_from)
            logits = goal->logits + (position - goal->logits_from) * vocab;
        else if (goal->last && position + 1 == goal->end)
            logits = s->logits;
        m->rows[i] = (upg_batch_row) { s->tokens[position], position, &s->cache.view, logits };
    }
    return n;
}

static upg_status run_chunk(upg_session *s, const upg_catch_up *goal, bool fast, upg_error *err)
{
    uint32_t   n;
    upg_status st;

    upg_engine_lock(s->model);
    n = fill_rows(s, goal);
    s->model->fast = fast;
    st = upg_engine_run(s->model, n, &s->cache.layout, &s->cancel, err);
    s->model->fast = false;
    upg_engine_unlock(s->model);
    if (st == UPG_OK)
        s->computed += n;
    return st;
}

upg_status upg_session_catch_up(upg_session *s, const upg_catch_up *goal, upg_error *err)
{
    upg_status st = UPG_OK;
    bool       fast;

    set_mode(s, goal->mode_length);
    if (goal->last && s->computed >= goal->end)
        s->computed = goal->end - 1;
    fast = s->fast_prompts && s->computed + UPG_ENGINE_FAST_ROWS <= goal->end;
    UPG_TRY(upg_kv_cache_reserve(&s->cache, s->computed, goal->end, err));
    while (s->computed < goal->end) {
        st = run_chunk(s, goal, fast, err);
        if (st == UPG_E_CANCELLED)
            (void)upg_session_take_cancel(s);
        UPG_TRY(st);
        if (s->computed < goal->end && upg_session_take_cancel(s))
            UPG_TRY(upg_fail(err, UPG_E_CANCELLED,
                             "cancelled after %" PRIu32 " of %" PRIu32 " tokens", s->computed,
                             goal->end));
    }
    if (goal->last && goal->logits) {
        size_t vocab = s->model->weights->config.vocab;

        memcpy(s->logits, goal->logits + (goal->end - 1 - goal->logits_from) * vocab,
               vocab * sizeof *s->logits);
    }
out:
    return st;
}

upg_status upg_session_need_logits(upg_session *session, upg_error *err)
{
    upg_catch_up goal = { .end = session->length, .mode_length = session->length, .last = true };
    upg_status   st = UPG_OK;

    if (session->logits_valid)
        return UPG_OK;
    st = upg_session_catch_up(session, &goal, err);
    session->logits_valid = st == UPG_OK;
    return st;
}

/* ---- room ---------------------------------------------------------------------------------------
 */

/* Drops the oldest half. What stays moves to other positions, so the cache is void. */
static void shift(upg_session *s)
{
    uint32_t n = s->length - s->length / 2;

    s->length -= n;
    memmove(s->tokens, s->tokens + n, s->length * sizeof *s->tokens);
    memmove(s->drawn, s->drawn + n, s->length);
    s->dropped += n;
    s->computed = 0;
    upg_draft_drop(&s->draft);
}

upg_status upg_session_make_room(upg_session *s, size_t n, upg_error *err)
{
    uint32_t model_context = s->model->weights->config.context;

    if (n <= s->context - s->length)
        return UPG_OK;
    if (s->shift_when_full && n <= s->context) {
        while (n > s->context - s->length)
            shift(s);
        return UPG_OK;
    }
    return upg_fail(err, UPG_E_CONTEXT,
                    "the session holds %" PRIu32
                    " tokens, %zu more do not fit its context of %" PRIu32 ": shorten the text, %s",
                    s->length, n, s->context,
                    s->context < model_context
                        ? "make sessions with larger context_tokens, or set "
                          "shift_when_full"
                        : "or set shift_when_full; this is the model's limit");
}

/* ---- appending ----------------------------------------------------------------------------------
 */

/* After a failure at `computed`: what was computed of the new tokens stays when the caller
 * cancelled; else the history is as it was. */
static void settle(upg_session *s, upg_status st, uint32_t old_length, bool old_valid)
{
    if (st == UPG_E_CANCELLED && s->computed > old_length) {
        s->length = s->computed;
        s->logits_valid = false;
        return;
    }
    s->length = old_length;
    if (s->computed > old_length)
        s->computed = old_length;
    s->logits_valid = old_valid && st != UPG_E_DATA; /* E_DATA may come out of the last op */
}

upg_status upg_session_append(upg_session *s, const upg_token *tokens, size_t n, float *logits,
                              upg_error *err)
{
    upg_catch_up goal = { .logits = logits, .last = true };
    uint32_t     old_length;
    bool         old_valid = s->logits_valid;
    upg_status   st;

    UPG_TRY(upg_engine_check_tokens(s->model, tokens, n, err));
    if (n == 0)
        return UPG_OK;
    if (upg_session_take_cancel(s))
        return upg_fail(err, UPG_E_CANCELLED, "cancelled before the first token");
    UPG_TRY(upg_session_make_room(s, n, err));
    upg_draft_drop(&s->draft);
    old_length = s->length;
    memcpy(s->tokens + old_length, tokens, n * sizeof *tokens);
    memset(s->drawn + old_length, 0, n);
    goal.end = goal.mode_length = old_length + (uint32_t)n;
    goal.logits_from = old_length;
    st = upg_session_catch_up(s, &goal, err);
    if (st == UPG_OK) {
        s->length = goal.end;
        s->logits_valid = true;
    } else {
        settle(s, st, old_length, old_valid);
    }
out:
    return st;
}
