/* calibrate_code.c: the matrices that read one input: their targets, their code, what it decodes
 * to.
 */
#include "compress/calibrate_impl.h"

#include <string.h>

#include "base/alloc.h"
#include "base/halffloat.h"
#include "compress/dense_rows.h"
#include "compress/feedback.h"

/* Rows of one matrix being loaded, corrected or compared. */
typedef struct row_work {
    upg_calibrator         *c;
    const upg_matrix       *matrix;
    const upg_moments      *moments;
    const float            *diagonal;         /* NULL: no correction */
    const upg_outliers     *outliers;         /* NULL: none */
    float                  *weights;          /* f32 [n_rows][n_cols] */
    float                  *scratch;          /* f32 [n_threads][UPG_CALIBRATE_ROWS][n_cols] */
    double                 *error2, *energy2; /* [row items] */
    const upg_coded_matrix *coded;            /* to be replayed */
} row_work;

static uint32_t rows_of_item(const row_work *w, size_t item)
{
    uint32_t left = w->matrix->n_rows - (uint32_t)item * UPG_CALIBRATE_ROWS;

    return left < UPG_CALIBRATE_ROWS ? left : UPG_CALIBRATE_ROWS;
}

static float *scratch_of(const row_work *w, uint32_t worker)
{
    return w->scratch + (size_t)worker * UPG_CALIBRATE_ROWS * w->matrix->n_cols;
}

/* Takes a row's outliers out of its rotated target. */
static void subtract_outliers(const row_work *w, uint32_t row, float *target, float *scratch)
{
    uint32_t n_cols = w->matrix->n_cols;

    memset(scratch, 0, n_cols * sizeof *scratch);
    upg_outliers_add_row(w->outliers, row, 1, 0, n_cols, scratch);
    upg_calibrate_rotate(w->c, scratch, scratch);
    for (uint32_t j = 0; j < n_cols; j++)
        target[j] -= scratch[j];
}

/* Takes the outliers of an item's rows out. */
static void remove_item(void *context, size_t item, uint32_t worker)
{
    row_work *w = context;
    uint32_t  n = rows_of_item(w, item), first = (uint32_t)item * UPG_CALIBRATE_ROWS;

    for (uint32_t r = first; r < first + n; r++)
        subtract_outliers(w, r, w->weights + (size_t)r * w->matrix->n_cols, scratch_of(w, worker));
}

/* Loads rows, rotates them, moves them to their targets; then outliers leave them, so that the
 * correction is that of the whole matrix. */
static void load_item(void *context, size_t item, uint32_t worker)
{
    row_work *w = context;
    uint32_t  n = rows_of_item(w, item), n_cols = w->matrix->n_cols;
    float    *rows = w->weights + item * UPG_CALIBRATE_ROWS * n_cols;

    for (uint32_t r = 0; r < n; r++) {
        float *row = rows + (size_t)r * n_cols;

        upg_dense_row_part(w->matrix, (uint32_t)item * UPG_CALIBRATE_ROWS + r, 0, n_cols, row);
        upg_calibrate_rotate(w->c, row, row);
    }
    if (w->diagonal != NULL)
        upg_moments_correct(w->moments, w->diagonal, n, rows, scratch_of(w, worker));
    if (w->outliers != NULL && w->c->context->device == NULL)
        remove_item(context, item, worker);
}

/* Turns a decoded row back to the original basis and adds its outliers. */
static void finish_row(const row_work *w, uint32_t row, float *decoded)
{
    uint32_t n_cols = w->matrix->n_cols;

    w->c->context->kernels->hadamard(n_cols, w->c->rotation.block, decoded);
    for (uint32_t j = 0; j < n_cols; j++)
        decoded[j] *= w->c->signs[j];
    if (w->outliers != NULL)
        upg_outliers_add_row(w->outliers, row, 1, 0, n_cols, decoded);
}

/* Finishes the decoded rows and compares them with the originals. */
static void compare_item(void *context, size_t item, uint32_t worker)
{
    row_work *w = context;
    uint32_t  n = rows_of_item(w, item), n_cols = w->matrix->n_cols;
    float    *original = scratch_of(w, worker);
    double    error2 = 0, energy2 = 0;

    for (uint32_t r = 0; r < n; r++) {
        uint32_t row = (uint32_t)item * UPG_CALIBRATE_ROWS + r;
        float   *decoded = w->weights + (size_t)row * n_cols;

        finish_row(w, row, decoded);
        upg_dense_row_part(w->matrix, row, 0, n_cols, original);
        for (uint32_t j = 0; j < n_cols; j++) {
            double x, e;

            x = (double)original[j];
            e = x - (double)decoded[j];
            error2 += e * e;
            energy2 += x * x;
        }
    }
    w->error2[item] = error2;
    w->energy2[item] = energy2;
}

/* Rows from their code, by the same operations in the same order as in feedback.c. */
static void replay_item(void *context, size_t item, uint32_t worker)
{
    row_work *w = context;
    uint32_t  n = rows_of_item(w, item), n_cols = w->matrix->n_cols;
    int32_t  *values = (int32_t *)scratch_of(w, worker);

    for (uint32_t r = 0; r < n; r++) {
        uint32_t        row = (uint32_t)item * UPG_CALIBRATE_ROWS + r;
        const upg_band *band = upg_coded_band_of(w->coded, row);
        float           scale = upg_f32_from_f16(band->scales[row - band->row0]);
        float          *decoded = w->weights + (size_t)row * n_cols;

        upg_band_row_values(band, n_cols, row - band->row0, values);
        for (uint32_t j = 0; j < n_cols; j++)
            decoded[j] = scale * (band->code.gain * (float)values[j]);
        finish_row(w, row, decoded);
    }
}

/* Loads and rotates a matrix into `weights`, or measures the decoded one. */
static upg_status for_rows(row_work *w, void (*run)(void *, size_t, uint32_t), upg_error *err)
{
    size_t n_items = (w->matrix->n_rows + UPG_CALIBRATE_ROWS - 1) / UPG_CALIBRATE_ROWS;

    w->scratch = upg_malloc((size_t)w->c->n_threads * UPG_CALIBRATE_ROWS * w->matrix->n_cols,
                            sizeof *w->scratch, err);
    w->error2 = upg_calloc(n_items, sizeof *w->error2, err);
    w->energy2 = upg_calloc(n_items, sizeof *w->energy2, err);
    if (w->scratch == NULL || w->error2 == NULL || w->energy2 == NULL)
        return UPG_E_NOMEM;
    upg_pool_run(w->c->context->pool, n_items, run, w);
    return UPG_OK;
}

static void end_rows(row_work *w)
{
    upg_free(w->scratch);
    upg_free(w->error2);
    upg_free(w->energy2);
    w->scratch = NULL;
    w->error2 = w->energy2 = NULL;
}

static upg_status load_matrix(upg_calibrator *c, const upg_moments *moments, const float *diagonal,
                              const upg_feedback_matrix *m, upg_error *err)
{
    row_work   w = { .c = c,
                     .matrix = m->units[0].matrix,
                     .moments = moments,
                     .weights = m->weights,
                     .outliers = m->units[0].outliers };
    upg_status st;

    w.diagonal = moments->mixed != NULL ? diagonal : NULL;
    st = for_rows(&w, load_item, err);
    end_rows(&w);
    return st;
}

/* Moves what load_matrix loaded on the device, and takes outliers out. */
static upg_status correct_on_device(upg_calibrator *c, const upg_feedback_matrix *m, bool mixed,
                                    upg_error *err)
{
    upg_compress_device *device = c->context->device;
    row_work             w = { .c = c,
                               .matrix = m->units[0].matrix,
                               .weights = m->weights,
                               .outliers = m->units[0].outliers };
    upg_status           st = UPG_OK;

    if (mixed)
        st = device->class_->moments_correct(device, w.matrix->n_rows, m->weights, err);
    if (st == UPG_OK && w.outliers != NULL) {
        st = for_rows(&w, remove_item, err);
        end_rows(&w);
    }
    return st;
}

/* Factors the moments, wherever they are; diagonal and *spread: the host's, or the device's. */
static upg_status factor(upg_calibrator *c, upg_moments *moments, float *diagonal, double *spread,
                         upg_error *err)
{
    upg_compress_device *device = c->context->device;
    double damping = c->calibration->damping > 0 ? c->calibration->damping : UPG_DEFAULT_DAMPING;
    double used = 0;

    return device == NULL
               ? upg_moments_factor(moments, c->context->pool, damping, diagonal, &used, err)
               : device->class_->moments_factor(device, damping, &used, spread, err);
}

static upg_status finish_matrix(upg_calibrator *c, upg_feedback_matrix *m, upg_error *err)
{
    row_work   w = { .c = c,
                     .matrix = m->units[0].matrix,
                     .weights = m->weights,
                     .outliers = m->units[0].outliers };
    upg_status st = for_rows(&w, compare_item, err);

    for (size_t i = 0; st == UPG_OK && i * UPG_CALIBRATE_ROWS < w.matrix->n_rows; i++) {
        m->encoded.error2 += w.error2[i];
        m->encoded.energy2 += w.energy2[i];
    }
    end_rows(&w);
    upg_dense_forget(w.matrix);
    upg_meter_error(c->context->meter, m->encoded.error2, m->encoded.energy2);
    return st == UPG_OK ? c->sink->put(c->sink->user, m->units, m->n_units, &m->encoded, err) : st;
}

const upg_plan_unit *upg_calibrate_units(const upg_calibrator *c, const upg_matrix *matrix,
                                         uint32_t *n)
{
    for (uint32_t u = 0; u < c->plan->n_units; u++)
        if (c->plan->units[u].matrix == matrix) {
            *n = upg_plan_units_of(c->plan, u);
            return &c->plan->units[u];
        }
    *n = 0;
    return NULL; /* not reached: the plan has every matrix */
}

/* Codes n matrices that read the input of the pass just summed; afterwards weights[i] holds the
 * decoded matrix in the original basis. */
static upg_status code_matrices(upg_calibrator *c, upg_moments *moments, bool mixed,
                                const upg_matrix *const *matrices, float *const *weights,
                                uint32_t n, upg_error *err)
{
    upg_status          st;
    upg_feedback_matrix work[3] = { 0 };
    uint32_t            n_coded = 0;
    double              spread = 0;
    bool                on_device = c->context->device != NULL;
    float              *diagonal = upg_malloc(moments->width, sizeof *diagonal, err);

    UPG_TRY(diagonal != NULL ? UPG_OK : UPG_E_NOMEM);
    st = factor(c, moments, diagonal, &spread, err);
    if (st != UPG_OK) {
        upg_error_prefix(err, "tensor \"%s\": ", matrices[0]->name);
        goto out;
    }
    for (uint32_t i = 0; i < n; i++) {
        work[i].units = upg_calibrate_units(c, matrices[i], &work[i].n_units);
        work[i].weights = weights[i];
        UPG_TRY(upg_matrix_check_finite(matrices[i], err));
        UPG_TRY(load_matrix(c, moments, diagonal, &work[i], err));
        if (on_device)
            UPG_TRY(correct_on_device(c, &work[i], mixed, err));
        upg_dense_forget(matrices[i]);
    }
    if (on_device)
        UPG_TRY(upg_feedback_encode_on_device(c->context, spread, work, n, err));
    else
        UPG_TRY(upg_feedback_encode(c->context, moments->sum, work, n, err));
    n_coded = n;
    for (uint32_t i = 0; i < n; i++)
        UPG_TRY(finish_matrix(c, &work[i], err));
out:
    for (uint32_t i = 0; i < n_coded; i++)
        upg_encoded_deinit(&work[i].encoded);
    upg_free(diagonal);
    return st;
}

/* ---- coded before ---------------------------------------------------------------------------- */

static upg_status replay_matrix(upg_calibrator *c, const upg_matrix *matrix, float *weights,
                                upg_error *err)
{
    upg_status           st;
    uint32_t             n_units;
    const upg_plan_unit *units = upg_calibrate_units(c, matrix, &n_units);
    row_work w = { .c = c, .matrix = matrix, .weights = weights, .outliers = units[0].outliers };
    upg_encoded_matrix encoded = { 0 };
    upg_coded_matrix   coded;
    upg_band          *bands = upg_calloc(n_units, sizeof *bands, err);

    UPG_TRY(bands != NULL ? UPG_OK : UPG_E_NOMEM);
    UPG_TRY(c->sink->get(c->sink->user, units, n_units, &encoded, err));
    coded = upg_encoded_view(c->context, units, n_units, &encoded, bands);
    w.coded = &coded;
    UPG_TRY(for_rows(&w, replay_item, err));
out:
    end_rows(&w);
    upg_encoded_deinit(&encoded);
    upg_free(bands);
    return st;
}

bool upg_calibrate_has(const upg_calibrator *c, const upg_matrix *const *matrices, uint32_t n)
{
    bool all = c->sink->has != NULL;

    for (uint32_t i = 0; i < n && all; i++)
        all = c->sink->has(c->sink->user, matrices[i]);
    return all;
}

upg_status upg_calibrate_replay(upg_calibrator *c, const upg_matrix *const *matrices,
                                float *const *weights, uint32_t n, upg_error *err)
{
    upg_status st = UPG_OK;

    c->width = matrices[0]->n_cols;
    c->rotation = upg_rotation_make(c->width, c->context->seed);
    upg_rotation_signs(&c->rotation, c->signs);
    for (uint32_t i = 0; i < n && st == UPG_OK; i++)
        st = replay_matrix(c, matrices[i], weights[i], err);
    return st;
}

/* ---- one input ------------------------------------------------------------------------------- */

/* Sums of zero; on the device, where there is one, and then *moments has none. */
static upg_status begin_moments(upg_calibrator *c, upg_moments *moments, uint32_t width, bool mixed,
                                upg_error *err)
{
    upg_compress_device *device = c->context->device;
    upg_rotation         rotation = upg_rotation_make(width, c->context->seed);

    if (device == NULL)
        return upg_moments_init(moments, width, mixed, err);
    *moments = (upg_moments) { .width = width };
    upg_rotation_signs(&rotation, c->signs);
    return device->class_->moments_begin(device, width, mixed, c->signs, rotation.block, err);
}

upg_status upg_calibrate_input(upg_calibrator *c, upg_pass which, uint32_t width,
                               const upg_matrix *const *matrices, float *const *weights, uint32_t n,
                               upg_error *err)
{
    upg_moments moments;
    bool        mixed = c->n_streams == 2 && width <= UPG_MAX_CORRECTED_WIDTH;
    upg_status  st = begin_moments(c, &moments, width, mixed, err);

    if (st == UPG_OK)
        st = upg_calibrate_windows(c, which, width, &moments, err);
    if (st == UPG_OK)
        st = code_matrices(c, &moments, mixed, matrices, weights, n, err);
    upg_moments_deinit(&moments);
    return st;
}
