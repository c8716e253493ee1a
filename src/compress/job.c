/* job.c: one compression: open and plan (job_plan.c), then matrix by matrix encode and write
 * (job_encode.c), then finish (job_run.c).
 *
 * Matrices are encoded in file order, one at a time by all threads, so that memory stays that of
 * the largest matrix. The writer's temporary is the only thing on disk until everything is there,
 * except for a journal.
 */
#include "compress/job_impl.h"

#include <string.h>

#include "base/alloc.h"
#include "compress/tune.h"
#include "tokenizer/tokenizer.h"

#define MAX_BITS      32.0
#define JOURNAL_HEAD  (UINT64_C(1) << 20) /* head.json and leases: hundreds of kilobytes at most */
#define JOURNAL_BLOCK 4096                /* what a file system rounds each file up to */

static upg_status check_input(const upg_weights *weights, upg_error *err)
{
    for (uint32_t i = 0; i < upg_weights_matrix_count(weights); i++)
        if (upg_weights_matrix(weights, i)->kind != UPG_MATRIX_DENSE)
            return upg_fail(err, UPG_E_UNSUPPORTED,
                            "tensor \"%s\" is coded already: compress the original checkpoint, a "
                            "second loss would not be seen",
                            upg_weights_matrix(weights, i)->name);
    return UPG_OK;
}

/* A tokenizer that knows more tokens than the embedding has rows belongs to another model. */
static upg_status check_tokenizer(const upg_weights *weights, upg_error *err)
{
    upg_tokenizer *tokenizer = NULL;
    upg_status     st = UPG_OK;
    uint32_t       size;

    if (weights->tokenizer_json.size == 0)
        return UPG_OK;
    st = upg_tokenizer_load(weights->tokenizer_json, weights->tokenizer_config_json, &tokenizer,
                            err);
    if (st != UPG_OK) {
        upg_error_prefix(err, "tokenizer: ");
        return st;
    }
    size = upg_tokenizer_vocab_size(tokenizer);
    upg_tokenizer_release(tokenizer);
    if (size > weights->config.vocab)
        st = upg_fail(err, UPG_E_DATA,
                      "tokenizer.json has token %u, the embedding has %u rows (config.json, "
                      "\"vocab_size\"): tokenizer and weights do not belong together",
                      size - 1, weights->config.vocab);
    return st;
}

/* A text that was asked for must be used; one that nobody named is left out where the model has no
 * tokenizer to read it with. */
static bool wants_calibration(const upg_job *job)
{
    return job->settings.calibration.size > 0 &&
           (job->settings.calibration_name != NULL || job->weights->tokenizer_json.size > 0);
}

static uint64_t peak_memory(const upg_job *job)
{
    uint64_t most = job->plan_memory.bytes;

    most = job->encode_memory.bytes > most ? job->encode_memory.bytes : most;
    return job->tune_memory.bytes > most ? job->tune_memory.bytes : most;
}

static upg_status open_journal(upg_job *job, upg_error *err)
{
    upg_buffer folder;
    upg_status st;

    if (job->settings.join != NULL)
        return upg_journal_open(job->settings.join, UPG_JOURNAL_JOIN, &job->journal, err);
    upg_buffer_init(&folder, SIZE_MAX / 2);
    st = upg_buffer_addf(&folder, err, "%s.journal", job->output);
    if (st == UPG_OK)
        st = upg_journal_open(folder.data,
                              job->settings.resume ? UPG_JOURNAL_RESUME : UPG_JOURNAL_NEW,
                              &job->journal, err);
    upg_buffer_deinit(&folder);
    return st;
}

bool upg_job_may_be_ours(const upg_job *job)
{
    return (job->settings.resume || job->settings.join != NULL) &&
           (upg_journal_begun(job->journal) || upg_journal_done(job->journal) != NULL);
}

upg_status upg_job_open(const char *checkpoint, const char *output,
                        const upg_job_settings *settings, upg_job **out, upg_error *err)
{
    upg_status st;
    upg_job   *job = upg_calloc(1, sizeof *job, err);

    *out = NULL;
    if (job == NULL)
        return UPG_E_NOMEM;
    job->settings = *settings;
    upg_buffer_init(&job->options_json, 4096);
    upg_buffer_init(&job->plan_json, 64u << 20);
    upg_buffer_init(&job->result_json, 4096);
    job->output = upg_strndup(output, strlen(output), err);
    job->checkpoint = upg_strndup(checkpoint, strlen(checkpoint), err);
    UPG_TRY(job->output != NULL && job->checkpoint != NULL ? UPG_OK : UPG_E_NOMEM);
    if (settings->join != NULL) {
        job->join = upg_strndup(settings->join, strlen(settings->join), err);
        job->settings.join = job->join;
        UPG_TRY(job->join != NULL ? UPG_OK : UPG_E_NOMEM);
    }
    if (!(settings->bits_per_parameter >= 0 && settings->bits_per_parameter <= MAX_BITS))
        UPG_TRY(upg_fail(err, UPG_E_ARG, "bits_per_parameter is %g, at most %g make sense",
                         settings->bits_per_parameter, MAX_BITS));
    if (settings->journal || settings->resume || settings->join != NULL)
        UPG_TRY(open_journal(job, err));
    /* a resumed run may find its own file, or one that turns out to be the same */
    if (!settings->overwrite && upg_file_exists(output) && !upg_job_may_be_ours(job))
        UPG_TRY(
            upg_fail(err, UPG_E_EXISTS, "%s: the file exists and was not to be replaced", output));
    UPG_TRY(upg_weights_open(checkpoint, &job->weights, err));
    UPG_TRY(check_input(job->weights, err));
    UPG_TRY(upg_input_open(&job->input, job->checkpoint, job->weights, err));
    UPG_TRY(check_tokenizer(job->weights, err));
    if (!settings->quick)
        UPG_TRY(upg_compress_device_open(settings->device, &job->device, err));
    if (wants_calibration(job)) {
        st = upg_token_windows_make(job->weights, settings->calibration, UPG_CALIBRATION_WINDOW,
                                    upg_job_effort(job)->calibration_windows, &job->calibration,
                                    err);
        if (st != UPG_OK) {
            if (settings->calibration_name != NULL)
                upg_error_prefix(err, "%s: ", settings->calibration_name);
            upg_error_prefix(err, "calibration: ");
            goto out;
        }
    }
    if (settings->join != NULL && job->calibration.n_windows > 0 && !settings->independent)
        UPG_TRY(
            upg_fail(err, UPG_E_UNSUPPORTED,
                     "with sequential calibration a layer waits for those before it, which "
                     "several processes cannot share: ask for independent calibration, or none"));
    UPG_TRY(upg_job_make_plan(job, err));
    UPG_TRY(upg_job_report_plan(&job->plan, &job->size, peak_memory(job),
                                job->weights->source_bytes, job->calibration.n_windows,
                                &job->plan_json, err));
out:
    if (st != UPG_OK) {
        upg_job_close(job);
        job = NULL;
    }
    *out = job;
    return st;
}

const char *upg_job_plan_json(const upg_job *job)
{
    return job->plan_json.data;
}

const char *upg_job_result_json(const upg_job *job)
{
    return job->succeeded ? job->result_json.data : NULL;
}

const upg_container_size *upg_job_size(const upg_job *job)
{
    return &job->size;
}

/* Activations at the input of a layer, of all windows and streams. */
static uint64_t streams_bytes(const upg_job *job)
{
    uint64_t streams = job->settings.independent ? 1 : 2;

    return streams * job->calibration.n_windows * job->calibration.window *
           job->weights->config.hidden * sizeof(float);
}

uint64_t upg_job_spilled(const upg_job *job)
{
    uint64_t window = (uint64_t)job->calibration.window * job->weights->config.hidden;
    uint64_t planning = 0, encoding = 0, tuning = 0;

    if (job->plan_memory.spill)
        planning = (job->weights->config.n_layers + UINT64_C(1)) * upg_job_plan_windows(job) *
                   window * sizeof(float);
    if (job->encode_memory.spill)
        encoding = streams_bytes(job);
    if (job->tune_memory.spill)
        tuning = upg_tune_slots(job->weights, upg_job_tune_windows(job)) * window * sizeof(float);
    planning = planning > encoding ? planning : encoding;
    return planning > tuning ? planning : tuning;
}

uint64_t upg_job_journal(const upg_job *job, bool streams)
{
    uint64_t bytes = JOURNAL_HEAD + (streams ? 2 * streams_bytes(job) : 0);

    for (uint32_t u = 0; u < job->plan.n_units; u++) {
        const upg_plan_unit *unit = &job->plan.units[u];

        if (unit->row0 == 0)
            bytes += UPG_JOURNAL_FRONT + UPG_JOURNAL_HASH + JOURNAL_BLOCK;
        bytes += sizeof(uint32_t) * upg_plan_unit_words(unit) + sizeof(uint16_t) * unit->n_rows;
    }
    return bytes;
}

uint64_t upg_job_memory(const upg_job *job)
{
    return peak_memory(job);
}

const upg_weights *upg_job_weights(const upg_job *job)
{
    return job->weights;
}

const upg_plan *upg_job_plan(const upg_job *job)
{
    return &job->plan;
}

void upg_job_windows(const upg_job *job, uint32_t *n_windows, uint32_t *window,
                     uint32_t *used_to_plan)
{
    *n_windows = job->calibration.n_windows;
    *window = job->calibration.window;
    *used_to_plan = upg_job_plan_windows(job);
}

void upg_job_tuning(const upg_job *job, uint32_t *n_windows, uint32_t *epochs)
{
    *n_windows = upg_job_tunes(job) ? upg_job_tune_windows(job) : 0;
    *epochs = upg_job_effort(job)->tune_epochs;
}

void upg_job_close(upg_job *job)
{
    if (job == NULL)
        return;
    upg_token_windows_deinit(&job->calibration);
    upg_journal_close(job->journal);
    upg_input_close(&job->input);
    upg_weights_close(job->weights);
    upg_arena_deinit(&job->arena);
    upg_buffer_deinit(&job->options_json);
    upg_buffer_deinit(&job->plan_json);
    upg_buffer_deinit(&job->result_json);
    upg_free(job->output);
    upg_free(job->checkpoint);
    upg_free(job->join);
    upg_compress_device_close(job->device);
    upg_free(job);
}
