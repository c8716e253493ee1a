#include "model/architecture.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---- descriptions -------------------------------------------------------------------------- */

/* Llama's names are the canonical ones. Indexed by role. */
static const upg_tensor_rule canonical_rules[UPG_ROLE_COUNT] = {
    { "model.embed_tokens.weight", 1, { UPG_ROLE_EMBED } },
    { "model.layers.#.input_layernorm.weight", 1, { UPG_ROLE_ATTENTION_NORM } },
    { "model.layers.#.self_attn.q_proj.weight", 1, { UPG_ROLE_Q } },
    { "model.layers.#.self_attn.k_proj.weight", 1, { UPG_ROLE_K } },
    { "model.layers.#.self_attn.v_proj.weight", 1, { UPG_ROLE_V } },
    { "model.layers.#.self_attn.o_proj.weight", 1, { UPG_ROLE_O } },
    { "model.layers.#.post_attention_layernorm.weight", 1, { UPG_ROLE_FFN_NORM } },
    { "model.layers.#.mlp.gate_proj.weight", 1, { UPG_ROLE_GATE } },
    { "model.layers.#.mlp.up_proj.weight", 1, { UPG_ROLE_UP } },
    { "model.layers.#.mlp.down_proj.weight", 1, { UPG_ROLE_DOWN } },
    { "model.norm.weight", 1, { UPG_ROLE_FINAL_NORM } },
    { "lm_head.weight", 1, { UPG_ROLE_HEAD } },
};

static const upg_tensor_rule phi3_rules[] = {
    { "model.embed_tokens.weight", 1, { UPG_ROLE_EMBED } },
    { "model.layers.#.input_layernorm.weight", 1, { UPG_ROLE_ATTENTION_NORM } },
    { "model.layers.#.self_attn.qkv_proj.weight", 3, { UPG_ROLE_Q, UPG_ROLE_K, UPG_ROLE_V } },
    { "model.layers.#.self_attn.o_proj.weight", 1, { UPG_ROLE_O } },
    { "model.layers.#.post_attention_layernorm.weight", 1, { UPG_ROLE_FFN_NORM } },
    { "model.layers.#.mlp.gate_up_proj.weight", 2, { UPG_ROLE_GATE, UPG_ROLE_UP } },
    { "model.layers.#.mlp.down_proj.weight", 1, { UPG_ROLE_DOWN } },
    { "model.norm.weight", 1, { UPG_ROLE_FINAL_NORM } },
    { "lm_head.weight", 1, { UPG_ROLE_HEAD } },
};

#define RULES(table) sizeof table / sizeof table[0], table

static const upg_architecture architectures[] = {
    { "Phi3ForCausalLM", RULES(phi3_rules), .partial_rotary = true, .longrope = true,
      .sliding_window = true },
    { "LlamaForCausalLM", RULES(canonical_rules), .sliding_window = false },
    { "MistralForCausalLM", RULES(canonical_rules), .sliding_window = true },
};

const upg_architecture *upg_architecture_find(const char *name)
{
    for (size_t i = 0; i < sizeof architectures / sizeof architectures[0]; i++) {
        if (strcmp(architectures[i].name, name) == 0)
            return &architectures[i];
    }
    return NULL;
}

const char *upg_architecture_names(void)
{
    return "Phi3ForCausalLM, LlamaForCausalLM, MistralForCausalLM"; /* a test compares */
}

const upg_tensor_rule *upg_canonical_rules(size_t *n_rules)
{
    *n_rules = UPG_ROLE_COUNT;
    return canonical_rules;
}

/* ---- roles --------------------------------------------------------------------------------- */

const char *upg_role_pattern(upg_role role)
{
    return canonical_rules[role].name;
}

bool upg_role_is_vector(upg_role role)
{
    return role == UPG_ROLE_ATTENTION_NORM || role == UPG_ROLE_FFN_NORM ||
           role == UPG_ROLE_FINAL_NORM;
}

bool upg_role_in_layer(upg_role role)
{
    return role != UPG_ROLE_EMBED && role != UPG_ROLE_FINAL_NORM && role != UPG_ROLE_HEAD;
}

void upg_role_shape(const upg_model_config *c, upg_role role, uint32_t *n_rows, uint32_t *n_cols)
{
    uint32_t q_rows = c->n_heads * c->head_dim, kv_rows = c->n_kv_heads * c->head_dim;

    *n_cols = c->hidden;
    switch (role) {
    case UPG_ROLE_EMBED:
    case UPG_ROLE_HEAD:
        *n_rows = c->vocab;
        break;
    case UPG_ROLE_Q:
        *n_rows = q_rows;
        break;
    case UPG_ROLE_K:
    case UPG_ROLE_V:
        *n_rows = kv_rows;
        break;
    case UPG_ROLE_O:
        *n_rows = c->hidden;
        *n_cols = q_rows;
        break;
    case UPG_ROLE_GATE:
    case UPG_ROLE_UP:
        *n_rows = c->ffn;
        break;
    case UPG_ROLE_DOWN:
        *n_rows = c->hidden;
        *n_cols = c->ffn;
        break;
    default: /* the norms */
        *n_rows = c->hidden;
        *n_cols = 1;
        break;
    }
}

/* ---- names --------------------------------------------------------------------------------- */

bool upg_rule_in_layer(const upg_tensor_rule *rule)
{
    return upg_role_in_layer(rule->roles[0]);
}

void upg_tensor_name(const char *pattern, uint32_t layer, char *text)
{
    const char *mark = strchr(pattern, '#');

    if (mark == NULL)
        snprintf(text, UPG_TENSOR_NAME_CAP, "%s", pattern);
    else
        snprintf(text, UPG_TENSOR_NAME_CAP, "%.*s%" PRIu32 "%s", (int)(mark - pattern), pattern,
                 layer, mark + 1);
}

bool upg_tensor_name_matches(const char *pattern, uint32_t n_layers, const char *name)
{
    const char *mark = strchr(pattern, '#');
    char        exact[UPG_TENSOR_NAME_CAP];
    uint32_t    layer = 0;

    if (mark == NULL)
        return strcmp(pattern, name) == 0;
    if (strncmp(pattern, name, (size_t)(mark - pattern)) != 0)
        return false;
    for (const char *digit = name + (mark - pattern); *digit >= '0' && *digit <= '9'; digit++) {
        layer = layer * 10 + (uint32_t)(*digit - '0');
        if (layer >= n_layers) /* also keeps the number from overflowing: n_layers < 2^28 */
            return false;
    }
    upg_tensor_name(pattern, layer, exact); /* no digits or leading zeros differ here */
    return layer < n_layers && strcmp(exact, name) == 0;
}
