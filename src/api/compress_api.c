/* compress_api.c: upg_compress_*: a job of compress/ with hooks, a cancel flag and a guard. */
#include <stdatomic.h>

#include "api/hooks.h"
#include "api/struct_options.h"
#include "base/alloc.h"
#include "base/file.h"
#include "compress/default_calibration.h"
#include "compress/job.h"

struct upg_compress {
    upg_job    *job;
    upg_map     calibration;
    upg_hooks   hooks;
    atomic_bool cancel; /* set by anyone; relaxed: nothing else is passed with it */
    atomic_bool in_use; /* acquire when taken, release when given back, in this file */
};

/* path  NULL: the text in the library; "": none */
static upg_status find_calibration(upg_compress *c, const char *path, upg_span *text,
                                   upg_error *err)
{
    upg_status st;

    *text = (upg_span) { 0 };
    if (!path)
        *text = (upg_span) { upg_default_calibration, upg_default_calibration_size };
    if (!path || path[0] == '\0')
        return UPG_OK;
    st = upg_map_open(path, &c->calibration, err);
    if (st != UPG_OK)
        upg_error_prefix(err, "calibration: %s: ", path);
    else if (c->calibration.bytes.size == 0)
        st = upg_fail(err, UPG_E_DATA, "calibration: %s is empty", path);
    *text = c->calibration.bytes;
    return st;
}

UPG_API upg_status upg_compress_open(const char *checkpoint, const char *output,
                                     const upg_compress_options *options, upg_compress **job,
                                     upg_error *err)
{
    upg_compress_options o;
    upg_job_settings     settings = { 0 };
    upg_compress        *c = NULL;
    upg_status           st;

    if (!job)
        return upg_fail(err, UPG_E_ARG, "job is NULL");
    *job = NULL;
    if (!checkpoint || !output)
        return upg_fail(err, UPG_E_ARG, "%s is NULL", checkpoint ? "output" : "checkpoint");
    UPG_TRY(upg_struct_in(options, &o, sizeof o, "upg_compress_options", err));
    c = upg_calloc(1, sizeof *c, err);
    UPG_TRY(c ? UPG_OK : UPG_E_NOMEM);
    c->hooks = o.hooks;
    UPG_TRY(find_calibration(c, o.calibration, &settings.calibration, err));
    settings.bits_per_parameter = o.bits_per_parameter;
    settings.threads = o.threads;
    settings.max_memory = o.max_memory;
    settings.seed = o.seed;
    settings.overwrite = o.overwrite;
    settings.independent = o.independent;
    settings.listener = upg_hooks_listener(&c->hooks, &c->cancel);
    UPG_TRY(upg_job_open(checkpoint, output, &settings, &c->job, err));
out:
    if (st != UPG_OK) {
        upg_compress_close(c);
        c = NULL;
    }
    *job = c;
    return st;
}

UPG_API const char *upg_compress_plan(const upg_compress *job)
{
    return job ? upg_job_plan_json(job->job) : NULL;
}

UPG_API const char *upg_compress_result(const upg_compress *job)
{
    return job ? upg_job_result_json(job->job) : NULL;
}

UPG_API upg_status upg_compress_run(upg_compress *job, upg_error *err)
{
    upg_status st;

    if (!job)
        return upg_fail(err, UPG_E_ARG, "job is NULL");
    if (atomic_exchange_explicit(&job->in_use, true, memory_order_acquire))
        return upg_fail(err, UPG_E_BUSY, "the job is in use by another thread");
    st = upg_job_run(job->job, err);
    atomic_store_explicit(&job->in_use, false, memory_order_release);
    return st;
}

UPG_API void upg_compress_cancel(upg_compress *job)
{
    if (job)
        atomic_store_explicit(&job->cancel, true, memory_order_relaxed);
}

UPG_API void upg_compress_close(upg_compress *job)
{
    if (!job)
        return;
    upg_job_close(job->job);
    upg_map_close(&job->calibration);
    upg_free(job);
}
