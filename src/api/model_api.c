/* model_api.c: upg_model_*. */
#include <string.h>

#include "api/hooks.h"
#include "api/struct_options.h"
#include "base/cpu.h"
#include "base/map_guard.h"
#include "model/architecture.h"
#include "runtime/engine.h"

enum { MAX_THREADS = 4096 };

static upg_status check_threads(const upg_model_options *o, upg_error *err)
{
    uint32_t cores = upg_cpu_cores();

    if (o->threads > MAX_THREADS)
        return upg_fail(err, UPG_E_ARG, "upg_model_options.threads is %u: at most %d", o->threads,
                        MAX_THREADS);
    if (o->threads > cores)
        upg_hooks_log(&o->hooks, UPG_LOG_WARN,
                      "%u threads on %u cores: more threads than cores wait for each other",
                      o->threads, cores);
    return UPG_OK;
}

typedef upg_status loader(const char *name, const upg_engine_settings *settings, upg_model **model,
                          upg_error *err);

static upg_status open_by(loader *load, const char *name, const upg_model_options *o,
                          upg_model **model, upg_error *err)
{
    upg_listener        listener = upg_hooks_listener(&o->hooks, NULL);
    upg_engine_settings settings = { o->device, o->threads, o->verify,  o->max_memory,
                                     &listener, o->lut8,    o->unfused, o->unpinned };
    upg_status          st = load(name, &settings, model, err);

    if (st == UPG_OK && (*model)->passed_over[0] != '\0')
        upg_hooks_log(&o->hooks, (*model)->refused ? UPG_LOG_WARN : UPG_LOG_INFO, "not on %s",
                      (*model)->passed_over);
    if (st == UPG_OK)
        upg_hooks_log(&o->hooks, UPG_LOG_INFO, "%s runs on %s", name,
                      (*model)->class_->describe((*model)->backend));
    return st;
}

UPG_API upg_status upg_model_open(const char *path, const upg_model_options *options,
                                  upg_model **model, upg_error *err)
{
    upg_model_options o;
    upg_status        st;

    if (!model)
        return upg_fail(err, UPG_E_ARG, "model is NULL");
    *model = NULL;
    if (!path)
        return upg_fail(err, UPG_E_ARG, "path is NULL");
    UPG_TRY(upg_struct_in(options, &o, sizeof o, "upg_model_options", err));
    if (o.verify > 2)
        UPG_TRY(upg_fail(err, UPG_E_ARG, "upg_model_options.verify is %u: 0, 1 or 2", o.verify));
    UPG_TRY(check_threads(&o, err));
    UPG_TRY(open_by(upg_engine_load, path, &o, model, err));
out:
    return st;
}

UPG_API upg_status upg_model_open_synthetic(const char *shape, const upg_model_options *options,
                                            upg_model **model, upg_error *err)
{
    upg_model_options o;
    upg_status        st;

    if (!model)
        return upg_fail(err, UPG_E_ARG, "model is NULL");
    *model = NULL;
    if (!shape)
        return upg_fail(err, UPG_E_ARG, "shape is NULL");
    UPG_TRY(upg_struct_in(options, &o, sizeof o, "upg_model_options", err));
    if (o.verify > 0)
        UPG_TRY(upg_fail(err, UPG_E_ARG,
                         "upg_model_options.verify is %u: a synthetic model has no hashes to "
                         "compare with",
                         o.verify));
    UPG_TRY(check_threads(&o, err));
    UPG_TRY(open_by(upg_engine_load_synthetic, shape, &o, model, err));
out:
    return st;
}

UPG_API upg_status upg_guard_maps(upg_error *err)
{
    return upg_map_guard_install(err);
}

UPG_API void upg_model_close(upg_model *model)
{
    upg_engine_release(model);
}

UPG_API upg_status upg_model_describe(const upg_model *model, upg_model_info *info, upg_error *err)
{
    const upg_weights *w;
    upg_token_costs    costs;
    upg_model_info     known = { 0 };
    upg_status         st;

    if (!model)
        return upg_fail(err, UPG_E_ARG, "model is NULL");
    UPG_TRY(upg_struct_check(info, "upg_model_info", err));
    w = model->weights;
    known.architecture = w->config.architecture->name;
    known.device = model->class_->describe(model->backend);
    known.layers = w->config.n_layers;
    known.vocab_size = w->config.vocab;
    known.context_tokens = w->config.context;
    known.parameters = w->n_parameters;
    known.file_bytes = w->file_bytes;
    known.weight_bytes = w->weight_bytes;
    known.source_bytes = w->source_bytes;
    known.bits_per_parameter = 8.0 * (double)w->file_bytes / (double)w->n_parameters;
    known.ratio_fp32 = 4.0 * (double)w->n_parameters / (double)w->file_bytes;
    known.ratio_source = (double)w->source_bytes / (double)w->file_bytes;
    known.quality_json = model->quality_json;
    costs = upg_engine_token_costs(model);
    known.token_bytes = costs.weight_bytes;
    known.kv_bytes = costs.kv_bytes;
    known.kv_bytes_int8 = costs.kv_bytes_int8;
    known.token_macs = costs.macs;
    known.head_macs = costs.head_macs;
    known.batch_tokens = model->max_rows;
    known.fast_prompts = upg_engine_has_fast_prompts(model);
    upg_struct_out(&known, sizeof known, info);
out:
    return st;
}

UPG_API const char *upg_model_program(const upg_model *model)
{
    return model ? model->program_text : "";
}

UPG_API bool upg_model_is_end(const upg_model *model, upg_token token)
{
    return model && upg_engine_is_end(model, token);
}

UPG_API upg_status upg_model_tensor(const upg_model *model, size_t index, upg_tensor_info *info,
                                    upg_error *err)
{
    upg_tensor_info known = { 0 };
    upg_status      st;

    if (!model)
        return upg_fail(err, UPG_E_ARG, "model is NULL");
    UPG_TRY(upg_struct_check(info, "upg_tensor_info", err));
    UPG_TRY(upg_engine_tensor(model, index, &known, err));
    upg_struct_out(&known, sizeof known, info);
out:
    return st;
}

UPG_API const upg_tokenizer *upg_model_tokenizer(const upg_model *model)
{
    return model ? model->tokenizer : NULL;
}

UPG_API upg_status upg_model_sampling(const upg_model *model, upg_sampling *sampling,
                                      upg_error *err)
{
    const upg_model_config *c;
    upg_sampling            known = { 0 };
    upg_status              st;

    if (!model)
        return upg_fail(err, UPG_E_ARG, "model is NULL");
    UPG_TRY(upg_struct_check(sampling, "upg_sampling", err));
    c = &model->weights->config;
    if (c->do_sample) { /* fields below 0 are not given; the temperature's default is 1 */
        known.temperature = c->temperature < 0 ? 1.0f : (float)c->temperature;
        known.top_p = c->top_p < 0 ? 0.0f : (float)c->top_p;
        known.min_p = c->min_p < 0 ? 0.0f : (float)c->min_p;
        known.repetition_penalty = c->repetition_penalty < 0 ? 0.0f : (float)c->repetition_penalty;
        known.top_k = c->top_k < 0 ? 0 : (uint32_t)(c->top_k < UINT32_MAX ? c->top_k : UINT32_MAX);
    }
    upg_struct_out(&known, sizeof known, sampling);
out:
    return st;
}
