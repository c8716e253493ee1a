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

static void norm(const op_run *run, size_t row, float *out)
{
    cpu_backend *b = run->b;
    uint32_t     n = run->op->v->n;
    const float *x = slot_row(b, run->op->in, row), *weight = run->op->v->values;
    double       squares = b->kernels.sum_squares(n, x);
    float        inverse;

    if (!isfinite(squares))
        mark_bad(b);
    inverse = (float)(1.0 / sqrt(squares / n + (double)b->program->weights->config.norm_eps));
    for (uint32_t j = 0; j < n; j++)
        out[j] = x[j] * inverse * weight[j];
}

static void norm_prepare_row(void *context, size_t row, uint32_t worker)
{
    const op_run *run = context;
    float        *out = scratch_row(run->b, 0, row);

    (void)worker;
    norm(run, row, out);
    upg_cpu_prepare_row(run->b, run->op->out, (uint32_t)row, out);
}

/* ---- QKV_ROPE ---------------------------------------------------------------------------------
 */

/* Turns heads by the angles of the row's position. */
static void turn_heads(const op_run *run, size_t row, uint32_t n_heads, float *x)
{
    const upg_model_config *c = &run->b->program->weights->config;
    size_t                  half = c->rope.rotary_dims / 2;

    for (uint32_t h = 0; h < n_heads; h++)
        upg_rope_turn(c->rope.rotary_dims, run->b->cosine + row * half, run->b->sine + row * half,
                      x + (size_t)h * c->head_dim);
}

/* Appends the keys or values (v = 0, 1) of all heads. */
static void append(const op_run *run, size_t row, uint32_t v, const float *x)
{
    const upg_model_config *c = &run->b->program->weights->config;
    const upg_batch_row    *at = &run->batch->rows[row];

    for (uint32_t h = 0; h < c->n_kv_heads; h++)
        upg_cpu_kv_store(run->b, run->batch->kv_layout, at->kv, at->position, run->op->layer, h, v,
                         x + (size_t)h * c->head_dim);
}

static void qkv_rope_row(void *context, size_t row, uint32_t worker)
{
    const op_run           *run = context;
    cpu_backend            *b = run->b;
    const upg_model_config *c = &b->program->weights->config;

    (void)worker;
    turn_heads(run, row, c->n_heads, slot_row(b, run->op->out, row));
    turn_heads(run, row, c->n_kv_heads, scratch_row(b, 0, row));
    append(run, row, 0, scratch_row(b, 0, row));
    append(run, row, 1, scratch_row(b, 1, row));
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
    upg_pool_run(b->pool, n, qkv_rope_row, run);
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

/* ---- GEMV_ADD, GEMV, LOGITS
 * ---------------------------------------------------------------------------
 */

/* Into the output slot, or onto it. */
static void run_gemv(op_run *run, bool add)
{
    for (uint32_t i = 0; i < run->batch->n_rows; i++)
        run->b->outputs[0][i] = slot_row(run->b, run->op->out, i);
    upg_cpu_product(run->b, run->op, 0, run->batch->n_rows, add);
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

/* ---- ops of unfused programs ------------------------------------------------------------------
 */

static uint32_t out_width(const op_run *run)
{
    return run->b->program->slots[run->op->out].width;
}

static void norm_row(void *context, size_t row, uint32_t worker)
{
    const op_run *run = context;

    (void)worker;
    norm(run, row, slot_row(run->b, run->op->out, row));
}

static void prepare_row(void *context, size_t row, uint32_t worker)
{
    const op_run *run = context;
    float        *x = scratch_row(run->b, 0, row);

    (void)worker;
    memcpy(x, slot_row(run->b, run->op->in, row), out_width(run) * sizeof *x);
    upg_cpu_prepare_row(run->b, run->op->out, (uint32_t)row, x);
}

static void rope_row(void *context, size_t row, uint32_t worker)
{
    const op_run *run = context;
    uint32_t      width = out_width(run);
    float        *x = slot_row(run->b, run->op->out, row);

    (void)worker;
    memcpy(x, slot_row(run->b, run->op->in, row), width * sizeof *x);
    turn_heads(run, row, width / run->b->program->weights->config.head_dim, x);
}

static void append_row(void *context, size_t row, uint32_t worker)
{
    const op_run *run = context;

    (void)worker;
    append(run, row, run->op->code == UPG_OP_APPEND_VALUE, slot_row(run->b, run->op->in, row));
}

static void take_scratch_row(void *context, size_t row, uint32_t worker)
{
    const op_run *run = context;

    (void)worker;
    memcpy(slot_row(run->b, run->op->out, row), scratch_row(run->b, 0, row),
           out_width(run) * sizeof(float));
}

static void add_row(void *context, size_t row, uint32_t worker)
{
    const op_run *run = context;
    float        *sum = slot_row(run->b, run->op->out, row);
    const float  *x = slot_row(run->b, run->op->in, row);

    (void)worker;
    for (uint32_t j = 0; j < out_width(run); j++)
        sum[j] += x[j];
}

static void swiglu_in_place_row(void *context, size_t row, uint32_t worker)
{
    const op_run *run = context;
    float        *gate = slot_row(run->b, run->op->out, row);

    (void)worker;
    run->b->kernels.swiglu(out_width(run), gate, slot_row(run->b, run->op->in, row), gate);
}

/* ---- all ops ----------------------------------------------------------------------------------
 */

/* Ops whose rows are all there is to them. */
static void (*const row_ops[UPG_OP_COUNT])(void *context, size_t row, uint32_t worker) = {
    [UPG_OP_EMBED] = embed_row,
    [UPG_OP_NORM_PREPARE] = norm_prepare_row,
    [UPG_OP_NORM] = norm_row,
    [UPG_OP_PREPARE] = prepare_row,
    [UPG_OP_ROPE] = rope_row,
    [UPG_OP_APPEND_KEY] = append_row,
    [UPG_OP_APPEND_VALUE] = append_row,
    [UPG_OP_ADD] = add_row,
    [UPG_OP_SWIGLU] = swiglu_in_place_row,
};

bool upg_cpu_runs_op(upg_opcode code)
{
    switch (code) {
    case UPG_OP_QKV_ROPE:
    case UPG_OP_ATTENTION:
    case UPG_OP_GEMV_ADD:
    case UPG_OP_GATE_UP:
    case UPG_OP_LOGITS:
    case UPG_OP_GEMV:
    case UPG_OP_ATTEND:
        return true;
    default:
        return (unsigned)code < UPG_OP_COUNT && row_ops[code] != NULL;
    }
}

void upg_cpu_run_op(cpu_backend *b, const upg_op *op, const upg_batch *batch)
{
    op_run run = { b, op, batch };

    b->fast = batch->fast && b->kernels.fast_i8 && op->code != UPG_OP_LOGITS;
    switch (op->code) {
    case UPG_OP_QKV_ROPE:
        run_qkv(&run);
        break;
    case UPG_OP_ATTENTION:
    case UPG_OP_ATTEND:
        upg_cpu_attention(b, batch, op->layer, op->in);
        upg_pool_run(b->pool, batch->n_rows,
                     op->code == UPG_OP_ATTEND ? take_scratch_row : prepare_scratch_row, &run);
        break;
    case UPG_OP_GEMV_ADD:
    case UPG_OP_GEMV:
        run_gemv(&run, op->code == UPG_OP_GEMV_ADD);
        break;
    case UPG_OP_GATE_UP:
        run_gate_up(&run);
        break;
    case UPG_OP_LOGITS:
        run_logits(&run);
        break;
    default: /* upg_cpu_runs_op has said that there is one */
        upg_pool_run(b->pool, batch->n_rows, row_ops[op->code], &run);
    }
}
