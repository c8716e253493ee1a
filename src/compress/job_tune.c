/* job_tune.c: tuning as a part of a compression: between the last matrix and the end, on the file
 * under its temporary name. Nothing of it is kept in a journal: a run that goes on tunes again. */
#include "compress/job_impl.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/cpu.h"
#include "base/halffloat.h"
#include "compress/dense_rows.h"
#include "compress/tune.h"

enum { ROWS_PER_ITEM = 64 };

/* ---- choices ----------------------------------------------------------------------------------
 */

uint32_t upg_job_tune_windows(const upg_job *job)
{
    uint32_t n = job->calibration.n_windows, most = upg_job_effort(job)->tune_windows;

    if (job->settings.without_tuning || job->device != NULL) /* the CPU's part would take longest */
        return 0;
    n = n < most ? n : most;
    return n < UPG_TUNE_LEAST ? 0 : n;
}

/* Bytes beside what the process and its maps take. */
static uint64_t need(const upg_job *job, uint32_t threads, bool keep, bool spill)
{
    uint64_t tokens = (uint64_t)job->calibration.n_windows * job->calibration.window * 4;

    return UPG_PROCESS_BYTES + threads * UPG_BLAS_THREAD_BYTES + tokens +
           upg_tune_memory(job->weights, upg_job_tune_windows(job), job->calibration.window,
                           threads, keep, spill);
}

void upg_job_choose_tuning(upg_job *job, uint32_t threads, uint64_t limit)
{
    job->tune_memory = (upg_memory_choice) { 0 };
    if (upg_job_tune_windows(job) == 0)
        return;
    for (uint32_t t = threads; t > 0; t--)
        for (int how = 0; how < 3; how++) { /* all in memory, decoded anew, states in a file */
            bool     keep = how == 0, spill = how == 2;
            uint64_t bytes = need(job, t, keep, spill);

            if (bytes <= limit) {
                job->tune_memory = (upg_memory_choice) { t, spill, bytes };
                job->keeps_decoded = keep;
                return;
            }
        }
}

bool upg_job_tunes(const upg_job *job)
{
    return job->tune_memory.threads > 0;
}

/* ---- what was found, into the file ------------------------------------------------------------
 */

/* A matrix with its new scales. */
typedef struct tuned_matrix {
    const upg_matrix *exact, *coded;
    uint16_t         *scales;           /* fp16 [n_rows] */
    double           *error2, *energy2; /* [row items] */
    float            *rows;             /* f32 [n_threads][2][n_cols] */
} tuned_matrix;

/* A row as it will be read, in the original basis. Rows with outliers keep their scale (tune.c). */
static void tuned_row(const tuned_matrix *m, uint32_t row, float *out)
{
    const upg_band *band = upg_coded_band_of(m->coded->coded, row);
    float           old = upg_f32_from_f16(band->scales[row - band->row0]);
    float           factor = old > 0 ? upg_f32_from_f16(m->scales[row]) / old : 1;

    upg_matrix_row(m->coded, row, out);
    for (uint32_t j = 0; j < m->coded->n_cols; j++)
        out[j] *= factor;
}

static void compare_item(void *context, size_t item, uint32_t worker)
{
    tuned_matrix *m = context;
    uint32_t      n_cols = m->exact->n_cols, begin = (uint32_t)item * ROWS_PER_ITEM;
    uint32_t      left = m->exact->n_rows - begin, n = left < ROWS_PER_ITEM ? left : ROWS_PER_ITEM;
    float        *exact = m->rows + (size_t)2 * worker * n_cols, *tuned = exact + n_cols;
    double        error2 = 0, energy2 = 0;

    for (uint32_t r = begin; r < begin + n; r++) {
        upg_dense_row_part(m->exact, r, 0, n_cols, exact);
        tuned_row(m, r, tuned);
        for (uint32_t j = 0; j < n_cols; j++) {
            double x = (double)exact[j], e = x - (double)tuned[j];

            error2 += e * e;
            energy2 += x * x;
        }
    }
    m->error2[item] = error2;
    m->energy2[item] = energy2;
}

/* scales = those of the file times the factors; what fp16 cannot hold stays. */
static void new_scales(const upg_coded_matrix *coded, const float *factors, uint16_t *scales)
{
    for (uint32_t r = 0; r < coded->n_rows; r++) {
        const upg_band *band = upg_coded_band_of(coded, r);
        uint16_t        old = band->scales[r - band->row0];
        float           scale = upg_f32_from_f16(old) * factors[r];

        scales[r] = upg_f16_from_f32(scale);
        if (!isfinite(upg_f32_from_f16(scales[r])))
            scales[r] = old;
    }
}

/* Writes the scales of matrix `index` and notes its error, measured again. */
static upg_status write_matrix(upg_job *job, upg_pool *pool, upg_container_writer *writer,
                               const upg_weights *coded, const float *factors, uint32_t index,
                               upg_error *err)
{
    tuned_matrix m = { upg_weights_matrix(job->weights, index), upg_weights_matrix(coded, index) };
    size_t       n_items = (m.exact->n_rows + ROWS_PER_ITEM - 1) / ROWS_PER_ITEM;
    size_t       place = 0;
    double       error2 = 0, energy2 = 0;
    upg_status   st;

    while (strcmp(job->file_plan.matrices[place].name, m.exact->name) != 0)
        place++; /* the plan has every matrix */
    m.scales = upg_malloc(m.exact->n_rows, sizeof *m.scales, err);
    m.error2 = upg_malloc(n_items, sizeof *m.error2, err);
    m.energy2 = upg_malloc(n_items, sizeof *m.energy2, err);
    m.rows = upg_malloc((size_t)2 * upg_pool_size(pool) * m.exact->n_cols, sizeof *m.rows, err);
    UPG_TRY(m.scales && m.error2 && m.energy2 && m.rows ? UPG_OK : UPG_E_NOMEM);
    new_scales(m.coded->coded, factors, m.scales);
    upg_pool_run(pool, n_items, compare_item, &m);
    upg_dense_forget(m.exact);
    for (size_t i = 0; i < n_items; i++) {
        error2 += m.error2[i];
        energy2 += m.energy2[i];
    }
    UPG_TRY(upg_container_write_scales(writer, place, 0, m.scales, m.exact->n_rows, err));
    upg_container_set_error(writer, place, energy2 > 0 ? error2 / energy2 : 0);
    upg_job_summary_add(&job->summary, m.exact->role, error2, energy2);
out:
    upg_free(m.scales);
    upg_free(m.error2);
    upg_free(m.energy2);
    upg_free(m.rows);
    return st;
}

/* A norm keeps its type: bf16 rounds a factor by less than tuning can tell apart. */
static upg_status write_norm(const upg_job *job, upg_container_writer *writer, uint32_t index,
                             const float *factors, upg_error *err)
{
    const upg_vector   *norm = upg_job_vector(job->weights, index);
    const upg_st_entry *entry = &job->file_plan.dense[index];
    float              *values = upg_malloc(norm->n, sizeof *values, err);
    uint16_t           *halves = upg_malloc(norm->n, sizeof *halves, err);
    upg_status          st;

    UPG_TRY(values != NULL && halves != NULL ? UPG_OK : UPG_E_NOMEM);
    for (uint32_t i = 0; i < norm->n; i++) {
        values[i] = norm->values[i] * factors[i];
        halves[i] = upg_bf16_from_f32(values[i]);
    }
    if (entry->dtype == UPG_F32)
        st = upg_container_write_dense(writer, index, 0, values, norm->n * sizeof *values, err);
    else
        st = upg_container_write_dense(writer, index, 0, halves, norm->n * sizeof *halves, err);
out:
    upg_free(values);
    upg_free(halves);
    return st;
}

static upg_status write_tuning(upg_job *job, upg_pool *pool, upg_container_writer *writer,
                               const upg_weights *coded, const upg_tuning *tuning, upg_error *err)
{
    upg_status st = UPG_OK;

    job->summary = (upg_job_summary) { 0 };
    for (uint32_t i = 0; i < upg_weights_matrix_count(coded); i++)
        UPG_TRY(write_matrix(job, pool, writer, coded, tuning->rows[i], i, err));
    for (uint32_t i = 0; i < job->file_plan.n_dense; i++)
        UPG_TRY(write_norm(job, writer, i, tuning->norms[i], err));
out:
    return st;
}

/* ---- the whole --------------------------------------------------------------------------------
 */

static upg_status tune(upg_job *job, upg_pool *pool, const upg_weights *coded, upg_tuning *tuning,
                       upg_error *err)
{
    upg_kernels        kernels;
    upg_meter          meter;
    uint32_t           n = upg_job_tune_windows(job), flags = upg_cpu_flags();
    upg_encode_context context = { pool, &kernels, flags, job->settings.seed, &meter };
    upg_tune_input     input = { .context = &context,
                                 .exact = job->weights,
                                 .coded = coded,
                                 .n_windows = n,
                                 .window = job->calibration.window,
                                 .epochs = upg_job_effort(job)->tune_epochs,
                                 .keep_decoded = job->keeps_decoded };
    upg_status         st;

    context.spill_beside = job->tune_memory.spill ? job->output : NULL;
    upg_kernels_select(flags, &kernels);
    input.tokens = upg_job_spread_windows(job, n, err);
    UPG_TRY(input.tokens != NULL ? UPG_OK : UPG_E_NOMEM);
    upg_meter_start(&meter, &job->settings.listener, "tune", "tokens",
                    upg_tune_work(job->weights, n, input.window, input.epochs));
    UPG_TRY(upg_tune(&input, tuning, err));
    UPG_TRY(upg_meter_finish(&meter, err));
out:
    return st;
}

upg_status upg_job_tune(upg_job *job, upg_container_writer *writer, upg_error *err)
{
    upg_tuning   tuning = { 0 };
    upg_weights *coded = NULL;
    upg_pool    *pool = NULL;
    upg_status   st;

    UPG_TRY(upg_pool_create(job->tune_memory.threads, &pool, err));
    UPG_TRY(upg_container_seal(writer, (upg_span) { 0 }, pool, &job->settings.listener, err));
    UPG_TRY(upg_weights_open(upg_container_temporary(writer), &coded, err));
    UPG_TRY(tune(job, pool, coded, &tuning, err));
    if (tuning.helped)
        UPG_TRY(write_tuning(job, pool, writer, coded, &tuning, err));
out:
    upg_tuning_deinit(&tuning);
    upg_weights_close(coded);
    upg_pool_close(pool);
    return st;
}
