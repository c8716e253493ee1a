/* tune_load.c: matrices as f32 for tuning: as they came, or decoded and multiplied by their
 * factors. */
#include "compress/tune_impl.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "compress/dense_rows.h"

enum { ROWS_PER_ITEM = 64 };

static uint32_t end_of_item(const upg_tuner *t, size_t item)
{
    uint32_t end = (uint32_t)(item + 1) * ROWS_PER_ITEM;

    return end < t->matrix->n_rows ? end : t->matrix->n_rows;
}

static void for_rows(upg_tuner *t, const upg_matrix *matrix, float *to,
                     void (*run)(void *, size_t, uint32_t))
{
    t->matrix = matrix;
    t->to = to;
    upg_pool_run(t->in->context->pool, (matrix->n_rows + ROWS_PER_ITEM - 1) / ROWS_PER_ITEM, run,
                 t);
}

/* One coded row in the original basis, as stored. t->signs are those of the rotation. */
static void decode_row(const upg_tuner *t, const upg_matrix *matrix, uint32_t row, float *out)
{
    const upg_coded_matrix *coded = matrix->coded;

    upg_coded_row(coded, row, out);
    t->in->context->kernels->hadamard(matrix->n_cols, coded->rotation.block, out);
    for (uint32_t j = 0; j < matrix->n_cols; j++)
        out[j] *= t->signs[j];
    if (coded->outliers != NULL)
        upg_outliers_add_row(coded->outliers, row, 1, 0, matrix->n_cols, out);
}

static void decode_item(void *context, size_t item, uint32_t worker)
{
    upg_tuner *t = context;

    (void)worker;
    for (uint32_t r = (uint32_t)item * ROWS_PER_ITEM; r < end_of_item(t, item); r++)
        decode_row(t, t->matrix, r, t->to + (size_t)r * t->matrix->n_cols);
}

static void decode(upg_tuner *t, const upg_matrix *matrix, float *to)
{
    upg_rotation_signs(&matrix->coded->rotation, t->signs);
    for_rows(t, matrix, to, decode_item);
}

/* to = the decoded matrix (already there where none is kept), times the factors. */
static void scale_item(void *context, size_t item, uint32_t worker)
{
    upg_tuner   *t = context;
    uint32_t     n_cols = t->matrix->n_cols;
    const float *kept = t->decoded[t->at];

    (void)worker;
    for (uint32_t r = (uint32_t)item * ROWS_PER_ITEM; r < end_of_item(t, item); r++) {
        float       *to = t->to + (size_t)r * n_cols;
        const float *from = kept != NULL ? kept + (size_t)r * n_cols : to;
        float        factor = expf(t->log_factors[t->matrix_at[t->at] + r]);

        for (uint32_t j = 0; j < n_cols; j++)
            to[j] = factor * from[j];
    }
}

static void load_coded(upg_tuner *t, uint32_t index, float *to)
{
    const upg_matrix *matrix = upg_weights_matrix(t->in->coded, index);

    if (t->decoded[index] == NULL)
        decode(t, matrix, to);
    t->at = index;
    for_rows(t, matrix, to, scale_item);
}

upg_status upg_tuner_decode_all(upg_tuner *t, upg_error *err)
{
    for (uint32_t i = 0; i < upg_weights_matrix_count(t->in->coded); i++) {
        const upg_matrix *matrix = upg_weights_matrix(t->in->coded, i);
        float            *to;

        to = upg_arena_alloc(&t->arena, (size_t)matrix->n_rows * matrix->n_cols, sizeof *to, err);
        if (to == NULL)
            return UPG_E_NOMEM;
        decode(t, matrix, to);
        t->decoded[i] = to;
    }
    return UPG_OK;
}

static void load_exact_item(void *context, size_t item, uint32_t worker)
{
    upg_tuner *t = context;

    (void)worker;
    for (uint32_t r = (uint32_t)item * ROWS_PER_ITEM; r < end_of_item(t, item); r++)
        upg_dense_row_part(t->matrix, r, 0, t->matrix->n_cols,
                           t->to + (size_t)r * t->matrix->n_cols);
}

void upg_tuner_load_exact(upg_tuner *t, uint32_t index)
{
    upg_layer_weights *layer = &t->in->exact->layers[index];

    for (int m = 0; m < UPG_LAYER_MATRICES; m++) {
        for_rows(t, upg_layer_matrix_of(layer, m), t->memory[m], load_exact_item);
        upg_dense_forget(upg_layer_matrix_of(layer, m));
    }
    t->layer.attention_norm = layer->attention_norm.values;
    t->layer.ffn_norm = layer->ffn_norm.values;
}

/* Norm number `index` with its factors. */
static void load_norm(const upg_tuner *t, const upg_vector *norm, uint32_t index, float *to)
{
    for (uint32_t i = 0; i < t->hidden; i++)
        to[i] = norm->values[i] * expf(t->log_factors[t->norm_at[index] + i]);
}

void upg_tuner_load_coded(upg_tuner *t, uint32_t index)
{
    const upg_layer_weights *layer = &t->in->coded->layers[index];

    for (uint32_t m = 0; m < UPG_LAYER_MATRICES; m++)
        load_coded(t, 1 + index * UPG_LAYER_MATRICES + m, t->memory[m]);
    load_norm(t, &layer->attention_norm, 2 * index, t->layer_norms);
    load_norm(t, &layer->ffn_norm, 2 * index + 1, t->layer_norms + t->hidden);
    t->layer.attention_norm = t->layer_norms;
    t->layer.ffn_norm = t->layer_norms + t->hidden;
    t->layer_index = index;
}

void upg_tuner_load_head(upg_tuner *t)
{
    bool tied = t->in->coded->config.tied_embeddings;

    load_coded(t, tied ? 0 : 1 + t->n_layers * UPG_LAYER_MATRICES, t->head);
    load_norm(t, &t->in->coded->final_norm, 2 * t->n_layers, t->final_norm);
}

void upg_tuner_embed_row(const upg_tuner *t, uint32_t row, float *out)
{
    float factor = expf(t->log_factors[t->matrix_at[0] + row]);

    if (t->decoded[0] != NULL)
        memcpy(out, t->decoded[0] + (size_t)row * t->hidden, t->hidden * sizeof *out);
    else
        decode_row(t, &t->in->coded->embed, row, out);
    for (uint32_t i = 0; i < t->hidden; i++)
        out[i] *= factor;
}
