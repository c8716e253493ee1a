/* cpu_ops.c: the ops of ops.def, made of prepared inputs, products and attention. What a row needs
 * before and after its products runs by rows, side by side when there are several. */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu_backend.h"
#include "backend/rotary.h"
#include "base/halffloat.h"

typedef struct op_run {
    cpu_backend     *b;
    const upg_op    *op;
    const upg_batch *batch;
} op_run;

static void mark_bad(cpu_backend *b)
{
    atomic_store_explicit(&b->bad, true, memory_order_relaxed);
}

static float *slot_row(const cpu_backend *b, uint16_t slot, size_t row)
{
    return b->slots[slot].values + row * b->slots[slot].stride;
}

static float *scratch_row(const cpu_backend *b, int which, size_t row)
{
    return b->scratch[which] + row * b->scratch_stride;
}

/* ---- EMBED ---------------------------------------------------------------------------------- */

/* Decodes the row's windows and rotates back; the same operations as upg_matrix_row. */
static void embed_coded(cpu_backend *b, const upg_coded_matrix *m, uint32_t token, int16_t *v,
                        float *out)
{
    const upg_band *band = upg_coded_band_of(m, token);
    uint32_t        row = token - band->row0, n_groups = upg_group_count(m->n_cols);
    float           factor = upg_f32_from_f16(band->scales[row]) * band->code.gain;

    for (uint32_t g = 0; g < n_groups; g++)
        b->kernels.decode_group(band, m->n_cols, g, row, 1, v + g * UPG_GROUP_COLUMNS, 0);
    for (uint32_t j = 0; j < m->n_cols; j++)
        out[j] = factor * (float)v[j];
    b->kernels.hadamard(m->n_cols, m->rotation.block, out);
    for (uint32_t j = 0; j < m->n_cols; j++)
        out[j] *= b->embed_signs[j];
    if (m->outliers != NULL)
        upg_outliers_add_row(m->outliers, token, 1, 0, m->n_cols, out);
}

static void embed_row(void *context, size_t row, uint32_t worker)
{
    const op_run     *run = context;
    const upg_matrix *m = run->op->w[0];
    uint32_t          token = (uint32_t)run->batch->rows[row].token;
    float            *out = slot_row(run->b, run->op->out, row);

    if (m->kind == UPG_MATRIX_CODED)
        embed_coded(run->b, m->coded, token, run->b->workers[worker].decoded, out);
    else
        upg_matrix_row(m, token, out);
}

/* ---- NORM_PREPARE -----------------------------------------------------------------------------
 */

static void norm_row(void *context, size_t row, uint32_t worker)
{
    const op_run *run = context;
    cpu_backend  *b = run->b;
    uint32_t      n = run->op->v->n;
    const float  *x = slot_row(b, run->op->in, row), *weight = run->op->v->values;
    float        *out = scratch_row(b, 0, row), inverse;
    double        squares = b->kernels.sum_squares(n, x);

    (void)worker;
    if (!isfinite(squares))
        mark_bad(b);
    inverse = (float)(1.0 / sqrt(squares / n + (double)b->program->weights->config.norm_eps));
    for (uint32_t j = 0; j < n; j++)
        out[j] = x[j] * inverse * weight[j];
    upg_cpu_prepare_row(b, run->op->out, (uint32_t)row, out);
}

/* ---- QKV_ROPE ---------------------------------------------------------------------------------
 */

static void rope_row(void *context, size_t row, uint32_t worker)
{
    const op_run           *run = context;
    cpu_backend            *b = run->b;
    const upg_model_config *c = &b->program->weights->config;
    const upg_batch_row    *at = &run->batch->rows[row];
    size_t                  half = c->rope.rotary_dims / 2;
    const float            *cosine = b->cosine + row * half, *sine = b->sine + row * half;
    float                  *q = slot_row(b, run->op->out, row), *k = scratch_row(b, 0, row);
    float                  *v = scratch_row(b, 1, row);

    (void)worker;
    for (uint32_t h = 0; h < c->n_heads; h++)
        upg_rope_turn(c->rope.rotary_dims, cosine, sine, q + (size_t)h * c->head_dim);
    for (uint32_t h = 0; h < c->n_kv_heads; h++) {
        float *key = k + (size_t)h * c->head_dim;

        upg_rope_turn(c->rope.rotary_dims, cosine, sine, key);
        upg_cpu_kv_store(b, run->batch->kv_layout, at->kv, at->position, run->op->layer, h, 0, key);
        upg_cpu_kv_store(b, run->batch->kv_layout, at->kv, at->position, run->op->layer, h, 1,
                         v + (size_t)h * c->head_dim);
    }
}

static void run_qkv(op_run *run)
{
    cpu_backend *b = run->b;
    uint32_t     n = run->batch->n_rows;

    for (uint32_t i = 0; i < n; i++) {
        b->outputs[0][i] = slot_row(b, run->op->out, i);
        b->outputs[1][i] = scratch_row(b, 0, i);
        b->outputs[2][i] = scratch_row(b, 1, i);
    }
    upg_cpu_product(b, run->op, 0, n, false);
    upg_pool_run(b->pool, n, rope_row, run);
}

/* ---- ATTENTION, GATE_UP -------------------------------------------------------------------------
 */

static void prepare_scratch_row(void *context, size_t row, uint32_t worker)
{
    const op_run *run = context;

    (void)worker;
    upg_cpu_prepare_row(run->b, run->op->out, (uint32_t)row, scratch_row(run->b, 0, row));
}

static void swiglu_row(void *context, size_t row, uint32_t worker)
{
    const op_run *run = context;
    cpu_backend  *b = run->b;
    float        *gate = scratch_row(b, 0, row);

    (void)worker;
    b->kernels.swiglu(run->op->w[0]->n_rows, gate, scratch_row(b, 1, row), gate);
    upg_cpu_prepare_row(b, run->op->out, (uint32_t)row, gate);
}

static void run_gate_up(op_run *run)
{
    cpu_backend *b = run->b;

    for (uint32_t i = 0; i < run->batch->n_rows; i++)
        for (int w = 0; w < 2; w++)
            b->outputs[w][i] = scratch_row(b, w, i);
    upg_cpu_product(b, run->op, 0, run->batch->n_rows, false);
    upg_pool_run(b->pool, run->batch->n_rows, swiglu_row, run);
}

/* ---- GEMV_ADD, LOGITS ---------------------------------------------------------------------------
 */

static void run_gemv_add(op_run *run)
{
    for (uint32_t i = 0; i < run->batch->n_rows; i++)
        run->b->outputs[0][i] = slot_row(run->b, run->op->out, i);
    upg_cpu_product(run->b, run->op, 0, run->batch->n_rows, true);
}

static void check_logits_row(void *context, size_t row, uint32_t worker)
{
    const op_run *run = context;
    const float  *logits = run->batch->rows[row].logits;

    (void)worker;
    if (logits != NULL && !isfinite(run->b->kernels.sum_squares(run->op->w[0]->n_rows, logits)))
        mark_bad(run->b);
}

/* Runs of rows that want logits; mostly that is all of them or the last one. */
static void run_logits(op_run *run)
{
    const upg_batch_row *rows = run->batch->rows;
    uint32_t             n_rows = run->batch->n_rows;

    for (uint32_t first = 0, n; first < n_rows; first += n + 1) {
        for (n = 0; first + n < n_rows && rows[first + n].logits != NULL; n++)
            run->b->outputs[0][n] = rows[first + n].logits;
        if (n > 0)
            upg_cpu_product(run->b, run->op, first, n, false);
    }
    upg_pool_run(run->b->pool, n_rows, check_logits_row, run);
}

void upg_cpu_run_op(cpu_backend *b, const upg_op *op, const upg_batch *batch)
{
    op_run run = { b, op, batch };

    b->fast = batch->fast && b->kernels.fast_i8 && op->code != UPG_OP_LOGITS;
    switch (op->code) {
    case UPG_OP_EMBED:
        upg_pool_run(b->pool, batch->n_rows, embed_row, &run);
        break;
    case UPG_OP_NORM_PREPARE:
        upg_pool_run(b->pool, batch->n_rows, norm_row, &run);
        break;
    case UPG_OP_QKV_ROPE:
        run_qkv(&run);
        break;
    case UPG_OP_ATTENTION:
        upg_cpu_attention(b, batch, op->layer, op->in);
        upg_pool_run(b->pool, batch->n_rows, prepare_scratch_row, &run);
        break;
    case UPG_OP_GEMV_ADD:
        run_gemv_add(&run);
        break;
    case UPG_OP_GATE_UP:
        run_gate_up(&run);
        break;
    case UPG_OP_LOGITS:
        run_logits(&run);
        break;
    case UPG_OP_COUNT:
        break;
    }
}
