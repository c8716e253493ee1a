/* cuda_outliers.c: where the outliers of a model lie on the device, and what the ops of a batch do
 * with them. A model that has any runs op by op, also for single rows. */
#include "backend/cuda/cuda_backend.h"

static const upg_outliers *outliers_of(const upg_matrix *m)
{
    return m != NULL && m->kind == UPG_MATRIX_CODED ? m->coded->outliers : NULL;
}

bool upg_cuda_op_has_outliers(const upg_op *op)
{
    for (uint32_t w = 0; w < 3; w++)
        if (outliers_of(op->w[w]) != NULL)
            return true;
    return false;
}

bool upg_cuda_has_outliers(const upg_program *program)
{
    for (uint32_t i = 0; i < program->n_ops; i++)
        if (upg_cuda_op_has_outliers(&program->ops[i]))
            return true;
    return false;
}

static cu_outliers lay_one(cuda_backend *b, const upg_outliers *o)
{
    cu_outliers to = {
        .n_rows = o->n_rows, .n_sparse = o->n_sparse, .n_columns = o->n_columns, .scale = o->scale
    };

    if (o->n_sparse > 0) {
        to.row_begin = upg_cuda_take(b, ((size_t)o->n_rows + 1) * sizeof *to.row_begin);
        to.columns = upg_cuda_take(b, o->n_sparse * sizeof *to.columns);
        to.values = upg_cuda_take(b, o->n_sparse);
    }
    if (o->n_columns > 0) {
        to.column = upg_cuda_take(b, o->n_columns * sizeof *to.column);
        to.column_scales = upg_cuda_take(b, o->n_columns * sizeof *to.column_scales);
        to.column_values = upg_cuda_take(b, (size_t)o->n_columns * o->n_rows);
    }
    return to;
}

void upg_cuda_lay_outliers(cuda_backend *b)
{
    uint32_t width = 0;

    if (!upg_cuda_has_outliers(b->program))
        return;
    for (uint32_t i = 0; i < b->program->n_ops; i++)
        for (uint32_t w = 0; w < 3; w++) {
            const upg_outliers *o = outliers_of(b->program->ops[i].w[w]);

            if (o != NULL)
                b->ops[i].outliers[w] = lay_one(b, o);
            if (o != NULL && o->n_cols > width)
                width = o->n_cols;
        }
    b->plain_stride = (width + 63) & ~63u;
    b->plain = upg_cuda_take(b, (size_t)b->max_rows * b->plain_stride * sizeof *b->plain);
}

static upg_status upload_one(cuda_backend *b, const upg_outliers *o, const cu_outliers *to,
                             upg_error *err)
{
    const struct {
        const void *to, *from;
        size_t      bytes;
    } parts[] = {
        { to->row_begin, o->row_begin, ((size_t)o->n_rows + 1) * sizeof *o->row_begin },
        { to->columns, o->columns, o->n_sparse * sizeof *o->columns },
        { to->values, o->values, o->n_sparse },
        { to->column, o->column, o->n_columns * sizeof *o->column },
        { to->column_scales, o->column_scales, o->n_columns * sizeof *o->column_scales },
        { to->column_values, o->column_values, (size_t)o->n_columns * o->n_rows },
    };
    upg_status st = UPG_OK;

    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        if (parts[i].to != NULL)
            UPG_TRY(upg_cuda_upload(b, (void *)(uintptr_t)parts[i].to, parts[i].from,
                                    parts[i].bytes, err));
out:
    return st;
}

upg_status upg_cuda_upload_outliers(cuda_backend *b, upg_error *err)
{
    upg_status st = UPG_OK;

    for (uint32_t i = 0; i < b->program->n_ops; i++)
        for (uint32_t w = 0; w < 3; w++) {
            const upg_outliers *o = outliers_of(b->program->ops[i].w[w]);

            if (o != NULL)
                UPG_TRY(upload_one(b, o, &b->ops[i].outliers[w], err));
        }
out:
    return st;
}

/* ---- ops of a batch ---------------------------------------------------------------------------
 */

/* Whether a slot's readers want its plain values too. */
static bool keeps_plain(const cuda_backend *b, uint16_t slot)
{
    return b->program->slots[slot].kind == UPG_SLOT_PREPARED &&
           b->program->slots[slot].prepared.keep_plain;
}

int upg_cuda_plain_norm(cuda_backend *b, const upg_op *op, const float *x, uint32_t x_stride,
                        uint32_t n)
{
    if (!keeps_plain(b, op->out))
        return cudaSuccess;
    return cu_launch_plain_norm(x, x_stride, b->ops[op - b->program->ops].norm,
                                b->program->weights->config.norm_eps, op->v->n, n, b->plain,
                                b->plain_stride, b->stream);
}

int upg_cuda_plain_copy(cuda_backend *b, const upg_op *op, const float *x, uint32_t x_stride,
                        uint32_t n)
{
    if (!keeps_plain(b, op->out))
        return cudaSuccess;
    return (int)cudaMemcpy2DAsync(b->plain, b->plain_stride * sizeof *x, x, x_stride * sizeof *x,
                                  b->program->slots[op->out].width * sizeof *x, n,
                                  cudaMemcpyDeviceToDevice, b->stream);
}

int upg_cuda_plain_swiglu(cuda_backend *b, const upg_op *op, uint32_t n)
{
    if (!keeps_plain(b, op->out))
        return cudaSuccess;
    return cu_launch_plain_swiglu(b->scratch, b->scratch_stride, b->program->slots[op->out].width,
                                  n, b->plain, b->plain_stride, b->stream);
}

int upg_cuda_embed_outliers(cuda_backend *b, const upg_op *op, uint32_t n)
{
    if (outliers_of(op->w[0]) == NULL)
        return cudaSuccess;
    return cu_launch_embed_outliers(&b->ops[op - b->program->ops].outliers[0], b->rows, n,
                                    b->slots[op->out].values, b->slots[op->out].stride, b->stream);
}

int upg_cuda_add_outliers(cuda_backend *b, const upg_op *op, uint32_t row0, uint32_t n, float *out,
                          uint32_t out_stride)
{
    int e = cudaSuccess;

    for (uint32_t w = 0; w < 3 && op->w[w] != NULL && e == cudaSuccess; w++) {
        if (outliers_of(op->w[w]) != NULL)
            e = cu_launch_outliers(&b->ops[op - b->program->ops].outliers[w],
                                   b->plain + (size_t)row0 * b->plain_stride, b->plain_stride, n,
                                   out, out_stride, b->stream);
        out += op->w[w]->n_rows;
    }
    return e;
}
