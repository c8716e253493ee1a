/* cpu_product.c: coded matrices times few rows, on the stored bits.
 *
 * u = (2B − 1)·q by blocks of 64 binary rows, then the FIR (codec/code.h); both exact, so that how
 * the work is cut shows nowhere. Bound: the bytes of code, read once for all rows at hand. */
#include <string.h>

#include "backend/cpu/cpu_backend.h"

typedef struct product {
    cpu_backend    *b;
    const cpu_plan *plan;
    const cpu_slot *input;
    uint32_t        row0, out0, n; /* rows of the input; first output row; number */
    bool            add;
} product;

/* Rows row0 … row1 − 1 of a piece's band, for input row i. */
static void finish_rows(const product *p, const cpu_piece *piece, uint32_t row0, uint32_t row1,
                        uint32_t i, float *result)
{
    const cpu_backend  *b = p->b;
    const int32_t      *u = b->u + i * b->u_stride + piece->u_offset;
    float              *out = b->outputs[piece->which][p->out0 + i] + piece->band->row0 + row0;
    float               s_x = p->input->scales[p->row0 + i], *y = p->add ? result : out;
    const upg_outliers *outliers = piece->matrix->coded->outliers;

    b->kernels.fir(piece->band, row0, row1 - row0, u, s_x, y);
    if (outliers != NULL)
        upg_outliers_add_product(outliers, piece->band->row0 + row0, row1 - row0,
                                 p->input->values + (p->row0 + i) * p->input->stride, y);
    for (uint32_t r = 0; p->add && r < row1 - row0; r++)
        out[r] += result[r];
}

static void run_piece(void *context, size_t item, uint32_t worker)
{
    const product   *p = context;
    cpu_backend     *b = p->b;
    const cpu_piece *piece = &p->plan->bits[item];
    const upg_band  *band = piece->band;
    uint32_t         n_cols = piece->matrix->n_cols;

    for (uint32_t block = piece->begin; block < piece->end; block++)
        for (uint32_t i = 0; i < p->n; i++)
            b->kernels.bitdot(
                upg_group_count(n_cols), upg_block_rows(band->n_binary, block),
                band->bits + upg_block_offset(block, n_cols), b->prepared + i * b->prepared_stride,
                b->u + i * b->u_stride + piece->u_offset + (size_t)block * UPG_BLOCK_ROWS);
    for (uint32_t i = 0; i < p->n && piece->row0 < piece->row1; i++)
        finish_rows(p, piece, piece->row0, piece->row1, i, b->workers[worker].result);
}

static void product_few(const product *p)
{
    cpu_backend *b = p->b;
    size_t       groups = p->input->stride / UPG_GROUP_COLUMNS;

    for (uint32_t i = 0; i < p->n; i++)
        b->kernels.bitdot_prepare(groups, p->input->codes + (p->row0 + i) * p->input->stride,
                                  b->prepared + i * b->prepared_stride);
    upg_pool_run(b->pool, p->plan->n_bits, run_piece, (void *)p);
    for (uint32_t k = 0; k < p->plan->n_bits; k++)
        for (uint32_t i = 0; i < p->n && p->plan->bits[k].gap < p->plan->bits[k].row0; i++)
            finish_rows(p, &p->plan->bits[k], p->plan->bits[k].gap, p->plan->bits[k].row0, i,
                        b->workers[0].result);
}

void upg_cpu_product(cpu_backend *b, const upg_op *op, uint32_t row0, uint32_t n, bool add)
{
    product p = {
        .b = b, .plan = &b->plans[op - b->program->ops], .input = &b->slots[op->in], .add = add
    };

    if (op->w[0]->kind == UPG_MATRIX_DENSE || (n > CPU_BITS_ROWS && !b->bits_only)) {
        upg_cpu_product_tiles(b, op, row0, n, add);
        return;
    }
    for (uint32_t done = 0; done < n; done += p.n) {
        p.row0 = row0 + done;
        p.out0 = done;
        p.n = n - done < CPU_FEW_ROWS ? n - done : CPU_FEW_ROWS;
        product_few(&p);
    }
}
