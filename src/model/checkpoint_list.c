/* checkpoint_list.c: transformers saves a module's tensors in the order in which it declares them:
 * attention, feed-forward, norms; Phi-3 declares o_proj before qkv_proj. The order decides which
 * shard a tensor comes into, so that a folder made here is cut as the model's own. */
#include "model/checkpoint_list.h"

#include <string.h>

static int place_in_layer(const upg_tensor_rule *rule)
{
    switch (rule->roles[0]) {
    case UPG_ROLE_Q:
        return rule->n_roles > 1 ? 4 : 0;
    case UPG_ROLE_K:
        return 1;
    case UPG_ROLE_V:
        return 2;
    case UPG_ROLE_O:
        return 3;
    case UPG_ROLE_GATE:
        return 5;
    case UPG_ROLE_UP:
        return 6;
    case UPG_ROLE_DOWN:
        return 7;
    case UPG_ROLE_ATTENTION_NORM:
        return 8;
    default: /* UPG_ROLE_FFN_NORM */
        return 9;
    }
}

static upg_status add(const upg_model_config *config, const upg_tensor_rule *rule, uint32_t layer,
                      upg_arena *arena, upg_checkpoint_list *list, upg_error *err)
{
    upg_st_entry *e = &list->entries[list->n];
    char          name[UPG_TENSOR_NAME_CAP];
    uint32_t      rows, cols;

    upg_tensor_name(rule->name, layer, name);
    *e = (upg_st_entry) { .dtype = UPG_BF16,
                          .rank = upg_role_is_vector(rule->roles[0]) ? 1 : 2,
                          .name = upg_arena_strndup(arena, name, strlen(name), err) };
    if (e->name == NULL)
        return UPG_E_NOMEM;
    for (uint32_t i = 0; i < rule->n_roles; i++) {
        upg_role_shape(config, rule->roles[i], &rows, &cols);
        e->shape[0] += rows;
        e->shape[1] = e->rank == 2 ? cols : 0;
    }
    list->rules[list->n] = rule;
    list->layers[list->n] = layer;
    list->n++;
    return UPG_OK;
}

static upg_status add_outer(const upg_model_config *config, upg_role role, upg_arena *arena,
                            upg_checkpoint_list *list, upg_error *err)
{
    const upg_architecture *a = config->architecture;

    for (size_t i = 0; i < a->n_rules; i++)
        if (a->rules[i].roles[0] == role)
            return add(config, &a->rules[i], 0, arena, list, err);
    return UPG_OK; /* not reached: rules have every role */
}

static upg_status add_layer(const upg_model_config *config, uint32_t layer, upg_arena *arena,
                            upg_checkpoint_list *list, upg_error *err)
{
    const upg_architecture *a = config->architecture;
    upg_status              st = UPG_OK;

    for (int place = 0; place <= 9; place++)
        for (size_t i = 0; i < a->n_rules; i++)
            if (upg_rule_in_layer(&a->rules[i]) && place_in_layer(&a->rules[i]) == place)
                UPG_TRY(add(config, &a->rules[i], layer, arena, list, err));
out:
    return st;
}

upg_status upg_checkpoint_list_make(const upg_model_config *config, upg_arena *arena,
                                    upg_checkpoint_list *list, upg_error *err)
{
    size_t     most = (size_t)config->n_layers * config->architecture->n_rules + 3;
    upg_status st;

    *list = (upg_checkpoint_list) { 0 };
    list->entries = upg_arena_alloc(arena, most, sizeof *list->entries, err);
    list->rules = upg_arena_alloc(arena, most, sizeof(upg_tensor_rule *), err);
    list->layers = upg_arena_alloc(arena, most, sizeof *list->layers, err);
    UPG_TRY(list->entries && list->rules && list->layers ? UPG_OK : UPG_E_NOMEM);
    UPG_TRY(add_outer(config, UPG_ROLE_EMBED, arena, list, err));
    for (uint32_t layer = 0; layer < config->n_layers; layer++)
        UPG_TRY(add_layer(config, layer, arena, list, err));
    UPG_TRY(add_outer(config, UPG_ROLE_FINAL_NORM, arena, list, err));
    if (!config->tied_embeddings)
        UPG_TRY(add_outer(config, UPG_ROLE_HEAD, arena, list, err));
out:
    return st;
}
