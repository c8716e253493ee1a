/* compress_api.c: upg_compress_*: a job of compress/ with hooks, a cancel flag and a guard. */
#include <stdatomic.h>

#include "api/hooks.h"
#include "api/struct_options.h"
#include "api/text_evaluator.h"
#include "base/alloc.h"
#include "base/file.h"
#include "base/pool.h"
#include "base/system.h"
#include "compress/default_calibration.h"
#include "compress/estimate.h"
#include "compress/job.h"

struct upg_compress {
    upg_job           *job;
    upg_map            calibration;
    upg_text_evaluator evaluator;
    upg_hooks          hooks;
    upg_listener       listener;
    atomic_bool        cancel; /* set by anyone; relaxed: nothing else is passed with it */
    atomic_bool        in_use; /* acquire when taken, release when given back, in this file */
};

/* Maps a text that must not be empty; `what` is it for? */
static upg_status map_text(const char *what, const char *path, upg_map *map, upg_error *err)
{
    upg_status st = upg_map_open(path, map, err);

    if (st != UPG_OK)
        upg_error_prefix(err, "%s: %s: ", what, path);
    else if (map->bytes.size == 0)
        st = upg_fail(err, UPG_E_DATA, "%s: %s: the file is empty", what, path);
    return st;
}

/* path  NULL: the text in the library; "": none */
static upg_status find_calibration(upg_compress *c, const char *path, upg_span *text,
                                   upg_error *err)
{
    upg_status st = UPG_OK;

    *text = (upg_span) { 0 };
    if (!path) {
        *text = (upg_span) { upg_default_calibration, upg_default_calibration_size };
    } else if (path[0] != '\0') {
        st = map_text("calibration", path, &c->calibration, err);
        *text = c->calibration.bytes;
    }
    return st;
}

/* Prepares the evaluation that `o` asks for; NULL and "" ask for none. */
static upg_status find_evaluation(upg_compress *c, const char *checkpoint,
                                  const upg_compress_options *o, const upg_evaluator **evaluator,
                                  upg_error *err)
{
    upg_map    map = { 0 };
    upg_status st = UPG_OK;

    if (!o->evaluation || o->evaluation[0] == '\0') {
        if (o->evaluation_windows != 0)
            st = upg_fail(err, UPG_E_ARG, "evaluation_windows is %u without an evaluation text",
                          o->evaluation_windows);
        return st;
    }
    UPG_TRY(map_text("evaluation", o->evaluation, &map, err));
    UPG_TRY(upg_text_evaluator_init(&c->evaluator, checkpoint, map.bytes, o->evaluation,
                                    o->evaluation_windows, o->threads, &c->listener, err));
    *evaluator = &c->evaluator.evaluator;
out:
    upg_map_close(&map);
    return st;
}

/* quick: as upg_job_settings.quick */
static upg_status open_job(const char *checkpoint, const char *output,
                           const upg_compress_options *options, bool quick, upg_compress **job,
                           upg_error *err)
{
    upg_compress_options o;
    upg_job_settings     settings = { 0 };
    upg_compress        *c = NULL;
    upg_status           st;

    *job = NULL;
    if (!checkpoint || !output)
        return upg_fail(err, UPG_E_ARG, "%s is NULL", checkpoint ? "output" : "checkpoint");
    UPG_TRY(upg_struct_in(options, &o, sizeof o, "upg_compress_options", err));
    c = upg_calloc(1, sizeof *c, err);
    UPG_TRY(c ? UPG_OK : UPG_E_NOMEM);
    c->hooks = o.hooks;
    c->listener = upg_hooks_listener(&c->hooks, &c->cancel);
    UPG_TRY(find_calibration(c, o.calibration, &settings.calibration, err));
    settings.bits_per_parameter = o.bits_per_parameter;
    settings.threads = o.threads;
    settings.max_memory = o.max_memory;
    settings.seed = o.seed;
    settings.overwrite = o.overwrite;
    settings.independent = o.independent;
    settings.quick = quick;
    settings.without_outliers = o.without_outliers;
    settings.without_tuning = o.without_tuning;
    settings.effort = upg_effort_find((uint32_t)o.effort);
    if (settings.effort == NULL)
        UPG_TRY(upg_fail(err, UPG_E_ARG, "effort is %d; levels are 0 (default) to %d",
                         (int)o.effort, (int)UPG_EFFORT_MAX));
    settings.journal = o.journal && !quick;
    settings.resume = o.resume && !quick;
    settings.join = quick || !o.join || o.join[0] == '\0' ? NULL : o.join;
    settings.max_file_bytes = o.max_file_bytes;
    settings.calibration_name = o.calibration;
    settings.device = o.device;
    settings.listener = c->listener;
    UPG_TRY(find_evaluation(c, checkpoint, &o, &settings.evaluator, err));
    UPG_TRY(upg_job_open(checkpoint, output, &settings, &c->job, err));
out:
    if (st != UPG_OK) {
        upg_compress_close(c);
        c = NULL;
    }
    *job = c;
    return st;
}

UPG_API upg_status upg_compress_open(const char *checkpoint, const char *output,
                                     const upg_compress_options *options, upg_compress **job,
                                     upg_error *err)
{
    if (!job)
        return upg_fail(err, UPG_E_ARG, "job is NULL");
    return open_job(checkpoint, output, options, false, job, err);
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
    upg_text_evaluator_deinit(&job->evaluator);
    upg_free(job);
}

/* ---- estimates ------------------------------------------------------------------------------ */

/* Sizes as the job's own plan tells them. */
static void copy_sizes(const upg_job *job, const upg_compress_options *o, upg_estimate *e)
{
    bool join = o->join && o->join[0] != '\0';

    const upg_container_size *size = upg_job_size(job);

    e->parameters = size->parameters;
    e->weight_bytes = size->weight_bytes;
    e->file_bytes = size->file_bytes;
    e->source_bytes = upg_job_weights(job)->source_bytes;
    e->ratio_fp32 = 4.0 * (double)e->parameters / (double)e->file_bytes;
    e->ratio_source = (double)e->source_bytes / (double)e->file_bytes;
    e->memory_bytes = upg_job_memory(job);
    if (o->journal || o->resume || join)
        e->journal_bytes = upg_job_journal(job, !join);
    e->disk_bytes = e->file_bytes + e->journal_bytes + upg_job_spilled(job);
}

/* What is there; where the system does not tell, it counts as enough. */
static void look_around(const char *output, upg_estimate *e)
{
    uint64_t total;

    upg_system_memory(&total, &e->memory_available);
    e->fits_memory = e->memory_available == 0 || e->memory_bytes <= e->memory_available;
    e->fits_disk =
        !upg_system_disk(output, &e->disk_available) || e->disk_bytes <= e->disk_available;
}

static upg_status estimate_time(const upg_job *job, const upg_compress_options *o, upg_estimate *e,
                                upg_error *err)
{
    upg_workload      work = { .weights = upg_job_weights(job),
                               .plan = upg_job_plan(job),
                               .sequential = !o->independent,
                               .outliers = !o->without_outliers,
                               .seed = o->seed };
    upg_time_estimate time;
    upg_pool         *pool = NULL;
    upg_status        st;

    upg_job_windows(job, &work.n_windows, &work.window, &work.plan_windows);
    upg_job_tuning(job, &work.tune_windows, &work.tune_epochs);
    UPG_TRY(upg_pool_create(o->threads, &pool, err));
    UPG_TRY(upg_time_estimate_make(&work, pool, &time, err));
    e->plan_seconds = time.plan_seconds;
    e->text_seconds = time.text_seconds;
    e->code_seconds = time.code_seconds;
    e->seconds = time.plan_seconds + time.text_seconds + time.code_seconds;
    e->code_rate = time.code_rate;
    e->product_rate = time.product_rate;
    e->measured_seconds = time.measured_seconds;
out:
    upg_pool_close(pool);
    return st;
}

UPG_API upg_status upg_compress_estimate(const char *checkpoint, const char *output,
                                         const upg_compress_options *options,
                                         upg_estimate *estimate, upg_error *err)
{
    upg_compress_options o;
    upg_estimate         known = { 0 };
    upg_compress        *c = NULL;
    upg_status           st;

    UPG_TRY(upg_struct_check(estimate, "upg_estimate", err));
    UPG_TRY(upg_struct_in(options, &o, sizeof o, "upg_compress_options", err));
    if (o.evaluation && o.evaluation[0] != '\0')
        UPG_TRY(upg_fail(err, UPG_E_UNSUPPORTED,
                         "upg_compress_options.evaluation: evaluations are not estimated, leave it "
                         "NULL"));
    st = open_job(checkpoint, output, &o, true, &c, err);
    if (st != UPG_OK || !c)
        goto out;
    copy_sizes(c->job, &o, &known);
    look_around(output, &known);
    UPG_TRY(estimate_time(c->job, &o, &known, err));
    upg_struct_out(&known, sizeof known, estimate);
out:
    upg_compress_close(c);
    return st;
}
