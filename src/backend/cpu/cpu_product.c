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
                        uint32_t i, cpu_worker *worker)
{
    const cpu_backend  *b = p->b;
    const int32_t      *u = b->u + i * b->u_stride + piece->u_offset;
    float              *out = b->outputs[piece->which][p->out0 + i] + piece->band->row0 + row0;
    float               s_x = p->input->scales[p->row0 + i];
    float              *result = worker->result, *y = p->add ? result : out;
    const upg_outliers *outliers = piece->matrix->coded->outliers;

    b->kernels.fir(piece->band, row0, row1 - row0, u, b->lut8 ? s_x * worker->factor[i] : s_x, y);
    if (outliers != NULL)
        upg_outliers_add_product(outliers, piece->band->row0 + row0, row1 - row0,
                                 p->input->values + (p->row0 + i) * p->input->stride, y);
    for (uint32_t r = 0; p->add && r < row1 - row0; r++)
        out[r] += result[r];
}

/* Each worker makes its own tables: fetching them from another core takes longer (cores of Zen 4
 * that share no cache: about 5 ns for the 8 bytes that an input takes). */
static void prepare(const product *p, cpu_worker *worker)
{
    const cpu_backend *b = p->b;

    if (worker->product == b->n_products)
        return;
    worker->product = b->n_products;
    for (uint32_t i = 0; i < p->n; i++) {
        size_t        groups = p->input->stride / UPG_GROUP_COLUMNS;
        const int8_t *codes = p->input->codes + (p->row0 + i) * p->input->stride;
        uint8_t      *prepared = worker->prepared + i * b->prepared_stride;

        if (b->lut8)
            worker->factor[i] = b->kernels.lut8_prepare(groups, codes, prepared);
        else
            b->kernels.bitdot_prepare(groups, codes, prepared);
    }
}

/* The bits of a piece times all rows. */
static void dot_piece(const product *p, const cpu_piece *piece, const uint8_t *prepared)
{
    cpu_backend    *b = p->b;
    const upg_band *band = piece->band;
    uint32_t        n_cols = piece->matrix->n_cols;

    for (uint32_t block = piece->begin; block < piece->end; block++)
        for (uint32_t i = 0; i < p->n; i++)
            (b->lut8 ? b->kernels.lut8 : b->kernels.bitdot)(
                upg_group_count(n_cols), upg_block_rows(band->n_binary, block),
                band->bits + upg_block_offset(block, n_cols), prepared + i * b->prepared_stride,
                b->u + i * b->u_stride + piece->u_offset + (size_t)block * UPG_BLOCK_ROWS);
}

static void finish_all(const product *p, const cpu_piece *piece, uint32_t row0, uint32_t row1,
                       uint32_t worker)
{
    for (uint32_t i = 0; i < p->n && row0 < row1; i++)
        finish_rows(p, piece, row0, row1, i, &p->b->workers[worker]);
}

/* One of the two pieces at a gap is done, the one before it or the one that it belongs to. Whoever
 * says so second has both, and computes the rows between. */
static void reach_gap(const product *p, uint32_t index, uint32_t worker)
{
    const cpu_piece *piece = &p->plan->bits[index];

    if (index == p->plan->n_bits || piece->gap == piece->row0)
        return;
    /* release and acquire; pairs with itself: the other side's u is visible to the second */
    if (atomic_fetch_add_explicit(&p->plan->sides[index], 1, memory_order_acq_rel) % 2 == 1)
        finish_all(p, piece, piece->gap, piece->row0, worker);
}

/* Item: a share, then what others have left. Pieces that follow each other have no gap. */
static void run_share(void *context, size_t item, uint32_t worker)
{
    const product *p = context;
    uint32_t       index, next = UINT32_MAX; /* after the last piece done */

    while (upg_cpu_take(p->b, (uint32_t)item, &index)) {
        const cpu_piece *piece = &p->plan->bits[index];

        if (index != next && next != UINT32_MAX)
            reach_gap(p, next, worker);
        prepare(p, &p->b->workers[worker]);
        dot_piece(p, piece, p->b->workers[worker].prepared);
        finish_all(p, piece, index == next ? piece->gap : piece->row0, piece->row1, worker);
        if (index != next)
            reach_gap(p, index, worker);
        next = index + 1;
    }
    if (next != UINT32_MAX)
        reach_gap(p, next, worker);
}

static void product_few(const product *p)
{
    cpu_backend *b = p->b;

    b->n_products++;
    for (uint32_t t = 0; t < b->threads; t++)
        upg_cpu_give(b, t, p->plan->shares[t], p->plan->shares[t + 1]);
    upg_pool_run(b->pool, b->threads, run_share, (void *)p);
}

void upg_cpu_product(cpu_backend *b, const upg_op *op, uint32_t row0, uint32_t n, bool add)
{
    product p = {
        .b = b, .plan = &b->plans[op - b->program->ops], .input = &b->slots[op->in], .add = add
    };

    if (op->w[0]->kind == UPG_MATRIX_DENSE || b->fast || (n > CPU_BITS_ROWS && !b->bits_only)) {
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
