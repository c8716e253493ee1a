/* model_config.c: config.json and generation_config.json, every field checked.
 *
 * What a field asks for is done or refused by name: a field that would change the result and is not
 * implemented is an error, fields of training (dropouts, initialisation) are passed over. Defaults
 * are those of transformers, and only where checkpoints really leave the field out. */
#include "model/model_config.h"

#include <inttypes.h>
#include <string.h>

#include "base/json.h"
#include "model/architecture.h"
#include "model/rope.h"
#include "safetensors/safetensors.h"

static const char where[] = "config.json";
static const char generation_where[] = "generation_config.json";

static const char *safe_text(const char *text)
{
    return upg_st_name_ok(text) ? text : "(an unprintable name)";
}

static upg_status parse_object(upg_span text, const char *name, json_t **root, upg_error *err)
{
    upg_status st = upg_json_parse(text, root, err);

    if (st != UPG_OK)
        upg_error_prefix(err, "%s: ", name);
    else if (!json_is_object(*root))
        st = upg_fail(err, UPG_E_FORMAT, "%s: the file holds no JSON object", name);
    return st;
}

static upg_status read_u32(const json_t *root, const char *key, uint32_t min, uint32_t max,
                           uint32_t *value, upg_error *err)
{
    uint64_t   wide = 0;
    upg_status st = upg_json_u64(root, key, min, max, where, &wide, err);

    *value = (uint32_t)wide;
    return st;
}

/* ---- architecture and shapes --------------------------------------------------------------- */

static upg_status read_architecture(const json_t *root, upg_model_config *config, upg_error *err)
{
    const json_t *list = json_object_get(root, "architectures");
    const char   *name = json_string_value(json_array_get(list, 0));

    if (name == NULL)
        return upg_fail(err, UPG_E_FORMAT,
                        "%s: field \"architectures\" is missing or no list of names; supported "
                        "are %s",
                        where, upg_architecture_names());
    config->architecture = upg_architecture_find(name);
    if (config->architecture == NULL)
        return upg_fail(err, UPG_E_UNSUPPORTED,
                        "%s: architecture \"%s\" is not supported; supported are %s", where,
                        safe_text(name), upg_architecture_names());
    return UPG_OK;
}

/* Weights that somebody has quantised before would lose a second time. */
static upg_status refuse_quantised(const json_t *root, upg_error *err)
{
    static const char *const keys[] = { "quantization_config", "compression_config" };

    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        const json_t *method = json_object_get(json_object_get(root, keys[i]), "quant_method");
        const char   *name = json_string_value(method);

        if (upg_json_has(root, keys[i]))
            return upg_fail(err, UPG_E_UNSUPPORTED,
                            "%s: field \"%s\" says that the checkpoint is already quantised (%s); "
                            "take the original one in bf16, fp16 or fp32",
                            where, keys[i], name ? safe_text(name) : "method not named");
    }
    return UPG_OK;
}

/* Features that would change the result. */
static upg_status refuse_features(const json_t *root, const upg_architecture *architecture,
                                  upg_error *err)
{
    static const char *const biases[] = { "attention_bias", "mlp_bias" };
    const char              *activation = "silu";
    bool                     bias;
    upg_status               st = UPG_OK;

    for (size_t i = 0; i < sizeof biases / sizeof biases[0]; i++) {
        UPG_TRY(upg_json_bool_or(root, biases[i], false, where, &bias, err));
        if (bias)
            UPG_TRY(upg_fail(err, UPG_E_UNSUPPORTED,
                             "%s: field \"%s\" is true, biases are not supported for %s", where,
                             biases[i], architecture->name));
    }
    if (upg_json_has(root, "hidden_act"))
        UPG_TRY(upg_json_string(root, "hidden_act", where, &activation, err));
    if (strcmp(activation, "silu") != 0 && strcmp(activation, "swish") != 0)
        UPG_TRY(upg_fail(err, UPG_E_UNSUPPORTED,
                         "%s: field \"hidden_act\" is \"%s\", only \"silu\" is supported", where,
                         safe_text(activation)));
out:
    return st;
}

static upg_status read_heads(const json_t *root, upg_model_config *c, upg_error *err)
{
    upg_status st;

    UPG_TRY(read_u32(root, "num_attention_heads", 1, UPG_MAX_WIDTH, &c->n_heads, err));
    c->n_kv_heads = c->n_heads;
    if (upg_json_has(root, "num_key_value_heads"))
        UPG_TRY(read_u32(root, "num_key_value_heads", 1, c->n_heads, &c->n_kv_heads, err));
    if (c->n_heads % c->n_kv_heads != 0)
        UPG_TRY(upg_fail(err, UPG_E_FORMAT,
                         "%s: \"num_attention_heads\" %" PRIu32 " is no multiple of "
                         "\"num_key_value_heads\" %" PRIu32,
                         where, c->n_heads, c->n_kv_heads));
    c->head_dim = c->hidden / c->n_heads;
    if (upg_json_has(root, "head_dim"))
        UPG_TRY(read_u32(root, "head_dim", 2, UPG_MAX_HEAD_DIM, &c->head_dim, err));
    else if (c->hidden % c->n_heads != 0)
        UPG_TRY(upg_fail(err, UPG_E_FORMAT,
                         "%s: \"hidden_size\" %" PRIu32 " is no multiple of "
                         "\"num_attention_heads\" %" PRIu32 ", and \"head_dim\" is not given",
                         where, c->hidden, c->n_heads));
    if (c->head_dim < 2 || c->head_dim > UPG_MAX_HEAD_DIM || c->head_dim % 2 != 0)
        UPG_TRY(upg_fail(err, UPG_E_UNSUPPORTED,
                         "%s: the head dimension is %" PRIu32 ", an even number from 2 to %d is "
                         "supported",
                         where, c->head_dim, UPG_MAX_HEAD_DIM));
    if ((uint64_t)c->n_heads * c->head_dim > UPG_MAX_WIDTH)
        UPG_TRY(upg_fail(err, UPG_E_UNSUPPORTED,
                         "%s: %" PRIu32 " heads of %" PRIu32 " are more than %d", where, c->n_heads,
                         c->head_dim, UPG_MAX_WIDTH));
out:
    return st;
}

/* A window that the architecture does not know is refused; layers may not differ in it. */
static upg_status read_window(const json_t *root, upg_model_config *c, upg_error *err)
{
    const json_t *types = json_object_get(root, "layer_types");
    const char   *wanted;
    upg_status    st = UPG_OK;

    if (upg_json_has(root, "sliding_window")) {
        if (!c->architecture->sliding_window)
            UPG_TRY(upg_fail(err, UPG_E_UNSUPPORTED,
                             "%s: field \"sliding_window\" is set, but is not supported for %s",
                             where, c->architecture->name));
        UPG_TRY(read_u32(root, "sliding_window", 1, UPG_MAX_CONTEXT, &c->sliding_window, err));
    }
    wanted = c->sliding_window != 0 ? "sliding_attention" : "full_attention";
    for (size_t i = 0; i < json_array_size(types); i++) {
        const char *type = json_string_value(json_array_get(types, i));

        if (type == NULL || strcmp(type, wanted) != 0)
            UPG_TRY(upg_fail(err, UPG_E_UNSUPPORTED,
                             "%s: element %zu of \"layer_types\" is not \"%s\"; layers that differ "
                             "in attention are not supported",
                             where, i, wanted));
    }
out:
    return st;
}

static upg_status read_shapes(const json_t *root, upg_model_config *c, upg_error *err)
{
    double     eps = 0;
    upg_status st;

    UPG_TRY(read_u32(root, "hidden_size", 1, UPG_MAX_WIDTH, &c->hidden, err));
    UPG_TRY(read_u32(root, "num_hidden_layers", 1, UPG_MAX_LAYERS, &c->n_layers, err));
    UPG_TRY(read_u32(root, "intermediate_size", 1, UPG_MAX_WIDTH, &c->ffn, err));
    UPG_TRY(read_u32(root, "vocab_size", 1, UPG_MAX_WIDTH, &c->vocab, err));
    UPG_TRY(read_u32(root, "max_position_embeddings", 1, UPG_MAX_CONTEXT, &c->context, err));
    UPG_TRY(upg_json_number(root, "rms_norm_eps", 1e-20, 1, where, &eps, err));
    c->norm_eps = (float)eps;
    UPG_TRY(upg_json_bool_or(root, "tie_word_embeddings", false, where, &c->tied_embeddings, err));
    UPG_TRY(read_heads(root, c, err));
    UPG_TRY(read_window(root, c, err));
out:
    return st;
}

/* ---- tokens and sampling ------------------------------------------------------------------- */

static upg_status add_end_token(const json_t *id, const char *file, upg_model_config *c,
                                upg_error *err)
{
    json_int_t value = json_integer_value(id);

    if (!json_is_integer(id) || value < 0 || value >= c->vocab) {
        if (!json_is_integer(id))
            return upg_fail(err, UPG_E_FORMAT,
                            "%s: field \"eos_token_id\" holds something else than integers", file);
        return upg_fail(err, UPG_E_FORMAT,
                        "%s: field \"eos_token_id\" holds %lld, outside of the vocabulary of "
                        "%" PRIu32 " (\"vocab_size\")",
                        file, (long long)value, c->vocab);
    }
    for (uint32_t i = 0; i < c->n_end_tokens; i++) {
        if (c->end_tokens[i] == value)
            return UPG_OK;
    }
    if (c->n_end_tokens == UPG_MAX_END_TOKENS)
        return upg_fail(err, UPG_E_UNSUPPORTED,
                        "%s: field \"eos_token_id\": more than %d end tokens in all", file,
                        UPG_MAX_END_TOKENS);
    c->end_tokens[c->n_end_tokens++] = (int32_t)value;
    return UPG_OK;
}

static upg_status read_tokens(const json_t *root, const char *file, upg_model_config *c,
                              upg_error *err)
{
    const json_t *end = json_object_get(root, "eos_token_id");
    uint64_t      bos = 0;
    upg_status    st = UPG_OK;

    if (c->bos_token < 0 && upg_json_has(root, "bos_token_id")) {
        UPG_TRY(upg_json_u64(root, "bos_token_id", 0, c->vocab - 1u, file, &bos, err));
        c->bos_token = (int32_t)bos;
    }
    if (upg_json_has(root, "eos_token_id") && !json_is_array(end))
        UPG_TRY(add_end_token(end, file, c, err));
    for (size_t i = 0; i < json_array_size(end); i++)
        UPG_TRY(add_end_token(json_array_get(end, i), file, c, err));
out:
    return st;
}

/* Sampling defaults; the field stays as it is when the file does not give it. */
static upg_status read_sampling_number(const json_t *root, const char *key, double min, double max,
                                       double *value, upg_error *err)
{
    if (!upg_json_has(root, key))
        return UPG_OK;
    return upg_json_number(root, key, min, max, generation_where, value, err);
}

static upg_status read_sampling(const json_t *root, upg_model_config *c, upg_error *err)
{
    uint64_t   top_k = 0;
    upg_status st;

    UPG_TRY(upg_json_bool_or(root, "do_sample", false, generation_where, &c->do_sample, err));
    UPG_TRY(read_sampling_number(root, "temperature", 0, 1e3, &c->temperature, err));
    UPG_TRY(read_sampling_number(root, "top_p", 0, 1, &c->top_p, err));
    UPG_TRY(read_sampling_number(root, "min_p", 0, 1, &c->min_p, err));
    UPG_TRY(
        read_sampling_number(root, "repetition_penalty", 1e-3, 1e3, &c->repetition_penalty, err));
    if (upg_json_has(root, "top_k")) {
        UPG_TRY(upg_json_u64(root, "top_k", 0, INT32_MAX, generation_where, &top_k, err));
        c->top_k = (int64_t)top_k;
    }
out:
    return st;
}

static upg_status read_generation(upg_span text, upg_model_config *c, upg_error *err)
{
    json_t    *root = NULL;
    upg_status st = UPG_OK;

    if (text.size == 0)
        return UPG_OK;
    UPG_TRY(parse_object(text, generation_where, &root, err));
    UPG_TRY(read_tokens(root, generation_where, c, err));
    UPG_TRY(read_sampling(root, c, err));
out:
    json_decref(root);
    return st;
}

upg_status upg_model_config_read(upg_span config_json, upg_span generation_config_json,
                                 upg_arena *arena, upg_model_config *config, upg_error *err)
{
    json_t    *root = NULL;
    upg_status st;

    *config = (upg_model_config) { .bos_token = -1,
                                   .temperature = -1,
                                   .top_p = -1,
                                   .min_p = -1,
                                   .repetition_penalty = -1,
                                   .top_k = -1 };
    UPG_TRY(parse_object(config_json, where, &root, err));
    UPG_TRY(read_architecture(root, config, err));
    UPG_TRY(refuse_quantised(root, err));
    UPG_TRY(refuse_features(root, config->architecture, err));
    UPG_TRY(read_shapes(root, config, err));
    UPG_TRY(read_tokens(root, where, config, err));
    UPG_TRY(upg_rope_read(root, arena, config, err));
    UPG_TRY(read_generation(generation_config_json, config, err));
out:
    json_decref(root);
    return st;
}
