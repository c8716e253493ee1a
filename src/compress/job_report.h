/* job_report.h: what a compression says of itself, as JSON: its plan, its quality, its result. */
#ifndef UPG_COMPRESS_JOB_REPORT_H
#define UPG_COMPRESS_JOB_REPORT_H

#include "base/buffer.h"
#include "compress/plan.h"
#include "format/container_writer.h"

/** Squared errors by role, as measured. */
typedef struct upg_job_summary {
    double error2[UPG_ROLE_COUNT], energy2[UPG_ROLE_COUNT];
} upg_job_summary;

/** What running the finished file on a text gave; `against` is the checkpoint. */
typedef struct upg_evaluation {
    uint64_t windows, tokens; /* tokens that were scored */
    uint32_t window;
    double   perplexity, against_perplexity, top1;
    double   kl_mean, kl_p99, top1_agreement; /* KL(checkpoint ‖ file) in nats */
    char     text_hash[33];
} upg_evaluation;

/** How a file was made: what its manifest tells. */
typedef struct upg_job_recipe {
    uint64_t    seed, max_file_bytes;
    double      bits_per_parameter; /* 0 = not asked for */
    const char *effort;             /* NULL = the default */
    bool        independent, without_outliers;
    double      damping;
    uint32_t    plan_windows;
    uint32_t    tune_windows, tune_epochs; /* 0 = scales and norms are not tuned */
    /* calibration; n_windows 0 = none, round to nearest */
    uint64_t text_bytes, text_tokens;
    uint32_t n_windows, window;
    char     text_hash[33];
} upg_job_recipe;

void upg_job_summary_add(upg_job_summary *summary, upg_role role, double error2, double energy2);

/** {"size": …, "memory": …, "calibration_windows": 0 = none, "predicted_kl": …, "matrices": [{name,
 * rows, cols, bands: […]}]}; what is predicted has "predicted" in its name. Errors: E_NOMEM. */
upg_status upg_job_report_plan(const upg_plan *plan, const upg_container_size *size,
                               uint64_t peak_memory, uint64_t source_bytes, uint32_t n_windows,
                               upg_buffer *json, upg_error *err);
/** The object for the manifest. No times, hosts or thread counts: equal work gives equal bytes. */
upg_status upg_job_report_recipe(const upg_job_recipe *recipe, upg_buffer *json, upg_error *err);
/** The report that goes into the file: relative errors, overall and by role, and the evaluation;
 * NULL = not measured, shorter than any that was. */
upg_status upg_job_report_quality(const upg_job_summary *summary, const upg_evaluation *evaluation,
                                  upg_buffer *json, upg_error *err);
/** The object that `upg compress --json` prints. Sizes are those of the finished file. */
upg_status upg_job_report_result(const char *path, uint64_t source_bytes,
                                 const upg_container_size *size, double seconds,
                                 const upg_job_summary *summary, const upg_evaluation *evaluation,
                                 upg_buffer *json, upg_error *err);

#endif
