/* make_checkpoint.c: every matrix is a function of its canonical name, the seed and the index, so
 * the fused and the separate form of a model hold the same values. */
#include "support/make_checkpoint.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "base/buffer.h"
#include "base/file.h"
#include "base/halffloat.h"
#include "base/random.h"
#include "safetensors/safetensors.h"

enum { MAX_PARTS = 3, NAME_CAP = 96 };

/* A tensor of the checkpoint: canonical matrices stacked. */
typedef struct plan_tensor {
    char     name[NAME_CAP];
    uint32_t n_parts, n_cols; /* n_cols 0: a vector */
    struct {
        char     canonical[NAME_CAP];
        uint32_t n_rows;
        double   mean, deviation;
    } parts[MAX_PARTS];
} plan_tensor;

typedef struct plan {
    const test_model_shape *shape;
    uint32_t                head_dim, n_tensors;
    plan_tensor            *tensors; /* [3 + 9 · n_layers] at most */
} plan;

test_model_shape test_model_small(void)
{
    return (test_model_shape) { .hidden = 64,
                                .n_layers = 2,
                                .n_heads = 4,
                                .n_kv_heads = 2,
                                .ffn = 96,
                                .vocab = 320,
                                .context = 128 };
}

/* ---- values -------------------------------------------------------------------------------- */

static uint64_t name_hash(const char *name)
{
    uint64_t hash = UINT64_C(0xCBF29CE484222325); /* FNV-1a */

    for (; *name != '\0'; name++)
        hash = (hash ^ (unsigned char)*name) * UINT64_C(0x100000001B3);
    return hash;
}

/* About normal, deviation 1: four uniform 16-bit numbers. */
static double bell(uint64_t stream, uint64_t i)
{
    uint64_t bits = upg_random_u64(stream, i);
    double   sum = 0;

    for (unsigned k = 0; k < 4; k++)
        sum += (double)(bits >> 16 * k & 0xFFFFu) / 65535.0 - 0.5;
    return sum * sqrt(3);
}

static upg_status add_values(const plan_tensor *t, uint64_t seed, upg_buffer *data, upg_error *err)
{
    upg_status st = UPG_OK;

    for (uint32_t p = 0; p < t->n_parts && st == UPG_OK; p++) {
        uint64_t stream = seed ^ name_hash(t->parts[p].canonical);
        uint64_t n = (uint64_t)t->parts[p].n_rows * (t->n_cols ? t->n_cols : 1);

        for (uint64_t i = 0; i < n && st == UPG_OK; i++) {
            double   value = t->parts[p].mean + t->parts[p].deviation * bell(stream, i);
            uint16_t half = upg_bf16_from_f32((float)value);

            st = upg_buffer_add(data, &half, sizeof half, err);
        }
    }
    return st;
}

/* ---- which tensors ------------------------------------------------------------------------- */

static plan_tensor *add_tensor(plan *p, const char *name, uint32_t n_cols)
{
    plan_tensor *t = &p->tensors[p->n_tensors++];

    snprintf(t->name, sizeof t->name, "%s", name);
    t->n_cols = n_cols;
    return t;
}

static void add_part(plan_tensor *t, const char *canonical, uint32_t n_rows, double mean,
                     double deviation)
{
    snprintf(t->parts[t->n_parts].canonical, NAME_CAP, "%s", canonical);
    t->parts[t->n_parts].n_rows = n_rows;
    t->parts[t->n_parts].mean = mean;
    t->parts[t->n_parts++].deviation = deviation;
}

static void add_single(plan *p, const char *name, uint32_t n_rows, uint32_t n_cols,
                       double deviation)
{
    add_part(add_tensor(p, name, n_cols), name, n_rows, n_cols == 0 ? 1 : 0, deviation);
}

/* Matrices that read one input: one tensor, or one each with Llama's names. */
static void add_group(plan *p, uint32_t layer, const char *fused, const char *const *names,
                      const uint32_t *rows, uint32_t n, uint32_t n_cols)
{
    plan_tensor *t = NULL;
    char         name[NAME_CAP];

    for (uint32_t i = 0; i < n; i++) {
        if (t == NULL || p->shape->llama_names) {
            snprintf(name, sizeof name, "model.layers.%" PRIu32 ".%s.weight", layer,
                     p->shape->llama_names ? names[i] : fused);
            t = add_tensor(p, name, n_cols);
        }
        snprintf(name, sizeof name, "model.layers.%" PRIu32 ".%s.weight", layer, names[i]);
        add_part(t, name, rows[i], 0, 1 / sqrt(n_cols));
    }
}

static void add_layer(plan *p, uint32_t layer)
{
    static const char *const qkv[] = { "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj" };
    static const char *const gate_up[] = { "mlp.gate_proj", "mlp.up_proj" };
    static const char *const down[] = { "mlp.down_proj" }, *const o[] = { "self_attn.o_proj" };
    const test_model_shape *s = p->shape;
    uint32_t                q_rows = s->n_heads * p->head_dim;
    uint32_t                kv_rows = s->n_kv_heads * p->head_dim;
    char                    name[NAME_CAP];

    snprintf(name, sizeof name, "model.layers.%" PRIu32 ".input_layernorm.weight", layer);
    add_single(p, name, s->hidden, 0, 0.1);
    snprintf(name, sizeof name, "model.layers.%" PRIu32 ".post_attention_layernorm.weight", layer);
    add_single(p, name, s->hidden, 0, 0.1);
    add_group(p, layer, "self_attn.qkv_proj", qkv, (uint32_t[]) { q_rows, kv_rows, kv_rows }, 3,
              s->hidden);
    add_group(p, layer, o[0], o, &s->hidden, 1, q_rows);
    add_group(p, layer, "mlp.gate_up_proj", gate_up, (uint32_t[]) { s->ffn, s->ffn }, 2, s->hidden);
    add_group(p, layer, down[0], down, &s->hidden, 1, s->ffn);
}

static upg_status make_plan(const test_model_shape *s, plan *p, upg_error *err)
{
    *p = (plan) { .shape = s, .head_dim = s->head_dim ? s->head_dim : s->hidden / s->n_heads };
    p->tensors = upg_calloc(3 + 9 * (size_t)s->n_layers, sizeof *p->tensors, err);
    if (p->tensors == NULL)
        return UPG_E_NOMEM;
    add_single(p, "model.embed_tokens.weight", s->vocab, s->hidden, 0.25);
    for (uint32_t layer = 0; layer < s->n_layers; layer++)
        add_layer(p, layer);
    add_single(p, "model.norm.weight", s->hidden, 0, 0.1);
    if (!s->tied)
        add_single(p, "lm_head.weight", s->vocab, s->hidden, 3 / sqrt(s->hidden));
    return UPG_OK;
}

/* ---- files --------------------------------------------------------------------------------- */

static upg_status put_file(const char *folder, const char *name, const void *head, size_t head_size,
                           const void *body, size_t body_size, upg_error *err)
{
    char *path = upg_path_join(folder, name, err);
    FILE *file = path ? fopen(path, "wb") : NULL;
    bool  good = file != NULL && fwrite(head, 1, head_size, file) == head_size &&
                fwrite(body, 1, body_size, file) == body_size;
    upg_status st = path ? UPG_OK : UPG_E_NOMEM;

    if (file != NULL && fclose(file) != 0)
        good = false;
    if (path != NULL && !good)
        st = upg_fail(err, UPG_E_IO, "%s: writing failed", path);
    upg_free(path);
    return st;
}

/* Tensors first … last − 1 into one file. */
static upg_status write_shard(const char *folder, const char *name, const plan *p, uint32_t first,
                              uint32_t last, uint64_t seed, upg_error *err)
{
    upg_st_entry *entries = upg_calloc(last - first, sizeof *entries, err);
    upg_buffer    header, data;
    upg_status    st = entries ? UPG_OK : UPG_E_NOMEM;

    upg_buffer_init(&header, UPG_ST_MAX_HEADER);
    upg_buffer_init(&data, SIZE_MAX / 2);
    UPG_TRY(st);
    for (uint32_t i = first; i < last; i++) {
        const plan_tensor *t = &p->tensors[i];
        upg_st_entry      *e = &entries[i - first];

        *e = (upg_st_entry) { .name = t->name, .dtype = UPG_BF16, .rank = t->n_cols ? 2 : 1 };
        for (uint32_t part = 0; part < t->n_parts; part++)
            e->shape[0] += t->parts[part].n_rows;
        e->shape[1] = t->n_cols;
        UPG_TRY(add_values(t, seed, &data, err));
    }
    UPG_TRY(upg_st_write_header(entries, last - first, "pt", 8, 0, &header, err));
    UPG_TRY(put_file(folder, name, header.data, header.size, data.data, data.size, err));
out:
    upg_buffer_deinit(&header);
    upg_buffer_deinit(&data);
    upg_free(entries);
    return st;
}

static upg_status write_weights(const char *folder, const plan *p, uint64_t seed, upg_error *err)
{
    uint32_t   n = p->shape->n_shards;
    char       name[64];
    upg_buffer index;
    upg_status st = UPG_OK;

    if (n <= 1)
        return write_shard(folder, "model.safetensors", p, 0, p->n_tensors, seed, err);
    upg_buffer_init(&index, 1 << 24);
    UPG_TRY(upg_buffer_addf(&index, err, "{\"metadata\": {}, \"weight_map\": {"));
    for (uint32_t shard = 0; shard < n; shard++) {
        uint32_t first = p->n_tensors * shard / n, last = p->n_tensors * (shard + 1) / n;

        snprintf(name, sizeof name, "model-%05" PRIu32 "-of-%05" PRIu32 ".safetensors", shard + 1,
                 n);
        UPG_TRY(write_shard(folder, name, p, first, last, seed, err));
        for (uint32_t i = first; i < last; i++)
            UPG_TRY(upg_buffer_addf(&index, err, "%s\n\"%s\": \"%s\"", i > 0 ? "," : "",
                                    p->tensors[i].name, name));
    }
    UPG_TRY(upg_buffer_addf(&index, err, "}}\n"));
    st = put_file(folder, "model.safetensors.index.json", index.data, index.size, "", 0, err);
out:
    upg_buffer_deinit(&index);
    return st;
}

/* ---- config.json --------------------------------------------------------------------------- */

static upg_status add_factors(const plan *p, const char *key, double step, upg_buffer *text,
                              upg_error *err)
{
    double     part = p->shape->partial_rotary > 0 ? p->shape->partial_rotary : 1;
    uint32_t   n = (uint32_t)(p->head_dim * part) / 2;
    upg_status st = upg_buffer_addf(text, err, "\"%s\": [", key);

    for (uint32_t i = 0; i < n && st == UPG_OK; i++)
        st = upg_buffer_addf(text, err, "%s%.4f", i > 0 ? ", " : "", 1 + step * i);
    return st == UPG_OK ? upg_buffer_addf(text, err, "]") : st;
}

static upg_status add_longrope(const plan *p, upg_buffer *text, upg_error *err)
{
    upg_status st;

    UPG_TRY(add_factors(p, "short_factor", 0.01, text, err));
    UPG_TRY(upg_buffer_addf(text, err, ", "));
    UPG_TRY(add_factors(p, "long_factor", 0.13, text, err));
out:
    return st;
}

static upg_status add_rope(const plan *p, upg_buffer *text, upg_error *err)
{
    const test_model_shape *s = p->shape;
    double                  part = s->partial_rotary > 0 ? s->partial_rotary : 1;
    const char             *type = s->longrope ? "longrope" : "default";
    upg_status              st = UPG_OK;

    if (s->longrope)
        UPG_TRY(upg_buffer_addf(text, err, "\"original_max_position_embeddings\": %" PRIu32 ",\n",
                                s->original_context));
    if (s->v5_style) {
        UPG_TRY(upg_buffer_addf(text, err,
                                "\"rope_parameters\": {\"rope_type\": \"%s\", \"rope_theta\": "
                                "10000.0, \"partial_rotary_factor\": %g",
                                type, part));
        if (s->longrope) {
            UPG_TRY(upg_buffer_addf(text, err, ", \"original_max_position_embeddings\": %" PRIu32,
                                    s->original_context));
            UPG_TRY(upg_buffer_addf(text, err, ", "));
            UPG_TRY(add_longrope(p, text, err));
        }
        return upg_buffer_addf(text, err, "},\n\"dtype\": \"bfloat16\",\n");
    }
    UPG_TRY(upg_buffer_addf(text, err, "\"rope_theta\": 10000.0, \"partial_rotary_factor\": %g,\n",
                            part));
    if (s->longrope) {
        UPG_TRY(upg_buffer_addf(text, err, "\"rope_scaling\": {\"type\": \"%s\", ", type));
        UPG_TRY(add_longrope(p, text, err));
        UPG_TRY(upg_buffer_addf(text, err, "},\n"));
    } else {
        UPG_TRY(upg_buffer_addf(text, err, "\"rope_scaling\": null,\n"));
    }
    UPG_TRY(upg_buffer_addf(text, err, "\"torch_dtype\": \"bfloat16\",\n"));
out:
    return st;
}

static upg_status write_config(const char *folder, const plan *p, upg_error *err)
{
    static const char       generation[] = "{\"bos_token_id\": 1, \"eos_token_id\": [2]}\n";
    const test_model_shape *s = p->shape;
    upg_buffer              text;
    upg_status              st;

    upg_buffer_init(&text, 1 << 20);
    UPG_TRY(upg_buffer_addf(
        &text, err,
        "{\"architectures\": [\"%s\"],\n\"hidden_act\": \"silu\", \"hidden_size\": %" PRIu32
        ", \"intermediate_size\": %" PRIu32 ",\n\"num_hidden_layers\": %" PRIu32
        ", \"num_attention_heads\": %" PRIu32 ", \"num_key_value_heads\": %" PRIu32
        ",\n\"vocab_size\": %" PRIu32 ", \"max_position_embeddings\": %" PRIu32
        ", \"tie_word_embeddings\": %s,\n",
        s->llama_names ? "LlamaForCausalLM" : "Phi3ForCausalLM", s->hidden, s->ffn, s->n_layers,
        s->n_heads, s->n_kv_heads, s->vocab, s->context, s->tied ? "true" : "false"));
    if (s->head_dim != 0)
        UPG_TRY(upg_buffer_addf(&text, err, "\"head_dim\": %" PRIu32 ",\n", s->head_dim));
    UPG_TRY(add_rope(p, &text, err));
    if (s->sliding_window != 0)
        UPG_TRY(
            upg_buffer_addf(&text, err, "\"sliding_window\": %" PRIu32 ",\n", s->sliding_window));
    UPG_TRY(upg_buffer_addf(
        &text, err, "\"bos_token_id\": 1, \"eos_token_id\": 2, \"rms_norm_eps\": 1e-05}\n"));
    UPG_TRY(put_file(folder, "config.json", text.data, text.size, "", 0, err));
    UPG_TRY(put_file(folder, "generation_config.json", generation, strlen(generation), "", 0, err));
out:
    upg_buffer_deinit(&text);
    return st;
}

/* ---- all of it ----------------------------------------------------------------------------- */

static upg_status copy_tokenizer(const char *folder, upg_error *err)
{
    static const char *const names[] = { "tokenizer.json", "tokenizer_config.json",
                                         "special_tokens_map.json" };
    upg_buffer               text;
    upg_status               st = UPG_OK;

    upg_buffer_init(&text, 1 << 26);
    for (size_t i = 0; i < sizeof names / sizeof names[0] && st == UPG_OK; i++) {
        char *path = upg_path_join(UPG_TEST_DATA "/phi4-micro", names[i], err);

        st = path ? upg_file_read(path, &text, err) : UPG_E_NOMEM;
        if (st == UPG_OK)
            st = put_file(folder, names[i], text.data, text.size, "", 0, err);
        upg_free(path);
    }
    upg_buffer_deinit(&text);
    return st;
}

upg_status make_checkpoint(const char *folder, const test_model_shape *shape, uint64_t seed,
                           upg_error *err)
{
    plan       p = { 0 };
    upg_status st;

    if (!upg_file_is_folder(folder) && mkdir(folder, 0755) != 0)
        return upg_fail(err, UPG_E_IO, "%s: cannot make this folder", folder);
    UPG_TRY(make_plan(shape, &p, err));
    UPG_TRY(write_config(folder, &p, err));
    UPG_TRY(write_weights(folder, &p, seed, err));
    if (shape->tokenizer)
        UPG_TRY(copy_tokenizer(folder, err));
out:
    upg_free(p.tensors);
    return st;
}
