/* tune_passes.c: windows through the exact and the coded model, and back. */
#include "compress/tune_impl.h"

#include <math.h>
#include <string.h>

#include "compress/dense_rows.h"
#include "compress/layer_attention.h"

/* A window's state before a layer; each worker has two buffers for what lies in a file. */
static uint32_t slot_of(uint32_t layer, size_t item)
{
    return layer * UPG_TUNE_BATCH + (uint32_t)item;
}

static upg_status check(upg_tuner *t, upg_error *err)
{
    upg_status st = upg_state_store_check(&t->finals, err);

    if (st == UPG_OK)
        st = upg_state_store_check(&t->states, err);
    if (st == UPG_OK && upg_meter_cancelled(t->in->context->meter))
        st = upg_fail(err, UPG_E_CANCELLED, "compress: cancelled");
    return st;
}

static void count(const upg_tuner *t, uint32_t worker)
{
    upg_meter_add(t->in->context->meter, t->in->window);
    if (worker == 0)
        upg_meter_tick(t->in->context->meter);
}

/* ---- the exact model --------------------------------------------------------------------------
 */

static void exact_embed(void *context, size_t item, uint32_t worker)
{
    upg_tuner *t = context;
    float     *state = upg_state_blank(&t->finals, (uint32_t)item, 2 * worker);

    for (uint32_t i = 0; i < t->in->window; i++)
        upg_dense_row_part(&t->in->exact->embed, (uint32_t)t->in->tokens[item * t->in->window + i],
                           0, t->hidden, state + (size_t)i * t->hidden);
    upg_state_put(&t->finals, (uint32_t)item, state);
}

static void exact_layer(void *context, size_t item, uint32_t worker)
{
    upg_tuner *t = context;
    float     *state;

    if (upg_meter_cancelled(t->in->context->meter))
        return;
    state = upg_state_get(&t->finals, (uint32_t)item, 2 * worker);
    upg_layer_forward(&t->layer, &t->buffers[worker], state);
    upg_state_put(&t->finals, (uint32_t)item, state);
    count(t, worker);
}

upg_status upg_tuner_run_exact(upg_tuner *t, upg_error *err)
{
    upg_pool  *pool = t->in->context->pool;
    upg_status st;

    upg_pool_run(pool, t->in->n_windows, exact_embed, t);
    UPG_TRY(check(t, err));
    for (uint32_t l = 0; l < t->n_layers; l++) {
        upg_tuner_load_exact(t, l);
        upg_pool_run(pool, t->in->n_windows, exact_layer, t);
        UPG_TRY(check(t, err));
    }
    upg_dense_load(t->in->exact->config.tied_embeddings ? &t->in->exact->embed
                                                        : &t->in->exact->head,
                   t->exact_head);
out:
    return st;
}

/* ---- the coded model: forward -----------------------------------------------------------------
 */

static void embed_window(void *context, size_t item, uint32_t worker)
{
    upg_tuner     *t = context;
    const int32_t *tokens = t->in->tokens + (size_t)t->batch[item] * t->in->window;
    float         *state = upg_state_blank(&t->states, slot_of(0, item), 2 * worker);

    for (uint32_t i = 0; i < t->in->window; i++)
        upg_tuner_embed_row(t, (uint32_t)tokens[i], state + (size_t)i * t->hidden);
    upg_state_put(&t->states, slot_of(0, item), state);
}

/* Runs a window through the layer at hand into the next slot. *from and the result: its states. */
static float *forward(upg_tuner *t, size_t item, uint32_t worker, const float **from)
{
    float *to = upg_state_blank(&t->states, slot_of(t->layer_index + 1, item), 2 * worker + 1);

    *from = upg_state_get(&t->states, slot_of(t->layer_index, item), 2 * worker);
    memcpy(to, *from, upg_tuner_state_size(t) * sizeof *to);
    upg_layer_forward(&t->layer, &t->buffers[worker], to);
    count(t, worker);
    return to;
}

static void forward_window(void *context, size_t item, uint32_t worker)
{
    upg_tuner   *t = context;
    const float *from;

    if (upg_meter_cancelled(t->in->context->meter))
        return;
    upg_state_put(&t->states, slot_of(t->layer_index + 1, item), forward(t, item, worker, &from));
}

/* ---- the head ---------------------------------------------------------------------------------
 */

/* e^(x − max) of a row; returns ln Σ e^x, *inverse = 1 / Σ. */
static double exponentials(const upg_tuner *t, const float *row, float *out, float *inverse)
{
    uint32_t vocab = t->in->exact->config.vocab;
    float    max = row[0], sum;

    for (uint32_t r = 1; r < vocab; r++)
        max = row[r] > max ? row[r] : max;
    memcpy(out, row, vocab * sizeof *out);
    sum = t->in->context->kernels->exp_sum(vocab, max, out);
    *inverse = 1.0f / sum;
    return (double)max + log((double)sum);
}

/* KL of one token; exact becomes the gradient at the coded logits, (q − p)·scale. */
static double divergence(const upg_tuner *t, float *exact, const float *coded, float scale,
                         float *p, float *q)
{
    uint32_t vocab = t->in->exact->config.vocab;
    float    p_inverse, q_inverse;
    double   kl = -exponentials(t, exact, p, &p_inverse), sum = 0;

    kl += exponentials(t, coded, q, &q_inverse);
    for (uint32_t r = 0; r < vocab; r++) {
        sum += (double)(p[r] * (exact[r] - coded[r]));
        exact[r] = scale * (q[r] * q_inverse - p[r] * p_inverse);
    }
    return kl + sum * (double)p_inverse;
}

/* From the gradient at the logits to those at the head's rows, the last norm and the last state. */
static void head_backward(upg_tuner *t, size_t item, upg_layer_buffers *b, const float *state,
                          const float *logits, const float *d)
{
    const upg_model_config *config = &t->in->coded->config;
    uint32_t                window = t->in->window, vocab = config->vocab, hidden = t->hidden;
    uint32_t matrix = config->tied_embeddings ? 0 : 1 + t->n_layers * UPG_LAYER_MATRICES;
    float   *gradients = upg_tuner_gradients(t, item);
    float   *gradient = t->gradient + item * upg_tuner_state_size(t);

    upg_column_products(window, vocab, logits, d, gradients + t->matrix_at[matrix]);
    upg_product_backward(window, vocab, hidden, d, t->head, false, b->narrow);
    upg_column_products(window, hidden, b->input[UPG_INPUT_ATTENTION], b->narrow,
                        gradients + t->norm_at[2 * t->n_layers]);
    memset(gradient, 0, upg_tuner_state_size(t) * sizeof *gradient);
    upg_rmsnorm_backward(window, hidden, state, t->final_norm, config->norm_eps, b->narrow,
                         gradient);
}

static void head_window(void *context, size_t item, uint32_t worker)
{
    upg_tuner              *t = context;
    const upg_model_config *config = &t->in->coded->config;
    upg_layer_buffers      *b = &t->buffers[worker];
    uint32_t                window = t->in->window, vocab = config->vocab;
    float                  *exact = t->logits + (size_t)2 * worker * window * vocab,
          *coded = exact + (size_t)window * vocab;
    float *p = t->rows + (size_t)2 * worker * vocab, *state;
    float  scale = 1.0f / ((float)t->n_batch * (float)window);
    double sum = 0;

    state = upg_state_get(&t->finals, t->batch[item], 2 * worker);
    upg_rmsnorm_forward(window, t->hidden, state, t->in->exact->final_norm.values, config->norm_eps,
                        b->narrow);
    upg_product(window, vocab, t->hidden, b->narrow, t->exact_head, false, exact);
    state = upg_state_get(&t->states, slot_of(t->n_layers, item), 2 * worker + 1);
    upg_rmsnorm_forward(window, t->hidden, state, t->final_norm, config->norm_eps,
                        b->input[UPG_INPUT_ATTENTION]);
    upg_product(window, vocab, t->hidden, b->input[UPG_INPUT_ATTENTION], t->head, false, coded);
    for (size_t i = 0; i < window; i++)
        sum += divergence(t, exact + i * vocab, coded + i * vocab, scale, p, p + vocab);
    t->losses[item] = sum / window;
    if (t->backward)
        head_backward(t, item, b, state, coded, exact);
}

/* ---- backward ---------------------------------------------------------------------------------
 */

/* b->wide = to − from: the output of a matrix that was added to the residual. */
static void difference(const upg_tuner *t, const float *to, const float *from, float *out)
{
    for (size_t i = 0; i < upg_tuner_state_size(t); i++)
        out[i] = to[i] - from[i];
}

/* Gradients at the row factors of the layer's matrices: Σ over tokens of output times gradient. */
static void gather(const upg_tuner *t, upg_layer_buffers *b, const float *from, const float *to,
                   float *gradients)
{
    const upg_model_config *c = &t->in->coded->config;
    const float            *outputs[UPG_LAYER_MATRICES] = { b->q,    b->k,  b->v,     b->narrow,
                                                            b->gate, b->up, b->narrow };

    upg_attention_turn(c, b, c->n_heads, -1, b->q); /* RoPE is not the matrices' */
    upg_attention_turn(c, b, c->n_kv_heads, -1, b->k);
    for (uint32_t m = 0; m < UPG_LAYER_MATRICES; m++) {
        uint32_t          index = 1 + t->layer_index * UPG_LAYER_MATRICES + m;
        const upg_matrix *matrix = upg_weights_matrix(t->in->coded, index);

        if (m == UPG_LAYER_O)
            difference(t, b->middle, from, b->narrow);
        if (m == UPG_LAYER_DOWN)
            difference(t, to, b->middle, b->narrow);
        upg_column_products(b->n_tokens, matrix->n_rows, outputs[m], b->gradient[m],
                            gradients + t->matrix_at[index]);
    }
}

/* Forward again, for the buffers, then backward. */
static void backward_window(void *context, size_t item, uint32_t worker)
{
    upg_tuner         *t = context;
    upg_layer_buffers *b = &t->buffers[worker];
    float             *gradients = upg_tuner_gradients(t, item), *to;
    const float       *from;

    if (upg_meter_cancelled(t->in->context->meter))
        return;
    to = forward(t, item, worker, &from);
    b->attention_norm_gradient = gradients + t->norm_at[2 * t->layer_index];
    b->ffn_norm_gradient = gradients + t->norm_at[2 * t->layer_index + 1];
    upg_layer_backward(&t->layer, b, from, t->gradient + item * upg_tuner_state_size(t));
    gather(t, b, from, to, gradients);
}

/* The gradient at the first state times that state, added to that of the rows, which are the head's
 * too. Rows of an embedding alone stay: most tokens are too rare to tell what theirs should be. */
static void embed_backward(void *context, size_t item, uint32_t worker)
{
    upg_tuner     *t = context;
    const int32_t *tokens = t->in->tokens + (size_t)t->batch[item] * t->in->window;
    const float   *d = t->gradient + item * upg_tuner_state_size(t);
    const float   *state = upg_state_get(&t->states, slot_of(0, item), 2 * worker);
    float         *gradients = upg_tuner_gradients(t, item) + t->matrix_at[0];

    for (uint32_t i = 0; i < t->in->window; i++, d += t->hidden, state += t->hidden) {
        double sum = 0;

        for (uint32_t j = 0; j < t->hidden; j++)
            sum += (double)(d[j] * state[j]);
        gradients[tokens[i]] += (float)sum;
    }
}

upg_status upg_tuner_run_batch(upg_tuner *t, upg_error *err)
{
    upg_pool  *pool = t->in->context->pool;
    upg_status st;

    upg_rotation_signs(&t->in->coded->embed.coded->rotation, t->signs);
    upg_pool_run(pool, t->n_batch, embed_window, t);
    for (uint32_t l = 0; l < t->n_layers; l++) {
        upg_tuner_load_coded(t, l);
        upg_pool_run(pool, t->n_batch, forward_window, t);
        UPG_TRY(check(t, err));
    }
    upg_tuner_load_head(t);
    upg_pool_run(pool, t->n_batch, head_window, t);
    for (uint32_t i = 0; i < t->n_batch; i++)
        if (!isfinite(t->losses[i]))
            UPG_TRY(upg_fail(err, UPG_E_DATA, "tuning: the divergence of window %u is not finite",
                             t->batch[i]));
    for (uint32_t l = t->n_layers; t->backward && l-- > 0;) {
        upg_tuner_load_coded(t, l);
        upg_pool_run(pool, t->n_batch, backward_window, t);
        UPG_TRY(check(t, err));
    }
    if (t->backward && t->in->coded->config.tied_embeddings)
        upg_pool_run(pool, t->n_batch, embed_backward, t);
    UPG_TRY(check(t, err));
out:
    return st;
}
