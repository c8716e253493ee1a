/* session_step.c: one token for each of many sessions, in one pass over the weights.
 *
 *   for each session   logits of its last position (nearly always there) ─► draw ─► room, pages;
 *                      a token that was guessed joins the history and is done (draft.h)
 *   all together       one batch with a row for each drawn token, and rows for guesses behind it
 *   for each session   the token joins the history, or, when cancelled meanwhile, it does not
 *
 * What concerns one session ends in its step's status and disturbs no other one. */
#include <inttypes.h>
#include <string.h>

#include "runtime/session.h"

/* Rows of a pass that guesses may fill: so many read the weights once on the CPU. */
enum { ROWS_WITH_GUESSES = UPG_DRAFT_MAX + 1 };

static void fail_step(upg_step *step, upg_status st)
{
    step->token = -1;
    step->logprob = 0;
    step->end = step->guessed = false;
    step->status = st;
}

/* ---- before the pass ----------------------------------------------------------------------------
 */

static upg_status draw(upg_session *s, upg_step *step, upg_error *err)
{
    upg_model          *m = s->model;
    uint32_t            vocab = m->weights->config.vocab;
    upg_sampler_history history = { s->tokens, s->drawn, s->length };
    float               max = s->logits[upg_argmax(s->logits, vocab)];
    double              log_sum = upg_log_sum_exp(&m->kernels, s->logits, vocab, max);

    upg_engine_lock(m); /* guards the space */
    step->token = upg_sampler_choose(&s->sampler, &m->kernels, &m->space, s->logits, m->sampled,
                                     step->allowed, &history, s->dropped + s->length);
    upg_engine_unlock(m);
    if (step->token < 0)
        return upg_fail(err, UPG_E_ARG, "mask and biases allow none of the %" PRIu32 " tokens",
                        m->sampled);
    step->logprob = (float)((double)s->logits[step->token] - log_sum);
    step->end = upg_engine_is_end(m, step->token);
    if (step->top)
        upg_top_tokens(s->logits, vocab, log_sum, step->top, step->top_count);
    return UPG_OK;
}

static void append(upg_session *s)
{
    s->length++;
    s->computed = s->length;
    s->logits_valid = true;
}

/* The drawn token's row was computed as a guess: it joins the history without a pass. */
static bool take_guess(upg_session *s, upg_step *step)
{
    size_t       vocab = s->model->weights->config.vocab;
    const float *logits;

    if (!upg_draft_take(&s->draft, step->token, (uint32_t)vocab, &logits))
        return false;
    s->tokens[s->length] = step->token;
    s->drawn[s->length] = 1;
    memcpy(s->logits, logits, vocab * sizeof *logits);
    append(s);
    step->guessed = true;
    return true;
}

/* Plans guesses behind the drawn token, which stands at tokens[length]: as many as fit the context
 * and the mode of longrope that the drawn token has. No memory for them means none. */
static void plan_guesses(upg_session *s, uint32_t limit)
{
    uint32_t n = s->length + 1;
    bool     long_rope = upg_engine_long_rope(s->model, n);

    if (s->draft.max == 0)
        return;
    limit = limit < s->context - n ? limit : s->context - n;
    while (limit > 0 && upg_engine_long_rope(s->model, n + limit) != long_rope)
        limit--;
    upg_draft_guess(&s->draft, s->tokens, n, limit);
    if (s->draft.planned > 0 &&
        upg_kv_cache_reserve(&s->cache, n, n + s->draft.planned, NULL) != UPG_OK)
        upg_draft_drop(&s->draft);
}

/* Draws a token and makes everything ready for its row and up to `guesses` more; a token that was
 * guessed is done. */
static upg_status prepare(upg_session *s, uint32_t guesses, upg_step *step, upg_error *err)
{
    upg_catch_up goal = { 0 };
    upg_status   st;

    if (upg_session_take_cancel(s))
        return upg_fail(err, UPG_E_CANCELLED, "cancelled before the token");
    if (s->length == 0)
        return upg_fail(err, UPG_E_STATE, "the session is empty: upg_prefill a prompt first");
    if (s->length == s->context && !s->shift_when_full)
        return upg_session_make_room(s, 1, err);
    UPG_TRY(upg_session_need_logits(s, err));
    UPG_TRY(draw(s, step, err));
    UPG_TRY(upg_session_make_room(s, 1, err));
    if (take_guess(s, step))
        return UPG_OK;
    goal.end = s->length;
    goal.mode_length = s->length + 1;
    UPG_TRY(upg_session_catch_up(s, &goal, err));
    UPG_TRY(upg_kv_cache_reserve(&s->cache, s->length, s->length + 1, err));
    s->tokens[s->length] = step->token;
    s->drawn[s->length] = 1;
    plan_guesses(s, guesses);
out:
    return st;
}

/* ---- after the pass
 * ------------------------------------------------------------------------------ */

static void finish(upg_session *s, upg_step *step)
{
    if (upg_session_take_cancel(s)) {
        upg_draft_drop(&s->draft);
        s->logits_valid = false; /* they follow a token that the history does not take */
        (void)upg_fail(&s->last_error, UPG_E_CANCELLED, "cancelled during the pass");
        fail_step(step, UPG_E_CANCELLED);
        return;
    }
    append(s);
    upg_draft_keep(&s->draft);
}

static void finish_failed(upg_session *s, upg_step *step, upg_status st, const upg_error *why)
{
    upg_draft_drop(&s->draft);
    if (st == UPG_E_CANCELLED)
        (void)upg_session_take_cancel(s);
    else
        s->logits_valid = false; /* they may be half written */
    s->last_error = *why;
    fail_step(step, st);
}

/* ---- the pass
 * ------------------------------------------------------------------------------------ */

/* Steps that share a pass, as indices of the call's arrays. */
typedef struct pass {
    upg_session *const *sessions;
    upg_step           *steps;
    uint32_t            n, n_rows;
    size_t              index[UPG_ENGINE_MAX_ROWS];
} pass;

/* The drawn token's row, then those of its guesses; returns how many. */
static uint32_t fill_rows(upg_session *s, upg_batch_row *rows)
{
    size_t vocab = s->model->weights->config.vocab;

    rows[0] = (upg_batch_row) { s->tokens[s->length], s->length, &s->cache.view, s->logits };
    for (uint32_t i = 0; i < s->draft.planned; i++)
        rows[i + 1] = (upg_batch_row) { s->draft.tokens[i], s->length + 1 + i, &s->cache.view,
                                        s->draft.logits + i * vocab };
    return s->draft.planned + 1;
}

/* Runs steps [first, first + n) of the pass. A session that is alone stops within an op when it is
 * cancelled; with others the pass goes on, and the cancelled session leaves its token out. */
static upg_status run_rows(const pass *p, uint32_t first, uint32_t n, upg_error *err)
{
    upg_session *leader = p->sessions[p->index[first]];
    upg_model   *m = leader->model;
    uint32_t     n_rows = 0;
    upg_status   st;

    upg_engine_lock(m);
    for (uint32_t i = 0; i < n; i++)
        n_rows += fill_rows(p->sessions[p->index[first + i]], m->rows + n_rows);
    m->op_ns = n == 1 ? leader->op_ns : NULL;
    st = upg_engine_run(m, n_rows, &leader->cache.layout, n == 1 ? &leader->cancel : NULL, err);
    m->op_ns = NULL;
    upg_engine_unlock(m);
    return st;
}

static void settle_rows(const pass *p, uint32_t first, uint32_t n, upg_status st,
                        const upg_error *why)
{
    for (uint32_t i = first; i < first + n; i++) {
        upg_session *s = p->sessions[p->index[i]];

        if (st == UPG_OK)
            finish(s, &p->steps[p->index[i]]);
        else
            finish_failed(s, &p->steps[p->index[i]], st, why);
    }
}

/* A value that is no number belongs to one session, or to a guess that would never come true:
 * alone and without guesses, each finds out. */
static upg_status run_pass(const pass *p, upg_error *err)
{
    upg_error  why = { 0 };
    upg_status st = run_rows(p, 0, p->n, &why);

    if (st == UPG_E_DATA && p->n_rows > 1) {
        for (uint32_t i = 0; i < p->n; i++) {
            upg_draft_drop(&p->sessions[p->index[i]]->draft);
            st = run_rows(p, i, 1, &why);
            settle_rows(p, i, 1, st, &why);
        }
        return UPG_OK;
    }
    settle_rows(p, 0, p->n, st, &why);
    if (st == UPG_E_DEVICE_LOST)
        return upg_fail(err, st, "%s", why.message);
    return UPG_OK;
}

static upg_status flush(pass *p, upg_error *err)
{
    upg_status st = p->n > 0 ? run_pass(p, err) : UPG_OK;

    p->n = p->n_rows = 0;
    return st;
}

/* All steps whose sessions have this type of cache and need a pass. */
static upg_status run_type(pass *p, size_t n_steps, upg_kv_type type, upg_error *err)
{
    upg_status st = UPG_OK;

    for (size_t i = 0; i < n_steps; i++) {
        const upg_session *s = p->sessions[i];

        if (p->steps[i].status != UPG_OK || p->steps[i].guessed || s->cache.layout.type != type)
            continue;
        if (p->n_rows + s->draft.planned + 1 > s->model->max_rows)
            UPG_TRY(flush(p, err));
        p->index[p->n++] = i;
        p->n_rows += s->draft.planned + 1;
    }
    UPG_TRY(flush(p, err));
out:
    return st;
}

/* Rows that are left beside one for each session, shared out. */
static uint32_t guesses_for_each(const upg_model *m, size_t n)
{
    size_t rows = ROWS_WITH_GUESSES < m->max_rows ? ROWS_WITH_GUESSES : m->max_rows;

    return n < rows ? (uint32_t)(rows / n - 1) : 0;
}

/* A lost device ends the call as a whole, also when it was met ahead of the pass. */
static upg_status give_up(const pass *p, size_t n, const upg_error *why, upg_error *err)
{
    for (size_t i = 0; i < n; i++)
        if (p->steps[i].status == UPG_OK)
            finish_failed(p->sessions[i], &p->steps[i], UPG_E_DEVICE_LOST, why);
    return upg_fail(err, UPG_E_DEVICE_LOST, "%s", why->message);
}

upg_status upg_session_step(upg_session *const *sessions, size_t n, upg_step *steps, upg_error *err)
{
    static const upg_kv_type types[] = { UPG_KV_F16, UPG_KV_F32, UPG_KV_I8 };
    pass                     p = { .sessions = sessions, .steps = steps };
    uint32_t                 guesses = guesses_for_each(sessions[0]->model, n);
    upg_status               st = UPG_OK;

    for (size_t i = 0; i < n; i++) {
        upg_status ready;

        steps[i].status = UPG_OK;
        steps[i].guessed = false;
        ready = prepare(sessions[i], guesses, &steps[i], &sessions[i]->last_error);
        if (ready != UPG_OK)
            fail_step(&steps[i], ready);
        if (ready == UPG_E_DEVICE_LOST)
            return give_up(&p, i, &sessions[i]->last_error, err);
    }
    for (size_t t = 0; t < sizeof types / sizeof types[0]; t++)
        UPG_TRY(run_type(&p, n, types[t], err));
out:
    return st;
}
