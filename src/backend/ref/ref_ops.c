/* ref_ops.c: the ops but attention, as Hugging Face's Phi-3 model computes them. */
#include <math.h>
#include <string.h>

#include "backend/ref/ref.h"

void *upg_ref_slot_row(const upg_ref *ref, uint16_t slot, uint32_t row)
{
    const upg_slot *s = &ref->program->slots[slot];

    return ref->arena + s->offset * ref->max_rows + s->bytes * row;
}

float *upg_ref_temp_row(const upg_ref *ref, uint32_t which, uint32_t row)
{
    return ref->temp[which] + (size_t)row * ref->max_width;
}

upg_status upg_ref_check_finite(const upg_op *op, uint32_t row, const float *x, uint32_t n,
                                upg_error *err)
{
    for (uint32_t j = 0; j < n; j++)
        if (!isfinite(x[j]))
            return upg_fail(err, UPG_E_DATA,
                            "%s in layer %u gives %f at element %u (row %u of the batch): do the "
                            "weights hold invalid values?",
                            upg_op_name(op->code), op->layer, (double)x[j], j, row);
    return UPG_OK;
}

static void output_to_temp(upg_ref *ref, uint32_t which, uint32_t n_rows)
{
    for (uint32_t m = 0; m < n_rows; m++)
        ref->outputs[m] = upg_ref_temp_row(ref, which, m);
}

upg_status upg_ref_embed(upg_ref *ref, const upg_op *op, const upg_batch *batch, upg_error *err)
{
    upg_status st = UPG_OK;

    for (uint32_t m = 0; m < batch->n_rows; m++) {
        float *x = upg_ref_slot_row(ref, op->out, m);

        upg_matrix_row(op->w[0], (uint32_t)batch->rows[m].token, x);
        UPG_TRY(upg_ref_check_finite(op, m, x, op->w[0]->n_cols, err));
    }
out:
    return st;
}

/* y = v · x / sqrt(mean x² + eps) */
static void rms_norm(const float *x, const upg_vector *v, float eps, float *y)
{
    double squares = 0, factor;

    for (uint32_t j = 0; j < v->n; j++)
        squares += (double)x[j] * x[j];
    factor = 1 / sqrt(squares / v->n + (double)eps);
    for (uint32_t j = 0; j < v->n; j++)
        y[j] = (float)(v->values[j] * (x[j] * factor));
}

upg_status upg_ref_norm_prepare(upg_ref *ref, const upg_op *op, const upg_batch *batch,
                                upg_error *err)
{
    float      eps = ref->program->weights->config.norm_eps;
    upg_status st = UPG_OK;

    for (uint32_t m = 0; m < batch->n_rows; m++) {
        float *y = upg_ref_temp_row(ref, 0, m);

        rms_norm(upg_ref_slot_row(ref, op->in, m), op->v, eps, y);
        UPG_TRY(upg_ref_check_finite(op, m, y, op->v->n, err));
        upg_ref_prepare(ref, op->out, m, y);
    }
out:
    return st;
}

/* cos and sin of every rotated pair at one position, in double: a position times a frequency loses
 * what matters at long contexts when rounded to fp32. */
static void fill_angles(upg_ref *ref, const upg_batch_row *row)
{
    const upg_rope *rope = &ref->program->weights->config.rope;
    const float    *inv_freq =
        row->kv->long_rope && rope->long_inv_freq ? rope->long_inv_freq : rope->inv_freq;

    for (uint32_t i = 0; i < rope->rotary_dims / 2; i++) {
        double angle = (double)row->position * inv_freq[i];

        ref->angles[2 * i] = cos(angle) * (double)rope->attention_scaling;
        ref->angles[2 * i + 1] = sin(angle) * (double)rope->attention_scaling;
    }
}

/* Pairs are dimension i and i + rotary_dims / 2; dimensions past rotary_dims stay. */
static void rotate_heads(const upg_ref *ref, float *x, uint32_t n_heads)
{
    const upg_model_config *c = &ref->program->weights->config;
    uint32_t                half = c->rope.rotary_dims / 2;

    for (uint32_t h = 0; h < n_heads; h++, x += c->head_dim)
        for (uint32_t i = 0; i < half; i++) {
            double cosine = ref->angles[2 * i], sine = ref->angles[2 * i + 1];
            double a = x[i], b = x[i + half];

            x[i] = (float)(a * cosine - b * sine);
            x[i + half] = (float)(b * cosine + a * sine);
        }
}

static upg_status append_kv(const upg_op *op, const upg_batch *batch, uint32_t m, uint32_t v,
                            const float *x, upg_error *err)
{
    const upg_kv_layout *layout = batch->kv_layout;
    const upg_batch_row *row = &batch->rows[m];
    upg_status           st;

    UPG_TRY(upg_ref_check_finite(op, m, x, layout->n_kv_heads * layout->head_dim, err));
    for (uint32_t h = 0; h < layout->n_kv_heads; h++)
        if (!upg_ref_kv_store(layout, row->kv, op->layer, h, v, row->position,
                              x + (size_t)h * layout->head_dim))
            return upg_fail(err, UPG_E_DATA,
                            "%s in layer %u gives a %s of head %u that fp16 cannot hold (row %u of "
                            "the batch): use an f32 KV cache",
                            upg_op_name(op->code), op->layer, v ? "value" : "key", h, m);
out:
    return st;
}

upg_status upg_ref_qkv_rope(upg_ref *ref, const upg_op *op, const upg_batch *batch, upg_error *err)
{
    const upg_model_config *c = &ref->program->weights->config;
    uint32_t                n_rows = batch->n_rows;
    upg_status              st = UPG_OK;

    for (uint32_t m = 0; m < n_rows; m++)
        ref->outputs[m] = upg_ref_slot_row(ref, op->out, m);
    upg_ref_multiply(ref, op->w[0], op->in, n_rows);
    output_to_temp(ref, 0, n_rows);
    upg_ref_multiply(ref, op->w[1], op->in, n_rows);
    output_to_temp(ref, 1, n_rows);
    upg_ref_multiply(ref, op->w[2], op->in, n_rows);
    for (uint32_t m = 0; m < n_rows; m++) {
        float *q = upg_ref_slot_row(ref, op->out, m), *k = upg_ref_temp_row(ref, 0, m);

        fill_angles(ref, &batch->rows[m]);
        rotate_heads(ref, q, c->n_heads);
        rotate_heads(ref, k, c->n_kv_heads);
        UPG_TRY(upg_ref_check_finite(op, m, q, c->n_heads * c->head_dim, err));
        UPG_TRY(append_kv(op, batch, m, 0, k, err));
        UPG_TRY(append_kv(op, batch, m, 1, upg_ref_temp_row(ref, 1, m), err));
    }
out:
    return st;
}

upg_status upg_ref_gemv_add(upg_ref *ref, const upg_op *op, const upg_batch *batch, upg_error *err)
{
    upg_status st = UPG_OK;

    output_to_temp(ref, 0, batch->n_rows);
    upg_ref_multiply(ref, op->w[0], op->in, batch->n_rows);
    for (uint32_t m = 0; m < batch->n_rows; m++) {
        float       *a = upg_ref_slot_row(ref, op->out, m);
        const float *y = upg_ref_temp_row(ref, 0, m);

        for (uint32_t j = 0; j < op->w[0]->n_rows; j++)
            a[j] += y[j];
        UPG_TRY(upg_ref_check_finite(op, m, a, op->w[0]->n_rows, err));
    }
out:
    return st;
}

static float silu(float x)
{
    return (float)(x / (1 + exp(-(double)x)));
}

upg_status upg_ref_gate_up(upg_ref *ref, const upg_op *op, const upg_batch *batch, upg_error *err)
{
    uint32_t   n = op->w[0]->n_rows;
    upg_status st = UPG_OK;

    output_to_temp(ref, 0, batch->n_rows);
    upg_ref_multiply(ref, op->w[0], op->in, batch->n_rows);
    output_to_temp(ref, 1, batch->n_rows);
    upg_ref_multiply(ref, op->w[1], op->in, batch->n_rows);
    for (uint32_t m = 0; m < batch->n_rows; m++) {
        float       *gate = upg_ref_temp_row(ref, 0, m);
        const float *up = upg_ref_temp_row(ref, 1, m);

        for (uint32_t j = 0; j < n; j++)
            gate[j] = silu(gate[j]) * up[j];
        UPG_TRY(upg_ref_check_finite(op, m, gate, n, err));
        upg_ref_prepare(ref, op->out, m, gate);
    }
out:
    return st;
}

upg_status upg_ref_logits(upg_ref *ref, const upg_op *op, const upg_batch *batch, upg_error *err)
{
    bool       wanted = false;
    upg_status st = UPG_OK;

    for (uint32_t m = 0; m < batch->n_rows; m++) {
        ref->outputs[m] = batch->rows[m].logits;
        wanted = wanted || ref->outputs[m];
    }
    if (!wanted)
        return UPG_OK;
    upg_ref_multiply(ref, op->w[0], op->in, batch->n_rows);
    for (uint32_t m = 0; m < batch->n_rows; m++)
        if (ref->outputs[m])
            UPG_TRY(upg_ref_check_finite(op, m, ref->outputs[m], op->w[0]->n_rows, err));
out:
    return st;
}

/* ---- ops of unfused programs ------------------------------------------------------------------
 */

upg_status upg_ref_norm(upg_ref *ref, const upg_op *op, const upg_batch *batch, upg_error *err)
{
    float      eps = ref->program->weights->config.norm_eps;
    upg_status st = UPG_OK;

    for (uint32_t m = 0; m < batch->n_rows; m++) {
        float *y = upg_ref_slot_row(ref, op->out, m);

        rms_norm(upg_ref_slot_row(ref, op->in, m), op->v, eps, y);
        UPG_TRY(upg_ref_check_finite(op, m, y, op->v->n, err));
    }
out:
    return st;
}

upg_status upg_ref_prepare_op(upg_ref *ref, const upg_op *op, const upg_batch *batch,
                              upg_error *err)
{
    uint32_t n = ref->program->slots[op->out].width;

    (void)err;
    for (uint32_t m = 0; m < batch->n_rows; m++) {
        float *x = upg_ref_temp_row(ref, 0, m);

        memcpy(x, upg_ref_slot_row(ref, op->in, m), n * sizeof *x);
        upg_ref_prepare(ref, op->out, m, x);
    }
    return UPG_OK;
}

upg_status upg_ref_gemv(upg_ref *ref, const upg_op *op, const upg_batch *batch, upg_error *err)
{
    upg_status st = UPG_OK;

    for (uint32_t m = 0; m < batch->n_rows; m++)
        ref->outputs[m] = upg_ref_slot_row(ref, op->out, m);
    upg_ref_multiply(ref, op->w[0], op->in, batch->n_rows);
    for (uint32_t m = 0; m < batch->n_rows; m++)
        UPG_TRY(upg_ref_check_finite(op, m, ref->outputs[m], op->w[0]->n_rows, err));
out:
    return st;
}

upg_status upg_ref_rope(upg_ref *ref, const upg_op *op, const upg_batch *batch, upg_error *err)
{
    uint32_t   n = ref->program->slots[op->out].width;
    upg_status st = UPG_OK;

    for (uint32_t m = 0; m < batch->n_rows; m++) {
        float *x = upg_ref_slot_row(ref, op->out, m);

        memcpy(x, upg_ref_slot_row(ref, op->in, m), n * sizeof *x);
        fill_angles(ref, &batch->rows[m]);
        rotate_heads(ref, x, n / ref->program->weights->config.head_dim);
        UPG_TRY(upg_ref_check_finite(op, m, x, n, err));
    }
out:
    return st;
}

upg_status upg_ref_append(upg_ref *ref, const upg_op *op, const upg_batch *batch, upg_error *err)
{
    upg_status st = UPG_OK;

    for (uint32_t m = 0; m < batch->n_rows; m++)
        UPG_TRY(append_kv(op, batch, m, op->code == UPG_OP_APPEND_VALUE,
                          upg_ref_slot_row(ref, op->in, m), err));
out:
    return st;
}

upg_status upg_ref_add(upg_ref *ref, const upg_op *op, const upg_batch *batch, upg_error *err)
{
    uint32_t   n = ref->program->slots[op->out].width;
    upg_status st = UPG_OK;

    for (uint32_t m = 0; m < batch->n_rows; m++) {
        float       *a = upg_ref_slot_row(ref, op->out, m);
        const float *y = upg_ref_slot_row(ref, op->in, m);

        for (uint32_t j = 0; j < n; j++)
            a[j] += y[j];
        UPG_TRY(upg_ref_check_finite(op, m, a, n, err));
    }
out:
    return st;
}

upg_status upg_ref_swiglu(upg_ref *ref, const upg_op *op, const upg_batch *batch, upg_error *err)
{
    uint32_t   n = ref->program->slots[op->out].width;
    upg_status st = UPG_OK;

    for (uint32_t m = 0; m < batch->n_rows; m++) {
        float       *gate = upg_ref_slot_row(ref, op->out, m);
        const float *up = upg_ref_slot_row(ref, op->in, m);

        for (uint32_t j = 0; j < n; j++)
            gate[j] = silu(gate[j]) * up[j];
        UPG_TRY(upg_ref_check_finite(op, m, gate, n, err));
    }
out:
    return st;
}
