/* session_api.c: upg_session_*, upg_prefill and upg_decode: argument checks, and one thread at a
 * time: `in_use` is taken for the length of a call, and who finds it taken gets UPG_E_BUSY. */
#include <string.h>

#include "api/struct_options.h"
#include "runtime/session.h"

/* ---- one thread at a time ------------------------------------------------------------------- */

static bool take(upg_session *s)
{
    return !atomic_exchange_explicit(&s->in_use, true, memory_order_acquire); /* pairs with give */
}

static void give(upg_session *s)
{
    atomic_store_explicit(&s->shown, s->length, memory_order_relaxed);
    atomic_store_explicit(&s->in_use, false, memory_order_release);
}

static upg_status busy(upg_error *err)
{
    return upg_fail(err, UPG_E_BUSY, "the session is in use by another thread");
}

static upg_status no_session(upg_error *err)
{
    return upg_fail(err, UPG_E_ARG, "session is NULL");
}

/* ---- options -------------------------------------------------------------------------------- */

static upg_status read_options(const upg_session_options *options, upg_session_settings *settings,
                               upg_error *err)
{
    upg_session_options o;
    upg_status          st;

    UPG_TRY(upg_struct_in(options, &o, sizeof o, "upg_session_options", err));
    if (o.draft_tokens > UPG_DRAFT_MAX)
        UPG_TRY(upg_fail(err, UPG_E_ARG, "upg_session_options.draft_tokens is %u: at most %d",
                         o.draft_tokens, UPG_DRAFT_MAX));
    *settings = (upg_session_settings) { .context = o.context_tokens,
                                         .draft = o.draft_tokens,
                                         .kv_int8 = o.kv_int8,
                                         .shift_when_full = o.shift_when_full,
                                         .keep_logits = o.keep_logits,
                                         .fast_prompts = o.fast_prompts };
out:
    return st;
}

/* ---- objects -------------------------------------------------------------------------------- */

UPG_API upg_status upg_session_size(const upg_model *model, const upg_session_options *options,
                                    uint64_t *bytes, upg_error *err)
{
    upg_session_settings settings;
    upg_status           st;

    if (!model || !bytes)
        return upg_fail(err, UPG_E_ARG, "%s is NULL", model ? "bytes" : "model");
    *bytes = 0;
    UPG_TRY(read_options(options, &settings, err));
    UPG_TRY(upg_session_bytes(model, &settings, bytes, err));
out:
    return st;
}

UPG_API upg_status upg_session_create(upg_model *model, const upg_session_options *options,
                                      upg_session **session, upg_error *err)
{
    upg_session_settings settings;
    upg_status           st;

    if (!session)
        return upg_fail(err, UPG_E_ARG, "session is NULL");
    *session = NULL;
    if (!model)
        return upg_fail(err, UPG_E_ARG, "model is NULL");
    UPG_TRY(read_options(options, &settings, err));
    UPG_TRY(upg_session_make(model, &settings, session, err));
out:
    return st;
}

UPG_API upg_status upg_session_fork(upg_session *parent, uint32_t tokens, upg_session **child,
                                    upg_error *err)
{
    upg_status st;

    if (!child)
        return upg_fail(err, UPG_E_ARG, "child is NULL");
    *child = NULL;
    if (!parent)
        return no_session(err);
    if (!take(parent))
        return busy(err);
    st = upg_session_branch(parent, tokens, child, err);
    if (*child)
        give(*child);
    give(parent);
    return st;
}

UPG_API upg_status upg_session_rewind(upg_session *session, uint32_t tokens, upg_error *err)
{
    upg_status st;

    if (!session)
        return no_session(err);
    if (!take(session))
        return busy(err);
    st = upg_session_cut(session, tokens, err);
    give(session);
    return st;
}

UPG_API uint32_t upg_session_length(const upg_session *session)
{
    return session ? atomic_load_explicit(&session->shown, memory_order_relaxed) : 0;
}

UPG_API void upg_session_cancel(upg_session *session)
{
    if (session)
        atomic_store_explicit(&session->cancel, true, memory_order_relaxed);
}

UPG_API void upg_session_close(upg_session *session)
{
    upg_session_free(session);
}

UPG_API upg_status upg_session_set_sampling(upg_session *session, const upg_sampling *sampling,
                                            upg_error *err)
{
    upg_sampling known;
    upg_status   st;

    if (!session)
        return no_session(err);
    UPG_TRY(upg_struct_in(sampling, &known, sizeof known, "upg_sampling", err));
    if (!take(session))
        return busy(err);
    st = upg_sampler_set(&session->sampler, &known, session->model->weights->config.vocab, err);
    give(session);
out:
    return st;
}

/* ---- running -------------------------------------------------------------------------------- */

UPG_API upg_status upg_prefill(upg_session *session, const upg_token *tokens, size_t n,
                               float *logits, upg_error *err)
{
    upg_status st;

    if (!session)
        return no_session(err);
    if (!take(session))
        return busy(err);
    st = !tokens && n > 0 ? upg_fail(err, UPG_E_ARG, "tokens is NULL, n is %zu", n)
                          : upg_session_append(session, tokens, n, logits, err);
    give(session);
    return st;
}

static upg_status check_step(const upg_session *s, const upg_session *first, size_t i,
                             const upg_step *step, upg_error *err)
{
    uint32_t vocab = first->model->weights->config.vocab;

    if (s->model != first->model)
        return upg_fail(err, UPG_E_ARG, "sessions[%zu] is of another model than sessions[0]", i);
    if (step->top && step->top_count > vocab)
        return upg_fail(err, UPG_E_ARG, "steps[%zu].top_count is %u, the vocabulary has %u tokens",
                        i, step->top_count, vocab);
    return UPG_OK;
}

/* Why sessions[i] is in use already: by this call, or by another one. */
static upg_status in_use(upg_session *const *sessions, size_t i, upg_error *err)
{
    for (size_t k = 0; k < i; k++)
        if (sessions[k] == sessions[i])
            return upg_fail(err, UPG_E_ARG, "sessions[%zu] and sessions[%zu] are the same", k, i);
    return upg_fail(err, UPG_E_BUSY, "sessions[%zu] is in use by another thread", i);
}

static upg_status check_steps(upg_session *const *sessions, size_t n, const upg_step *steps,
                              upg_error *err)
{
    if (!sessions || !steps)
        return upg_fail(err, UPG_E_ARG, "%s is NULL", sessions ? "steps" : "sessions");
    for (size_t i = 0; i < n; i++) {
        upg_status st;

        if (!sessions[i])
            return upg_fail(err, UPG_E_ARG, "sessions[%zu] is NULL", i);
        st = check_step(sessions[i], sessions[0], i, &steps[i], err);
        if (st != UPG_OK)
            return st;
    }
    return UPG_OK;
}

UPG_API upg_status upg_decode(upg_session *const *sessions, size_t n, upg_step *steps,
                              upg_error *err)
{
    size_t     taken = 0;
    upg_status st = UPG_OK;

    if (n == 0)
        return UPG_OK;
    st = check_steps(sessions, n, steps, err);
    if (st != UPG_OK)
        return st;
    while (taken < n && take(sessions[taken]))
        taken++;
    st = taken < n ? in_use(sessions, taken, err) : upg_session_step(sessions, n, steps, err);
    while (taken > 0)
        give(sessions[--taken]);
    return st;
}

UPG_API upg_status upg_decode_timed(upg_session *session, upg_step *step, upg_op_time *times,
                                    size_t cap, size_t *n, upg_error *err)
{
    upg_status st;

    if (!n)
        return upg_fail(err, UPG_E_ARG, "n is NULL");
    *n = 0;
    st = check_steps(&session, 1, step, err);
    if (st == UPG_OK && !times && cap > 0)
        st = upg_fail(err, UPG_E_ARG, "times is NULL, cap is %zu", cap);
    if (st != UPG_OK)
        return st;
    if (!take(session))
        return busy(err);
    st = upg_session_step_timed(session, step, times, cap, n, err);
    give(session);
    return st;
}

UPG_API upg_status upg_session_logits(const upg_session *session, const float **logits,
                                      upg_error *err)
{
    if (!logits)
        return upg_fail(err, UPG_E_ARG, "logits is NULL");
    *logits = NULL;
    if (!session)
        return no_session(err);
    if (atomic_load_explicit(&session->in_use, memory_order_acquire))
        return busy(err);
    if (!session->keep_logits)
        return upg_fail(err, UPG_E_STATE, "the session was made without keep_logits");
    if (!session->logits_valid)
        return upg_fail(err, UPG_E_STATE,
                        "no logits yet: they come with the next upg_prefill or upg_decode");
    *logits = session->logits;
    return UPG_OK;
}

UPG_API const char *upg_session_message(const upg_session *session)
{
    return session ? session->last_error.message : "";
}
