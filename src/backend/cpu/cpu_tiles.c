/* cpu_tiles.c: products by tiles of matrix rows: dense ones, and coded ones for many rows.
 *
 * A coded tile is decoded once to i16 and multiplied with the int8 codes of all rows, widened to
 * i16: exact integers, hence the same bits as cpu_product.c gives. A fast batch takes values
 * rounded to 8 bits (kernels/quantised.h): twice the multiplications a second, and an arithmetic of
 * its own. Bound: multiplications. */
#include <string.h>

#include "backend/cpu/cpu_backend.h"
#include "kernels/quantised.h"

_Static_assert(CPU_FAST_COLUMNS + 64 <= 2 * (CPU_TILE_COLUMNS + UPG_GROUP_COLUMNS),
               "decoded bytes have the place of decoded i16");
enum { FAST_MAX_COLUMNS = 1 << 17 }; /* whose sums stay below 2^31 */

_Static_assert(CPU_FAST_COLUMNS % UPG_GROUP_COLUMNS == 0, "whole groups");

typedef struct tiles {
    cpu_backend    *b;
    const cpu_plan *plan;
    const cpu_slot *input;
    uint32_t        row0, n; /* rows of the input */
    bool            add;
    bool            fast; /* values of 8 bits */
} tiles;

/* Row i of a tile's result to its place. */
static void store_row(const tiles *t, const cpu_piece *piece, uint32_t first, uint32_t i,
                      const float *result)
{
    float   *out = t->b->outputs[piece->which][i] + first;
    uint32_t n = piece->end - piece->begin;

    if (!t->add) {
        memcpy(out, result, n * sizeof *out);
        return;
    }
    for (uint32_t r = 0; r < n; r++)
        out[r] += result[r];
}

/* ---- dense ---------------------------------------------------------------------------------- */

static void run_dense(void *context, size_t item, uint32_t worker)
{
    const tiles      *t = context;
    const cpu_piece  *piece = &t->plan->tiles[item];
    const upg_matrix *m = piece->matrix;
    const float      *x = t->input->values + t->row0 * t->input->stride;
    float            *y = t->b->workers[worker].result;
    size_t            n = piece->end - piece->begin, first = (size_t)piece->begin * m->n_cols;

    if (m->dtype == UPG_F32)
        t->b->kernels.gemm_f32(t->n, n, m->n_cols, x, t->input->stride,
                               (const float *)m->dense + first, m->n_cols, y, CPU_TILE_ROWS);
    else
        (m->dtype == UPG_BF16 ? t->b->kernels.gemm_bf16 : t->b->kernels.gemm_f16)(
            t->n, n, m->n_cols, x, t->input->stride, (const uint16_t *)m->dense + first, m->n_cols,
            y, CPU_TILE_ROWS);
    for (uint32_t i = 0; i < t->n; i++)
        store_row(t, piece, piece->begin, i, y + (size_t)i * CPU_TILE_ROWS);
}

/* ---- coded ---------------------------------------------------------------------------------- */

static void widen_row(void *context, size_t item, uint32_t worker)
{
    const tiles  *t = context;
    const int8_t *codes = t->input->codes + (t->row0 + item) * t->input->stride;
    int16_t      *wide = t->b->wide + item * t->b->wide_stride;

    (void)worker;
    for (size_t j = 0; j < t->input->stride; j++)
        wide[j] = (int16_t)codes[j];
}

/* Columns from `column` on, at most `limit`, decoded and added to the sums. */
static uint32_t add_columns(const tiles *t, const cpu_piece *piece, uint32_t column,
                            cpu_worker *worker)
{
    const cpu_backend *b = t->b;
    uint32_t           rows = piece->end - piece->begin;
    uint32_t           left = (uint32_t)t->input->stride - column;
    uint32_t           n = left < CPU_TILE_COLUMNS ? left : CPU_TILE_COLUMNS;
    size_t             stride = CPU_TILE_COLUMNS + UPG_GROUP_COLUMNS;

    for (uint32_t j = 0; j < n; j += UPG_GROUP_COLUMNS)
        b->kernels.decode_group(piece->band, piece->matrix->n_cols,
                                (column + j) / UPG_GROUP_COLUMNS, piece->begin, rows,
                                worker->decoded + j, stride);
    b->kernels.gemm_i16(t->n, rows, n, b->wide + column, b->wide_stride, worker->decoded, stride,
                        worker->sums, CPU_TILE_ROWS);
    return n;
}

/* Adds the sums of some columns to the totals, so that int32 holds only those of the next ones. */
static void carry(const tiles *t, cpu_worker *worker)
{
    size_t n = (size_t)t->n * CPU_TILE_ROWS;

    for (size_t i = 0; i < n; i++)
        worker->totals[i] += worker->sums[i];
    memset(worker->sums, 0, n * sizeof *worker->sums);
}

/* ---- coded, values of 8 bits ------------------------------------------------------------------
 */

static void sum_codes(void *context, size_t item, uint32_t worker)
{
    const tiles  *t = context;
    const int8_t *codes = t->input->codes + (t->row0 + item) * t->input->stride;
    int32_t       sum = 0;

    (void)worker;
    for (size_t j = 0; j < t->input->stride; j++)
        sum += codes[j];
    t->b->code_sums[item] = -128 * sum;
}

/* Sums begin with what takes the 128 of every value away again. */
static void begin_sums(const tiles *t, cpu_worker *worker)
{
    for (uint32_t i = 0; i < t->n; i++)
        for (uint32_t r = 0; r < CPU_TILE_ROWS; r++)
            worker->sums[(size_t)i * CPU_TILE_ROWS + r] = t->b->code_sums[i];
}

static uint32_t add_columns_fast(const tiles *t, const cpu_piece *piece, uint32_t column,
                                 cpu_worker *worker)
{
    const cpu_backend *b = t->b;
    uint32_t           rows = piece->end - piece->begin;
    uint32_t           left = (uint32_t)t->input->stride - column;
    uint32_t           n = left < CPU_FAST_COLUMNS ? left : CPU_FAST_COLUMNS;
    size_t             stride = CPU_FAST_COLUMNS + 64;
    uint8_t           *values = (uint8_t *)worker->decoded;

    b->kernels.decode_i8(piece->band, piece->matrix->n_cols, column / UPG_GROUP_COLUMNS,
                         n / UPG_GROUP_COLUMNS, piece->begin, rows, values, stride);
    b->kernels.gemm_i8(t->n, rows, n, t->input->codes + t->row0 * t->input->stride + column,
                       t->input->stride, values, stride, worker->sums, CPU_TILE_ROWS);
    return n;
}

static bool sums_pass_int32(const upg_band *band, uint32_t n_cols)
{
    int64_t taps = 0;

    for (int i = 0; i < band->code.length; i++)
        taps += band->code.taps[i] < 0 ? -band->code.taps[i] : band->code.taps[i];
    return taps * 127 * (int64_t)n_cols > INT32_MAX;
}

static void scale_row(const tiles *t, const cpu_piece *piece, uint32_t i, bool wide,
                      cpu_worker *worker)
{
    const upg_outliers *outliers = piece->matrix->coded->outliers;
    const upg_band     *band = piece->band;
    uint32_t            n = piece->end - piece->begin;
    float               s_x = t->input->scales[t->row0 + i], *y = worker->result;
    const uint16_t     *scales = band->scales + piece->begin;

    if (!wide)
        t->b->kernels.coded_scale(n, worker->sums + (size_t)i * CPU_TILE_ROWS, scales,
                                  t->fast ? upg_int8_gain(&band->code) : band->code.gain, s_x, y);
    for (uint32_t r = 0; wide && r < n; r++)
        y[r] = upg_coded_output(worker->totals[(size_t)i * CPU_TILE_ROWS + r],
                                upg_coded_factor(scales[r], band->code.gain, s_x));
    if (outliers != NULL)
        upg_outliers_add_product(outliers, band->row0 + piece->begin, n,
                                 t->input->values + (t->row0 + i) * t->input->stride, y);
    store_row(t, piece, band->row0 + piece->begin, i, y);
}

static void run_coded(void *context, size_t item, uint32_t index)
{
    const tiles     *t = context;
    const cpu_piece *piece = &t->plan->tiles[item];
    cpu_worker      *worker = &t->b->workers[index];
    bool             wide = sums_pass_int32(piece->band, piece->matrix->n_cols);
    size_t           n = (size_t)t->n * CPU_TILE_ROWS;

    memset(worker->sums, 0, n * sizeof *worker->sums);
    if (wide)
        memset(worker->totals, 0, n * sizeof *worker->totals);
    for (uint32_t column = 0; column < t->input->stride;) {
        column += add_columns(t, piece, column, worker);
        if (wide)
            carry(t, worker);
    }
    for (uint32_t i = 0; i < t->n; i++)
        scale_row(t, piece, i, wide, worker);
}

static void run_fast(void *context, size_t item, uint32_t index)
{
    const tiles     *t = context;
    const cpu_piece *piece = &t->plan->tiles[item];
    cpu_worker      *worker = &t->b->workers[index];

    begin_sums(t, worker);
    for (uint32_t column = 0; column < t->input->stride;)
        column += add_columns_fast(t, piece, column, worker);
    for (uint32_t i = 0; i < t->n; i++)
        scale_row(t, piece, i, false, worker);
}

void upg_cpu_product_tiles(cpu_backend *b, const upg_op *op, uint32_t row0, uint32_t n, bool add)
{
    tiles t = { b, &b->plans[op - b->program->ops], &b->slots[op->in], row0, n, add, false };

    if (op->w[0]->kind == UPG_MATRIX_DENSE) {
        upg_pool_run(b->pool, t.plan->n_tiles, run_dense, &t);
        return;
    }
    t.fast = b->fast && op->w[0]->n_cols < FAST_MAX_COLUMNS;
    if (t.fast) {
        upg_pool_run(b->pool, n, sum_codes, &t);
        upg_pool_run(b->pool, t.plan->n_tiles, run_fast, &t);
        return;
    }
    upg_pool_run(b->pool, n, widen_row, &t);
    upg_pool_run(b->pool, t.plan->n_tiles, run_coded, &t);
}
