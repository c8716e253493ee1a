/* encode.c: a matrix goes through in chunks of 1024 columns (a multiple of every rotation block):
 *
 *   load    by rows:    convert, rotate, divide by the row scale, transpose to [column][row]
 *   search  by groups:  Viterbi down each column of 32, pack the bits
 *   fit     by rows:    sums for the scale's least-squares fit and the error, in column order
 *
 * Each phase is one parallel region; its items write disjoint memory. */
#include "compress/encode.h"

#include <math.h>

#include "base/alloc.h"
#include "base/halffloat.h"
#include "compress/dense_rows.h"
#include "kernels/viterbi.h"

enum { CHUNK_COLUMNS = UPG_ROTATION_MAX_BLOCK, ROWS_PER_ITEM = 64, MAX_FP16 = 65504 };

/* Sums over one row, for W'/s against the decoded g·V. */
typedef struct row_sums {
    double target2, cross, decoded2;
} row_sums;

typedef struct encoder {
    const upg_encode_context *context;
    const upg_plan_unit      *units;
    uint32_t                  n_units, n_threads;
    const upg_matrix         *matrix;
    const float              *row_weights; /* NULL, or f32 [n_rows] */
    upg_rotation              rotation;
    float                    *signs;      /* f32 [n_cols] */
    float                    *row_scales; /* f32 [n_rows]: of what is coded */
    double                   *row_energy; /* f64 [n_rows]: of the whole matrix */
    row_sums                 *sums;       /* [n_rows] */
    float                    *tiles;      /* f32 [n_threads][ROWS_PER_ITEM][CHUNK_COLUMNS] */
    float                    *targets;    /* f32 [CHUNK_COLUMNS][n_rows] */
    uint16_t                 *windows;    /* u16, unit by unit: [CHUNK_COLUMNS][unit's n_rows] */
    upg_viterbi             **viterbi;    /* [n_threads][n_units] */
    uint32_t                  chunk_begin, chunk_columns; /* the chunk at hand */
    upg_encoded_matrix       *encoded;
} encoder;

static uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* ---- phase 0: row scales ------------------------------------------------------------------- */

/* Columns of a row less its outliers. */
static void coded_row_part(const encoder *e, uint32_t row, uint32_t begin, uint32_t n, float *out)
{
    upg_dense_row_part(e->matrix, row, begin, n, out);
    if (e->units[0].outliers != NULL)
        upg_outliers_add_row(e->units[0].outliers, row, -1, begin, n, out);
}

static double sum_squares(const float *x, uint32_t n)
{
    double sum = 0;

    for (uint32_t i = 0; i < n; i++)
        sum += (double)x[i] * x[i];
    return sum;
}

/* The rotation is orthonormal, so a row's root mean square is that of the row as it lies. */
static void measure_rows(void *context, size_t item, uint32_t worker)
{
    encoder *e = context;
    float   *row = e->tiles + (size_t)worker * ROWS_PER_ITEM * CHUNK_COLUMNS;
    uint32_t end = min_u32(e->matrix->n_rows, (uint32_t)(item + 1) * ROWS_PER_ITEM);

    for (uint32_t r = (uint32_t)item * ROWS_PER_ITEM; r < end; r++) {
        double sum = 0, whole = 0;

        for (uint32_t c = 0; c < e->matrix->n_cols; c += CHUNK_COLUMNS) {
            uint32_t n = min_u32(CHUNK_COLUMNS, e->matrix->n_cols - c);

            upg_dense_row_part(e->matrix, r, c, n, row);
            whole += sum_squares(row, n);
            coded_row_part(e, r, c, n, row);
            sum += sum_squares(row, n);
        }
        e->row_energy[r] = whole;
        e->row_scales[r] = (float)sqrt(sum / e->matrix->n_cols);
    }
}

static upg_status check_scales(const encoder *e, upg_error *err)
{
    for (uint32_t r = 0; r < e->matrix->n_rows; r++)
        if (!(e->row_scales[r] <= MAX_FP16))
            return upg_fail(err, UPG_E_DATA,
                            "tensor \"%s\": row %u has the root mean square %g, at most %d can be "
                            "stored",
                            e->matrix->name, r, (double)e->row_scales[r], MAX_FP16);
    return UPG_OK;
}

/* ---- phase 1: load -------------------------------------------------------------------------- */

static void load_rows(void *context, size_t item, uint32_t worker)
{
    encoder *e = context;
    uint32_t n_rows = e->matrix->n_rows, n = e->chunk_columns;
    uint32_t begin = (uint32_t)item * ROWS_PER_ITEM;
    uint32_t count = min_u32(ROWS_PER_ITEM, n_rows - begin);
    float   *tile = e->tiles + (size_t)worker * ROWS_PER_ITEM * CHUNK_COLUMNS;

    for (uint32_t r = 0; r < count; r++) {
        float *row = tile + (size_t)r * CHUNK_COLUMNS;
        float  scale = e->row_scales[begin + r];

        coded_row_part(e, begin + r, e->chunk_begin, n, row);
        for (uint32_t c = 0; c < n; c++)
            row[c] *= e->signs[e->chunk_begin + c];
        e->context->kernels->hadamard(n, e->rotation.block, row);
        for (uint32_t c = 0; c < n; c++)
            row[c] = scale > 0 ? row[c] / scale : 0;
    }
    for (uint32_t c = 0; c < n; c++) {
        float *column = e->targets + (size_t)c * n_rows + begin;

        for (uint32_t r = 0; r < count; r++)
            column[r] = tile[(size_t)r * CHUNK_COLUMNS + c];
    }
}

/* ---- phase 2: search ------------------------------------------------------------------------ */

static uint16_t *windows_of(const encoder *e, const upg_plan_unit *unit)
{
    return e->windows + (size_t)CHUNK_COLUMNS * unit->row0;
}

/* First word of a unit's code in the matrix's. */
static uint64_t unit_offset(const encoder *e, uint32_t index)
{
    uint64_t words = 0;

    for (uint32_t u = 0; u < index; u++)
        words += upg_plan_unit_words(&e->units[u]);
    return words;
}

/* All columns of the chunk on the device. */
static upg_status search_on_device(encoder *e, upg_error *err)
{
    upg_compress_device *device = e->context->device;
    upg_device_columns  *columns = upg_calloc(e->n_units, sizeof *columns, err);
    upg_status           st;

    if (columns == NULL)
        return UPG_E_NOMEM;
    for (uint32_t u = 0; u < e->n_units; u++) {
        const upg_plan_unit *unit = &e->units[u];

        columns[u] =
            (upg_device_columns) { .code = unit->code,
                                   .n_rows = unit->n_rows,
                                   .n_columns = e->chunk_columns,
                                   .targets = e->targets + unit->row0,
                                   .stride = e->matrix->n_rows,
                                   .row_weights =
                                       e->row_weights == NULL ? NULL : e->row_weights + unit->row0,
                                   .windows = windows_of(e, unit) };
    }
    st = device->class_->columns(device, columns, e->n_units, err);
    upg_free(columns);
    return st;
}

/* One group of 32 columns of one unit; where there is a device, their windows are there. */
static void search_group(void *context, size_t item, uint32_t worker)
{
    encoder             *e = context;
    uint32_t             index = (uint32_t)(item % e->n_units);
    uint32_t             first = (uint32_t)(item / e->n_units) * UPG_GROUP_COLUMNS;
    uint32_t             n = min_u32(UPG_GROUP_COLUMNS, e->chunk_columns - first);
    const upg_plan_unit *unit = &e->units[index];
    uint16_t            *windows = windows_of(e, unit) + (size_t)first * unit->n_rows;
    upg_meter           *meter = e->context->meter;

    if (upg_meter_cancelled(meter))
        return;
    for (uint32_t c = 0; c < n && e->context->device == NULL; c++) {
        const float *target = e->targets + (size_t)(first + c) * e->matrix->n_rows + unit->row0;

        (void)upg_viterbi_encode(e->viterbi[worker * e->n_units + index], unit->n_rows, target,
                                 e->row_weights == NULL ? NULL : e->row_weights + unit->row0,
                                 windows + (size_t)c * unit->n_rows);
    }
    upg_band_pack_group(unit->code, unit->n_rows, e->matrix->n_cols,
                        (e->chunk_begin + first) / UPG_GROUP_COLUMNS, n, windows,
                        e->encoded->bits + unit_offset(e, index));
    upg_meter_add(meter, (uint64_t)n * unit->n_rows);
    if (worker == 0)
        upg_meter_tick(meter);
}

/* ---- phase 3: fit --------------------------------------------------------------------------- */

/* Adds the chunk's columns to the sums of rows [begin, end) of a unit (rows of the matrix). */
static void add_sums(encoder *e, uint32_t index, uint32_t begin, uint32_t end)
{
    const upg_plan_unit *unit = &e->units[index];
    const int16_t       *table = upg_viterbi_table(e->viterbi[index]);
    double               gain = (double)unit->code->gain;

    for (uint32_t c = 0; c < e->chunk_columns; c++) {
        const float    *target = e->targets + (size_t)c * e->matrix->n_rows;
        const uint16_t *windows = windows_of(e, unit) + (size_t)c * unit->n_rows;

        for (uint32_t r = begin; r < end; r++) {
            double t = (double)target[r], q = gain * table[windows[r - unit->row0]];

            e->sums[r].target2 += t * t;
            e->sums[r].cross += t * q;
            e->sums[r].decoded2 += q * q;
        }
    }
}

static void fit_rows(void *context, size_t item, uint32_t worker)
{
    encoder *e = context;
    uint32_t begin = (uint32_t)item * ROWS_PER_ITEM;
    uint32_t end = min_u32(e->matrix->n_rows, begin + ROWS_PER_ITEM);

    (void)worker;
    for (uint32_t u = 0; u < e->n_units; u++) {
        uint32_t low = e->units[u].row0, high = low + e->units[u].n_rows;

        low = low > begin ? low : begin;
        high = min_u32(high, end);
        if (low < high)
            add_sums(e, u, low, high);
    }
}

/* The least-squares scale of each row in fp16, and the error that it leaves. */
static void finish_scales(encoder *e)
{
    double error = 0, energy = 0;

    for (uint32_t r = 0; r < e->matrix->n_rows; r++) {
        const row_sums *s = &e->sums[r];
        double          scale = (double)e->row_scales[r];
        double          fitted = s->decoded2 > 0 && s->cross > 0 ? s->cross / s->decoded2 : 0;
        uint16_t        stored = upg_f16_from_f32((float)(scale * fitted));
        double          used = (double)upg_f32_from_f16(stored);

        e->encoded->scales[r] = stored;
        energy += e->row_energy[r];
        error +=
            scale * scale * s->target2 - 2 * scale * used * s->cross + used * used * s->decoded2;
    }
    e->encoded->error2 = error;
    e->encoded->energy2 = energy;
}

/* ---- the whole ------------------------------------------------------------------------------ */

uint64_t upg_encode_memory(const upg_plan_unit *units, uint32_t n_units, uint32_t threads)
{
    const upg_matrix *m = units[0].matrix;
    uint64_t          n_rows = m->n_rows, chunk = min_u32(CHUNK_COLUMNS, m->n_cols);
    uint64_t          bytes = upg_dense_bytes(m) + upg_encoded_memory(units, n_units);

    bytes += n_rows * (chunk * sizeof(float) + CHUNK_COLUMNS * sizeof(uint16_t));
    bytes += n_rows * (sizeof(row_sums) + sizeof(double) + sizeof(float));
    bytes += m->n_cols * sizeof(float);
    bytes += (uint64_t)threads * ROWS_PER_ITEM * CHUNK_COLUMNS * sizeof(float);
    for (uint32_t u = 0; u < n_units; u++)
        bytes += threads * upg_viterbi_memory(units[u].code, units[u].n_rows);
    return bytes;
}

uint64_t upg_encoded_memory(const upg_plan_unit *units, uint32_t n_units)
{
    uint64_t bytes = (uint64_t)units[0].matrix->n_rows * sizeof(uint16_t);

    for (uint32_t u = 0; u < n_units; u++) {
        const upg_code *most = upg_code_find(UPG_CODE_MAX_RATE2, units[u].code->length);
        upg_plan_unit   unit = units[u];

        unit.code = most != NULL ? most : unit.code;
        bytes += sizeof(uint32_t) * upg_plan_unit_words(&unit);
    }
    return bytes;
}

/* Threads that search; with a device only the first one's tables are of use. */
static uint32_t searchers(const encoder *e)
{
    return e->context->device != NULL ? 1 : e->n_threads;
}

static upg_status allocate(encoder *e, upg_error *err)
{
    upg_status st = UPG_OK;
    size_t     n_rows = e->matrix->n_rows;
    size_t     chunk = min_u32(CHUNK_COLUMNS, e->matrix->n_cols);

    e->encoded->n_words = unit_offset(e, e->n_units);
    e->encoded->bits = upg_alloc_aligned(e->encoded->n_words * sizeof *e->encoded->bits, err);
    e->encoded->scales = upg_calloc(n_rows, sizeof *e->encoded->scales, err);
    e->signs = upg_malloc(e->matrix->n_cols, sizeof *e->signs, err);
    e->row_scales = upg_malloc(n_rows, sizeof *e->row_scales, err);
    e->row_energy = upg_malloc(n_rows, sizeof *e->row_energy, err);
    e->sums = upg_calloc(n_rows, sizeof *e->sums, err);
    e->tiles =
        upg_malloc((size_t)e->n_threads * ROWS_PER_ITEM * CHUNK_COLUMNS, sizeof *e->tiles, err);
    e->targets = upg_malloc(n_rows * chunk, sizeof *e->targets, err);
    e->windows = upg_malloc(n_rows * CHUNK_COLUMNS, sizeof *e->windows, err);
    e->viterbi = upg_calloc((size_t)e->n_threads * e->n_units, sizeof(upg_viterbi *), err);
    if (e->encoded->bits == NULL || e->encoded->scales == NULL || e->signs == NULL ||
        e->row_scales == NULL || e->row_energy == NULL || e->sums == NULL || e->tiles == NULL ||
        e->targets == NULL || e->windows == NULL || e->viterbi == NULL)
        return UPG_E_NOMEM;
    for (uint32_t i = 0; i < searchers(e) * e->n_units && st == UPG_OK; i++) {
        const upg_plan_unit *unit = &e->units[i % e->n_units];

        st = upg_viterbi_create(unit->code, unit->n_rows, UPG_VITERBI_FAST, e->context->cpu_flags,
                                &e->viterbi[i], err);
    }
    return st;
}

static void deinit(encoder *e)
{
    if (e->viterbi != NULL)
        for (uint32_t i = 0; i < e->n_threads * e->n_units; i++)
            upg_viterbi_close(e->viterbi[i]);
    upg_free(e->viterbi);
    upg_free(e->windows);
    upg_free(e->targets);
    upg_free(e->tiles);
    upg_free(e->sums);
    upg_free(e->row_scales);
    upg_free(e->row_energy);
    upg_free(e->signs);
}

upg_status upg_encode_matrix(const upg_encode_context *context, const upg_plan_unit *units,
                             uint32_t n_units, const float *row_weights,
                             upg_encoded_matrix *encoded, upg_error *err)
{
    const upg_matrix *matrix = units[0].matrix;
    upg_status        st;
    encoder           e = { .context = context, .units = units, .n_units = n_units };
    size_t            row_items = (matrix->n_rows + ROWS_PER_ITEM - 1) / ROWS_PER_ITEM;

    *encoded = (upg_encoded_matrix) { 0 };
    e.n_threads = upg_pool_size(context->pool);
    e.matrix = matrix;
    e.row_weights = row_weights;
    e.encoded = encoded;
    e.rotation = upg_rotation_make(matrix->n_cols, context->seed);
    UPG_TRY(upg_matrix_check_finite(matrix, err));
    UPG_TRY(allocate(&e, err));
    upg_rotation_signs(&e.rotation, e.signs);
    upg_pool_run(context->pool, row_items, measure_rows, &e);
    UPG_TRY(check_scales(&e, err));
    for (uint32_t begin = 0; begin < matrix->n_cols; begin += CHUNK_COLUMNS) {
        uint32_t n = min_u32(CHUNK_COLUMNS, matrix->n_cols - begin);

        e.chunk_begin = begin;
        e.chunk_columns = n;
        upg_pool_run(context->pool, row_items, load_rows, &e);
        if (context->device != NULL)
            UPG_TRY(search_on_device(&e, err));
        upg_pool_run(context->pool, (size_t)upg_group_count(n) * n_units, search_group, &e);
        if (upg_meter_cancelled(context->meter))
            UPG_TRY(upg_fail(err, UPG_E_CANCELLED, "compress: cancelled"));
        upg_pool_run(context->pool, row_items, fit_rows, &e);
    }
    finish_scales(&e);
out:
    deinit(&e);
    upg_dense_forget(matrix);
    if (st != UPG_OK)
        upg_encoded_deinit(encoded);
    return st;
}

upg_coded_matrix upg_encoded_view(const upg_encode_context *context, const upg_plan_unit *units,
                                  uint32_t n_units, const upg_encoded_matrix *encoded,
                                  upg_band *bands)
{
    const upg_matrix *matrix = units[0].matrix;
    const uint32_t   *bits = encoded->bits;
    upg_coded_matrix  view = {
         matrix->n_rows, matrix->n_cols, upg_rotation_make(matrix->n_cols, context->seed),
         n_units,        bands,          units[0].outliers
    };

    for (uint32_t u = 0; u < n_units; u++) {
        bands[u] = (upg_band) { *units[u].code,
                                units[u].row0,
                                units[u].n_rows,
                                (uint32_t)upg_code_binary_rows(units[u].code, units[u].n_rows),
                                bits,
                                encoded->scales + units[u].row0 };
        bits += upg_plan_unit_words(&units[u]);
    }
    return view;
}

void upg_encoded_deinit(upg_encoded_matrix *encoded)
{
    upg_free(encoded->bits);
    upg_free(encoded->scales);
    *encoded = (upg_encoded_matrix) { 0 };
}
