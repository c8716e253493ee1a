/* weights.c: opening a model from either form, and walking over its matrices. */
#include "model/weights.h"

#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "model/weights_source.h"

enum { MATRICES_PER_LAYER = 7 };

/* Messages of what follows from here name the file or folder. */
static upg_status in_file(upg_status st, const char *path, upg_error *err)
{
    if (st != UPG_OK)
        upg_error_prefix(err, "%s: ", path);
    return st;
}

static upg_status take_config(upg_weights *w, const upg_span *parts, upg_error *err)
{
    w->config_json = parts[UPG_PART_CONFIG];
    w->generation_config_json = parts[UPG_PART_GENERATION_CONFIG];
    w->tokenizer_json = parts[UPG_PART_TOKENIZER];
    w->tokenizer_config_json = parts[UPG_PART_TOKENIZER_CONFIG];
    w->chat_template = parts[UPG_PART_CHAT_TEMPLATE];
    w->quality_json = parts[UPG_PART_QUALITY];
    return upg_model_config_read(w->config_json, w->generation_config_json, &w->source->arena,
                                 &w->config, err);
}

/* ---- checkpoint folders -------------------------------------------------------------------- */

/* A small file beside the weights; the map stays empty when it is not there. */
static upg_status map_part(const char *folder, const char *name, upg_map *map, upg_error *err)
{
    char      *path = upg_path_join(folder, name, err);
    upg_status st = path ? UPG_OK : UPG_E_NOMEM;

    if (st == UPG_OK && upg_file_exists(path))
        st = in_file(upg_map_open(path, map, err), path, err);
    upg_free(path);
    return st;
}

static upg_status map_parts(upg_weights_source *s, const char *folder, upg_error *err)
{
    upg_status st = UPG_OK;

    for (upg_part part = 0; part < UPG_PART_COUNT && st == UPG_OK; part++) {
        if (upg_part_file(part)[0] != '\0')
            st = map_part(folder, upg_part_file(part), &s->parts[part], err);
    }
    if (st == UPG_OK && s->parts[UPG_PART_CONFIG].bytes.size == 0)
        st = upg_fail(err, UPG_E_NOT_FOUND,
                      "%s: config.json is missing or empty, a checkpoint needs it beside its "
                      "weights",
                      folder);
    return st;
}

static upg_status open_checkpoint(upg_weights *w, const char *folder, upg_error *err)
{
    upg_weights_source     *s = w->source;
    const upg_architecture *a;
    upg_span                parts[UPG_PART_COUNT];
    upg_status              st;

    UPG_TRY(map_parts(s, folder, err));
    for (upg_part part = 0; part < UPG_PART_COUNT; part++)
        parts[part] = s->parts[part].bytes;
    UPG_TRY(in_file(take_config(w, parts, err), folder, err));
    UPG_TRY(upg_checkpoint_open(folder, &s->checkpoint, err));
    a = w->config.architecture;
    UPG_TRY(in_file(upg_weights_bind(w, a->rules, a->n_rules, err), folder, err));
    w->source_bytes = upg_checkpoint_source_bytes(s->checkpoint);
    w->file_bytes = upg_checkpoint_file_bytes(s->checkpoint);
out:
    return st;
}

/* ---- .upg files ---------------------------------------------------------------------------- */

static upg_status open_container(upg_weights *w, const char *path, upg_error *err)
{
    const upg_tensor_rule *rules;
    const upg_container   *c;
    size_t                 n_rules;
    upg_status             st;

    UPG_TRY(upg_container_open(path, &w->source->container, err));
    c = w->source->container;
    if (c->parts[UPG_PART_CONFIG].size == 0)
        UPG_TRY(upg_fail(err, UPG_E_FORMAT, "%s: part \"%s\" is missing", path,
                         upg_part_name(UPG_PART_CONFIG)));
    UPG_TRY(in_file(take_config(w, c->parts, err), path, err));
    rules = upg_canonical_rules(&n_rules);
    UPG_TRY(in_file(upg_weights_bind(w, rules, n_rules, err), path, err));
    if (w->n_parameters != c->parameters)
        UPG_TRY(upg_fail(err, UPG_E_FORMAT,
                         "%s: the manifest counts %" PRIu64 " parameters, config.json and the "
                         "tensors make %" PRIu64,
                         path, c->parameters, w->n_parameters));
    w->weight_bytes = c->weight_bytes; /* with the padding between them */
    w->source_bytes = c->source_bytes;
    w->file_bytes = c->file_bytes;
out:
    return st;
}

/* ---- open and close ------------------------------------------------------------------------ */

upg_status upg_weights_open(const char *path, upg_weights **weights, upg_error *err)
{
    upg_weights *w = upg_calloc(1, sizeof *w, err);
    upg_status   st = w ? UPG_OK : UPG_E_NOMEM;

    UPG_TRY(st);
    w->source = upg_calloc(1, sizeof *w->source, err);
    UPG_TRY(w->source ? UPG_OK : UPG_E_NOMEM);
    if (upg_file_is_folder(path))
        UPG_TRY(open_checkpoint(w, path, err));
    else
        UPG_TRY(open_container(w, path, err));
    UPG_TRY(upg_weights_check_maps(w, err));
out:
    if (st != UPG_OK) {
        upg_weights_close(w);
        w = NULL;
    }
    *weights = w;
    return st;
}

upg_status upg_weights_check_maps(const upg_weights *weights, upg_error *err)
{
    const upg_weights_source *s = weights->source;
    upg_status                st = UPG_OK;

    if (s->checkpoint != NULL)
        UPG_TRY(upg_checkpoint_check_maps(s->checkpoint, err));
    if (s->container != NULL)
        UPG_TRY(upg_container_check_map(s->container, err));
    for (upg_part part = 0; part < UPG_PART_COUNT; part++)
        UPG_TRY(upg_map_check(&s->parts[part], err));
out:
    return st;
}

void upg_weights_close(upg_weights *weights)
{
    upg_weights_source *s = weights ? weights->source : NULL;

    if (s != NULL) {
        upg_checkpoint_close(s->checkpoint);
        upg_container_close(s->container);
        upg_free(s->memory);
        for (upg_part part = 0; part < UPG_PART_COUNT; part++)
            upg_map_close(&s->parts[part]);
        upg_arena_deinit(&s->arena);
    }
    upg_free(s);
    upg_free(weights);
}

/* ---- walking ------------------------------------------------------------------------------- */

uint32_t upg_weights_matrix_count(const upg_weights *weights)
{
    return 1 + MATRICES_PER_LAYER * weights->config.n_layers + !weights->config.tied_embeddings;
}

const upg_matrix *upg_weights_matrix(const upg_weights *weights, uint32_t index)
{
    const upg_layer_weights *l;

    if (index == 0)
        return &weights->embed;
    if (index > MATRICES_PER_LAYER * weights->config.n_layers)
        return index < upg_weights_matrix_count(weights) ? &weights->head : NULL;
    l = &weights->layers[(index - 1) / MATRICES_PER_LAYER];
    switch ((index - 1) % MATRICES_PER_LAYER) {
    case 0:
        return &l->q;
    case 1:
        return &l->k;
    case 2:
        return &l->v;
    case 3:
        return &l->o;
    case 4:
        return &l->gate;
    case 5:
        return &l->up;
    default:
        return &l->down;
    }
}
