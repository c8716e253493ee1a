/* weights_bind.c: from named tensors to roles. Nothing here knows an architecture: the rules say
 * which rows of which tensor make a role, the config says how many rows that must be. */
#include "model/weights_source.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/halffloat.h"

static uint32_t layer_count(const upg_weights *w, const upg_tensor_rule *rule)
{
    return upg_rule_in_layer(rule) ? w->config.n_layers : 1;
}

static bool is_tied_head(const upg_weights *w, const upg_tensor_rule *rule)
{
    return w->config.tied_embeddings && rule->roles[0] == UPG_ROLE_HEAD;
}

/* ---- where a role is kept ------------------------------------------------------------------ */

const upg_matrix *upg_weights_role_matrix(const upg_weights *w, upg_role role, uint32_t layer)
{
    const upg_layer_weights *l = layer < w->config.n_layers ? &w->layers[layer] : NULL;

    if (role == UPG_ROLE_EMBED)
        return &w->embed;
    if (role == UPG_ROLE_HEAD)
        return &w->head;
    if (!l)
        return NULL;
    switch (role) {
    case UPG_ROLE_Q:
        return &l->q;
    case UPG_ROLE_K:
        return &l->k;
    case UPG_ROLE_V:
        return &l->v;
    case UPG_ROLE_O:
        return &l->o;
    case UPG_ROLE_GATE:
        return &l->gate;
    case UPG_ROLE_UP:
        return &l->up;
    case UPG_ROLE_DOWN:
        return &l->down;
    default:
        return NULL;
    }
}

/* The same, to be filled; the weights are not const here. */
static upg_matrix *matrix_slot(upg_weights *w, upg_role role, uint32_t layer)
{
    return (upg_matrix *)upg_weights_role_matrix(w, role, layer);
}

static upg_vector *vector_slot(upg_weights *w, upg_role role, uint32_t layer)
{
    if (role == UPG_ROLE_FINAL_NORM)
        return &w->final_norm;
    return role == UPG_ROLE_ATTENTION_NORM ? &w->layers[layer].attention_norm
                                           : &w->layers[layer].ffn_norm;
}

static upg_status canonical_name(upg_weights *w, upg_role role, uint32_t layer, const char **name,
                                 upg_error *err)
{
    char text[UPG_TENSOR_NAME_CAP];

    upg_tensor_name(upg_role_pattern(role), layer, text);
    *name = upg_arena_strndup(&w->source->arena, text, strlen(text), err);
    return *name ? UPG_OK : UPG_E_NOMEM;
}

/* ---- checks -------------------------------------------------------------------------------- */

static upg_status wrong_shape(const upg_st_tensor *t, const char *expected, upg_error *err)
{
    char   found[160] = "";
    size_t used = 0;

    for (uint32_t d = 0; d < t->rank && used < sizeof found; d++)
        used += (size_t)snprintf(found + used, sizeof found - used, "%s%" PRIu64, d ? ", " : "",
                                 t->shape[d]);
    return upg_fail(err, UPG_E_FORMAT,
                    "%s: tensor \"%s\" has the shape [%s], config.json promises [%s]", t->file,
                    t->name, found, expected);
}

static upg_status check_dtype(const upg_st_tensor *t, upg_error *err)
{
    if (t->dtype == UPG_F32 || t->dtype == UPG_F16 || t->dtype == UPG_BF16)
        return UPG_OK;
    return upg_fail(err, UPG_E_UNSUPPORTED,
                    "%s: tensor \"%s\" is %s, weights must be BF16, F16 or F32; was the checkpoint "
                    "quantised already?",
                    t->file, t->name, upg_dtype_name(t->dtype));
}

static upg_status check_matrix(const upg_st_tensor *t, uint64_t n_rows, uint32_t n_cols,
                               upg_error *err)
{
    char expected[64];

    if (t->rank != 2 || t->shape[0] != n_rows || t->shape[1] != n_cols) {
        snprintf(expected, sizeof expected, "%" PRIu64 ", %" PRIu32, n_rows, n_cols);
        return wrong_shape(t, expected, err);
    }
    if ((uintptr_t)t->bytes.data % upg_dtype_bytes(t->dtype) != 0) /* maps begin at a page */
        return upg_fail(err, UPG_E_UNSUPPORTED,
                        "%s: tensor \"%s\" begins at byte %" PRIu64 ", no multiple of its %" PRIu32
                        "-byte elements; save the file again with a current safetensors",
                        t->file, t->name, t->file_offset, upg_dtype_bytes(t->dtype));
    return UPG_OK;
}

/* ---- binding ------------------------------------------------------------------------------- */

/* Element i of a dense tensor, at any alignment. */
static float element(const upg_st_tensor *t, size_t i)
{
    uint32_t wide;
    uint16_t half;

    if (t->dtype == UPG_F32) {
        memcpy(&wide, t->bytes.data + 4 * i, sizeof wide);
        return upg_f32_from_bits(wide);
    }
    memcpy(&half, t->bytes.data + 2 * i, sizeof half);
    return t->dtype == UPG_BF16 ? upg_f32_from_bf16(half) : upg_f32_from_f16(half);
}

static upg_status bind_vector(upg_weights *w, upg_role role, uint32_t layer, const upg_st_tensor *t,
                              upg_error *err)
{
    upg_vector *v = vector_slot(w, role, layer);
    uint32_t    n, one;
    float      *values;
    char        expected[32];
    upg_status  st = UPG_OK;

    upg_role_shape(&w->config, role, &n, &one);
    snprintf(expected, sizeof expected, "%" PRIu32, n);
    if (t->rank != 1 || t->shape[0] != n)
        return wrong_shape(t, expected, err);
    UPG_TRY(canonical_name(w, role, layer, &v->name, err));
    values = upg_arena_alloc(&w->source->arena, n, sizeof *values, err);
    UPG_TRY(values ? UPG_OK : UPG_E_NOMEM);
    for (uint32_t i = 0; i < n; i++) {
        values[i] = element(t, i);
        if (!isfinite(values[i]))
            UPG_TRY(upg_fail(err, UPG_E_DATA,
                             "%s: tensor \"%s\" holds %s at position %" PRIu32
                             "; is the download damaged?",
                             t->file, t->name, isnan(values[i]) ? "NaN" : "infinity", i));
    }
    v->n = n;
    v->values = values;
    v->bytes = t->bytes.size;
out:
    return st;
}

/* The rows from row0 on become the role's matrix; nothing is copied. */
static upg_status bind_dense(upg_weights *w, upg_role role, uint32_t layer, const upg_st_tensor *t,
                             uint64_t row0, upg_error *err)
{
    upg_matrix *m = matrix_slot(w, role, layer);
    uint64_t    row_bytes;

    *m = (upg_matrix) { .role = role,
                        .layer = layer,
                        .kind = UPG_MATRIX_DENSE,
                        .dtype = t->dtype,
                        .relative_error = 0 };
    upg_role_shape(&w->config, role, &m->n_rows, &m->n_cols);
    row_bytes = (uint64_t)m->n_cols * upg_dtype_bytes(t->dtype);
    m->dense = t->bytes.data + row0 * row_bytes; /* inside: the shape was checked */
    m->file = t->file;
    m->file_offset = t->file_offset + row0 * row_bytes;
    m->bytes = m->n_rows * row_bytes;
    return canonical_name(w, role, layer, &m->name, err);
}

static upg_status bind_tensor(upg_weights *w, const upg_tensor_rule *rule, uint32_t layer,
                              const upg_st_tensor *t, upg_error *err)
{
    uint64_t   rows = 0;
    uint32_t   n_rows, n_cols = 0;
    upg_status st;

    UPG_TRY(check_dtype(t, err));
    w->weight_bytes += t->bytes.size;
    if (upg_role_is_vector(rule->roles[0]))
        return bind_vector(w, rule->roles[0], layer, t, err);
    for (unsigned i = 0; i < rule->n_roles; i++) {
        upg_role_shape(&w->config, rule->roles[i], &n_rows, &n_cols);
        rows += n_rows;
    }
    UPG_TRY(check_matrix(t, rows, n_cols, err));
    rows = 0;
    for (unsigned i = 0; i < rule->n_roles; i++) {
        UPG_TRY(bind_dense(w, rule->roles[i], layer, t, rows, err));
        upg_role_shape(&w->config, rule->roles[i], &n_rows, &n_cols);
        rows += n_rows;
    }
out:
    return st;
}

static upg_status bind_coded(upg_weights *w, upg_role role, uint32_t layer,
                             const upg_container_matrix *c, upg_error *err)
{
    upg_matrix *m = matrix_slot(w, role, layer);
    uint32_t    n_rows, n_cols;

    upg_role_shape(&w->config, role, &n_rows, &n_cols);
    if (c->coded.n_rows != n_rows || c->coded.n_cols != n_cols || upg_role_is_vector(role))
        return upg_fail(err, UPG_E_FORMAT,
                        "coded matrix \"%s\" has the shape [%" PRIu32 ", %" PRIu32
                        "], config.json promises %s[%" PRIu32 ", %" PRIu32 "]",
                        c->name, c->coded.n_rows, c->coded.n_cols,
                        upg_role_is_vector(role) ? "a dense vector " : "", n_rows, n_cols);
    *m = (upg_matrix) { .name = c->name,
                        .role = role,
                        .layer = layer,
                        .n_rows = n_rows,
                        .n_cols = n_cols,
                        .kind = UPG_MATRIX_CODED,
                        .coded = &c->coded,
                        .file = c->code->file,
                        .file_offset = c->code->file_offset,
                        .relative_error = c->relative_error,
                        .bytes = (uint64_t)c->code->bytes.size + c->scale->bytes.size +
                                 (c->outliers != NULL ? c->outliers->bytes.size : 0) };
    return UPG_OK;
}

static upg_status bind_one(upg_weights *w, const upg_tensor_rule *rule, uint32_t layer,
                           upg_error *err)
{
    const upg_st_tensor        *dense;
    const upg_container_matrix *coded = NULL;
    char                        name[UPG_TENSOR_NAME_CAP];

    upg_tensor_name(rule->name, layer, name);
    if (w->source->checkpoint != NULL) {
        dense = upg_checkpoint_find(w->source->checkpoint, name);
    } else {
        dense = upg_container_dense_find(w->source->container, name);
        coded = upg_container_matrix_find(w->source->container, name);
    }
    if (coded != NULL)
        return bind_coded(w, rule->roles[0], layer, coded, err);
    if (dense != NULL)
        return bind_tensor(w, rule, layer, dense, err);
    return upg_fail(
        err, UPG_E_FORMAT,
        "tensor \"%s\" is missing; config.json promises %" PRIu32 " layers of %s%s", name,
        w->config.n_layers, w->config.architecture->name,
        rule->roles[0] == UPG_ROLE_HEAD ? " and no tied embeddings (\"tie_word_embeddings\")" : "");
}

/* ---- tensors that belong nowhere ----------------------------------------------------------- */

/* Old checkpoints carry frequencies that follow from the config. */
static bool is_harmless(const char *name)
{
    static const char suffix[] = ".rotary_emb.inv_freq";
    size_t            size = strlen(name), tail = sizeof suffix - 1;

    return size > tail && strcmp(name + size - tail, suffix) == 0;
}

/* With tied embeddings a head of its own would be replaced by the embedding: only a copy may be
 * there, anything else is a contradiction. */
static upg_status check_spare_head(const upg_weights *w, const upg_st_tensor *t, upg_error *err)
{
    uint32_t   element_bytes = upg_dtype_bytes(w->embed.dtype);
    bool       dense = w->embed.kind == UPG_MATRIX_DENSE && t->dtype == w->embed.dtype;
    upg_status st = check_dtype(t, err);

    if (st == UPG_OK)
        st = check_matrix(t, w->embed.n_rows, w->embed.n_cols, err);
    if (st != UPG_OK)
        return st;
    if (dense && memcmp(t->bytes.data, w->embed.dense,
                        (size_t)w->embed.n_rows * w->embed.n_cols * element_bytes) == 0)
        return UPG_OK;
    return upg_fail(err, UPG_E_FORMAT,
                    "%s: tensor \"%s\" differs from the embedding, but config.json says "
                    "\"tie_word_embeddings\": true; correct one of them",
                    t->file, t->name);
}

static upg_status check_known(const upg_weights *w, const upg_tensor_rule *rules, size_t n_rules,
                              const char *file, const char *name, const upg_st_tensor *t,
                              upg_error *err)
{
    if (is_harmless(name))
        return UPG_OK;
    for (size_t r = 0; r < n_rules; r++) {
        if (!upg_tensor_name_matches(rules[r].name, layer_count(w, &rules[r]), name))
            continue;
        return is_tied_head(w, &rules[r]) && t != NULL ? check_spare_head(w, t, err) : UPG_OK;
    }
    return upg_fail(err, UPG_E_UNSUPPORTED,
                    "%s: tensor \"%s\" has no place in a %s of %" PRIu32
                    " layers; it is not ignored, because the result would differ",
                    file, name, w->config.architecture->name, w->config.n_layers);
}

static upg_status refuse_surplus(const upg_weights *w, const upg_tensor_rule *rules, size_t n_rules,
                                 upg_error *err)
{
    const upg_checkpoint *checkpoint = w->source->checkpoint;
    const upg_container  *container = w->source->container;
    size_t     n_dense = checkpoint ? upg_checkpoint_count(checkpoint) : container->n_dense;
    size_t     n_coded = checkpoint ? 0 : container->n_matrices;
    upg_status st = UPG_OK;

    for (size_t i = 0; i < n_dense; i++) {
        const upg_st_tensor *t =
            checkpoint ? upg_checkpoint_at(checkpoint, i) : container->dense[i];

        UPG_TRY(check_known(w, rules, n_rules, t->file, t->name, t, err));
    }
    for (size_t i = 0; i < n_coded; i++)
        UPG_TRY(check_known(w, rules, n_rules, container->matrices[i].code->file,
                            container->matrices[i].name, NULL, err));
out:
    return st;
}

static void count_parameters(upg_weights *w)
{
    uint32_t rows, cols;

    for (upg_role role = 0; role < UPG_ROLE_COUNT; role++) {
        if (role == UPG_ROLE_HEAD && w->config.tied_embeddings)
            continue;
        upg_role_shape(&w->config, role, &rows, &cols);
        w->n_parameters +=
            (uint64_t)rows * cols * (upg_role_in_layer(role) ? w->config.n_layers : 1);
    }
}

upg_status upg_weights_bind(upg_weights *w, const upg_tensor_rule *rules, size_t n_rules,
                            upg_error *err)
{
    size_t     n_tensors = w->source->checkpoint
                               ? upg_checkpoint_count(w->source->checkpoint)
                               : w->source->container->n_dense + w->source->container->n_matrices;
    upg_status st = UPG_OK;

    if (w->config.n_layers > n_tensors) /* before anything is allocated by that number */
        return upg_fail(err, UPG_E_FORMAT,
                        "config.json promises %" PRIu32
                        " layers (\"num_hidden_layers\"), but there "
                        "are %zu tensors in all",
                        w->config.n_layers, n_tensors);
    w->layers = upg_arena_alloc(&w->source->arena, w->config.n_layers, sizeof *w->layers, err);
    UPG_TRY(w->layers ? UPG_OK : UPG_E_NOMEM);
    for (size_t r = 0; r < n_rules; r++) {
        for (uint32_t layer = 0; layer < layer_count(w, &rules[r]); layer++) {
            if (!is_tied_head(w, &rules[r]))
                UPG_TRY(bind_one(w, &rules[r], layer, err));
        }
    }
    UPG_TRY(refuse_surplus(w, rules, n_rules, err));
    if (w->config.tied_embeddings) {
        w->head = w->embed;
        w->head.role = UPG_ROLE_HEAD;
        UPG_TRY(canonical_name(w, UPG_ROLE_HEAD, 0, &w->head.name, err));
    }
    count_parameters(w);
out:
    return st;
}
