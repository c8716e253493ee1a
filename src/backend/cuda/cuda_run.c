/* cuda_run.c: a batch on the device, op by op, or a single row by the token kernel. */
#include <string.h>

#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/cuda_prompt.h"
#include "base/clock.h"

/* ---- errors -----------------------------------------------------------------------------------
 */

upg_status upg_cuda_check(int cuda_error, const char *what, upg_error *err)
{
    cudaError_t e = (cudaError_t)cuda_error;
    upg_status  st;

    if (e == cudaSuccess)
        return UPG_OK;
    st = e == cudaErrorMemoryAllocation ? UPG_E_NOMEM
         : e == cudaErrorNoDevice || e == cudaErrorInsufficientDriver || e == cudaErrorInvalidDevice
             ? UPG_E_DEVICE
             : UPG_E_DEVICE_LOST;
    return upg_fail(err, st, "CUDA failed while %s: %s (%s)", what, cudaGetErrorString(e),
                    cudaGetErrorName(e));
}

/* In run functions: a CUDA error ends the function, and the backend. */
#define CUDA_TRY(b, what, call)                                                                    \
    do {                                                                                           \
        int cuda_error = (call);                                                                   \
        if (cuda_error != cudaSuccess) {                                                           \
            (b)->lost = true;                                                                      \
            return upg_cuda_check(cuda_error, what, err);                                          \
        }                                                                                          \
    } while (0)

/* ---- a batch ----------------------------------------------------------------------------------
 */

cu_kv upg_cuda_kv(const cuda_backend *b, const upg_kv_layout *layout)
{
    const upg_model_config *c = &b->program->weights->config;

    return (cu_kv) { .type = (int32_t)layout->type,
                     .n_kv_heads = c->n_kv_heads,
                     .head_dim = c->head_dim,
                     .n_heads = c->n_heads,
                     .rotary_dims = c->rope.rotary_dims,
                     .window = c->sliding_window,
                     .part_bytes = layout->part_bytes };
}

static upg_status check_batch(const cuda_backend *b, const upg_batch *batch, upg_error *err)
{
    if (b->lost)
        return upg_fail(err, UPG_E_DEVICE_LOST, "the GPU was lost earlier: open the model again");
    if (batch->n_rows > b->max_rows)
        return upg_fail(err, UPG_E_ARG, "a batch of %u rows, the backend was created for %u",
                        batch->n_rows, b->max_rows);
    return UPG_OK;
}

upg_status upg_cuda_send_rows(cuda_backend *b, const upg_batch *batch, upg_error *err)
{
    const upg_kv_view *last = NULL;
    uint32_t           n_pages = 0, first = 0, logits = 0;

    for (uint32_t i = 0; i < batch->n_rows; i++) {
        const upg_batch_row *row = &batch->rows[i];

        if (row->kv != last) {
            uint32_t n = row->kv->n_pages;

            if (n > b->n_page_slots - n_pages)
                return upg_fail(err, UPG_E_ARG,
                                "the batch has more KV pages than the backend was created for (%u)",
                                b->n_page_slots);
            last = row->kv;
            first = n_pages;
            memcpy(b->inbox.pages + first, last->pages, n * sizeof *last->pages);
            n_pages += n;
        }
        b->inbox.rows[i] = (cu_row) { row->token, row->position, first, row->logits ? ++logits : 0,
                                      row->kv->long_rope };
    }
    CUDA_TRY(b, "sending a batch",
             cudaMemcpyAsync(b->pages, b->inbox.pages, n_pages * sizeof *b->pages,
                             cudaMemcpyHostToDevice, b->stream));
    CUDA_TRY(b, "sending a batch",
             cudaMemcpyAsync(b->rows, b->inbox.rows, batch->n_rows * sizeof *b->rows,
                             cudaMemcpyHostToDevice, b->stream));
    return UPG_OK;
}

/* ---- one row, one launch ----------------------------------------------------------------------
 */

static upg_status run_token(cuda_backend *b, const upg_batch *batch, upg_error *err)
{
    const upg_batch_row *row = &batch->rows[0];
    upg_status           st = upg_cuda_send_rows(b, batch, err);
    uint32_t             vocab = b->program->weights->config.vocab, bad;

    if (st != UPG_OK)
        return st;
    b->inbox.state = (cu_token_state) { row->token, row->position, row->kv->long_rope, 0 };
    memcpy(b->bad_out, &b->inbox.state, sizeof b->inbox.state);
    CUDA_TRY(b, "sending a token",
             cudaMemcpyAsync(b->token.state, b->bad_out, sizeof b->inbox.state,
                             cudaMemcpyHostToDevice, b->stream));
    st = upg_cuda_run_steps(b, batch->kv_layout, 1, true, err);
    if (st != UPG_OK) {
        b->lost = true;
        return st;
    }
    if (row->logits)
        CUDA_TRY(b, "reading logits",
                 cudaMemcpyAsync(b->logits_out, b->logits, vocab * sizeof(float),
                                 cudaMemcpyDeviceToHost, b->stream));
    CUDA_TRY(b, "reading a result",
             cudaMemcpyAsync(b->bad_out, b->token.state, sizeof b->inbox.state,
                             cudaMemcpyDeviceToHost, b->stream));
    CUDA_TRY(b, "computing a token", cudaStreamSynchronize(b->stream));
    bad = ((const cu_token_state *)(const void *)b->bad_out)->bad;
    if (bad != 0)
        return upg_fail(err, UPG_E_DATA,
                        "step %u of the token, layer %u, met a value that is NaN or infinite: are "
                        "the weights damaged?",
                        bad - 1, b->steps[bad - 1].layer);
    if (row->logits)
        memcpy(row->logits, b->logits_out, vocab * sizeof(float));
    return UPG_OK;
}

/* ---- ops of a batch ---------------------------------------------------------------------------
 */

/* Whether a batch of n rows multiplies with the op's matrices as tiles, and in which form;
 * CU_CODES: with the stored bits. */
static cu_form form_of(const cuda_backend *b, const upg_op *op, const upg_batch *batch)
{
    const cuda_op *bound = &b->ops[op - b->program->ops];

    if (batch->n_rows <= CU_FEW_ROWS || op->code == UPG_OP_LOGITS)
        return CU_CODES;
    return batch->fast ? CU_BYTES : bound->product.exact_f16 ? CU_HALVES : CU_CODES;
}

/* What an op prepares is wanted for the products that follow, up to the next op that prepares the
 * same slot. */
static cu_prepared prepared_by(const cuda_backend *b, const upg_op *op, const upg_batch *batch)
{
    const upg_op *end = b->program->ops + b->program->n_ops;
    cu_prepared   to = b->slots[op->out].prepared;

    to.forms = 0;
    for (const upg_op *next = op + 1; next < end && next->out != op->out; next++)
        if (next->in == op->out && b->ops[next - b->program->ops].coded)
            to.forms |= (uint32_t)form_of(b, next, batch);
    return to;
}

/* Rows of x become a prepared input: after the norm, if there is one. */
static int prepare(cuda_backend *b, const upg_op *op, const upg_batch *batch, float *x,
                   uint32_t x_stride, const float *norm)
{
    const float eps = b->program->weights->config.norm_eps;
    cu_prepared to = prepared_by(b, op, batch);
    uint32_t    n = batch->n_rows;
    bool        done = false;
    int         e = cudaSuccess;

    if (n > CU_FEW_ROWS)
        e = cu_launch_prompt_rows(x, x_stride, norm, eps, &to, n, b->bad, &done, b->stream);
    if (e != cudaSuccess || done)
        return e;
    return norm ? cu_launch_norm(x, x_stride, norm, eps, &to, n, b->bad, b->stream)
                : cu_launch_prepare(x, x_stride, &to, n, b->bad, b->stream);
}

/* Many rows: the matrices decoded to tiles, then their product. Decoding runs beside what comes
 * between this product and the one before. */
static int product_of_tiles(cuda_backend *b, const upg_op *op, const upg_batch *batch, cu_form form,
                            float *out, uint32_t out_stride, cu_result result)
{
    const cuda_op   *bound = &b->ops[op - b->program->ops];
    const cuda_slot *in = &b->slots[op->in];
    uint32_t         paired = result == CU_SWIGLU;
    uint32_t         n_groups = cu_decoded_groups(bound->product.n_rows, paired);
    cu_decoded       w = { .n_groups = n_groups,
                           .n_steps = in->stride / (form == CU_BYTES ? 128 : 64),
                           .form = form,
                           .paired = paired };
    int              e;

    w.factors = (float *)(void *)b->staging;
    w.tiles = b->staging + cu_factor_bytes(n_groups);
    e = cudaStreamWaitEvent(b->side, b->multiplied, 0); /* the matrix before this one was there */
    if (e == cudaSuccess)
        e = cu_launch_decode(&bound->product, b->tape, &w, b->side);
    if (e == cudaSuccess)
        e = cudaEventRecord(b->decoded, b->side);
    if (e == cudaSuccess)
        e = cudaStreamWaitEvent(b->stream, b->decoded, 0);
    if (e == cudaSuccess)
        e = cu_launch_gemm(&bound->product, &w, &in->prepared, batch->n_rows, out, out_stride,
                           result, b->stream);
    if (e == cudaSuccess)
        e = cudaEventRecord(b->multiplied, b->stream);
    return e;
}

/* Matrices of an op times rows row0 … of its input, side by side into out. */
static int product(cuda_backend *b, const upg_op *op, uint32_t row0, uint32_t n, float *out,
                   uint32_t out_stride, bool add)
{
    const cuda_op   *bound = &b->ops[op - b->program->ops];
    const cuda_slot *in = &b->slots[op->in];
    uint32_t         stride = in->stride, column = 0;
    int              e = cudaSuccess;

    for (uint32_t w = 0; !bound->coded && e == cudaSuccess && w < 3 && op->w[w]; w++) {
        const upg_matrix *m = op->w[w];

        e = cu_launch_dense(bound->dense[w],
                            m->dtype == UPG_F32   ? 0
                            : m->dtype == UPG_F16 ? 1
                                                  : 2,
                            m->n_rows, m->n_cols, in->values + (size_t)row0 * stride, stride, n,
                            out + column, out_stride, add, b->stream);
        column += m->n_rows;
    }
    for (uint32_t done = 0; bound->coded && e == cudaSuccess && done < n; done += CU_FEW_ROWS) {
        uint32_t few = n - done < CU_FEW_ROWS ? n - done : CU_FEW_ROWS;

        e = cu_launch_bits(&bound->product, b->tape, &in->prepared, row0 + done, few,
                           b->shared_limit - 1024, b->u, b->stream);
        if (e == cudaSuccess)
            e = cu_launch_fir(&bound->product, b->u, in->prepared.scales + row0 + done, few,
                              out + (size_t)done * out_stride, out_stride, add, b->stream);
    }
    return e != cudaSuccess ? e : upg_cuda_add_outliers(b, op, row0, n, out, out_stride);
}

/* The same for all rows of a batch. */
static int product_of_batch(cuda_backend *b, const upg_op *op, const upg_batch *batch, float *out,
                            uint32_t out_stride, bool add)
{
    cu_form form = form_of(b, op, batch);
    int     e;

    if (!b->ops[op - b->program->ops].coded || form == CU_CODES)
        return product(b, op, 0, batch->n_rows, out, out_stride, add);
    e = product_of_tiles(b, op, batch, form, out, out_stride, add ? CU_ADD : CU_STORE);
    return e != cudaSuccess ? e : upg_cuda_add_outliers(b, op, 0, batch->n_rows, out, out_stride);
}

static int run_qkv(cuda_backend *b, const upg_op *op, const upg_batch *batch)
{
    const upg_rope *rope = &b->program->weights->config.rope;
    int             e = product_of_batch(b, op, batch, b->scratch, b->scratch_stride, false);

    if (e != cudaSuccess)
        return e;
    return cu_launch_rope(b->scratch, b->scratch_stride, b->rows, batch->n_rows, b->pages,
                          upg_cuda_kv(b, batch->kv_layout), op->layer, b->inv_freq,
                          b->long_inv_freq, rope->attention_scaling, b->bad, b->stream);
}

/* Parts that the keys of a row are cut into: enough blocks to fill the device, 64 keys at least. */
static uint32_t splits_for(const cuda_backend *b, const upg_batch *batch)
{
    uint32_t heads = b->program->weights->config.n_kv_heads, longest = 0, n;
    uint32_t limit = (b->max_rows < 64 ? 64 : b->max_rows) / batch->n_rows;

    for (uint32_t i = 0; i < batch->n_rows; i++)
        if (batch->rows[i].position >= longest)
            longest = batch->rows[i].position + 1;
    n = 2 * b->n_ctas / (heads * batch->n_rows) + 1;
    n = n < limit ? n : limit;
    n = n < (longest + 63) / 64 ? n : (longest + 63) / 64;
    return n;
}

/* Attention a block for each 16 rows: where these fill the device, or few keys need no splits. */
static bool rows_together(const cuda_backend *b, const cu_kv *kv, const upg_batch *batch)
{
    const uint32_t short_context = 1024, n = batch->n_rows;

    return n > CU_FEW_ROWS && kv->type != UPG_KV_F32 &&
           (kv->head_dim == 128 || kv->head_dim == 64) &&
           (n * kv->n_kv_heads >= 16 * b->n_ctas || batch->rows[n - 1].position < short_context);
}

static int run_attention(cuda_backend *b, const upg_op *op, const upg_batch *batch)
{
    cu_kv    kv = upg_cuda_kv(b, batch->kv_layout);
    uint32_t splits = splits_for(b, batch), stride = b->slots[op->out].stride;
    int      e;

    if (rows_together(b, &kv, batch)) {
        e = cu_launch_prompt_attention(b->scratch, b->scratch_stride, b->rows, batch->n_rows,
                                       b->pages, kv, op->layer, b->mixed, stride, b->stream);
    } else {
        e = cu_launch_attention(b->scratch, b->scratch_stride, b->rows, batch->n_rows, b->pages, kv,
                                op->layer, splits, b->partial, b->softmax, b->stream);
        if (e == cudaSuccess)
            e = cu_launch_merge(b->partial, b->softmax, kv, splits, batch->n_rows, b->mixed, stride,
                                b->stream);
    }
    if (e == cudaSuccess)
        e = upg_cuda_plain_copy(b, op, b->mixed, stride, batch->n_rows);
    return e != cudaSuccess ? e : prepare(b, op, batch, b->mixed, stride, NULL);
}

static int run_gate_up(cuda_backend *b, const upg_op *op, const upg_batch *batch)
{
    const cuda_op *bound = &b->ops[op - b->program->ops];
    cu_form        form = form_of(b, op, batch);
    cu_prepared    to = prepared_by(b, op, batch);
    int            e;

    if (bound->coded && form != CU_CODES && !upg_cuda_op_has_outliers(op)) {
        e = product_of_tiles(b, op, batch, form, b->scratch, b->scratch_stride, CU_SWIGLU);
        if (e == cudaSuccess)
            e = upg_cuda_plain_copy(b, op, b->scratch, b->scratch_stride, batch->n_rows);
        return e != cudaSuccess ? e : prepare(b, op, batch, b->scratch, b->scratch_stride, NULL);
    }
    e = product_of_batch(b, op, batch, b->scratch, b->scratch_stride, false);
    if (e == cudaSuccess)
        e = upg_cuda_plain_swiglu(b, op, batch->n_rows);
    return e != cudaSuccess ? e
                            : cu_launch_swiglu(b->scratch, b->scratch_stride, &to, batch->n_rows,
                                               b->bad, b->stream);
}

/* Logits of rows first … first + n − 1, all wanted, n ≤ CUDA_LOGIT_ROWS. */
static int send_logits(cuda_backend *b, const upg_op *op, const upg_batch *batch, uint32_t first,
                       uint32_t n)
{
    uint32_t vocab = op->w[0]->n_rows;
    int      e = product(b, op, first, n, b->logits, vocab, false);

    if (e == cudaSuccess)
        e = cu_launch_check(b->logits, (uint64_t)n * vocab, b->bad, b->stream);
    if (e == cudaSuccess)
        e = cudaMemcpyAsync(b->logits_out, b->logits, (size_t)n * vocab * sizeof(float),
                            cudaMemcpyDeviceToHost, b->stream);
    if (e == cudaSuccess)
        e = cudaStreamSynchronize(b->stream);
    for (uint32_t i = 0; e == cudaSuccess && i < n; i++)
        memcpy(batch->rows[first + i].logits, b->logits_out + (size_t)i * vocab,
               vocab * sizeof(float));
    return e;
}

static int run_logits(cuda_backend *b, const upg_op *op, const upg_batch *batch)
{
    int e = cudaSuccess;

    for (uint32_t first = 0, n; e == cudaSuccess && first < batch->n_rows; first += n ? n : 1) {
        for (n = 0; first + n < batch->n_rows && n < CUDA_LOGIT_ROWS; n++)
            if (batch->rows[first + n].logits == NULL)
                break;
        if (n > 0)
            e = send_logits(b, op, batch, first, n);
    }
    return e;
}

static int run_op(cuda_backend *b, const upg_op *op, const upg_batch *batch)
{
    cuda_slot *out = op->out == UPG_NO_SLOT ? NULL : &b->slots[op->out];
    cuda_slot *in = op->in == UPG_NO_SLOT ? NULL : &b->slots[op->in];
    uint32_t   n = batch->n_rows;
    int        e;

    switch (op->code) {
    case UPG_OP_EMBED:
        e = cu_launch_embed(&b->embedding, b->rows, n, out->values, out->stride, b->bad, b->stream);
        return e != cudaSuccess ? e : upg_cuda_embed_outliers(b, op, n);
    case UPG_OP_NORM_PREPARE:
        e = upg_cuda_plain_norm(b, op, in->values, in->stride, n);
        if (e != cudaSuccess)
            return e;
        return prepare(b, op, batch, in->values, in->stride, b->ops[op - b->program->ops].norm);
    case UPG_OP_QKV_ROPE:
        return run_qkv(b, op, batch);
    case UPG_OP_ATTENTION:
        return run_attention(b, op, batch);
    case UPG_OP_GEMV_ADD:
        return product_of_batch(b, op, batch, out->values, out->stride, true);
    case UPG_OP_GATE_UP:
        return run_gate_up(b, op, batch);
    case UPG_OP_LOGITS:
        return run_logits(b, op, batch);
    default: /* of unfused programs: refused at open */
        break;
    }
    return cudaErrorUnknown;
}

static upg_status run_ops(cuda_backend *b, const upg_batch *batch, upg_error *err)
{
    upg_status st = upg_cuda_send_rows(b, batch, err);

    if (st != UPG_OK)
        return st;
    CUDA_TRY(b, "starting a batch", cudaMemsetAsync(b->bad, 0, sizeof *b->bad, b->stream));
    if (batch->op_ns != NULL) {
        CUDA_TRY(b, "starting a batch", cudaStreamSynchronize(b->stream));
        batch->op_ns[0] = upg_now_ns();
    }
    for (uint32_t i = 0; i < b->program->n_ops; i++) {
        const upg_op *op = &b->program->ops[i];

        if (batch->cancel != NULL && atomic_load_explicit(batch->cancel, memory_order_relaxed)) {
            CUDA_TRY(b, "cancelling", cudaStreamSynchronize(b->stream));
            return upg_fail(err, UPG_E_CANCELLED, "cancelled before op %u of %u", i,
                            b->program->n_ops);
        }
        CUDA_TRY(b, upg_op_name(op->code), run_op(b, op, batch));
        if (batch->op_ns != NULL) {
            CUDA_TRY(b, upg_op_name(op->code), cudaStreamSynchronize(b->stream));
            batch->op_ns[i + 1] = upg_now_ns();
        }
    }
    CUDA_TRY(
        b, "reading a result",
        cudaMemcpyAsync(b->bad_out, b->bad, sizeof *b->bad, cudaMemcpyDeviceToHost, b->stream));
    CUDA_TRY(b, "computing a batch", cudaStreamSynchronize(b->stream));
    if (b->bad_out[0] != 0)
        return upg_fail(err, UPG_E_DATA,
                        "the batch met a value that is NaN or infinite: are the weights damaged?");
    return UPG_OK;
}

upg_status upg_cuda_run(upg_backend *backend, const upg_batch *batch, upg_error *err)
{
    cuda_backend *b = (cuda_backend *)(void *)backend;
    upg_status    st = check_batch(b, batch, err);

    if (st != UPG_OK || batch->n_rows == 0)
        return st;
    if (batch->cancel != NULL && atomic_load_explicit(batch->cancel, memory_order_relaxed))
        return upg_fail(err, UPG_E_CANCELLED, "cancelled before the first op");
    if (cudaSetDevice(b->device) != cudaSuccess) { /* the current device is the thread's */
        b->lost = true;
        return upg_fail(err, UPG_E_DEVICE_LOST, "the GPU is gone: open the model again");
    }
    if (batch->n_rows == 1 && b->one_launch && batch->op_ns == NULL)
        return run_token(b, batch, err);
    return run_ops(b, batch, err);
}
