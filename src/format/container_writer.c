/* container_writer.c: the plan is laid out once with the largest report it may get; finishing lays
 * it out again with the real one, which moves nothing but the report's end and the hash table. */
#include "format/container_writer.h"

#include <inttypes.h>
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "base/alloc.h"
#include "base/file.h"
#include "format/container_layout.h"
#include "format/manifest.h"

struct upg_container_writer {
    const upg_container_plan *plan;
    upg_outfile              *file;
    upg_layout                layout;
    size_t                    manifest_bytes;
    double                   *relative_errors; /* [n_matrices] */
    atomic_uint_fast64_t     *written;         /* [n_slots] bytes so far: relaxed, a check only */
    bool                      sealed;          /* the temporary is a whole file */
    size_t                    report_bytes;    /* of the latest seal */
};

static upg_status layout_of(const upg_container_plan *plan, size_t *manifest_bytes,
                            upg_layout *layout, upg_error *err)
{
    upg_status st = upg_plan_check(plan, err);

    if (st == UPG_OK)
        st = upg_manifest_bound(plan, manifest_bytes, err);
    if (st == UPG_OK)
        st = upg_layout_build(plan, *manifest_bytes, plan->quality_capacity, 0, layout, err);
    return st;
}

upg_status upg_container_plan_size(const upg_container_plan *plan, upg_container_size *size,
                                   upg_error *err)
{
    upg_layout layout = { 0 };
    size_t     manifest_bytes = 0;
    upg_status st = layout_of(plan, &manifest_bytes, &layout, err);

    *size = (upg_container_size) { .parameters = layout.parameters,
                                   .weight_bytes = layout.weight_bytes,
                                   .file_bytes = layout.file_bytes };
    upg_layout_deinit(&layout);
    return st;
}

/* Writes part of a slot. The slots were checked when laid out. */
static upg_status write_slot(upg_container_writer *w, size_t slot, uint64_t offset,
                             const void *bytes, uint64_t size, upg_error *err)
{
    const upg_slot *s = &w->layout.slots[slot];
    upg_status      st;

    if (offset > s->bytes || size > s->bytes - offset)
        return upg_fail(err, UPG_E_ARG,
                        "\"%s\": bytes %" PRIu64 " … %" PRIu64 " of %" PRIu64 " were to be written",
                        s->name, offset, offset + size, s->bytes);
    st = upg_outfile_write_at(w->file, s->offset + offset, bytes, (size_t)size, err);
    if (st == UPG_OK)
        atomic_fetch_add_explicit(&w->written[slot], size, memory_order_relaxed);
    return st;
}

static upg_status write_parts(upg_container_writer *w, upg_error *err)
{
    upg_status st = UPG_OK;

    for (unsigned part = 0; part < UPG_PART_COUNT && st == UPG_OK; part++) {
        upg_span bytes = w->plan->parts[part];

        if (bytes.size > 0)
            st = write_slot(w, upg_slot_part(w->plan, (upg_part)part), 0, bytes.data, bytes.size,
                            err);
    }
    return st;
}

upg_status upg_container_writer_create(const char *path, bool overwrite,
                                       const upg_container_plan *plan,
                                       upg_container_writer **writer, upg_error *err)
{
    upg_container_writer *w = upg_calloc(1, sizeof *w, err);
    upg_status            st;

    UPG_TRY(w ? UPG_OK : UPG_E_NOMEM);
    w->plan = plan;
    UPG_TRY(layout_of(plan, &w->manifest_bytes, &w->layout, err));
    w->relative_errors = upg_malloc(plan->n_matrices, sizeof *w->relative_errors, err);
    w->written = upg_calloc(w->layout.n_slots, sizeof *w->written, err);
    UPG_TRY(w->relative_errors && w->written ? UPG_OK : UPG_E_NOMEM);
    for (size_t i = 0; i < plan->n_matrices; i++)
        w->relative_errors[i] = -1;
    UPG_TRY(upg_outfile_create(path, overwrite, &w->file, err));
    /* Up to the report: a reservation cannot be taken back, and the report's size is not known. */
    UPG_TRY(upg_outfile_reserve(
        w->file, w->layout.slots[upg_slot_part(plan, UPG_PART_QUALITY)].offset, err));
    UPG_TRY(write_parts(w, err));
out:
    if (st != UPG_OK) {
        upg_container_discard(w);
        w = NULL;
    }
    *writer = w;
    return st;
}

void upg_container_discard(upg_container_writer *writer)
{
    if (writer == NULL)
        return;
    upg_outfile_discard(writer->file);
    upg_layout_deinit(&writer->layout);
    upg_free(writer->relative_errors);
    upg_free(writer->written);
    upg_free(writer);
}

/* ---- weights ------------------------------------------------------------------------------- */

upg_status upg_container_write_code(upg_container_writer *writer, size_t matrix, uint32_t band,
                                    uint64_t first, const uint32_t *words, size_t n, upg_error *err)
{
    const upg_matrix_plan *m;
    uint64_t               begin, end;

    if (matrix >= writer->plan->n_matrices || band >= writer->plan->matrices[matrix].n_bands)
        return upg_fail(err, UPG_E_ARG, "there is no band %" PRIu32 " of matrix %zu", band, matrix);
    m = &writer->plan->matrices[matrix];
    begin = upg_plan_words_before(m, band);
    end = upg_plan_words_before(m, band + 1);
    if (first > end - begin || n > end - begin - first)
        return upg_fail(err, UPG_E_ARG,
                        "matrix \"%s\", band %" PRIu32 ": %zu words from word %" PRIu64
                        " on, it has "
                        "%" PRIu64,
                        m->name, band, n, first, end - begin);
    return write_slot(writer, upg_slot_code(matrix), (begin + first) * sizeof *words, words,
                      (uint64_t)n * sizeof *words, err);
}

upg_status upg_container_write_scales(upg_container_writer *writer, size_t matrix, uint32_t first,
                                      const uint16_t *scales, size_t n, upg_error *err)
{
    if (matrix >= writer->plan->n_matrices || n > writer->plan->matrices[matrix].n_rows)
        return upg_fail(err, UPG_E_ARG, "there are no %zu rows of matrix %zu", n, matrix);
    return write_slot(writer, upg_slot_scale(writer->plan, matrix),
                      (uint64_t)first * sizeof *scales, scales, (uint64_t)n * sizeof *scales, err);
}

upg_status upg_container_write_outliers(upg_container_writer *writer, size_t matrix,
                                        const void *bytes, size_t size, upg_error *err)
{
    if (matrix >= writer->plan->n_matrices)
        return upg_fail(err, UPG_E_ARG, "there is no matrix %zu", matrix);
    return write_slot(writer, upg_slot_outliers(writer->plan, matrix), 0, bytes, size, err);
}

upg_status upg_container_write_dense(upg_container_writer *writer, size_t index, uint64_t offset,
                                     const void *bytes, size_t size, upg_error *err)
{
    if (index >= writer->plan->n_dense)
        return upg_fail(err, UPG_E_ARG, "there is no dense tensor %zu", index);
    return write_slot(writer, upg_slot_dense(writer->plan, index), offset, bytes, size, err);
}

void upg_container_set_error(upg_container_writer *writer, size_t matrix, double relative_error)
{
    if (matrix < writer->plan->n_matrices && isfinite(relative_error))
        writer->relative_errors[matrix] = relative_error;
}

/* ---- finishing ----------------------------------------------------------------------------- */

static upg_status check_complete(const upg_container_writer *w, upg_error *err)
{
    for (size_t i = 0; i < upg_slot_part(w->plan, (upg_part)0); i++) {
        uint64_t written = atomic_load_explicit(&w->written[i], memory_order_relaxed);

        if (written < w->layout.slots[i].bytes)
            return upg_fail(err, UPG_E_STATE,
                            "\"%s\": %" PRIu64 " of %" PRIu64 " bytes were written",
                            w->layout.slots[i].name, written, w->layout.slots[i].bytes);
    }
    return UPG_OK;
}

/* The manifest keeps the size it was planned with: spaces fill the rest. */
static upg_status write_manifest(upg_container_writer *w, upg_error *err)
{
    upg_buffer text;
    upg_status st = UPG_OK;

    upg_buffer_init(&text, w->manifest_bytes);
    UPG_TRY(upg_manifest_print(w->plan, w->layout.parameters, w->relative_errors, &text, err));
    while (text.size < w->manifest_bytes)
        UPG_TRY(upg_buffer_add(&text, " ", 1, err));
    UPG_TRY(write_slot(w, upg_slot_part(w->plan, UPG_PART_MANIFEST), 0, text.data, text.size, err));
out:
    upg_buffer_deinit(&text);
    return st;
}

static upg_status check_report(const upg_container_writer *w, upg_span quality, upg_error *err)
{
    json_t    *root = NULL;
    upg_status st = UPG_OK;

    if (quality.size > w->plan->quality_capacity)
        return upg_fail(err, UPG_E_BUDGET,
                        "the quality report has %zu bytes, %zu were planned for it", quality.size,
                        w->plan->quality_capacity);
    if (quality.size == 0)
        return UPG_OK;
    st = upg_json_parse(quality, &root, err);
    if (st != UPG_OK)
        upg_error_prefix(err, "quality report: ");
    json_decref(root);
    return st;
}

/* Report, the padding behind it (so that the file can be read back up to there) and header; from
 * here on the layout is final. */
static upg_status write_ends(upg_container_writer *w, upg_span quality, upg_error *err)
{
    static const uint8_t zeros[UPG_ALIGN_TENSOR];
    upg_layout           final = { 0 };
    const upg_slot      *report, *hashes;
    upg_status           st;

    UPG_TRY(upg_layout_build(w->plan, w->manifest_bytes, quality.size, w->layout.data_offset,
                             &final, err));
    upg_layout_deinit(&w->layout);
    w->layout = final;
    report = &w->layout.slots[upg_slot_part(w->plan, UPG_PART_QUALITY)];
    hashes = &w->layout.slots[upg_slot_hashes(w->plan)];
    if (quality.size > 0)
        UPG_TRY(write_slot(w, upg_slot_part(w->plan, UPG_PART_QUALITY), 0, quality.data,
                           quality.size, err));
    UPG_TRY(upg_outfile_write_at(w->file, report->offset + report->bytes, zeros,
                                 (size_t)(hashes->offset - report->offset - report->bytes), err));
    UPG_TRY(upg_outfile_write_at(w->file, 0, w->layout.header.data, w->layout.header.size, err));
out:
    return st;
}

/* ---- hashing what was written -------------------------------------------------------------- */

/* 16 MiB for each thread at a time: progress and cancelling between. */
#define BATCH_CHUNKS 16

typedef struct hash_worker {
    uint8_t   *buffer; /* u8 [UPG_HASH_CHUNK] */
    upg_status status;
    upg_error  error;
} hash_worker;

typedef struct hash_job {
    upg_outfile *file;
    uint64_t     covered;
    uint8_t     *table;
    size_t       first;
    hash_worker *workers; /* [pool size] */
    uint32_t     n_workers;
} hash_job;

static void hash_one(void *context, size_t item, uint32_t worker)
{
    hash_job    *job = context;
    hash_worker *self = &job->workers[worker];
    size_t       chunk = job->first + item;
    uint64_t     begin = (uint64_t)chunk * UPG_HASH_CHUNK, left = job->covered - begin;
    size_t       size = left < UPG_HASH_CHUNK ? (size_t)left : UPG_HASH_CHUNK;

    if (self->status != UPG_OK)
        return;
    self->status = upg_outfile_read_at(job->file, begin, self->buffer, size, &self->error);
    if (self->status == UPG_OK)
        upg_hash_chunk(self->buffer, size, job->table + chunk * UPG_HASH_BYTES);
}

static upg_status first_failure(const hash_job *job, upg_error *err)
{
    for (uint32_t i = 0; i < job->n_workers; i++) {
        if (job->workers[i].status != UPG_OK) {
            if (err != NULL)
                *err = job->workers[i].error;
            return job->workers[i].status;
        }
    }
    return UPG_OK;
}

static upg_status hash_chunks(hash_job *job, upg_pool *pool, const upg_listener *listener,
                              upg_error *err)
{
    static const upg_listener nobody;
    size_t                    n_chunks = (size_t)upg_hash_chunks(job->covered);
    upg_meter                 meter;
    upg_status                st = UPG_OK;

    upg_meter_start(&meter, listener ? listener : &nobody, "hash", "bytes", job->covered);
    for (size_t n; job->first < n_chunks && !upg_meter_cancelled(&meter); job->first += n) {
        uint64_t left = job->covered - (uint64_t)job->first * UPG_HASH_CHUNK;

        n = n_chunks - job->first;
        n = n < BATCH_CHUNKS * (size_t)job->n_workers ? n : BATCH_CHUNKS * (size_t)job->n_workers;
        if (pool != NULL)
            upg_pool_run(pool, n, hash_one, job);
        for (size_t item = 0; pool == NULL && item < n; item++)
            hash_one(job, item, 0);
        UPG_TRY(first_failure(job, err));
        upg_meter_add(&meter,
                      left < n * (uint64_t)UPG_HASH_CHUNK ? left : n * (uint64_t)UPG_HASH_CHUNK);
        upg_meter_tick(&meter);
    }
    st = upg_meter_finish(&meter, err);
out:
    return st;
}

static upg_status write_hashes(upg_container_writer *w, upg_pool *pool,
                               const upg_listener *listener, upg_error *err)
{
    const upg_slot *slot = &w->layout.slots[upg_slot_hashes(w->plan)];
    hash_job        job = { .file = w->file,
                            .covered = slot->offset,
                            .n_workers = pool ? upg_pool_size(pool) : 1 };
    uint8_t        *buffers = upg_malloc(job.n_workers, UPG_HASH_CHUNK, err);
    upg_status      st = UPG_OK;

    job.workers = upg_calloc(job.n_workers, sizeof *job.workers, err);
    job.table = upg_calloc((size_t)slot->bytes, 1, err);
    UPG_TRY(buffers && job.workers && job.table ? UPG_OK : UPG_E_NOMEM);
    for (uint32_t i = 0; i < job.n_workers; i++)
        job.workers[i].buffer = buffers + (size_t)i * UPG_HASH_CHUNK;
    UPG_TRY(hash_chunks(&job, pool, listener, err));
    upg_hash_trailer(job.table, job.covered);
    UPG_TRY(upg_outfile_write_at(w->file, slot->offset, job.table, (size_t)slot->bytes, err));
out:
    upg_free(buffers);
    upg_free(job.workers);
    upg_free(job.table);
    return st;
}

upg_status upg_container_seal(upg_container_writer *writer, upg_span quality_json, upg_pool *pool,
                              const upg_listener *listener, upg_error *err)
{
    upg_status st;

    if (writer->sealed && quality_json.size < writer->report_bytes)
        return upg_fail(err, UPG_E_ARG, "the report cannot shrink from %zu to %zu bytes",
                        writer->report_bytes, quality_json.size);
    writer->sealed = false;
    UPG_TRY(check_complete(writer, err));
    UPG_TRY(check_report(writer, quality_json, err));
    UPG_TRY(write_manifest(writer, err));
    UPG_TRY(write_ends(writer, quality_json, err));
    UPG_TRY(write_hashes(writer, pool, listener, err));
    writer->report_bytes = quality_json.size;
    writer->sealed = true;
out:
    return st;
}

const char *upg_container_temporary(const upg_container_writer *writer)
{
    return upg_outfile_temporary(writer->file);
}

upg_status upg_container_commit(upg_container_writer *writer, upg_error *err)
{
    upg_outfile *file = writer->file;
    upg_status   st;

    if (writer->sealed) {
        writer->file = NULL; /* commit closes it in any case */
        st = upg_outfile_commit(file, err);
    } else {
        st = upg_fail(err, UPG_E_STATE, "the file is not sealed");
    }
    upg_container_discard(writer);
    return st;
}

upg_status upg_container_finish(upg_container_writer *writer, upg_span quality_json, upg_pool *pool,
                                const upg_listener *listener, upg_error *err)
{
    upg_status st = upg_container_seal(writer, quality_json, pool, listener, err);

    if (st == UPG_OK)
        return upg_container_commit(writer, err);
    upg_container_discard(writer);
    return st;
}
