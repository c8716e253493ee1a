/* evaluate.c: windows through one or two models, row by row.
 *
 *   group of windows ─► chunks of rows ─► both models ─► logits ─► scores (all threads) ─► sums
 *
 * A group is as many windows as fill a batch, at least one; each has a cache of its own. The last
 * token of a window predicts nothing that is scored, so it is not run. */
#include "runtime/evaluate.h"

#include <inttypes.h>
#include <math.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/pool.h"
#include "runtime/kv_cache.h"

#define MAX_LOGITS_BYTES ((size_t)64 << 20) /* for each model */

/* One of the two models. */
typedef struct side {
    upg_model    *model;  /* NULL: there is no second one */
    bool          fast;   /* weights of 8 bits */
    upg_kv_cache *caches; /* [group] */
    float        *logits; /* f32 [max_rows][vocab] */
} side;

typedef struct evaluation {
    side             model, against;
    uint32_t         vocab, window, max_rows;
    size_t           n_windows, group;
    const upg_token *tokens;
    upg_pool        *pool;
    upg_row_score   *scores;    /* [max_rows] */
    size_t           first_row; /* of the running chunk; row r is position r % rows of a window */
    double          *kl;        /* [n_windows · rows], NULL without against */
    double          *window_nll;
    upg_meter        meter;
    upg_eval_result *sums;
} evaluation;

/* Scored rows of a window. */
static uint32_t rows_of(const evaluation *e)
{
    return e->window - 1;
}

/* ---- set-up -----------------------------------------------------------------------------------
 */

static upg_status init_side(evaluation *e, side *s, upg_model *model, upg_error *err)
{
    upg_kv_layout layout;
    upg_status    st = UPG_OK;

    s->model = model;
    if (!model)
        return UPG_OK;
    layout = upg_kv_layout_make(&model->weights->config, model->kv_type);
    s->logits = upg_alloc_aligned((size_t)e->max_rows * e->vocab * sizeof *s->logits, err);
    UPG_TRY(s->logits ? UPG_OK : UPG_E_NOMEM);
    s->caches = upg_calloc(e->group, sizeof *s->caches, err);
    UPG_TRY(s->caches ? UPG_OK : UPG_E_NOMEM);
    for (size_t i = 0; i < e->group; i++) {
        upg_kv_cache *c = &s->caches[i];

        UPG_TRY(upg_kv_cache_init(c, &layout, (upg_kv_memory) { model->class_, model->backend },
                                  e->window, err));
        UPG_TRY(upg_kv_cache_reserve(c, 0, rows_of(e), err));
        c->view.long_rope = upg_engine_long_rope(model, e->window);
    }
out:
    return st;
}

static void deinit_side(const evaluation *e, side *s)
{
    for (size_t i = 0; s->caches && i < e->group; i++)
        upg_kv_cache_deinit(&s->caches[i]);
    upg_free(s->caches);
    upg_free(s->logits);
}

static upg_status check(const upg_model *model, const upg_token *tokens, size_t n,
                        const upg_eval_options *o, upg_error *err)
{
    const upg_model_config *c = &model->weights->config;
    const upg_model_config *a = o->against ? &o->against->weights->config : c;
    uint32_t                context = c->context < a->context ? c->context : a->context;

    if (o->window < 2 || o->window > context)
        return upg_fail(err, UPG_E_ARG,
                        "windows of %" PRIu32 " tokens: 2 to %" PRIu32 " are possible, the context "
                        "of the model",
                        o->window, context);
    if (n < o->window)
        return upg_fail(err, UPG_E_ARG,
                        "%zu tokens are less than one window of %" PRIu32
                        ": give more text or a smaller window",
                        n, o->window);
    if (a->vocab != c->vocab)
        return upg_fail(err, UPG_E_ARG,
                        "the models' vocabularies have %" PRIu32 " and %" PRIu32
                        " tokens, they cannot be compared",
                        c->vocab, a->vocab);
    return upg_engine_check_tokens(model, tokens, n, err);
}

static upg_status init(evaluation *e, upg_model *model, const upg_eval_options *o, upg_error *err)
{
    size_t     fitting = MAX_LOGITS_BYTES / (e->vocab * sizeof(float));
    upg_status st;

    e->max_rows = model->max_rows;
    if (o->against && o->against->max_rows < e->max_rows)
        e->max_rows = o->against->max_rows;
    if (model->lut8 && e->max_rows >= UPG_ENGINE_FAST_ROWS)
        e->max_rows = UPG_ENGINE_FAST_ROWS - 1; /* as a token is computed, not as a prompt is */
    if (e->max_rows > fitting)
        e->max_rows = fitting > 0 ? (uint32_t)fitting : 1;
    e->group = e->max_rows / rows_of(e) > 0 ? e->max_rows / rows_of(e) : 1;
    if (e->group > e->n_windows)
        e->group = e->n_windows;
    UPG_TRY(upg_pool_create(model->threads, &e->pool, err));
    e->scores = upg_calloc(e->max_rows, sizeof *e->scores, err);
    UPG_TRY(e->scores ? UPG_OK : UPG_E_NOMEM);
    if (o->against) {
        e->kl = upg_malloc(e->n_windows, rows_of(e) * sizeof *e->kl, err);
        UPG_TRY(e->kl ? UPG_OK : UPG_E_NOMEM);
    }
    UPG_TRY(init_side(e, &e->model, model, err));
    UPG_TRY(init_side(e, &e->against, o->against, err));
out:
    return st;
}

/* ---- a chunk of rows ----------------------------------------------------------------------------
 */

/* Row r of all: window r / rows_of, position r % rows_of. */
static const upg_token *token_at(const evaluation *e, size_t row)
{
    return e->tokens + row / rows_of(e) * e->window + row % rows_of(e);
}

static upg_status run_side(const evaluation *e, const side *s, uint32_t n, upg_error *err)
{
    upg_status st;

    if (!s->model)
        return UPG_OK;
    upg_engine_lock(s->model);
    for (uint32_t i = 0; i < n; i++) {
        size_t        row = e->first_row + i;
        upg_kv_cache *cache = &s->caches[row / rows_of(e) % e->group];

        s->model->rows[i] = (upg_batch_row) { *token_at(e, row), (uint32_t)(row % rows_of(e)),
                                              &cache->view, s->logits + (size_t)i * e->vocab };
    }
    s->model->fast = s->fast && n >= UPG_ENGINE_FAST_ROWS;
    st = upg_engine_run(s->model, n, &s->caches[0].layout, NULL, err);
    s->model->fast = false;
    upg_engine_unlock(s->model);
    return st;
}

static void score_item(void *context, size_t item, uint32_t worker)
{
    evaluation  *e = context;
    const float *against = e->against.model ? e->against.logits + item * e->vocab : NULL;

    (void)worker;
    e->scores[item] = upg_score_row(&e->model.model->kernels, e->model.logits + item * e->vocab,
                                    against, e->vocab, token_at(e, e->first_row + item)[1]);
}

static void add_up(evaluation *e, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        const upg_row_score *s = &e->scores[i];
        size_t               row = e->first_row + i;

        e->sums->nll += s->nll;
        e->sums->top1 += s->hit;
        e->sums->against_nll += s->against_nll;
        e->sums->kl_mean += s->kl;
        e->sums->top1_agreement += s->agrees;
        if (e->kl)
            e->kl[row] = s->kl;
        if (e->window_nll)
            e->window_nll[row / rows_of(e)] += s->nll;
    }
}

static upg_status run_chunk(evaluation *e, uint32_t n, upg_error *err)
{
    upg_status st;

    UPG_TRY(run_side(e, &e->model, n, err));
    UPG_TRY(run_side(e, &e->against, n, err));
    upg_pool_run(e->pool, n, score_item, e);
    add_up(e, n);
    upg_meter_add(&e->meter, n);
    upg_meter_tick(&e->meter);
out:
    return st;
}

static upg_status run_all(evaluation *e, upg_error *err)
{
    size_t     total = e->n_windows * rows_of(e), group_rows = e->group * rows_of(e);
    upg_status st = UPG_OK;

    while (e->first_row < total && !upg_meter_cancelled(&e->meter)) {
        size_t group_end = (e->first_row / group_rows + 1) * group_rows;
        size_t n = (group_end < total ? group_end : total) - e->first_row;

        if (n > e->max_rows)
            n = e->max_rows;
        UPG_TRY(run_chunk(e, (uint32_t)n, err));
        e->first_row += n;
    }
out:
    return st;
}

/* ---- the result ---------------------------------------------------------------------------------
 */

static void conclude(evaluation *e, double seconds)
{
    upg_eval_result *r = e->sums;
    double           n = (double)e->n_windows * rows_of(e);

    r->windows = e->n_windows;
    r->tokens = e->n_windows * rows_of(e);
    r->nll /= n;
    r->top1 /= n;
    r->perplexity = exp(r->nll);
    r->seconds = seconds;
    if (!e->against.model)
        return;
    r->against_nll /= n;
    r->against_perplexity = exp(r->against_nll);
    r->ppl_ratio = exp(r->nll - r->against_nll);
    r->kl_mean /= n;
    r->top1_agreement /= n;
    r->kl_p99 = upg_percentile_99(e->kl, r->tokens);
}

upg_status upg_evaluate_run(upg_model *model, const upg_token *tokens, size_t n,
                            const upg_eval_options *options, const upg_listener *listener,
                            upg_eval_result *result, upg_error *err)
{
    evaluation e = { .tokens = tokens,
                     .vocab = model->weights->config.vocab,
                     .window = options->window,
                     .window_nll = options->window_nll,
                     .model.fast = options->fast_prompts,
                     .sums = result };
    uint64_t   start_ns = upg_now_ns();
    upg_status st;

    UPG_TRY(check(model, tokens, n, options, err));
    e.n_windows = n / e.window;
    if (options->windows > 0 && options->windows < e.n_windows)
        e.n_windows = (size_t)options->windows;
    for (size_t w = 0; e.window_nll && w < e.n_windows; w++)
        e.window_nll[w] = 0;
    UPG_TRY(init(&e, model, options, err));
    upg_meter_start(&e.meter, listener, "evaluate", "tokens", e.n_windows * rows_of(&e));
    UPG_TRY(run_all(&e, err));
    UPG_TRY(upg_meter_finish(&e.meter, err));
    conclude(&e, (double)(upg_now_ns() - start_ns) * 1e-9);
out:
    deinit_side(&e, &e.against);
    deinit_side(&e, &e.model);
    upg_free(e.kl);
    upg_free(e.scores);
    upg_pool_close(e.pool);
    return st;
}
