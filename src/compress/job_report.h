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

void upg_job_summary_add(upg_job_summary *summary, upg_role role, double error2, double energy2);

/** {"size": …, "memory": …, "predicted_kl": …, "matrices": [{name, rows, cols, bands: […]}]}; what
 * is predicted has "predicted" in its name. Errors: E_NOMEM. */
upg_status upg_job_report_plan(const upg_plan *plan, const upg_container_size *size,
                               uint64_t peak_memory, uint64_t source_bytes, upg_buffer *json,
                               upg_error *err);
/** The report that goes into the file: relative errors, overall and by role. */
upg_status upg_job_report_quality(const upg_job_summary *summary, upg_buffer *json, upg_error *err);
/** The object that `upg compress --json` prints. Sizes are those of the finished file. */
upg_status upg_job_report_result(const char *path, uint64_t source_bytes,
                                 const upg_container_size *size, double seconds,
                                 const upg_job_summary *summary, upg_buffer *json, upg_error *err);

#endif
