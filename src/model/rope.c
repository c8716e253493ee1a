/* rope.c: rotary position embedding, plain and longrope.
 *
 * The fields are those of transformers (modeling_rope_utils.py, configuration_phi3.py) in both of
 * its styles:
 *
 *   v4   "rope_theta", "partial_rotary_factor", "original_max_position_embeddings" at the top,
 *        "rope_scaling": null or { "type" or "rope_type", "short_factor", "long_factor", … }
 *   v5   all of them inside "rope_parameters"
 *
 * longrope (LongRoPE, arXiv 2402.13753): inverse frequency i is 1 / (factor_i · theta^(2i/d)), with
 * the short factors up to the original context and the long ones for longer sequences; cos and sin
 * are scaled by sqrt(1 + ln(s) / ln(original context)) with s = context / original context, unless
 * "attention_factor" says otherwise. Where "factor" is given it is s in v5; v4 replaces it by the
 * ratio of the contexts.
 *
 * transformers computes in fp32: exponent, power and reciprocal are rounded to fp32 one by one here
 * too, because at position 16000 the last bit of a frequency is visible. */
#include "model/rope.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/json.h"
#include "model/architecture.h"

static const char where[] = "config.json";

/* The object that holds a field: "rope_parameters"/"rope_scaling" first, then the top level. */
typedef struct rope_fields {
    const json_t *top, *inner; /* inner NULL when there is none */
    const char   *inner_where; /* for messages */
    bool          v5;
} rope_fields;

static const json_t *holder(const rope_fields *f, const char *key)
{
    return f->inner != NULL && upg_json_has(f->inner, key) ? f->inner : f->top;
}

static const char *holder_name(const rope_fields *f, const char *key)
{
    return holder(f, key) == f->top ? where : f->inner_where;
}

static upg_status number_or(const rope_fields *f, const char *key, double fallback, double min,
                            double max, double *value, upg_error *err)
{
    *value = fallback;
    if (!upg_json_has(holder(f, key), key))
        return UPG_OK;
    return upg_json_number(holder(f, key), key, min, max, holder_name(f, key), value, err);
}

static upg_status find_fields(const json_t *root, rope_fields *f, upg_error *err)
{
    const json_t *v4 =
        upg_json_has(root, "rope_scaling") ? json_object_get(root, "rope_scaling") : NULL;
    const json_t *v5 =
        upg_json_has(root, "rope_parameters") ? json_object_get(root, "rope_parameters") : NULL;

    *f = (rope_fields) { .top = root };
    if (v4 != NULL && v5 != NULL && !json_equal(v4, v5))
        return upg_fail(err, UPG_E_FORMAT,
                        "%s: \"rope_scaling\" and \"rope_parameters\" are both there and differ: "
                        "remove one of them",
                        where);
    f->v5 = v5 != NULL;
    f->inner = v5 != NULL ? v5 : v4;
    f->inner_where = f->v5 ? "config.json, rope_parameters" : "config.json, rope_scaling";
    if (f->inner != NULL && !json_is_object(f->inner))
        return upg_fail(err, UPG_E_FORMAT, "%s: field \"%s\" is no object", where,
                        f->v5 ? "rope_parameters" : "rope_scaling");
    return UPG_OK;
}

/* *longrope tells which of the two supported types it is. */
static upg_status read_type(const rope_fields *f, const upg_architecture *architecture,
                            bool *longrope, upg_error *err)
{
    const char *key = upg_json_has(f->inner, "rope_type") ? "rope_type" : "type";
    const char *type = "default";
    upg_status  st = UPG_OK;

    if (upg_json_has(f->inner, key))
        UPG_TRY(upg_json_string(f->inner, key, f->inner_where, &type, err));
    *longrope =
        architecture->longrope && (strcmp(type, "longrope") == 0 || strcmp(type, "su") == 0);
    if (!*longrope && strcmp(type, "default") != 0)
        return upg_fail(err, UPG_E_UNSUPPORTED, "%s: %s \"%.40s\" is not supported for %s, only %s",
                        f->inner_where, key, upg_st_name_ok(type) ? type : "?", architecture->name,
                        architecture->longrope ? "\"default\" and \"longrope\"" : "\"default\"");
out:
    return st;
}

/* transformers truncates head_dim · factor; an odd number has no pairs to rotate. */
static upg_status read_rotary_dims(const rope_fields *f, upg_model_config *config, upg_error *err)
{
    static const char key[] = "partial_rotary_factor";
    double            factor;
    upg_status        st = number_or(f, key, 1, 0, 1, &factor, err);

    if (st != UPG_OK)
        return st;
    if (factor != 1 && !config->architecture->partial_rotary)
        return upg_fail(err, UPG_E_UNSUPPORTED, "%s: \"%s\" %g is not supported for %s, only 1",
                        holder_name(f, key), key, factor, config->architecture->name);
    config->rope.rotary_dims = (uint32_t)(config->head_dim * factor);
    if (config->rope.rotary_dims == 0 || config->rope.rotary_dims % 2 != 0)
        return upg_fail(err, UPG_E_FORMAT,
                        "%s: \"%s\" %g of head dimension %" PRIu32 " rotates %" PRIu32
                        " dimensions, an even number from 2 up is needed",
                        holder_name(f, key), key, factor, config->head_dim,
                        config->rope.rotary_dims);
    return UPG_OK;
}

/* Both places may hold it; transformers prefers the top level, so two different values are a trap.
 */
static upg_status read_original_context(const rope_fields *f, upg_model_config *config,
                                        upg_error *err)
{
    static const char key[] = "original_max_position_embeddings";
    uint64_t          inner = 0, top = 0;
    upg_status        st = UPG_OK;

    if (upg_json_has(f->inner, key))
        UPG_TRY(upg_json_u64(f->inner, key, 2, UPG_MAX_CONTEXT, f->inner_where, &inner, err));
    if (upg_json_has(f->top, key) || inner == 0)
        UPG_TRY(upg_json_u64(f->top, key, 2, UPG_MAX_CONTEXT, where, &top, err));
    if (inner != 0 && top != 0 && inner != top)
        UPG_TRY(upg_fail(err, UPG_E_FORMAT,
                         "%s: \"%s\" is %" PRIu64 ", but %" PRIu64 " in %s: one of them is wrong",
                         where, key, top, inner, f->inner_where));
    config->rope.original_context = (uint32_t)(top != 0 ? top : inner);
out:
    return st;
}

static upg_status read_attention_scaling(const rope_fields *f, upg_model_config *config,
                                         upg_error *err)
{
    static const char *const refused[] = { "short_mscale", "long_mscale" };
    double     original = config->rope.original_context, scale = config->context / original;
    double     value;
    upg_status st = UPG_OK;

    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        if (upg_json_has(f->inner, refused[i])) /* PhiMoE's way; transformers' Phi3 ignores it */
            return upg_fail(err, UPG_E_UNSUPPORTED,
                            "%s: \"%s\" is not supported for %s, \"attention_factor\" is",
                            f->inner_where, refused[i], config->architecture->name);
    }
    if (f->v5 && upg_json_has(f->inner, "factor"))
        UPG_TRY(upg_json_number(f->inner, "factor", 1e-3, 1e6, f->inner_where, &scale, err));
    value = scale <= 1 ? 1 : sqrt(1 + log(scale) / log(original));
    if (upg_json_has(f->inner, "attention_factor"))
        UPG_TRY(
            upg_json_number(f->inner, "attention_factor", 1e-3, 1e3, f->inner_where, &value, err));
    config->rope.attention_scaling = (float)value;
out:
    return st;
}

/* factors f32 [n] from a list of exactly n numbers. */
static upg_status read_factors(const rope_fields *f, const char *key, uint32_t n, float *factors,
                               upg_error *err)
{
    const json_t *list = json_object_get(f->inner, key);

    if (!json_is_array(list) || json_array_size(list) != n)
        return upg_fail(err, UPG_E_FORMAT,
                        "%s: field \"%s\" %s %zu, a list of %" PRIu32
                        " numbers is needed (half of the rotated dimensions)",
                        f->inner_where, key,
                        json_is_array(list) ? "is a list of" : "is no list, its length is",
                        json_array_size(list), n);
    for (uint32_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(list, i);
        double        value = json_number_value(item);

        if (!json_is_number(item) || !(value >= 1e-6 && value <= 1e6))
            return upg_fail(err, UPG_E_FORMAT,
                            "%s: element %" PRIu32 " of \"%s\" is no number from 1e-6 to 1e6",
                            f->inner_where, i, key);
        factors[i] = (float)value;
    }
    return UPG_OK;
}

/* Inverse frequencies f32 [n]; in place: inv_freq holds the factors before. */
static void compute(double theta, uint32_t rotary_dims, float *inv_freq)
{
    float base = (float)theta;

    for (uint32_t i = 0; i < rotary_dims / 2; i++) {
        float exponent = (float)(2 * i) / (float)rotary_dims;
        float power = (float)pow(base, exponent); /* rounded once, so the same on every libm */

        inv_freq[i] = 1.0f / (inv_freq[i] * power);
    }
}

upg_status upg_rope_read(const json_t *root, upg_arena *arena, upg_model_config *config,
                         upg_error *err)
{
    upg_rope   *rope = &config->rope;
    rope_fields f;
    double      theta;
    bool        longrope;
    float      *brief, *lengthy = NULL;
    uint32_t    n;
    upg_status  st;

    *rope = (upg_rope) { .original_context = config->context, .attention_scaling = 1 };
    UPG_TRY(find_fields(root, &f, err));
    UPG_TRY(read_type(&f, config->architecture, &longrope, err));
    UPG_TRY(number_or(&f, "rope_theta", 10000, 1, 1e30, &theta, err)); /* transformers' default */
    UPG_TRY(read_rotary_dims(&f, config, err));
    n = rope->rotary_dims / 2;
    brief = upg_arena_alloc(arena, n, sizeof *brief, err);
    UPG_TRY(brief ? UPG_OK : UPG_E_NOMEM);
    for (uint32_t i = 0; i < n; i++)
        brief[i] = 1;
    if (longrope) {
        lengthy = upg_arena_alloc(arena, n, sizeof *lengthy, err);
        UPG_TRY(lengthy ? UPG_OK : UPG_E_NOMEM);
        UPG_TRY(read_original_context(&f, config, err));
        UPG_TRY(read_attention_scaling(&f, config, err));
        UPG_TRY(read_factors(&f, "short_factor", n, brief, err));
        UPG_TRY(read_factors(&f, "long_factor", n, lengthy, err));
        compute(theta, rope->rotary_dims, lengthy);
    }
    compute(theta, rope->rotary_dims, brief);
    rope->inv_freq = brief;
    rope->long_inv_freq = lengthy;
out:
    return st;
}
