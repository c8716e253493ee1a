/* job_encode.c: matrix by matrix encoded, into the file or a journal, and from there. */
#include "compress/job_impl.h"

#include <string.h>

#include "base/alloc.h"
#include "base/cpu.h"
#include "compress/journal_sink.h"
#include "compress/part.h"

static upg_status write_vector(upg_container_writer *writer, const upg_st_entry *entry,
                               size_t index, const upg_vector *vector, upg_error *err)
{
    uint16_t  *halves;
    upg_status st;

    if (entry->dtype == UPG_F32)
        return upg_container_write_dense(writer, index, 0, vector->values,
                                         vector->n * sizeof *vector->values, err);
    halves = upg_malloc(vector->n, sizeof *halves, err);
    if (halves == NULL)
        return UPG_E_NOMEM;
    for (uint32_t i = 0; i < vector->n; i++) { /* exact: vector_dtype looked */
        uint32_t bits;

        memcpy(&bits, &vector->values[i], sizeof bits);
        halves[i] = (uint16_t)(bits >> 16);
    }
    st = upg_container_write_dense(writer, index, 0, halves, vector->n * sizeof *halves, err);
    upg_free(halves);
    return st;
}

/* Where encoded matrices go. */
typedef struct file_sink {
    upg_job              *job;
    upg_container_writer *writer;
} file_sink;

static upg_status write_outliers(upg_container_writer *writer, size_t matrix,
                                 const upg_outliers *outliers, upg_error *err)
{
    upg_outlier_counts counts;
    upg_buffer         bytes;
    upg_status         st;

    upg_buffer_init(&bytes, SIZE_MAX / 2);
    st = upg_outliers_print(outliers, &bytes, &counts, err);
    if (st == UPG_OK)
        st = upg_container_write_outliers(writer, matrix, bytes.data, bytes.size, err);
    upg_buffer_deinit(&bytes);
    return st;
}

/* Writes one matrix: upg_encoded_sink.put. */
static upg_status put_matrix(void *user, const upg_plan_unit *units, uint32_t n_units,
                             const upg_encoded_matrix *encoded, upg_error *err)
{
    file_sink        *sink = user;
    const upg_matrix *matrix = units[0].matrix;
    const uint32_t   *bits = encoded->bits;
    size_t            index = 0;
    upg_status        st = UPG_OK;

    while (strcmp(sink->job->file_plan.matrices[index].name, matrix->name) != 0)
        index++; /* the plan has every matrix */
    for (uint32_t b = 0; b < n_units && st == UPG_OK; b++) {
        uint64_t words = upg_plan_unit_words(&units[b]);

        st = upg_container_write_code(sink->writer, index, b, 0, bits, words, err);
        bits += words;
    }
    if (st == UPG_OK)
        st = upg_container_write_scales(sink->writer, index, 0, encoded->scales, matrix->n_rows,
                                        err);
    if (st == UPG_OK && units[0].outliers != NULL)
        st = write_outliers(sink->writer, index, units[0].outliers, err);
    if (st == UPG_OK) {
        upg_container_set_error(sink->writer, index,
                                encoded->energy2 > 0 ? encoded->error2 / encoded->energy2 : 0);
        upg_job_summary_add(&sink->job->summary, matrix->role, encoded->error2, encoded->energy2);
    }
    return st;
}

/* Encodes every matrix by itself, to the nearest path. */
static upg_status encode_nearest(const upg_encode_context *context, const upg_weights *weights,
                                 const upg_plan *plan, const upg_encoded_sink *sink, upg_error *err)
{
    upg_status        st = UPG_OK;
    const upg_matrix *before = NULL;

    for (uint32_t u = 0, n; u < plan->n_units && st == UPG_OK; u += n) {
        upg_encoded_matrix encoded;

        n = upg_plan_units_of(plan, u);
        if (sink->has != NULL && sink->has(sink->user, plan->units[u].matrix))
            continue;
        if (sink->claim != NULL && !sink->claim(sink->user, plan->units[u].matrix))
            continue;
        if (!upg_part_is_same(weights, before, plan->units[u].matrix))
            upg_part_begin(context->meter, weights, plan, sink, plan->units[u].matrix);
        before = plan->units[u].matrix;
        upg_plan_tell_reader(plan, before);
        st = upg_encode_matrix(context, &plan->units[u], n, NULL, &encoded, err);
        upg_meter_error(context->meter, encoded.error2, encoded.energy2);
        if (st == UPG_OK)
            st = sink->put(sink->user, &plan->units[u], n, &encoded, err);
        upg_encoded_deinit(&encoded);
    }
    return st;
}

/* Writes what the journal has, in file order. */
upg_status upg_job_assemble(upg_job *job, upg_container_writer *writer, upg_error *err)
{
    file_sink  file = { job, writer };
    upg_status st = UPG_OK;

    for (uint32_t u = 0, n; u < job->plan.n_units && st == UPG_OK; u += n) {
        const upg_matrix  *matrix = job->plan.units[u].matrix;
        uint32_t           index = upg_input_index(job->weights, matrix);
        uint64_t           words = 0;
        upg_journal_record record;
        upg_map            map = { 0 };

        n = upg_plan_units_of(&job->plan, u);
        for (uint32_t b = 0; b < n; b++)
            words += upg_plan_unit_words(&job->plan.units[u + b]);
        st = upg_journal_get(job->journal, index, matrix->n_rows, words, &map, &record, err);
        if (st == UPG_OK) {
            upg_encoded_matrix encoded = { (uint32_t *)record.bits, words,
                                           (uint16_t *)record.scales, record.error2,
                                           record.energy2 }; /* only read */

            st = put_matrix(&file, &job->plan.units[u], n, &encoded, err);
        }
        upg_map_close(&map);
    }
    return st;
}

upg_status upg_job_write_vectors(upg_job *job, upg_container_writer *writer, upg_error *err)
{
    upg_status st = UPG_OK;

    for (size_t i = 0; i < job->file_plan.n_dense && st == UPG_OK; i++)
        st = write_vector(writer, &job->file_plan.dense[i], i,
                          upg_job_vector(job->weights, (uint32_t)i), err);
    return st;
}

/* Encodes all that the sink has not. */
upg_status upg_job_encode(upg_job *job, upg_pool *pool, const upg_encoded_sink *sink,
                          upg_error *err)
{
    upg_status         st = UPG_OK;
    upg_meter          meter;
    upg_kernels        kernels;
    uint32_t           flags = upg_cpu_flags();
    uint64_t           total = 0;
    upg_encode_context context = { pool, &kernels, flags, job->settings.seed, &meter };

    context.spill_beside = job->encode_memory.spill ? job->output : NULL;
    context.device = job->device;
    upg_kernels_select(flags, &kernels);
    for (uint32_t u = 0; u < job->plan.n_units; u++)
        total += (uint64_t)job->plan.units[u].n_rows * job->plan.units[u].matrix->n_cols;
    upg_meter_start(&meter, &job->settings.listener, "encode", "weights", total);
    for (uint32_t u = 0; u < job->plan.n_units && sink->has != NULL; u++)
        if (sink->has(sink->user, job->plan.units[u].matrix))
            upg_meter_skip(&meter,
                           (uint64_t)job->plan.units[u].n_rows * job->plan.units[u].matrix->n_cols);
    if (job->calibration.n_windows > 0) {
        upg_calibration calibration = upg_job_calibration(job);

        st = upg_calibrated_encode(&context, job->weights, &job->plan, &calibration, sink, err);
    } else {
        st = encode_nearest(&context, job->weights, &job->plan, sink, err);
    }
    return st == UPG_OK ? upg_meter_finish(&meter, err) : st;
}

/* Encodes straight into the file. */
upg_status upg_job_encode_to_file(upg_job *job, upg_pool *pool, upg_container_writer **writer,
                                  upg_error *err)
{
    file_sink        file = { job, NULL };
    upg_encoded_sink sink = { .put = put_matrix, .user = &file };
    upg_status       st = upg_container_writer_create(job->output, job->settings.overwrite,
                                                      &job->file_plan, writer, err);

    file.writer = *writer;
    return st == UPG_OK ? upg_job_encode(job, pool, &sink, err) : st;
}
