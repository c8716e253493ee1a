/* session_step.c: one token for each of many sessions, in one pass over the weights.
 *
 *   for each session   logits of its last position (nearly always there) ─► draw ─► room, pages
 *   all together       one batch with a row for each drawn token
 *   for each session   the token joins the history, or, when cancelled meanwhile, it does not
 *
 * What concerns one session ends in its step's status and disturbs no other one. */
#include <inttypes.h>
#include <string.h>

#include "runtime/session.h"

static void fail_step(upg_step *step, upg_status st)
{
    step->token = -1;
    step->logprob = 0;
    step->end = false;
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

/* Draws a token and makes everything ready for its row. */
static upg_status prepare(upg_session *s, upg_step *step, upg_error *err)
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
    goal.end = s->length;
    goal.mode_length = s->length + 1;
    UPG_TRY(upg_session_catch_up(s, &goal, err));
    UPG_TRY(upg_kv_cache_reserve(&s->cache, s->length, s->length + 1, err));
    s->tokens[s->length] = step->token;
    s->drawn[s->length] = 1;
out:
    return st;
}

/* ---- after the pass
 * ------------------------------------------------------------------------------ */

static void finish(upg_session *s, upg_step *step)
{
    if (upg_session_take_cancel(s)) {
        s->logits_valid = false; /* they follow a token that the history does not take */
        (void)upg_fail(&s->last_error, UPG_E_CANCELLED, "cancelled during the pass");
        fail_step(step, UPG_E_CANCELLED);
        return;
    }
    s->length++;
    s->computed = s->length;
    s->logits_valid = true;
}

static void finish_failed(upg_session *s, upg_step *step, upg_status st, const upg_error *why)
{
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
    uint32_t            n;
    size_t              index[UPG_ENGINE_MAX_ROWS];
} pass;

/* Runs steps [first, first + n) of the pass. A session that is alone stops within an op when it is
 * cancelled; with others the pass goes on, and the cancelled session leaves its token out. */
static upg_status run_rows(const pass *p, uint32_t first, uint32_t n, upg_error *err)
{
    upg_session *leader = p->sessions[p->index[first]];
    upg_model   *m = leader->model;
    upg_status   st;

    upg_engine_lock(m);
    for (uint32_t i = 0; i < n; i++) {
        upg_session *s = p->sessions[p->index[first + i]];

        m->rows[i] = (upg_batch_row) { s->tokens[s->length], s->length, &s->cache.view, s->logits };
    }
    m->op_ns = n == 1 ? leader->op_ns : NULL;
    st = upg_engine_run(m, n, &leader->cache.layout, n == 1 ? &leader->cancel : NULL, err);
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

/* A value that is no number belongs to one session: alone, each finds out. */
static upg_status run_pass(const pass *p, upg_error *err)
{
    upg_error  why = { 0 };
    upg_status st = run_rows(p, 0, p->n, &why);

    if (st == UPG_E_DATA && p->n > 1) {
        for (uint32_t i = 0; i < p->n; i++) {
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

/* All steps whose sessions have this type of cache. */
static upg_status run_type(pass *p, size_t n_steps, upg_kv_type type, upg_error *err)
{
    upg_status st = UPG_OK;

    p->n = 0;
    for (size_t i = 0; i < n_steps; i++) {
        if (p->steps[i].status == UPG_OK && p->sessions[i]->cache.layout.type == type)
            p->index[p->n++] = i;
        if (p->n > 0 && (p->n == p->sessions[0]->model->max_rows || i + 1 == n_steps)) {
            UPG_TRY(run_pass(p, err));
            p->n = 0;
        }
    }
out:
    return st;
}

upg_status upg_session_step(upg_session *const *sessions, size_t n, upg_step *steps, upg_error *err)
{
    static const upg_kv_type types[] = { UPG_KV_F16, UPG_KV_F32, UPG_KV_I8 };
    pass                     p = { .sessions = sessions, .steps = steps };
    upg_status               st = UPG_OK;

    for (size_t i = 0; i < n; i++) {
        upg_status ready;

        steps[i].status = UPG_OK;
        ready = prepare(sessions[i], &steps[i], &sessions[i]->last_error);
        if (ready != UPG_OK)
            fail_step(&steps[i], ready);
    }
    for (size_t t = 0; t < sizeof types / sizeof types[0]; t++)
        UPG_TRY(run_type(&p, n, types[t], err));
out:
    return st;
}
