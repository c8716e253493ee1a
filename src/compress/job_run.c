/* job_run.c: a planned compression from the first matrix to the file's name, alone or with others.
 */
#include "compress/job_impl.h"

#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "compress/journal_sink.h"

#define KEEP_SECONDS  60.0
#define LEASE_SECONDS 120.0

static upg_status seal(upg_job *job, upg_pool *pool, upg_container_writer *writer,
                       const upg_evaluation *evaluation, upg_error *err)
{
    upg_buffer quality;
    upg_status st;

    upg_buffer_init(&quality, UPG_QUALITY_CAPACITY);
    st = upg_job_report_quality(&job->summary, evaluation, &quality, err);
    if (st == UPG_OK)
        st = upg_container_seal(writer, (upg_span) { (const uint8_t *)quality.data, quality.size },
                                pool, &job->settings.listener, err);
    upg_buffer_deinit(&quality);
    return st;
}

/* Everything that can fail comes before the file gets its name. */
static upg_status finish(upg_job *job, upg_pool *pool, upg_container_writer *writer,
                         uint64_t start_ns, upg_error *err)
{
    const upg_evaluator *evaluator = job->settings.evaluator;
    const char          *temporary = upg_container_temporary(writer);
    upg_evaluation       evaluation = { 0 };
    upg_status           st;

    UPG_TRY(seal(job, pool, writer, NULL, err));
    if (evaluator != NULL) {
        UPG_TRY(evaluator->measure(evaluator->user, temporary, &evaluation, err));
        UPG_TRY(seal(job, pool, writer, &evaluation, err));
    }
    UPG_TRY(upg_job_report_result(temporary, job->weights->source_bytes, &job->size,
                                  (double)(upg_now_ns() - start_ns) * 1e-9, &job->summary,
                                  evaluator != NULL ? &evaluation : NULL, &job->result_json, err));
out:
    return st;
}

/* Half a second; cancelled work ends. */
static upg_status wait_for_others(const upg_job *job, upg_error *err)
{
    const atomic_bool    *cancel = job->settings.listener.cancel;
    const struct timespec pause = { 0, 500000000 };

    (void)nanosleep(&pause, NULL);
    if (cancel != NULL && atomic_load_explicit(cancel, memory_order_relaxed))
        return upg_fail(err, UPG_E_CANCELLED, "compress: cancelled");
    return UPG_OK;
}

/* Codes what can be claimed until nothing is left, whoever did it. Then *mine for one process,
 * which makes the file; the others wait for its end, or take its place. */
static upg_status share_work(upg_job *job, upg_pool *pool, upg_journal_sink *sink, bool *mine,
                             upg_error *err)
{
    bool       can_go_on = true, by_input = job->calibration.n_windows > 0, ended = false;
    upg_status st = UPG_OK;

    *mine = false;
    upg_journal_sink_share(sink, job->leases);
    while (st == UPG_OK && !ended && !*mine) {
        st = upg_journal_ended(job->journal, err);
        ended = upg_journal_done(job->journal) != NULL;
        if (st != UPG_OK || ended)
            break;
        if (upg_journal_sink_complete(sink, by_input, &can_go_on))
            *mine = upg_lease_claim(job->leases, "output");
        else if (can_go_on)
            st = upg_job_encode(job, pool, &sink->sink, err);
        if (!*mine)
            upg_lease_release(job->leases);
        if (st == UPG_OK && !*mine && !can_go_on)
            st = wait_for_others(job, err);
    }
    return st;
}

/* Encodes into the journal, then makes the file of what is there. */
static upg_status encode_to_journal(upg_job *job, upg_pool *pool, upg_container_writer **writer,
                                    upg_error *err)
{
    upg_journal_key  key = upg_job_key(job);
    upg_journal_sink sink;
    double           seconds = job->settings.keep_seconds;
    bool             replace =
        job->settings.overwrite ||
        (upg_job_may_be_ours(job) && upg_file_exists(job->output)); /* give_name looks again */
    upg_status st = UPG_OK;

    if (job->settings.join != NULL && upg_journal_done(job->journal) != NULL)
        UPG_TRY(upg_fail(err, UPG_E_EXISTS,
                         "%s: the job of this folder has ended, and \"%s\" is not what it made: "
                         "take another folder",
                         upg_journal_folder(job->journal), job->output));
    if (!upg_journal_begun(job->journal))
        UPG_TRY(upg_journal_begin(job->journal, &key, pool, err));
    upg_journal_sink_init(&sink, job->journal, &job->input, seconds == 0 ? KEEP_SECONDS : seconds);
    if (job->settings.join != NULL) {
        bool   mine;
        double lease = job->settings.lease_seconds;

        UPG_TRY(upg_leases_open(job->settings.join, lease > 0 ? lease : LEASE_SECONDS, &job->leases,
                                err));
        UPG_TRY(share_work(job, pool, &sink, &mine, err));
        if (!mine)
            goto out; /* without a writer */
    } else {
        UPG_TRY(upg_job_encode(job, pool, &sink.sink, err));
    }
    UPG_TRY(upg_container_writer_create(job->output, replace, &job->file_plan, writer, err));
    UPG_TRY(upg_job_assemble(job, *writer, err));
out:
    return st;
}

/* Whether the output that is there has the bytes of the temporary. */
static bool same_bytes(const upg_job *job, const upg_container_writer *writer)
{
    upg_map a = { 0 }, b = { 0 };
    bool    same = upg_map_open(job->output, &a, NULL) == UPG_OK &&
                upg_map_open(upg_container_temporary(writer), &b, NULL) == UPG_OK &&
                a.bytes.size == b.bytes.size &&
                memcmp(a.bytes.data, b.bytes.data, a.bytes.size) == 0;

    upg_map_close(&a);
    upg_map_close(&b);
    return same;
}

/* Gives the file its name. Takes the writer. */
static upg_status give_name(upg_job *job, upg_container_writer *writer, upg_error *err)
{
    bool there = !job->settings.overwrite && upg_file_exists(job->output);

    if (there && job->journal != NULL && same_bytes(job, writer)) {
        upg_container_discard(writer); /* an earlier run ended right after its commit */
        return UPG_OK;
    }
    if (there) {
        upg_container_discard(writer);
        return upg_fail(err, UPG_E_EXISTS, "%s: the file exists and was not to be replaced",
                        job->output);
    }
    return upg_container_commit(writer, err);
}

/* An earlier run gave the file its name, and ended before its journal was removed. */
static bool ended_before(const upg_job *job)
{
    return job->journal != NULL && upg_journal_done(job->journal) != NULL &&
           upg_file_exists(job->output);
}

static upg_status take_result(upg_job *job, upg_error *err)
{
    const char *done = upg_journal_done(job->journal);

    upg_buffer_clear(&job->result_json);
    return upg_buffer_add(&job->result_json, done, strlen(done), err);
}

static upg_status only_clear_away(upg_job *job, upg_error *err)
{
    upg_status st = take_result(job, err);

    return st == UPG_OK ? upg_journal_remove(job->journal, err) : st;
}

/* After these an unchanged second try would fail the same way. A changed input can be put back. */
static bool is_final(const upg_job *job, upg_status st)
{
    return st == UPG_E_BUDGET || (st == UPG_E_DATA && upg_input_check(&job->input, NULL) == UPG_OK);
}

/* What a process that was killed in the middle of a write left. */
static void sweep(const upg_job *job)
{
    const char *slash = strrchr(job->output, '/');
    char       *folder;

    if (slash == NULL) {
        upg_outfile_sweep(".", job->output);
    } else {
        folder = upg_strndup(job->output, (size_t)(slash - job->output) + 1, NULL);
        if (folder != NULL)
            upg_outfile_sweep(folder, slash + 1);
        upg_free(folder);
    }
    if (job->journal != NULL)
        upg_outfile_sweep(upg_journal_folder(job->journal), "");
}

static upg_status do_everything(upg_job *job, upg_error *err)
{
    upg_status            st;
    upg_pool             *pool = NULL;
    upg_container_writer *writer = NULL;
    uint64_t              start = upg_now_ns();

    UPG_TRY(upg_pool_create(job->encode_memory.threads, &pool, err));
    if (job->journal != NULL)
        UPG_TRY(encode_to_journal(job, pool, &writer, err));
    else
        UPG_TRY(upg_job_encode_to_file(job, pool, &writer, err));
    if (writer == NULL) { /* another worker made the file */
        st = take_result(job, err);
        goto out;
    }
    UPG_TRY(upg_job_write_vectors(job, writer, err));
    if (upg_job_tunes(job))
        UPG_TRY(upg_job_tune(job, writer, err));
    UPG_TRY(finish(job, pool, writer, start, err));
    UPG_TRY(upg_input_check(&job->input, err)); /* of what was lost zeros were read, for instance */
    st = give_name(job, writer, err);
    writer = NULL;                            /* after a failure too */
    if (st == UPG_OK && job->journal != NULL) /* what stays of it does no harm: the file is there */
        (void)upg_journal_finish(job->journal, job->result_json.data, NULL);
out:
    upg_container_discard(writer);
    upg_pool_close(pool);
    return st;
}

upg_status upg_job_run(upg_job *job, upg_error *err)
{
    upg_status st;

    if (job->ran)
        return upg_fail(err, UPG_E_STATE, "this compression ran already");
    job->ran = true;
    sweep(job);
    st = ended_before(job) ? only_clear_away(job, err) : do_everything(job, err);
    upg_leases_close(job->leases);
    job->leases = NULL;
    if (job->journal != NULL && job->settings.join == NULL && is_final(job, st))
        (void)upg_journal_remove(job->journal, NULL);
    job->succeeded = st == UPG_OK;
    return st;
}
