/* job.h: compressing a checkpoint folder into a .upg file, from plan to rename. */
#ifndef UPG_COMPRESS_JOB_H
#define UPG_COMPRESS_JOB_H

#include <stdatomic.h>

#include "base/progress.h"
#include "compress/effort.h"
#include "compress/job_report.h"

/** Runs a finished file that has not yet its name and compares it with the checkpoint: what lies
 * above this layer can do. */
typedef struct upg_evaluator {
    upg_status (*measure)(void *user, const char *path, upg_evaluation *result, upg_error *err);
    void *user;
} upg_evaluator;

typedef struct upg_job_settings {
    double bits_per_parameter; /* of the weight bytes; 0 = 3.2, and for models over 1e9
                                * parameters the file ≤ fp32 / 10 too; 0 with max_file_bytes = no
                                * bound of its own */
    uint64_t max_file_bytes;   /* of the whole file; 0 = no bound of its own */
    uint32_t threads;          /* 0 = one per physical core */
    uint64_t max_memory;       /* resident bytes; 0 = 8 GiB */
    uint64_t seed;             /* of the rotation */
    bool     overwrite;
    upg_span calibration;         /* UTF-8 text, borrowed until the job is closed; empty = round to
                                   * nearest, without error feedback */
    const char *calibration_name; /* of its file, for messages; NULL = no file: the text is left out
                                   * where the model has no tokenizer */
    bool independent; /* moments of the unquantised model alone, so that no layer waits for
                       * another; costs some quality */
    const upg_effort_level *effort;           /* NULL = the default */
    bool                    without_outliers; /* all weights stay in the code */
    bool                    without_tuning;   /* scales and norms stay as coding left them */
    bool quick; /* plans without reading weights or running text: rates follow from shapes alone */
    bool journal; /* keeps what was done in OUTPUT.journal, so that a run that ended early can be
                   * resumed */
    bool        resume; /* goes on with that journal; afresh where there is none */
    const char *join;   /* NULL, or a folder that is the journal, where other processes work on the
                         * same job; with independent calibration or none */
    double      lease_seconds; /* a worker that is not heard of for so long is dead; 0 = 120 */
    double      keep_seconds;  /* of work between kept streams; 0 = 60, < 0 = every layer */
    const char *device; /* what encodes: as upg_compress_device_open; NULL = the CPU. Outlives the
                         * opening */
    const upg_evaluator *evaluator; /* NULL = the file is not run; outlives the job */
    upg_listener         listener;  /* its cancel flag outlives the job */
} upg_job_settings;

typedef struct upg_job upg_job;

/** Opens the checkpoint, checks it and plans the rates; encodes nothing. Errors: as
 * upg_weights_open; E_EXISTS, E_BUDGET (says the least possible), E_UNSUPPORTED (the input is coded
 * already), E_ARG (bits_per_parameter is no number that could be meant); with a journal, as
 * upg_journal_open and upg_journal_check. */
upg_status upg_job_open(const char *checkpoint, const char *output,
                        const upg_job_settings *settings, upg_job **job, upg_error *err);
/** Encodes, writes, hashes, evaluates, renames. Errors: as the evaluator; E_DATA, E_CANCELLED,
 * E_IO, E_NOSPACE, E_NOMEM; then no file remains but the journal, where there is one and going on
 * can help. E_STATE when it ran before. */
upg_status upg_job_run(upg_job *job, upg_error *err);
/** JSON objects, owned by the job: the plan; the result, NULL before a successful run. */
const char *upg_job_plan_json(const upg_job *job);
const char *upg_job_result_json(const upg_job *job);
/** Sizes, peak memory and what is written to disk beside the file, as planned. */
const upg_container_size *upg_job_size(const upg_job *job);
uint64_t                  upg_job_memory(const upg_job *job);
uint64_t                  upg_job_spilled(const upg_job *job);
/** What a journal of it takes at most, whether it keeps one or not; streams: of kept activations
 * too, of which two sets lie on the disk for a moment. */
uint64_t upg_job_journal(const upg_job *job, bool streams);
/** What the job works on, borrowed. windows: of the calibration text, and those for planning. */
const upg_weights *upg_job_weights(const upg_job *job);
const upg_plan    *upg_job_plan(const upg_job *job);
void               upg_job_windows(const upg_job *job, uint32_t *n_windows, uint32_t *window,
                                   uint32_t *plan_windows);
/** Windows for tuning, 0 = none, and how often each is used. */
void upg_job_tuning(const upg_job *job, uint32_t *n_windows, uint32_t *epochs);
void upg_job_close(upg_job *job);

#endif
