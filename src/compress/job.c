/* job.c: one compression: open and plan, then matrix by matrix encode and write, then finish.
 *
 * Matrices are encoded in file order, one at a time by all threads, so that memory stays that of
 * the largest matrix. The writer's temporary is the only thing on disk until everything is there.
 */
#include "compress/job.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/cpu.h"
#include "compress/calibrate.h"
#include "compress/calibration_text.h"
#include "compress/encode.h"
#include "compress/job_memory.h"
#include "compress/job_report.h"
#include "compress/journal_sink.h"
#include "compress/outlier_search.h"
#include "compress/sensitivity.h"
#include "format/container_layout.h"
#include "format/container_writer.h"
#include "tokenizer/tokenizer.h"

#define DEFAULT_BITS     3.2
#define MAX_BITS         32.0
#define DEFAULT_MEMORY   (UINT64_C(8) << 30)
#define LARGE_MODEL      1000000000u
#define QUALITY_CAPACITY 4096u /* twice what a report with all roles and figures takes */
#define FP32_BYTES       4u
#define MIN_FP32_RATIO   10u
#define KEEP_SECONDS     60.0
#define LEASE_SECONDS    120.0

struct upg_job {
    upg_job_settings   settings;
    char              *output, *checkpoint;
    upg_weights       *weights;
    upg_arena          arena;
    upg_plan           plan;
    upg_container_plan file_plan;
    upg_container_size size;
    upg_token_windows  calibration;
    upg_buffer         options_json, plan_json, result_json;
    upg_job_summary    summary;
    upg_memory_choice  plan_memory, encode_memory;
    upg_leases        *leases;  /* while it runs together with others */
    upg_journal       *journal; /* NULL: nothing is kept */
    bool               ran, succeeded;
};

/* ---- planning ------------------------------------------------------------------------------- */

/* Turns the plan's units into the writer's matrices and bands. */
static upg_status plan_matrices(upg_job *job, upg_error *err)
{
    uint32_t         n_matrices = upg_weights_matrix_count(job->weights), n = 0;
    upg_matrix_plan *matrices = upg_arena_alloc(&job->arena, n_matrices, sizeof *matrices, err);
    upg_band_plan   *bands = upg_arena_alloc(&job->arena, job->plan.n_units, sizeof *bands, err);

    if (matrices == NULL || bands == NULL)
        return UPG_E_NOMEM;
    for (uint32_t u = 0; u < job->plan.n_units; n++) {
        const upg_matrix         *matrix = job->plan.units[u].matrix;
        const upg_plan_candidate *outliers = upg_plan_outliers_of(&job->plan, u);
        uint32_t                  n_bands = upg_plan_units_of(&job->plan, u);

        matrices[n] =
            (upg_matrix_plan) { matrix->name,
                                matrix->n_rows,
                                matrix->n_cols,
                                job->settings.seed,
                                n_bands,
                                bands + u,
                                outliers ? outliers->counts : (upg_outlier_counts) { 0 } };
        for (uint32_t b = 0; b < n_bands; b++, u++)
            bands[u] = (upg_band_plan) { job->plan.units[u].n_rows, *job->plan.units[u].code };
    }
    job->file_plan.matrices = matrices;
    job->file_plan.n_matrices = n;
    return UPG_OK;
}

/* bf16 where that loses nothing, as in every checkpoint that ships bf16; else fp32. */
static upg_dtype vector_dtype(const upg_vector *vector)
{
    for (uint32_t i = 0; i < vector->n; i++) {
        uint32_t bits;

        memcpy(&bits, &vector->values[i], sizeof bits);
        if (bits & 0xFFFFu)
            return UPG_F32;
    }
    return UPG_BF16;
}

static const upg_vector *vector_at(const upg_weights *weights, uint32_t index)
{
    if (index == 2 * weights->config.n_layers)
        return &weights->final_norm;
    return index % 2 == 0 ? &weights->layers[index / 2].attention_norm
                          : &weights->layers[index / 2].ffn_norm;
}

static upg_status plan_vectors(upg_job *job, upg_error *err)
{
    uint32_t      n = 2 * job->weights->config.n_layers + 1;
    upg_st_entry *entries = upg_arena_alloc(&job->arena, n, sizeof *entries, err);

    if (entries == NULL)
        return UPG_E_NOMEM;
    for (uint32_t i = 0; i < n; i++) {
        const upg_vector *vector = vector_at(job->weights, i);

        entries[i] = (upg_st_entry) { vector->name, vector_dtype(vector), 1, { vector->n } };
    }
    job->file_plan.dense = entries;
    job->file_plan.n_dense = n;
    return UPG_OK;
}

static void plan_parts(upg_job *job)
{
    const upg_weights *w = job->weights;
    upg_span          *parts = job->file_plan.parts;

    parts[UPG_PART_CONFIG] = w->config_json;
    parts[UPG_PART_GENERATION_CONFIG] = w->generation_config_json;
    parts[UPG_PART_TOKENIZER] = w->tokenizer_json;
    parts[UPG_PART_TOKENIZER_CONFIG] = w->tokenizer_config_json;
    parts[UPG_PART_CHAT_TEMPLATE] = w->chat_template;
    job->file_plan.source_bytes = w->source_bytes;
    job->file_plan.quality_capacity = QUALITY_CAPACITY;
}

/* Bytes that code may take, given the size at the lowest rates. Fails when even that is too much,
 * with the least possible figure. */
static upg_status code_budget(const upg_job *job, const upg_container_size *least, uint64_t *budget,
                              upg_error *err)
{
    double   bits = job->settings.bits_per_parameter;
    uint64_t file_limit = job->settings.max_file_bytes, weight_limit = UINT64_MAX;
    double   target = bits == 0 ? DEFAULT_BITS : bits;
    uint64_t parts_bytes = least->file_bytes - least->weight_bytes;
    uint64_t other_bytes = least->weight_bytes - job->plan.code_bytes;

    if (bits != 0 || file_limit == 0)
        weight_limit = (uint64_t)(target * (double)least->parameters / 8);
    if (file_limit == 0)
        file_limit = bits == 0 && least->parameters > LARGE_MODEL
                         ? least->parameters * FP32_BYTES / MIN_FP32_RATIO
                         : UINT64_MAX;
    if (weight_limit < least->weight_bytes)
        return upg_fail(err, UPG_E_BUDGET,
                        "%.3f bits per parameter cannot be reached: this model takes at least %.3f "
                        "(%" PRIu64 " bytes of weights for %" PRIu64 " parameters)",
                        target, 8.0 * (double)least->weight_bytes / (double)least->parameters,
                        least->weight_bytes, least->parameters);
    if (file_limit < least->file_bytes)
        return upg_fail(err, UPG_E_BUDGET,
                        "a file of %" PRIu64 " bytes cannot be reached: this model takes at least "
                        "%" PRIu64 " (%" PRIu64 " of weights, %" PRIu64
                        " of tokenizer, config and tables)",
                        file_limit, least->file_bytes, least->weight_bytes, parts_bytes);
    if (weight_limit > file_limit - parts_bytes)
        weight_limit = file_limit - parts_bytes;
    *budget = weight_limit - other_bytes;
    return UPG_OK;
}

static uint32_t threads_of(const upg_job *job)
{
    return job->settings.threads != 0 ? job->settings.threads : upg_cpu_cores();
}

static const upg_effort_level *effort_of(const upg_job *job)
{
    return job->settings.effort != NULL ? job->settings.effort : upg_effort_find(0);
}

static uint32_t plan_windows(const upg_job *job)
{
    uint32_t n = job->calibration.n_windows;

    return n < effort_of(job)->plan_windows ? n : effort_of(job)->plan_windows;
}

/* Copies windows evenly spread over those of the calibration: i32 [plan_windows][window]. */
static int32_t *spread_windows(upg_job *job, upg_error *err)
{
    const upg_token_windows *all = &job->calibration;
    uint32_t                 n = plan_windows(job);
    int32_t *tokens = upg_arena_alloc(&job->arena, (size_t)n * all->window, sizeof *tokens, err);

    for (size_t w = 0; tokens != NULL && w < n; w++)
        memcpy(tokens + w * all->window, all->tokens + w * all->n_windows / n * all->window,
               all->window * sizeof *tokens);
    return tokens;
}

/* Measures what each unit of the plan matters, on a few windows of the calibration text. */
static upg_status measure_plan(upg_job *job, upg_error *err)
{
    upg_status         st;
    upg_pool          *pool = NULL;
    upg_kernels        kernels;
    upg_meter          meter;
    uint32_t           n = plan_windows(job), flags = upg_cpu_flags();
    upg_encode_context context = { NULL, &kernels, flags, job->settings.seed, &meter };
    int32_t           *tokens = spread_windows(job, err);

    UPG_TRY(tokens != NULL ? UPG_OK : UPG_E_NOMEM);
    upg_kernels_select(flags, &kernels);
    UPG_TRY(upg_pool_create(job->plan_memory.threads, &pool, err));
    context.pool = pool;
    context.spill_beside = job->plan_memory.spill ? job->output : NULL;
    upg_meter_start(&meter, &job->settings.listener, "plan", "tokens",
                    (uint64_t)n * job->calibration.window * job->weights->config.n_layers);
    UPG_TRY(upg_sensitivity_measure(&context, job->weights, tokens, n, job->calibration.window,
                                    &job->plan, err));
    UPG_TRY(upg_meter_finish(&meter, err));
out:
    upg_pool_close(pool);
    return st;
}

static upg_status find_outliers(upg_job *job, upg_error *err)
{
    upg_pool  *pool = NULL;
    upg_status st = upg_pool_create(threads_of(job), &pool, err);

    if (st == UPG_OK)
        st = upg_outliers_find(&job->plan, pool, &job->arena, err);
    upg_pool_close(pool);
    return st;
}

static upg_status write_recipe(upg_job *job, upg_error *err)
{
    const upg_job_settings *s = &job->settings;
    upg_job_recipe          recipe = { .seed = s->seed,
                                       .max_file_bytes = s->max_file_bytes,
                                       .bits_per_parameter = s->bits_per_parameter,
                                       .effort = effort_of(job) != upg_effort_find(0) ? effort_of(job)->name
                                                                                      : NULL,
                                       .independent = s->independent,
                                       .without_outliers = s->without_outliers,
                                       .damping = UPG_DEFAULT_DAMPING,
                                       .plan_windows = plan_windows(job),
                                       .text_bytes = s->calibration.size,
                                       .text_tokens = job->calibration.n_tokens,
                                       .n_windows = job->calibration.n_windows,
                                       .window = job->calibration.window };

    if (s->bits_per_parameter == 0 && s->max_file_bytes == 0)
        recipe.bits_per_parameter = DEFAULT_BITS;
    upg_text_hash(s->calibration, recipe.text_hash);
    return upg_job_report_recipe(&recipe, &job->options_json, err);
}

static upg_calibration calibration_of(const upg_job *job)
{
    return (upg_calibration) { job->calibration.tokens, job->calibration.n_windows,
                               job->calibration.window, !job->settings.independent, 0 };
}

/* Refuses a memory limit that nothing fits, before anything of size is allocated. */
static upg_status choose_memory(upg_job *job, upg_error *err)
{
    uint64_t limit = job->settings.max_memory != 0 ? job->settings.max_memory : DEFAULT_MEMORY;
    uint64_t kept = (uint64_t)job->calibration.n_windows * job->calibration.window * 4;
    upg_calibration calibration = calibration_of(job);

    for (uint32_t i = 0; i < job->plan.n_candidates; i++)
        kept += job->plan.candidates[i].bytes * 4; /* a value's column in memory is an u32 */
    return upg_memory_choose(job->weights, &job->plan, &calibration, plan_windows(job), kept,
                             threads_of(job), limit, &job->plan_memory, &job->encode_memory, err);
}

static upg_journal_key key_of(const upg_job *job)
{
    return (upg_journal_key) { job->checkpoint, job->weights, job->options_json.data, &job->plan };
}

/* What the plan's units matter: measured, or as an earlier run measured it. */
static upg_status measure_or_recall(upg_job *job, upg_error *err)
{
    upg_journal_key key = key_of(job);
    upg_pool       *pool = NULL;
    upg_status      st;

    if (job->journal == NULL || !upg_journal_begun(job->journal))
        return job->calibration.n_windows > 0 && !job->settings.quick ? measure_plan(job, err)
                                                                      : UPG_OK;
    st = upg_pool_create(threads_of(job), &pool, err);
    if (st == UPG_OK)
        st = upg_journal_check(job->journal, &key, pool, err);
    if (st == UPG_OK)
        st = upg_journal_apply(job->journal, &job->plan, err);
    upg_pool_close(pool);
    return st;
}

static upg_status make_plan(upg_job *job, upg_error *err)
{
    upg_status         st;
    upg_container_size least;
    uint64_t           budget = 0;

    UPG_TRY(upg_plan_create(job->weights, &job->arena, &job->plan, err));
    upg_plan_set_length(&job->plan, effort_of(job)->code_length);
    UPG_TRY(write_recipe(job, err));
    job->file_plan.options_json = job->options_json.data;
    plan_parts(job);
    UPG_TRY(plan_vectors(job, err));
    UPG_TRY(plan_matrices(job, err));
    UPG_TRY(upg_container_plan_size(&job->file_plan, &least, err));
    UPG_TRY(code_budget(job, &least, &budget, err));
    UPG_TRY(choose_memory(job, err));
    UPG_TRY(measure_or_recall(job, err));
    if (!job->settings.without_outliers && !job->settings.quick)
        UPG_TRY(find_outliers(job, err));
    /* the names of outliers may cost the header one more page */
    UPG_TRY(upg_plan_fill_either(&job->plan, budget, UPG_ALIGN_DATA, err));
    UPG_TRY(plan_matrices(job, err)); /* again, with the rates chosen */
    UPG_TRY(upg_container_plan_size(&job->file_plan, &job->size, err));
    UPG_TRY(choose_memory(job, err)); /* again, with the outliers that are kept */
out:
    return st;
}

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
    return job->plan_memory.bytes > job->encode_memory.bytes ? job->plan_memory.bytes
                                                             : job->encode_memory.bytes;
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

static bool may_be_ours(const upg_job *job)
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
    if (!(settings->bits_per_parameter >= 0 && settings->bits_per_parameter <= MAX_BITS))
        UPG_TRY(upg_fail(err, UPG_E_ARG, "bits_per_parameter is %g, at most %g make sense",
                         settings->bits_per_parameter, MAX_BITS));
    if (settings->journal || settings->resume || settings->join != NULL)
        UPG_TRY(open_journal(job, err));
    /* a resumed run may find its own file, or one that turns out to be the same */
    if (!settings->overwrite && upg_file_exists(output) && !may_be_ours(job))
        UPG_TRY(
            upg_fail(err, UPG_E_EXISTS, "%s: the file exists and was not to be replaced", output));
    UPG_TRY(upg_weights_open(checkpoint, &job->weights, err));
    UPG_TRY(check_input(job->weights, err));
    UPG_TRY(check_tokenizer(job->weights, err));
    if (wants_calibration(job)) {
        st = upg_token_windows_make(job->weights, settings->calibration, UPG_CALIBRATION_WINDOW,
                                    effort_of(job)->calibration_windows, &job->calibration, err);
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
    UPG_TRY(make_plan(job, err));
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

/* ---- running -------------------------------------------------------------------------------- */

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
static upg_status encode_nearest(const upg_encode_context *context, const upg_plan *plan,
                                 const upg_encoded_sink *sink, upg_error *err)
{
    upg_status st = UPG_OK;

    for (uint32_t u = 0, n; u < plan->n_units && st == UPG_OK; u += n) {
        upg_encoded_matrix encoded;

        n = upg_plan_units_of(plan, u);
        if (sink->has != NULL && sink->has(sink->user, plan->units[u].matrix))
            continue;
        if (sink->claim != NULL && !sink->claim(sink->user, plan->units[u].matrix))
            continue;
        st = upg_encode_matrix(context, &plan->units[u], n, NULL, &encoded, err);
        if (st == UPG_OK)
            st = sink->put(sink->user, &plan->units[u], n, &encoded, err);
        upg_encoded_deinit(&encoded);
    }
    return st;
}

/* Writes what the journal has, in file order. */
static upg_status assemble(upg_job *job, upg_container_writer *writer, upg_error *err)
{
    file_sink  file = { job, writer };
    upg_status st = UPG_OK;

    for (uint32_t u = 0, n; u < job->plan.n_units && st == UPG_OK; u += n) {
        const upg_matrix  *matrix = job->plan.units[u].matrix;
        uint32_t           index = upg_journal_index(job->weights, matrix);
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

static upg_status write_vectors(upg_job *job, upg_container_writer *writer, upg_error *err)
{
    upg_status st = UPG_OK;

    for (size_t i = 0; i < job->file_plan.n_dense && st == UPG_OK; i++)
        st = write_vector(writer, &job->file_plan.dense[i], i, vector_at(job->weights, (uint32_t)i),
                          err);
    return st;
}

/* Encodes all that the sink has not. */
static upg_status encode_all(upg_job *job, upg_pool *pool, const upg_encoded_sink *sink,
                             upg_error *err)
{
    upg_status         st = UPG_OK;
    upg_meter          meter;
    upg_kernels        kernels;
    uint32_t           flags = upg_cpu_flags();
    uint64_t           total = 0;
    upg_encode_context context = { pool, &kernels, flags, job->settings.seed, &meter };

    context.spill_beside = job->encode_memory.spill ? job->output : NULL;
    upg_kernels_select(flags, &kernels);
    for (uint32_t u = 0; u < job->plan.n_units; u++)
        total += (uint64_t)job->plan.units[u].n_rows * job->plan.units[u].matrix->n_cols;
    upg_meter_start(&meter, &job->settings.listener, "encode", "weights", total);
    for (uint32_t u = 0; u < job->plan.n_units && sink->has != NULL; u++)
        if (sink->has(sink->user, job->plan.units[u].matrix))
            upg_meter_add(&meter,
                          (uint64_t)job->plan.units[u].n_rows * job->plan.units[u].matrix->n_cols);
    if (job->calibration.n_windows > 0) {
        upg_calibration calibration = calibration_of(job);

        st = upg_calibrated_encode(&context, job->weights, &job->plan, &calibration, sink, err);
    } else {
        st = encode_nearest(&context, &job->plan, sink, err);
    }
    return st == UPG_OK ? upg_meter_finish(&meter, err) : st;
}

static upg_status seal(upg_job *job, upg_pool *pool, upg_container_writer *writer,
                       const upg_evaluation *evaluation, upg_error *err)
{
    upg_buffer quality;
    upg_status st;

    upg_buffer_init(&quality, QUALITY_CAPACITY);
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

/* Encodes straight into the file. */
static upg_status encode_to_file(upg_job *job, upg_pool *pool, upg_container_writer **writer,
                                 upg_error *err)
{
    file_sink        file = { job, NULL };
    upg_encoded_sink sink = { .put = put_matrix, .user = &file };
    upg_status       st = upg_container_writer_create(job->output, job->settings.overwrite,
                                                      &job->file_plan, writer, err);

    file.writer = *writer;
    return st == UPG_OK ? encode_all(job, pool, &sink, err) : st;
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
            st = encode_all(job, pool, &sink->sink, err);
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
    upg_journal_key  key = key_of(job);
    upg_journal_sink sink;
    double           seconds = job->settings.keep_seconds;
    bool             replace = job->settings.overwrite ||
                   (may_be_ours(job) && upg_file_exists(job->output)); /* give_name looks again */
    upg_status st = UPG_OK;

    if (job->settings.join != NULL && upg_journal_done(job->journal) != NULL)
        UPG_TRY(upg_fail(err, UPG_E_EXISTS,
                         "%s: the job of this folder has ended, and \"%s\" is not what it made: "
                         "take another folder",
                         upg_journal_folder(job->journal), job->output));
    if (!upg_journal_begun(job->journal))
        UPG_TRY(upg_journal_begin(job->journal, &key, pool, err));
    upg_journal_sink_init(&sink, job->journal, job->weights, seconds == 0 ? KEEP_SECONDS : seconds);
    if (job->settings.join != NULL) {
        bool   mine;
        double lease = job->settings.lease_seconds;

        UPG_TRY(upg_leases_open(job->settings.join, lease > 0 ? lease : LEASE_SECONDS, &job->leases,
                                err));
        UPG_TRY(share_work(job, pool, &sink, &mine, err));
        if (!mine)
            goto out; /* without a writer */
    } else {
        UPG_TRY(encode_all(job, pool, &sink.sink, err));
    }
    UPG_TRY(upg_container_writer_create(job->output, replace, &job->file_plan, writer, err));
    UPG_TRY(assemble(job, *writer, err));
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

/* After these an unchanged second try would fail the same way. */
static bool is_final(upg_status st)
{
    return st == UPG_E_DATA || st == UPG_E_BUDGET;
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
        UPG_TRY(encode_to_file(job, pool, &writer, err));
    if (writer == NULL) { /* another worker made the file */
        st = take_result(job, err);
        goto out;
    }
    UPG_TRY(write_vectors(job, writer, err));
    UPG_TRY(finish(job, pool, writer, start, err));
    UPG_TRY(upg_weights_check_maps(job->weights, err)); /* zeros are not what was to be coded */
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
    st = ended_before(job) ? only_clear_away(job, err) : do_everything(job, err);
    upg_leases_close(job->leases);
    job->leases = NULL;
    if (job->journal != NULL && job->settings.join == NULL && is_final(st))
        (void)upg_journal_remove(job->journal, NULL);
    job->succeeded = st == UPG_OK;
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

uint64_t upg_job_spilled(const upg_job *job)
{
    uint64_t window = (uint64_t)job->calibration.window * job->weights->config.hidden;
    uint64_t planning = 0, encoding = 0, streams = job->settings.independent ? 1 : 2;

    if (job->plan_memory.spill)
        planning = (job->weights->config.n_layers + UINT64_C(1)) * plan_windows(job);
    if (job->encode_memory.spill)
        encoding = streams * job->calibration.n_windows;
    return (planning > encoding ? planning : encoding) * window * sizeof(float);
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
    *used_to_plan = plan_windows(job);
}

void upg_job_close(upg_job *job)
{
    if (job == NULL)
        return;
    upg_token_windows_deinit(&job->calibration);
    upg_journal_close(job->journal);
    upg_weights_close(job->weights);
    upg_arena_deinit(&job->arena);
    upg_buffer_deinit(&job->options_json);
    upg_buffer_deinit(&job->plan_json);
    upg_buffer_deinit(&job->result_json);
    upg_free(job->output);
    upg_free(job->checkpoint);
    upg_free(job);
}
