/* session.h: one sequence: its tokens, its KV cache, its sampler.
 *
 * The token history is the truth; the cache is derived from it and can always be computed again:
 *
 *     0 ──────── computed ──────── length ──────── context
 *       in the cache   to catch up          room
 *
 * Invariants outside of calls:
 *   1. computed ≤ length ≤ context. The cache holds positions below `computed` as one full forward
 *      pass under cache.view.long_rope gives them.
 *      With guesses (draft.h) it holds draft.n − draft.at positions more, for tokens that the
 *      history does not have; then computed = length.
 *   2. logits_valid: `logits` is what follows the last token, in one full forward pass over all of
 *      them (or over those before a shift dropped some).
 *
 * A change of the longrope mode, a rewind or a shift only lowers `computed`; catching up does the
 * rest, in batches. These functions are called by one thread at a time (api/ sees to it). */
#ifndef UPG_RUNTIME_SESSION_H
#define UPG_RUNTIME_SESSION_H

#include <stdatomic.h>

#include "runtime/draft.h"
#include "runtime/engine.h"
#include "runtime/kv_cache.h"
#include "runtime/sampler.h"

struct upg_session {
    upg_model   *model; /* a reference */
    upg_kv_cache cache;
    upg_sampler  sampler;
    upg_draft    draft;
    upg_token   *tokens; /* [context] */
    uint8_t     *drawn;  /* [context]: 1 when the token was sampled */
    uint32_t     context, length, computed;
    uint64_t     dropped; /* tokens that shifts have removed: with length the draw's position */
    float       *logits;  /* f32 [vocab] */
    bool         logits_valid, keep_logits, shift_when_full, fast_prompts;
    uint64_t    *op_ns;      /* NULL, or [n_ops + 1]: for the pass of the running step */
    upg_error    last_error; /* of the last step that was not UPG_OK */
    atomic_bool  cancel;     /* set by anyone; relaxed: nothing else is passed with it */
    atomic_bool  in_use;     /* acquire when taken, release when given back: api/ */
    atomic_uint  shown;      /* length for upg_session_length, which any thread may ask */
};

typedef struct upg_session_settings {
    uint32_t context; /* 0 = the model's */
    uint32_t draft;   /* tokens to guess at most, ≤ UPG_DRAFT_MAX */
    bool     kv_int8, shift_when_full, keep_logits, fast_prompts;
} upg_session_settings;

/** Bytes of a session with a full cache. Errors: E_ARG (a context larger than the model's). */
upg_status upg_session_bytes(const upg_model *model, const upg_session_settings *settings,
                             uint64_t *bytes, upg_error *err);
/** Errors: E_ARG, E_NOMEM, E_BUDGET (a full context would not fit the free memory). */
upg_status upg_session_make(upg_model *model, const upg_session_settings *settings,
                            upg_session **session, upg_error *err);
/** A session with the first n_tokens of `parent`, sharing its pages. Errors: E_ARG, E_NOMEM. */
upg_status upg_session_branch(const upg_session *parent, uint32_t n_tokens, upg_session **child,
                              upg_error *err);
/** Cuts the history to n_tokens. Errors: E_ARG. */
upg_status upg_session_cut(upg_session *session, uint32_t n_tokens, upg_error *err);
void       upg_session_free(upg_session *session);

/** upg_prefill. */
upg_status upg_session_append(upg_session *session, const upg_token *tokens, size_t n,
                              float *logits, upg_error *err);
/** upg_decode; sessions are distinct and of one model, the steps' inputs are checked. */
upg_status upg_session_step(upg_session *const *sessions, size_t n, upg_step *steps,
                            upg_error *err);

/** upg_decode_timed; times [cap]. */
upg_status upg_session_step_timed(upg_session *session, upg_step *step, upg_op_time *times,
                                  size_t cap, size_t *n, upg_error *err);

/* ---- between session_append.c and session_step.c -----------------------------------------------
 */

/** True once for each request to cancel. */
bool upg_session_take_cancel(upg_session *session);
/** Makes room for n more tokens: shifts when the session may, else E_CONTEXT (nothing changed). */
upg_status upg_session_make_room(upg_session *session, size_t n, upg_error *err);
/** Brings the cache to `end` tokens of the history, in the mode that `mode_length` tokens need.
 * logits  NULL, or f32 [end − logits_from][vocab], for the positions from logits_from on
 * `last` asks for the logits of position end − 1 in session->logits.
 * After a failure `computed` tells how far it came. Takes the model's lock for each batch. */
typedef struct upg_catch_up {
    uint32_t end, mode_length, logits_from;
    float   *logits;
    bool     last;
} upg_catch_up;
upg_status upg_session_catch_up(upg_session *session, const upg_catch_up *goal, upg_error *err);
/** Makes session->logits valid for what stands in the history; length ≥ 1. */
upg_status upg_session_need_logits(upg_session *session, upg_error *err);

#endif
