/* synthesize_api.c: upg_synthesize: the files around the weights, then random_checkpoint.h. */
#include <inttypes.h>
#include <stdio.h>

#include "api/hooks.h"
#include "api/struct_options.h"
#include "base/alloc.h"
#include "base/file.h"
#include "model/random_checkpoint.h"
#include "model/synthetic_file.h"

static const char *const side_names[] = { "tokenizer.json", "tokenizer_config.json",
                                          "special_tokens_map.json", "chat_template.jinja",
                                          "generation_config.json" };
enum { N_SIDE = sizeof side_names / sizeof side_names[0], MAX_LAYERS = UPG_MAX_LAYERS };

typedef struct inputs {
    upg_arena     arena;
    upg_map       config, maps[N_SIDE];
    upg_side_file files[N_SIDE];
    size_t        n_files;
} inputs;

static upg_status map_file(const char *path, upg_map *map, upg_error *err)
{
    upg_status st = upg_map_open(path, map, err);

    if (st != UPG_OK)
        upg_error_prefix(err, "%s: ", path);
    return st;
}

/* Its tokens must be rows of the embedding, or the folder would be refused by all that reads it. */
static upg_status check_tokenizer(const char *folder, const upg_model_config *config,
                                  upg_error *err)
{
    upg_tokenizer *tokenizer = NULL;
    upg_status     st = upg_tokenizer_open(folder, &tokenizer, err);
    uint32_t       size = st == UPG_OK ? upg_tokenizer_size(tokenizer) : 0;

    upg_tokenizer_close(tokenizer);
    if (st == UPG_OK && size > config->vocab)
        st = upg_fail(err, UPG_E_DATA,
                      "%s: tokenizer.json has token %" PRIu32 ", the embedding would have %" PRIu32
                      " rows: take the tokenizer of this model",
                      folder, size - 1, config->vocab);
    return st;
}

static upg_status gather_files(const char *folder, const upg_model_config *config, inputs *in,
                               upg_error *err)
{
    upg_status st;

    if (folder == NULL)
        return UPG_OK;
    UPG_TRY(check_tokenizer(folder, config, err));
    for (size_t i = 0; i < N_SIDE; i++) {
        char *path = upg_path_join(folder, side_names[i], err);

        UPG_TRY(path ? UPG_OK : UPG_E_NOMEM);
        st = upg_file_exists(path) ? map_file(path, &in->maps[i], err) : UPG_OK;
        if (st == UPG_OK && in->maps[i].bytes.size > 0)
            in->files[in->n_files++] = (upg_side_file) { side_names[i], in->maps[i].bytes };
        upg_free(path);
        UPG_TRY(st);
    }
out:
    return st;
}

static upg_status find_config(const upg_synth_options *o, inputs *in, upg_span *json,
                              upg_error *err)
{
    upg_status st;

    if ((o->architecture != NULL) == (o->config != NULL))
        return upg_fail(err, UPG_E_ARG,
                        "upg_synth_options: one of architecture and config is needed, %s given",
                        o->config ? "both are" : "none is");
    if (o->layers > MAX_LAYERS)
        return upg_fail(err, UPG_E_ARG, "upg_synth_options.layers is %" PRIu32 ": at most %d",
                        o->layers, MAX_LAYERS);
    if (o->config != NULL) {
        UPG_TRY(map_file(o->config, &in->config, err));
        *json = in->config.bytes;
    } else {
        UPG_TRY(upg_random_config(o->architecture, &in->arena, json, err));
    }
    if (o->layers > 0)
        UPG_TRY(upg_random_config_layers(*json, o->layers, &in->arena, json, err));
out:
    if (st != UPG_OK && o->config != NULL && st != UPG_E_NOT_FOUND)
        upg_error_prefix(err, "%s: ", o->config);
    return st;
}

static void close_inputs(inputs *in)
{
    for (size_t i = 0; i < N_SIDE; i++)
        upg_map_close(&in->maps[i]);
    upg_map_close(&in->config);
    upg_arena_deinit(&in->arena);
}

/* The coded form has its own rates and seed. */
static upg_status check_coded(const upg_synth_options *o, upg_error *err)
{
    if (!o->coded)
        return UPG_OK;
    if (o->config != NULL || o->heavy_tailed || o->seed != 0 || o->shard_bytes != 0)
        return upg_fail(err, UPG_E_ARG,
                        "upg_synth_options.coded goes with architecture, layers and tokenizer, not "
                        "with %s",
                        o->config         ? "config"
                        : o->heavy_tailed ? "heavy_tailed"
                        : o->seed != 0    ? "seed"
                                          : "shard_bytes");
    return UPG_OK;
}

/* "phi4:4", as upg_model_open_synthetic has it. */
static upg_status write_coded(const char *path, const upg_synth_options *o, const inputs *in,
                              upg_pool *pool, const upg_listener *listener, upg_error *err)
{
    char shape[64];

    if (o->layers > 0)
        snprintf(shape, sizeof shape, "%.40s:%" PRIu32, o->architecture, o->layers);
    else
        snprintf(shape, sizeof shape, "%.60s", o->architecture);
    return upg_synthetic_write(path, shape, in->files, in->n_files, pool, listener, err);
}

UPG_API upg_status upg_synthesize(const char *folder, const upg_synth_options *options,
                                  upg_error *err)
{
    upg_synth_options   o;
    inputs              in = { 0 };
    upg_listener        listener;
    upg_random_settings settings = { 0 };
    upg_model_config    config;
    upg_pool           *pool = NULL;
    upg_status          st;

    if (!folder)
        return upg_fail(err, UPG_E_ARG, "folder is NULL");
    UPG_TRY(upg_struct_in(options, &o, sizeof o, "upg_synth_options", err));
    listener = upg_hooks_listener(&o.hooks, NULL);
    UPG_TRY(check_coded(&o, err));
    UPG_TRY(find_config(&o, &in, &settings.config_json, err));
    UPG_TRY(upg_model_config_read(settings.config_json, (upg_span) { 0 }, &in.arena, &config, err));
    UPG_TRY(gather_files(o.tokenizer, &config, &in, err));
    settings.heavy_tailed = o.heavy_tailed;
    settings.seed = o.seed;
    settings.shard_bytes = o.shard_bytes;
    settings.files = in.files;
    settings.n_files = in.n_files;
    settings.listener = &listener;
    UPG_TRY(upg_pool_create(o.threads, &pool, err));
    UPG_TRY(o.coded ? write_coded(folder, &o, &in, pool, &listener, err)
                    : upg_random_checkpoint_write(folder, &settings, pool, err));
out:
    upg_pool_close(pool);
    close_inputs(&in);
    return st;
}
