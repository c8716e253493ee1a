/* engine_load.c: from a path to a model that runs.
 *
 *   weights ─► tokenizer ─► checks ─► program ─► backend, with as many rows as the memory allows */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "backend/cuda_loader.h"
#include "base/alloc.h"
#include "base/cpu.h"
#include "base/pool.h"
#include "model/synthetic.h"
#include "model/weights_source.h"
#include "runtime/engine.h"

#define MAX_PROGRAM_TEXT ((size_t)64 << 20)

/* ---- tokenizer ------------------------------------------------------------------------------ */

static upg_status load_tokenizer(upg_model *m, upg_error *err)
{
    const upg_weights  *w = m->weights;
    upg_tokenizer_files files = { w->tokenizer_json, w->tokenizer_config_json, w->chat_template };
    size_t              size;

    m->sampled = w->config.vocab;
    if (w->tokenizer_json.size == 0)
        return UPG_OK;
    {
        upg_status st = upg_tokenizer_load_files(&files, &m->tokenizer, err);

        if (st != UPG_OK)
            return st;
    }
    size = upg_tokenizer_vocab_size(m->tokenizer);
    if (size > w->config.vocab)
        return upg_fail(err, UPG_E_DATA,
                        "tokenizer.json has token ids up to %zu, the embedding has %" PRIu32
                        " rows: they belong to different models",
                        size - 1, w->config.vocab);
    m->sampled = (uint32_t)size;
    return UPG_OK;
}

static void add_end(upg_model *m, upg_token token)
{
    if (!upg_engine_is_end(m, token) && m->n_ends < UPG_ENGINE_ENDS)
        m->ends[m->n_ends++] = token;
}

static void collect_ends(upg_model *m)
{
    const upg_model_config *c = &m->weights->config;
    int32_t                 ids[UPG_CHAT_MAX_ENDS];
    size_t                  n = m->tokenizer ? upg_chat_end_ids(m->tokenizer, ids) : 0;

    for (uint32_t i = 0; i < c->n_end_tokens; i++)
        add_end(m, c->end_tokens[i]);
    for (size_t i = 0; i < n; i++)
        add_end(m, ids[i]);
}

/* ---- texts ---------------------------------------------------------------------------------- */

static char *copy_text(upg_span text, upg_error *err)
{
    return upg_strndup(text.size > 0 ? (const char *)text.data : "", text.size, err);
}

static upg_status print_program(upg_model *m, upg_error *err)
{
    upg_buffer text;
    upg_status st;

    upg_buffer_init(&text, MAX_PROGRAM_TEXT);
    UPG_TRY(upg_program_print(m->program, &text, err));
    m->program_text = upg_strndup(text.data ? text.data : "", text.size, err);
    UPG_TRY(m->program_text ? UPG_OK : UPG_E_NOMEM);
    m->quality_json = copy_text(m->weights->quality_json, err);
    UPG_TRY(m->quality_json ? UPG_OK : UPG_E_NOMEM);
out:
    upg_buffer_deinit(&text);
    return st;
}

/* ---- backend -------------------------------------------------------------------------------- */

static upg_status create_backend(upg_model *m, const char *device, uint32_t max_rows,
                                 upg_error *err)
{
    upg_backend_options options = { .threads = m->threads,
                                    .max_rows = max_rows,
                                    .device = device,
                                    .unpinned = m->unpinned,
                                    .lut8 = m->lut8 };

    m->max_rows = max_rows;
    return m->class_->create(m->program, &options, &m->backend, err);
}

static uint64_t memory_needed(const upg_model *m)
{
    uint64_t host = m->max_rows * sizeof(upg_batch_row) +
                    m->weights->config.vocab * (sizeof(float) + 4 + sizeof(upg_scored));

    return m->weights->weight_bytes + m->class_->memory(m->backend) + host;
}

/* A coded matrix is decoded once for each batch, so that more rows make long prompts faster;
 * scratch grows with them: about 64 MB for 256 rows of a model of 15e9 weights. Takes fewer rows
 * for as long as the budget is passed. */
static upg_status fit_backend(upg_model *m, const char *device, uint64_t max_memory, upg_error *err)
{
    upg_status st = UPG_OK;

    for (uint32_t rows = UPG_ENGINE_MAX_ROWS;; rows /= 2) {
        UPG_TRY(create_backend(m, device, rows, err));
        if (max_memory == 0 || memory_needed(m) <= max_memory)
            return UPG_OK;
        if (rows == 1)
            return upg_fail(err, UPG_E_BUDGET,
                            "max_memory is %" PRIu64 " bytes; the model needs %" PRIu64
                            " at least: %" PRIu64 " for weights, the rest for scratch",
                            max_memory, memory_needed(m), m->weights->weight_bytes);
        m->class_->close(m->backend);
        m->backend = NULL;
    }
out:
    return st;
}

static upg_status allocate_space(upg_model *m, upg_error *err)
{
    uint32_t vocab = m->weights->config.vocab;
    bool     ok = (m->rows = upg_calloc(m->max_rows, sizeof *m->rows, err)) &&
              (m->space.values = upg_alloc_aligned(vocab * sizeof(float), err)) &&
              (m->space.counts = upg_calloc(vocab, sizeof *m->space.counts, err)) &&
              (m->space.candidates = upg_calloc(vocab, sizeof *m->space.candidates, err));

    return ok ? UPG_OK : UPG_E_NOMEM;
}

/* A device that was asked for takes the model or is an error. When none was, a device that cannot
 * take it, for want of memory say, is passed over for the CPU, and the model tells why. */
static upg_status choose_backend(upg_model *m, const upg_engine_settings *s, upg_error *err)
{
    const bool               automatic = s->device == NULL || strcmp(s->device, "auto") == 0;
    const upg_backend_class *gpu;
    upg_error                why = { 0 };
    upg_status               st;

    if (!automatic)
        return fit_backend(m, s->device, s->max_memory, err);
    if (m->class_ == &upg_backend_cpu) {
        /* A machine without the module is not meant to have a GPU; with it, why there is none. */
        if (upg_cuda_load(&gpu, &why) != UPG_OK && upg_cuda_symbol("upg_cuda_module_open") != NULL)
            snprintf(m->passed_over, sizeof m->passed_over, "cuda: %s", why.message);
        return fit_backend(m, NULL, s->max_memory, err);
    }
    st = fit_backend(m, NULL, s->max_memory, &why);
    if (st == UPG_OK)
        return st;
    snprintf(m->passed_over, sizeof m->passed_over, "%s: %s", m->class_->name, why.message);
    m->refused = true;
    m->class_ = &upg_backend_cpu;
    return fit_backend(m, NULL, s->max_memory, err);
}

/* ---- checks asked for ------------------------------------------------------------------------ */

static upg_status verify_now(const char *path, const upg_engine_settings *s, upg_error *err)
{
    upg_pool  *pool = NULL;
    uint64_t   bad_offset;
    upg_status st;

    UPG_TRY(upg_pool_create(s->threads, &pool, err));
    UPG_TRY(upg_container_verify(path, pool, s->listener, &bad_offset, err));
out:
    upg_pool_close(pool);
    return st;
}

/* A checkpoint has no hashes: its weights are looked through for NaN and infinity. */
static upg_status look_through(const upg_weights *w, const upg_listener *listener, upg_error *err)
{
    upg_meter  meter;
    upg_status st = UPG_OK;

    upg_meter_start(&meter, listener, "verify", "bytes", w->weight_bytes);
    for (uint32_t i = 0; i < upg_weights_matrix_count(w) && !upg_meter_cancelled(&meter); i++) {
        UPG_TRY(upg_matrix_check_finite(upg_weights_matrix(w, i), err));
        upg_meter_add(&meter, upg_weights_matrix(w, i)->bytes);
        upg_meter_tick(&meter);
    }
    st = upg_meter_finish(&meter, err);
out:
    return st;
}

/* ---- all of it ------------------------------------------------------------------------------ */

/* From weights to a model that runs. */
static upg_status build(const upg_engine_settings *s, upg_model *m, upg_error *err)
{
    upg_status st;

    collect_ends(m);
    UPG_TRY(upg_program_build_as(s->unfused ? UPG_PROGRAM_UNFUSED : UPG_PROGRAM_FUSED, m->weights,
                                 &m->program, err));
    UPG_TRY(print_program(m, err));
    UPG_TRY(choose_backend(m, s, err));
    UPG_TRY(allocate_space(m, err));
out:
    return st;
}

static upg_status load(const char *path, const upg_engine_settings *s, upg_model *m, upg_error *err)
{
    bool       folder = upg_file_is_folder(path);
    upg_status st;

    UPG_TRY(upg_backend_find(s->device, &m->class_, err));
    if (s->verify == 2 && !folder)
        UPG_TRY(verify_now(path, s, err));
    UPG_TRY(upg_weights_open(path, &m->weights, err));
    if (s->verify == 2 && folder)
        UPG_TRY(look_through(m->weights, s->listener, err));
    m->unchecked = s->verify == 1 && folder;
    st = load_tokenizer(m, err);
    if (st != UPG_OK)
        upg_error_prefix(err, "%s: ", path);
    UPG_TRY(st);
    UPG_TRY(build(s, m, err));
    if (s->verify == 1 && !folder) /* a device has its copy of all weights already */
        UPG_TRY(upg_weight_check_create(m->weights, s->threads, m->class_->kv_allocate != NULL,
                                        &m->check, err));
out:
    return st;
}

static upg_status make(const char *shape, const upg_engine_settings *s, upg_model *m,
                       upg_error *err)
{
    upg_pool  *pool = NULL;
    upg_status st;

    UPG_TRY(upg_backend_find(s->device, &m->class_, err));
    UPG_TRY(upg_pool_create(s->threads, &pool, err));
    UPG_TRY(upg_weights_synthetic(shape, s->max_memory, pool, &m->weights, err));
    UPG_TRY(load_tokenizer(m, err));
    UPG_TRY(build(s, m, err));
out:
    upg_pool_close(pool);
    return st;
}

typedef upg_status loader(const char *name, const upg_engine_settings *s, upg_model *m,
                          upg_error *err);

static upg_status load_by(loader *from, const char *name, const upg_engine_settings *settings,
                          upg_model **model, upg_error *err)
{
    upg_model *m = upg_calloc(1, sizeof *m, err);
    upg_status st;

    *model = NULL;
    if (!m)
        return UPG_E_NOMEM;
    atomic_init(&m->references, 1);
    pthread_mutex_init(&m->lock, NULL);
    m->threads = settings->threads;
    m->lut8 = settings->lut8;
    m->unpinned = settings->unpinned;
    upg_kernels_select(upg_cpu_flags(), &m->kernels);
    st = from(name, settings, m, err);
    if (st == UPG_OK)
        m->kv_type = strcmp(m->class_->name, "ref") == 0 ? UPG_KV_F32 : UPG_KV_F16;
    if (st != UPG_OK) {
        upg_engine_release(m);
        return st;
    }
    *model = m;
    return UPG_OK;
}

upg_status upg_engine_load(const char *path, const upg_engine_settings *settings, upg_model **model,
                           upg_error *err)
{
    return load_by(load, path, settings, model, err);
}

upg_status upg_engine_load_synthetic(const char *shape, const upg_engine_settings *settings,
                                     upg_model **model, upg_error *err)
{
    return load_by(make, shape, settings, model, err);
}
