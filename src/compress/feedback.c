/* feedback.c: blocks of 128 columns, last to first: inside a block the feedback is added column by
 * column, then one matrix product carries the block's errors to all columns before it. */
#include "compress/feedback.h"

#include <cblas.h>
#include <math.h>

#include "base/alloc.h"
#include "base/halffloat.h"
#include "kernels/viterbi.h"

enum { BLOCK_COLUMNS = 128, MAX_FP16 = 65504 };

/* One unit at work; R = its rows, C = the matrix's columns. */
typedef struct unit_work {
    const upg_plan_unit *unit;
    float               *weights; /* f32 [R][C] of the unit's rows */
    uint32_t            *bits;
    uint16_t            *scales;    /* fp16 [R] */
    float               *targets;   /* f32 [C][R]: T, then decoded Ŵ */
    float               *errors;    /* f32 [BLOCK_COLUMNS][R] */
    float               *originals; /* f32 [BLOCK_COLUMNS][R]: W of the block */
    float               *column;    /* f32 [R]: T_j / s */
    float               *row_scale; /* f32 [R]: s */
    uint16_t            *windows;   /* u16 [32][R] */
    upg_viterbi         *viterbi;
} unit_work;

typedef struct feedback {
    const upg_encode_context *context;
    const float              *lower;
    double                    spread; /* mean over columns j of Σ_{i>j} L_ij² */
    unit_work                *work;   /* [n_units of all matrices] */
    size_t                    n_work;
} feedback;

/* ---- one unit ------------------------------------------------------------------------------- */

/* The fp16 that will be stored, so that feedback sees it. What is coded is the row with the
 * feedback added, whose variance is s²·(1 + mse·spread): the scale follows it (KL −2 % on
 * phi4-micro at 3.2 bits). */
uint16_t upg_feedback_scale(const upg_code *code, double spread, uint32_t n_cols, const float *row)
{
    double sum = 0;

    for (size_t j = 0; j < n_cols; j++)
        sum += (double)row[j] * row[j];
    return upg_f16_from_f32(
        (float)(sqrt(1 + upg_plan_mse(code) * spread) * sqrt(sum / (double)n_cols)));
}

/* Row scales and targets = Wᵀ. */
static void load_targets(const feedback *f, unit_work *w)
{
    size_t n_rows = w->unit->n_rows, n_cols = w->unit->matrix->n_cols;

    for (size_t r = 0; r < n_rows; r++) {
        const float *row = w->weights + r * n_cols;

        for (size_t j = 0; j < n_cols; j++)
            w->targets[j * n_rows + r] = row[j];
        w->scales[r] = upg_feedback_scale(w->unit->code, f->spread, (uint32_t)n_cols, row);
        w->row_scale[r] = upg_f32_from_f16(w->scales[r]);
    }
}

static void load_originals(unit_work *w, size_t begin, size_t n)
{
    size_t n_rows = w->unit->n_rows, n_cols = w->unit->matrix->n_cols;

    for (size_t r = 0; r < n_rows; r++)
        for (size_t j = 0; j < n; j++)
            w->originals[j * n_rows + r] = w->weights[r * n_cols + begin + j];
}

/* Codes column `begin` + j of the block whose later columns are done. */
static void code_column(unit_work *w, const float *lower, size_t begin, size_t n, size_t j)
{
    size_t         n_rows = w->unit->n_rows, n_cols = w->unit->matrix->n_cols;
    float         *target = w->targets + (begin + j) * n_rows;
    float         *error = w->errors + j * n_rows;
    const float   *original = w->originals + j * n_rows;
    uint16_t      *windows = w->windows + (begin + j) % UPG_GROUP_COLUMNS * n_rows;
    const int16_t *table = upg_viterbi_table(w->viterbi);
    float          gain = w->unit->code->gain;

    for (size_t i = j + 1; i < n; i++) {
        float        factor = lower[(begin + i) * n_cols + begin + j];
        const float *e = w->errors + i * n_rows;

        for (size_t r = 0; r < n_rows; r++)
            target[r] += factor * e[r];
    }
    for (size_t r = 0; r < n_rows; r++)
        w->column[r] = w->row_scale[r] > 0 ? target[r] / w->row_scale[r] : 0;
    (void)upg_viterbi_encode(w->viterbi, (uint32_t)n_rows, w->column, NULL, windows);
    for (size_t r = 0; r < n_rows; r++) {
        target[r] = w->row_scale[r] * (gain * (float)table[windows[r]]);
        error[r] = original[r] - target[r];
    }
}

/* Packs the group of 32 columns that begins at `first` once all of it is coded. */
static void pack_group(unit_work *w, size_t first)
{
    uint32_t n_cols = w->unit->matrix->n_cols;
    size_t   left = n_cols - first;

    upg_band_pack_group(w->unit->code, w->unit->n_rows, n_cols, (uint32_t)first / UPG_GROUP_COLUMNS,
                        left < UPG_GROUP_COLUMNS ? (uint32_t)left : UPG_GROUP_COLUMNS, w->windows,
                        w->bits);
}

static void code_block(const feedback *f, unit_work *w, size_t begin, size_t n)
{
    size_t n_rows = w->unit->n_rows, n_cols = w->unit->matrix->n_cols;

    load_originals(w, begin, n);
    for (size_t j = n; j-- > 0;) {
        code_column(w, f->lower, begin, n, j);
        if ((begin + j) % UPG_GROUP_COLUMNS == 0)
            pack_group(w, begin + j);
    }
    if (begin > 0)
        cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)begin, (int)n_rows, (int)n, 1.0f,
                    f->lower + begin * n_cols, (int)n_cols, w->errors, (int)n_rows, 1.0f,
                    w->targets, (int)n_rows);
}

static void code_unit(void *context, size_t item, uint32_t worker)
{
    feedback  *f = context;
    unit_work *w = &f->work[item];
    size_t     n_rows = w->unit->n_rows, n_cols = w->unit->matrix->n_cols;
    size_t     end = n_cols;

    load_targets(f, w);
    while (end > 0 && !upg_meter_cancelled(f->context->meter)) {
        size_t begin = (end - 1) / BLOCK_COLUMNS * BLOCK_COLUMNS;

        code_block(f, w, begin, end - begin);
        upg_meter_add(f->context->meter, (end - begin) * n_rows);
        if (worker == 0)
            upg_meter_tick(f->context->meter);
        end = begin;
    }
    for (size_t r = 0; r < n_rows; r++)
        for (size_t j = 0; j < n_cols; j++)
            w->weights[r * n_cols + j] = w->targets[j * n_rows + r];
}

/* ---- all of them ---------------------------------------------------------------------------- */

static void deinit_work(unit_work *w)
{
    upg_viterbi_close(w->viterbi);
    upg_free(w->targets);
    upg_free(w->errors);
    upg_free(w->originals);
    upg_free(w->column);
    upg_free(w->row_scale);
    upg_free(w->windows);
}

static upg_status init_work(unit_work *w, uint32_t cpu_flags, upg_error *err)
{
    size_t n_rows = w->unit->n_rows, n_cols = w->unit->matrix->n_cols;

    w->targets = upg_malloc(n_rows * n_cols, sizeof *w->targets, err);
    w->errors = upg_malloc(n_rows * BLOCK_COLUMNS, sizeof *w->errors, err);
    w->originals = upg_malloc(n_rows * BLOCK_COLUMNS, sizeof *w->originals, err);
    w->column = upg_malloc(n_rows, sizeof *w->column, err);
    w->row_scale = upg_malloc(n_rows, sizeof *w->row_scale, err);
    w->windows = upg_calloc(n_rows * UPG_GROUP_COLUMNS, sizeof *w->windows, err);
    if (w->targets == NULL || w->errors == NULL || w->originals == NULL || w->column == NULL ||
        w->row_scale == NULL || w->windows == NULL)
        return UPG_E_NOMEM;
    return upg_viterbi_create(w->unit->code, w->unit->n_rows, UPG_VITERBI_FAST, cpu_flags,
                              &w->viterbi, err);
}

upg_status upg_feedback_room(upg_feedback_matrix *m, upg_error *err)
{
    m->encoded = (upg_encoded_matrix) { 0 };
    for (uint32_t u = 0; u < m->n_units; u++)
        m->encoded.n_words += upg_plan_unit_words(&m->units[u]);
    m->encoded.bits = upg_alloc_aligned(m->encoded.n_words * sizeof(uint32_t), err);
    m->encoded.scales = upg_calloc(m->units[0].matrix->n_rows, sizeof(uint16_t), err);
    return m->encoded.bits != NULL && m->encoded.scales != NULL ? UPG_OK : UPG_E_NOMEM;
}

/* Allocates a matrix's results and fills the work of its units. */
static upg_status init_matrix(const upg_encode_context *context, upg_feedback_matrix *m,
                              unit_work *work, upg_error *err)
{
    const upg_matrix *matrix = m->units[0].matrix;
    uint64_t          words = 0;
    upg_status        st = upg_feedback_room(m, err);

    for (uint32_t u = 0; u < m->n_units && st == UPG_OK; u++) {
        const upg_plan_unit *unit = &m->units[u];

        work[u].unit = unit;
        work[u].weights = m->weights + (size_t)unit->row0 * matrix->n_cols;
        work[u].bits = m->encoded.bits + words;
        work[u].scales = m->encoded.scales + unit->row0;
        words += upg_plan_unit_words(unit);
        st = init_work(&work[u], context->cpu_flags, err);
    }
    return st;
}

upg_status upg_feedback_check(const upg_feedback_matrix *m, upg_error *err)
{
    for (uint32_t r = 0; r < m->units[0].matrix->n_rows; r++)
        if ((m->encoded.scales[r] & 0x7C00u) == 0x7C00u)
            return upg_fail(err, UPG_E_DATA,
                            "tensor \"%s\": the root mean square of row %u is above %d, the most "
                            "that can be stored",
                            m->units[0].matrix->name, r, MAX_FP16);
    return UPG_OK;
}

static double feedback_spread(const float *lower, size_t n_cols)
{
    double sum = 0;

    for (size_t i = 0; i < n_cols; i++)
        for (size_t j = 0; j < i; j++)
            sum += (double)lower[i * n_cols + j] * lower[i * n_cols + j];
    return sum / (double)n_cols;
}

upg_status upg_feedback_encode(const upg_encode_context *context, const float *lower,
                               upg_feedback_matrix *matrices, uint32_t n_matrices, upg_error *err)
{
    upg_status st = UPG_OK;
    feedback   f = { context, lower, feedback_spread(lower, matrices[0].units[0].matrix->n_cols),
                     NULL, 0 };
    size_t     at = 0;

    for (uint32_t m = 0; m < n_matrices; m++)
        f.n_work += matrices[m].n_units;
    f.work = upg_calloc(f.n_work, sizeof *f.work, err);
    UPG_TRY(f.work != NULL ? UPG_OK : UPG_E_NOMEM);
    for (uint32_t m = 0; m < n_matrices; m++) {
        UPG_TRY(init_matrix(context, &matrices[m], f.work + at, err));
        at += matrices[m].n_units;
    }
    upg_pool_run(context->pool, f.n_work, code_unit, &f);
    if (upg_meter_cancelled(context->meter))
        UPG_TRY(upg_fail(err, UPG_E_CANCELLED, "compress: cancelled"));
    for (uint32_t m = 0; m < n_matrices; m++)
        UPG_TRY(upg_feedback_check(&matrices[m], err));
out:
    for (size_t i = 0; f.work != NULL && i < f.n_work; i++)
        deinit_work(&f.work[i]);
    upg_free(f.work);
    for (uint32_t m = 0; st != UPG_OK && m < n_matrices; m++)
        upg_encoded_deinit(&matrices[m].encoded);
    return st;
}

uint64_t upg_feedback_memory(const upg_plan_unit *units, uint32_t n_units)
{
    uint64_t n_cols = units[0].matrix->n_cols, bytes = upg_encoded_memory(units, n_units);

    for (uint32_t u = 0; u < n_units; u++) {
        uint64_t n_rows = units[u].n_rows;

        bytes += n_rows * ((n_cols + 2 * BLOCK_COLUMNS + 2) * sizeof(float) +
                           UPG_GROUP_COLUMNS * sizeof(uint16_t));
        bytes += upg_viterbi_memory(units[u].code, units[u].n_rows);
    }
    return bytes;
}
