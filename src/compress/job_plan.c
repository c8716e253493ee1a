/* job_plan.c: what a compression decides before it encodes: rates, memory, the file's layout. */
#include "compress/job_impl.h"

#include <inttypes.h>
#include <string.h>

#include "base/cpu.h"
#include "compress/outlier_search.h"
#include "compress/sensitivity.h"
#include "format/container_layout.h"

#define DEFAULT_BITS   3.2
#define DEFAULT_MEMORY (UINT64_C(8) << 30)
#define LARGE_MODEL    1000000000u
#define FP32_BYTES     4u
#define MIN_FP32_RATIO 10u

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

const upg_vector *upg_job_vector(const upg_weights *weights, uint32_t index)
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
        const upg_vector *vector = upg_job_vector(job->weights, i);

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
    job->file_plan.quality_capacity = UPG_QUALITY_CAPACITY;
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

const upg_effort_level *upg_job_effort(const upg_job *job)
{
    return job->settings.effort != NULL ? job->settings.effort : upg_effort_find(0);
}

uint32_t upg_job_plan_windows(const upg_job *job)
{
    uint32_t n = job->calibration.n_windows;

    return n < upg_job_effort(job)->plan_windows ? n : upg_job_effort(job)->plan_windows;
}

int32_t *upg_job_spread_windows(upg_job *job, uint32_t n, upg_error *err)
{
    const upg_token_windows *all = &job->calibration;
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
    uint32_t           n = upg_job_plan_windows(job), flags = upg_cpu_flags();
    upg_encode_context context = { NULL, &kernels, flags, job->settings.seed, &meter };
    int32_t           *tokens = upg_job_spread_windows(job, n, err);

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
    bool                    tunes = upg_job_tunes(job);
    upg_job_recipe          recipe = { .seed = s->seed,
                                       .max_file_bytes = s->max_file_bytes,
                                       .bits_per_parameter = s->bits_per_parameter,
                                       .effort = upg_job_effort(job) != upg_effort_find(0)
                                                     ? upg_job_effort(job)->name
                                                     : NULL,
                                       .independent = s->independent,
                                       .without_outliers = s->without_outliers,
                                       .damping = UPG_DEFAULT_DAMPING,
                                       .plan_windows = upg_job_plan_windows(job),
                                       .tune_windows = tunes ? upg_job_tune_windows(job) : 0,
                                       .tune_epochs = upg_job_effort(job)->tune_epochs,
                                       .text_bytes = s->calibration.size,
                                       .text_tokens = job->calibration.n_tokens,
                                       .n_windows = job->calibration.n_windows,
                                       .window = job->calibration.window };

    if (s->bits_per_parameter == 0 && s->max_file_bytes == 0)
        recipe.bits_per_parameter = DEFAULT_BITS;
    upg_text_hash(s->calibration, recipe.text_hash);
    return upg_job_report_recipe(&recipe, &job->options_json, err);
}

upg_calibration upg_job_calibration(const upg_job *job)
{
    return (upg_calibration) { job->calibration.tokens, job->calibration.n_windows,
                               job->calibration.window, !job->settings.independent, 0 };
}

static uint64_t memory_limit(const upg_job *job)
{
    return job->settings.max_memory != 0 ? job->settings.max_memory : DEFAULT_MEMORY;
}

/* Refuses a memory limit that nothing fits, before anything of size is allocated. */
static upg_status choose_memory(upg_job *job, upg_error *err)
{
    uint64_t        limit = memory_limit(job);
    uint64_t        kept = (uint64_t)job->calibration.n_windows * job->calibration.window * 4;
    upg_calibration calibration = upg_job_calibration(job);

    for (uint32_t i = 0; i < job->plan.n_candidates; i++)
        kept += job->plan.candidates[i].bytes * 4; /* a value's column in memory is an u32 */
    return upg_memory_choose(job->weights, &job->plan, &calibration, upg_job_plan_windows(job),
                             kept, threads_of(job), limit, &job->plan_memory, &job->encode_memory,
                             err);
}

upg_journal_key upg_job_key(upg_job *job)
{
    return (upg_journal_key) { &job->input, job->options_json.data, &job->plan,
                               job->device != NULL ? job->device->class_->describe(job->device)
                                                   : NULL };
}

/* What the plan's units matter: measured, or as an earlier run measured it. */
static upg_status measure_or_recall(upg_job *job, upg_error *err)
{
    upg_journal_key key = upg_job_key(job);
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

static void note_read(void *user, const upg_matrix *matrix)
{
    upg_input_read(user, matrix);
}

upg_status upg_job_make_plan(upg_job *job, upg_error *err)
{
    upg_status         st;
    upg_container_size least;
    uint64_t           budget = 0;

    UPG_TRY(upg_plan_create(job->weights, &job->arena, &job->plan, err));
    if (job->journal != NULL)
        job->plan.reader = (upg_matrix_reader) { note_read, &job->input };
    upg_plan_set_length(&job->plan, upg_job_effort(job)->code_length);
    upg_job_choose_tuning(job, threads_of(job), memory_limit(job));
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
