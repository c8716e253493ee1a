/* session.c: making, forking, cutting and freeing sessions. */
#include "runtime/session.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/system.h"

static upg_status layout_for(const upg_model *model, const upg_session_settings *settings,
                             upg_kv_layout *layout, uint32_t *context, upg_error *err)
{
    const upg_model_config *c = &model->weights->config;

    *context = settings->context > 0 ? settings->context : c->context;
    *layout = upg_kv_layout_make(c, settings->kv_int8 ? UPG_KV_I8 : model->kv_type);
    if (settings->context > c->context)
        return upg_fail(err, UPG_E_ARG,
                        "context_tokens is %" PRIu32 ", the model's context %" PRIu32,
                        settings->context, c->context);
    return UPG_OK;
}

upg_status upg_session_bytes(const upg_model *model, const upg_session_settings *settings,
                             uint64_t *bytes, upg_error *err)
{
    upg_kv_layout layout;
    uint32_t      context;
    upg_status    st = layout_for(model, settings, &layout, &context, err);
    uint64_t      pages;

    if (st != UPG_OK)
        return st;
    pages = (context + (uint64_t)UPG_PAGE_TOKENS - 1) / UPG_PAGE_TOKENS;
    *bytes = pages * (layout.page_bytes + 64 + sizeof(uint8_t *)) + sizeof(upg_session) +
             (uint64_t)context * (sizeof(upg_token) + 1) +
             (1 + (uint64_t)settings->draft) * model->weights->config.vocab * sizeof(float);
    return UPG_OK;
}

static upg_status create(upg_model *model, const upg_kv_layout *layout, uint32_t context,
                         uint32_t draft, upg_session **session, upg_error *err)
{
    upg_session *s = upg_calloc(1, sizeof *s, err);
    upg_status   st = s ? UPG_OK : UPG_E_NOMEM;

    UPG_TRY(st);
    s->model = model;
    upg_engine_retain(model);
    s->context = context;
    UPG_TRY(upg_kv_cache_init(&s->cache, layout, (upg_kv_memory) { model->class_, model->backend },
                              context, err));
    UPG_TRY((s->tokens = upg_calloc(context, sizeof *s->tokens, err)) ? UPG_OK : UPG_E_NOMEM);
    UPG_TRY((s->drawn = upg_calloc(context, 1, err)) ? UPG_OK : UPG_E_NOMEM);
    s->logits = upg_alloc_aligned(model->weights->config.vocab * sizeof *s->logits, err);
    UPG_TRY(s->logits ? UPG_OK : UPG_E_NOMEM);
    UPG_TRY(upg_draft_init(&s->draft, draft, model->weights->config.vocab, err));
out:
    if (st != UPG_OK) {
        upg_session_free(s);
        s = NULL;
    }
    *session = s;
    return st;
}

/* Bytes of a session of so many tokens. */
static uint64_t bytes_for(const upg_model *model, const upg_session_settings *settings,
                          uint32_t context, bool kv_int8)
{
    upg_session_settings other = *settings;
    uint64_t             bytes = 0;

    other.context = context;
    other.kv_int8 = kv_int8;
    (void)upg_session_bytes(model, &other, &bytes, NULL); /* the context was checked */
    return bytes;
}

/* The largest context that `available` bytes hold, a whole number of pages. */
static uint64_t fitting_context(const upg_model *model, const upg_session_settings *settings,
                                uint32_t context, uint64_t available)
{
    uint32_t pages = 0, too_many = context / UPG_PAGE_TOKENS + 1;

    while (too_many - pages > 1) {
        uint32_t middle = pages + (too_many - pages) / 2;

        if (bytes_for(model, settings, middle * UPG_PAGE_TOKENS, settings->kv_int8) <= available)
            pages = middle;
        else
            too_many = middle;
    }
    return (uint64_t)pages * UPG_PAGE_TOKENS;
}

/* The cache grows page by page; whether all of it will fit is said here, not in the middle of an
 * answer. Other sessions and programs may take the memory meanwhile, so it is no promise. */
static upg_status check_memory(const upg_model *model, const upg_session_settings *settings,
                               uint32_t context, upg_error *err)
{
    uint64_t total, available, bytes = bytes_for(model, settings, context, settings->kv_int8);
    char     smaller[80] = "";

    if (model->class_->kv_available != NULL)
        available = model->class_->kv_available(model->backend);
    else
        upg_system_memory(&total, &available);
    if (available == 0 || bytes <= available)
        return UPG_OK; /* not known, or enough */
    if (!settings->kv_int8)
        snprintf(smaller, sizeof smaller, "; kv_int8 would need %" PRIu64,
                 bytes_for(model, settings, context, true));
    return upg_fail(err, UPG_E_BUDGET,
                    "a context of %" PRIu32 " tokens needs %" PRIu64
                    " bytes for keys and values, there are %" PRIu64
                    " on %s: context_tokens up to %" PRIu64 " would fit%s",
                    context, bytes, available, model->class_->name,
                    fitting_context(model, settings, context, available), smaller);
}

upg_status upg_session_make(upg_model *model, const upg_session_settings *settings,
                            upg_session **session, upg_error *err)
{
    upg_kv_layout layout;
    uint32_t      context;
    upg_status    st;

    *session = NULL;
    UPG_TRY(layout_for(model, settings, &layout, &context, err));
    UPG_TRY(check_memory(model, settings, context, err));
    UPG_TRY(create(model, &layout, context, settings->draft, session, err));
    (*session)->keep_logits = settings->keep_logits;
    (*session)->shift_when_full = settings->shift_when_full;
    (*session)->fast_prompts = settings->fast_prompts;
out:
    return st;
}

upg_status upg_session_branch(const upg_session *parent, uint32_t n_tokens, upg_session **child,
                              upg_error *err)
{
    uint32_t     vocab = parent->model->weights->config.vocab;
    upg_session *s = NULL;
    upg_status   st;

    *child = NULL;
    if (n_tokens > parent->length)
        return upg_fail(err, UPG_E_ARG, "fork at %" PRIu32 " tokens: the session has %" PRIu32,
                        n_tokens, parent->length);
    UPG_TRY(
        create(parent->model, &parent->cache.layout, parent->context, parent->draft.max, &s, err));
    UPG_TRY(upg_sampler_set(&s->sampler, &parent->sampler.settings, vocab, err));
    s->keep_logits = parent->keep_logits;
    s->shift_when_full = parent->shift_when_full;
    s->fast_prompts = parent->fast_prompts;
    s->dropped = parent->dropped;
    s->length = n_tokens;
    s->computed = parent->computed < n_tokens ? parent->computed : n_tokens;
    memcpy(s->tokens, parent->tokens, n_tokens * sizeof *s->tokens);
    memcpy(s->drawn, parent->drawn, n_tokens);
    upg_kv_cache_share(&parent->cache, s->computed, &s->cache);
    s->logits_valid = parent->logits_valid && n_tokens == parent->length;
    if (s->logits_valid)
        memcpy(s->logits, parent->logits, vocab * sizeof *s->logits);
out:
    if (st != UPG_OK) {
        upg_session_free(s);
        s = NULL;
    }
    *child = s;
    return st;
}

upg_status upg_session_cut(upg_session *session, uint32_t n_tokens, upg_error *err)
{
    if (n_tokens > session->length)
        return upg_fail(err, UPG_E_ARG, "rewind to %" PRIu32 " tokens: the session has %" PRIu32,
                        n_tokens, session->length);
    if (n_tokens == session->length)
        return UPG_OK;
    session->length = n_tokens;
    if (session->computed > n_tokens)
        session->computed = n_tokens;
    session->logits_valid = false;
    upg_draft_drop(&session->draft);
    upg_kv_cache_trim(&session->cache, session->computed);
    return UPG_OK;
}

void upg_session_free(upg_session *session)
{
    if (!session)
        return;
    upg_kv_cache_deinit(&session->cache);
    upg_sampler_deinit(&session->sampler);
    upg_draft_deinit(&session->draft);
    upg_free(session->logits);
    upg_free(session->drawn);
    upg_free(session->tokens);
    upg_engine_release(session->model);
    upg_free(session);
}
