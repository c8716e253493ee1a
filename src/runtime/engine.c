/* engine.c: what a loaded model does: count its owners, run batches, answer questions. */
#include "runtime/engine.h"

#include <string.h>

#include "base/alloc.h"
#include "model/weights_source.h"

void upg_engine_retain(upg_model *model)
{
    atomic_fetch_add_explicit(&model->references, 1, memory_order_relaxed);
}

void upg_engine_release(upg_model *model)
{
    /* acq_rel: what other owners did happens before the last one frees */
    if (!model || atomic_fetch_sub_explicit(&model->references, 1, memory_order_acq_rel) != 1)
        return;
    if (model->backend)
        model->class_->close(model->backend);
    upg_program_close(model->program);
    upg_tokenizer_release(model->tokenizer);
    upg_weight_check_close(model->check);
    upg_weights_close(model->weights);
    upg_free(model->space.candidates);
    upg_free(model->space.counts);
    upg_free(model->space.values);
    upg_free(model->rows);
    upg_free(model->quality_json);
    upg_free(model->program_text);
    pthread_mutex_destroy(&model->lock);
    upg_free(model);
}

void upg_engine_lock(upg_model *model)
{
    pthread_mutex_lock(&model->lock);
}

void upg_engine_unlock(upg_model *model)
{
    pthread_mutex_unlock(&model->lock);
}

/* ---- running -------------------------------------------------------------------------------- */

/* A .upg file has hashes; the weights of a checkpoint can only be looked through. */
static upg_status check_weights(upg_model *model, uint32_t n_rows, upg_error *err)
{
    const upg_weights *w = model->weights;
    upg_status         st = UPG_OK;

    if (model->check != NULL) {
        st = upg_weight_check_rows(model->check, model->rows, n_rows, err);
        if (st == UPG_E_CORRUPT)
            upg_error_prefix(err, "%s: ", w->source->container->dense[0]->file);
        return st;
    }
    for (uint32_t i = 0; model->unchecked && i < upg_weights_matrix_count(w); i++)
        UPG_TRY(upg_matrix_check_finite(upg_weights_matrix(w, i), err));
    model->unchecked = false;
out:
    return st;
}

upg_status upg_engine_run(upg_model *model, uint32_t n_rows, const upg_kv_layout *layout,
                          const atomic_bool *cancel, upg_error *err)
{
    upg_batch batch = {
        .n_rows = n_rows,
        .rows = model->rows,
        .kv_layout = layout,
        .cancel = cancel,
        .op_ns = model->op_ns,
        .fast = model->fast,
    };
    upg_status st;

    UPG_TRY(check_weights(model, n_rows, err));
    st = model->class_->run(model->backend, &batch, err);
out:
    /* Whatever came out, of zeros it was not computed. */
    if (st != UPG_E_CANCELLED && upg_weights_check_maps(model->weights, err) != UPG_OK)
        st = UPG_E_IO;
    return st;
}

/* ---- questions ------------------------------------------------------------------------------ */

bool upg_engine_long_rope(const upg_model *model, uint32_t n_tokens)
{
    const upg_rope *rope = &model->weights->config.rope;

    return rope->long_inv_freq && n_tokens > rope->original_context;
}

bool upg_engine_has_fast_prompts(const upg_model *model)
{
    bool fast =
        model->class_ == &upg_backend_cpu ? model->kernels.fast_i8 : model->class_->takes_fast;

    return fast && model->weights->head.kind == UPG_MATRIX_CODED;
}

bool upg_engine_is_end(const upg_model *model, upg_token token)
{
    for (uint32_t i = 0; i < model->n_ends; i++)
        if (model->ends[i] == token)
            return true;
    return false;
}

upg_status upg_engine_check_tokens(const upg_model *model, const upg_token *tokens, size_t n,
                                   upg_error *err)
{
    uint32_t vocab = model->weights->config.vocab;

    for (size_t i = 0; i < n; i++)
        if (tokens[i] < 0 || (uint32_t)tokens[i] >= vocab)
            return upg_fail(err, UPG_E_ARG, "token %d at index %zu: the vocabulary has %u tokens",
                            tokens[i], i, vocab);
    return UPG_OK;
}

/* One row of the embedding: of coded rows, the binary rows that its windows reach over. */
static uint64_t embedding_row_bytes(const upg_matrix *m)
{
    if (m->kind == UPG_MATRIX_DENSE)
        return (uint64_t)m->n_cols * upg_dtype_bytes(m->dtype);
    return (uint64_t)upg_group_count(m->n_cols) * m->coded->bands[0].code.length * 4 +
           sizeof(uint16_t);
}

/* Keys and values of one token in all layers. */
static uint64_t kv_token_bytes(const upg_model *model, upg_kv_type type)
{
    return upg_kv_layout_make(&model->weights->config, type).page_bytes / UPG_PAGE_TOKENS;
}

upg_token_costs upg_engine_token_costs(const upg_model *model)
{
    const upg_weights *w = model->weights;
    uint32_t           n = upg_weights_matrix_count(w);
    upg_token_costs    costs = { .weight_bytes = embedding_row_bytes(&w->embed),
                                 .embedding_row_bytes = embedding_row_bytes(&w->embed),
                                 .kv_bytes = kv_token_bytes(model, model->kv_type),
                                 .kv_bytes_int8 = kv_token_bytes(model, UPG_KV_I8) };

    for (uint32_t i = 0; i <= n; i++) {
        const upg_matrix *m = i < n ? upg_weights_matrix(w, i) : &w->head;

        if (i == 0 || (i == n && !w->config.tied_embeddings))
            continue; /* looked up; counted already */
        costs.weight_bytes += m->bytes;
        costs.macs += (uint64_t)m->n_rows * m->n_cols;
    }
    costs.head_macs = (uint64_t)w->head.n_rows * w->head.n_cols;
    return costs;
}

enum { TENSORS_PER_LAYER = 9 };

static void describe_matrix(const upg_matrix *m, upg_tensor_info *info)
{
    info->name = m->name;
    info->shape[0] = m->n_rows;
    info->shape[1] = m->n_cols;
    info->bytes = m->bytes;
    info->bits_per_weight = 8.0 * (double)m->bytes / ((double)m->n_rows * m->n_cols);
    info->relative_error = m->relative_error;
    if (m->kind == UPG_MATRIX_CODED && m->coded->outliers != NULL) {
        info->outliers = m->coded->outliers->n_sparse;
        info->outlier_columns = m->coded->outliers->n_columns;
    }
}

static void describe_vector(const upg_vector *v, upg_tensor_info *info)
{
    info->name = v->name;
    info->shape[0] = v->n;
    info->bytes = v->bytes;
    info->bits_per_weight = 8.0 * (double)v->bytes / v->n;
    info->relative_error = 0;
}

static void describe_of_layer(const upg_layer_weights *l, size_t which, upg_tensor_info *info)
{
    const upg_matrix *matrices[TENSORS_PER_LAYER] = { NULL, &l->q,    &l->k,  &l->v,   &l->o,
                                                      NULL, &l->gate, &l->up, &l->down };

    if (matrices[which])
        describe_matrix(matrices[which], info);
    else
        describe_vector(which == 0 ? &l->attention_norm : &l->ffn_norm, info);
}

upg_status upg_engine_tensor(const upg_model *model, size_t index, upg_tensor_info *info,
                             upg_error *err)
{
    const upg_weights *w = model->weights;
    size_t             n_inner = (size_t)TENSORS_PER_LAYER * w->config.n_layers;
    size_t             n = 2 + n_inner + !w->config.tied_embeddings;

    if (index >= n)
        return upg_fail(err, UPG_E_ARG, "tensor %zu: the model has %zu", index, n);
    if (index == 0)
        describe_matrix(&w->embed, info);
    else if (index <= n_inner)
        describe_of_layer(&w->layers[(index - 1) / TENSORS_PER_LAYER],
                          (index - 1) % TENSORS_PER_LAYER, info);
    else if (index == n_inner + 1)
        describe_vector(&w->final_norm, info);
    else
        describe_matrix(&w->head, info);
    return UPG_OK;
}
