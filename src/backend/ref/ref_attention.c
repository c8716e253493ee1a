/* ref_attention.c: softmax(q·Kᵀ/√d)·V as two plain loops over all visible positions.
 *
 * Rows of one sequence are taken together: the keys and values of a KV head are read from the pages
 * once for all of them. The query at position i sees i − window + 1 … i, or 0 … i without a
 * window. */
#include <math.h>
#include <string.h>

#include "backend/ref/ref.h"

/* Rows `begin` … `end` − 1 of the batch: one sequence. */
typedef struct row_run {
    uint32_t begin, end;
} row_run;

static uint32_t first_visible(const upg_model_config *c, uint32_t position)
{
    return c->sliding_window && position >= c->sliding_window ? position + 1 - c->sliding_window
                                                              : 0;
}

static double dot(const float *a, const float *b, uint32_t n)
{
    double sum = 0;

    for (uint32_t d = 0; d < n; d++)
        sum += (double)a[d] * b[d];
    return sum;
}

/* scores[t] for t = first … last become probabilities. */
static void softmax(double *scores, uint32_t first, uint32_t last)
{
    double max = scores[first], sum = 0;

    for (uint32_t t = first; t <= last; t++)
        max = fmax(max, scores[t]);
    for (uint32_t t = first; t <= last; t++)
        sum += scores[t] = exp(scores[t] - max);
    for (uint32_t t = first; t <= last; t++)
        scores[t] /= sum;
}

/* One query head of one row; keys and values of its KV head are loaded. */
static void attend(upg_ref *ref, const float *q, uint32_t position, float *out)
{
    const upg_model_config *c = &ref->program->weights->config;
    uint32_t                n = c->head_dim, first = first_visible(c, position);
    double                  scale = 1 / sqrt((double)n);

    for (uint32_t t = first; t <= position; t++)
        ref->scores[t] = dot(q, ref->keys + (size_t)t * n, n) * scale;
    softmax(ref->scores, first, position);
    for (uint32_t d = 0; d < n; d++)
        ref->mixed[d] = 0;
    for (uint32_t t = first; t <= position; t++)
        for (uint32_t d = 0; d < n; d++)
            ref->mixed[d] += ref->scores[t] * (double)ref->values[(size_t)t * n + d];
    for (uint32_t d = 0; d < n; d++)
        out[d] = (float)ref->mixed[d];
}

static void load_head(upg_ref *ref, const upg_op *op, const upg_batch *batch, row_run run,
                      uint32_t head)
{
    const upg_model_config *c = &ref->program->weights->config;
    const upg_kv_view      *kv = batch->rows[run.begin].kv;
    uint32_t                last = batch->rows[run.end - 1].position;

    for (uint32_t t = first_visible(c, batch->rows[run.begin].position); t <= last; t++) {
        size_t at = (size_t)t * c->head_dim;

        upg_ref_kv_load(batch->kv_layout, kv, op->layer, head, 0, t, ref->keys + at);
        upg_ref_kv_load(batch->kv_layout, kv, op->layer, head, 1, t, ref->values + at);
    }
}

static void attend_run(upg_ref *ref, const upg_op *op, const upg_batch *batch, row_run run)
{
    const upg_model_config *c = &ref->program->weights->config;
    uint32_t                group = c->n_heads / c->n_kv_heads;

    for (uint32_t head = 0; head < c->n_kv_heads; head++) {
        load_head(ref, op, batch, run, head);
        for (uint32_t m = run.begin; m < run.end; m++)
            for (uint32_t h = head * group; h < (head + 1) * group; h++) {
                size_t       at = (size_t)h * c->head_dim;
                const float *q = upg_ref_slot_row(ref, op->in, m);

                attend(ref, q + at, batch->rows[m].position, upg_ref_temp_row(ref, 0, m) + at);
            }
    }
}

/* Results of all rows in temp[0]. */
static upg_status attend_all(upg_ref *ref, const upg_op *op, const upg_batch *batch, upg_error *err)
{
    const upg_model_config *c = &ref->program->weights->config;
    row_run                 run = { 0, 0 };
    upg_status              st = UPG_OK;

    for (; run.begin < batch->n_rows; run.begin = run.end) {
        run.end = run.begin + 1;
        while (run.end < batch->n_rows && batch->rows[run.end].kv == batch->rows[run.begin].kv)
            run.end++;
        attend_run(ref, op, batch, run);
    }
    for (uint32_t m = 0; m < batch->n_rows; m++)
        UPG_TRY(upg_ref_check_finite(op, m, upg_ref_temp_row(ref, 0, m), c->n_heads * c->head_dim,
                                     err));
out:
    return st;
}

upg_status upg_ref_attention(upg_ref *ref, const upg_op *op, const upg_batch *batch, upg_error *err)
{
    upg_status st = attend_all(ref, op, batch, err);

    for (uint32_t m = 0; m < batch->n_rows && st == UPG_OK; m++)
        upg_ref_prepare(ref, op->out, m, upg_ref_temp_row(ref, 0, m));
    return st;
}

upg_status upg_ref_attend(upg_ref *ref, const upg_op *op, const upg_batch *batch, upg_error *err)
{
    size_t     bytes = ref->program->slots[op->out].width * sizeof(float);
    upg_status st = attend_all(ref, op, batch, err);

    for (uint32_t m = 0; m < batch->n_rows && st == UPG_OK; m++)
        memcpy(upg_ref_slot_row(ref, op->out, m), upg_ref_temp_row(ref, 0, m), bytes);
    return st;
}
