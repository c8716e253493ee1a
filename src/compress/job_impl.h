/* job_impl.h: what job.c shares with job_plan.c, job_encode.c and job_run.c. */
#ifndef UPG_COMPRESS_JOB_IMPL_H
#define UPG_COMPRESS_JOB_IMPL_H

#include "compress/calibration_text.h"
#include "compress/job.h"
#include "compress/job_memory.h"
#include "compress/journal.h"
#include "compress/lease.h"

#define UPG_QUALITY_CAPACITY 4096u /* twice what a report with all roles and figures takes */

struct upg_job {
    upg_job_settings     settings;
    char                *output, *checkpoint, *join; /* join: settings.join, or NULL */
    upg_weights         *weights;
    upg_input            input; /* the same, as a thing that may change */
    upg_arena            arena;
    upg_plan             plan;
    upg_container_plan   file_plan;
    upg_container_size   size;
    upg_token_windows    calibration;
    upg_buffer           options_json, plan_json, result_json;
    upg_job_summary      summary;
    upg_memory_choice    plan_memory, encode_memory, tune_memory; /* no threads: no tuning */
    bool                 keeps_decoded;                           /* while it is tuned */
    upg_leases          *leases;  /* while it runs together with others */
    upg_journal         *journal; /* NULL: nothing is kept */
    upg_compress_device *device;  /* NULL: the CPU */
    bool                 ran, succeeded;
};

/* job_plan.c */

/** Decides rates, memory and the layout of the file; encodes nothing. */
upg_status              upg_job_make_plan(upg_job *job, upg_error *err);
const upg_effort_level *upg_job_effort(const upg_job *job);
/** Windows of the calibration that planning runs. */
uint32_t upg_job_plan_windows(const upg_job *job);
/** Copies n windows evenly spread over those of the calibration, the job's: i32 [n][window]. */
int32_t        *upg_job_spread_windows(upg_job *job, uint32_t n, upg_error *err);
upg_calibration upg_job_calibration(const upg_job *job);
upg_journal_key upg_job_key(upg_job *job);
/** Vector number index of the file: norms, in file order. */
const upg_vector *upg_job_vector(const upg_weights *weights, uint32_t index);

/* job_encode.c */

/** Encodes all that the sink has not. */
upg_status upg_job_encode(upg_job *job, upg_pool *pool, const upg_encoded_sink *sink,
                          upg_error *err);
/** Encodes straight into the file. */
upg_status upg_job_encode_to_file(upg_job *job, upg_pool *pool, upg_container_writer **writer,
                                  upg_error *err);
/** Writes what the journal has, in file order. */
upg_status upg_job_assemble(upg_job *job, upg_container_writer *writer, upg_error *err);
upg_status upg_job_write_vectors(upg_job *job, upg_container_writer *writer, upg_error *err);

/* job_tune.c */

/** Windows of the calibration that tuning would run; 0: none is wanted, or the text is too short.
 */
uint32_t upg_job_tune_windows(const upg_job *job);
/** Whether there is memory for it, and with how many threads: job->tune_memory. Where there is not
 * enough, nothing is tuned. */
void upg_job_choose_tuning(upg_job *job, uint32_t threads, uint64_t limit);
bool upg_job_tunes(const upg_job *job);
/** Tunes what was written, all of it, and writes scales, norms and errors anew. */
upg_status upg_job_tune(upg_job *job, upg_container_writer *writer, upg_error *err);

/* job.c */

/** Whether an output that is there may be what an earlier run of this job made. */
bool upg_job_may_be_ours(const upg_job *job);

#endif
