/* architecture.h: an architecture is a description: which fields of config.json it knows, and which
 * tensors of a checkpoint make which role. A model that computes the same way under other names is
 * a new entry of the table in architecture.c and nothing else.
 *
 * Inside upg every matrix has one canonical name, whatever the checkpoint calls it; .upg files use
 * these names alone. */
#ifndef UPG_MODEL_ARCHITECTURE_H
#define UPG_MODEL_ARCHITECTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/model_config.h"
#include "model/weights.h"

enum { UPG_MAX_STACKED_ROLES = 3, UPG_TENSOR_NAME_CAP = 128 };

/** One tensor of the source: the rows of its roles, stacked in this order. '#' in the name stands
 * for the layer's number. Rows and columns of a role follow from the config (upg_role_shape). */
typedef struct upg_tensor_rule {
    const char *name;
    uint8_t     n_roles;
    upg_role    roles[UPG_MAX_STACKED_ROLES];
} upg_tensor_rule;

typedef struct upg_architecture {
    const char            *name; /* as in config.json's "architectures" */
    size_t                 n_rules;
    const upg_tensor_rule *rules; /* every role exactly once */
    /* What config.json may ask for; all else that would change the result is refused by name. */
    bool partial_rotary, longrope, sliding_window;
} upg_architecture;

/** NULL when the name is not supported. Static. */
const upg_architecture *upg_architecture_find(const char *name);
/** The supported names, comma-separated. Static. */
const char *upg_architecture_names(void);
/** Rules of the canonical names: every role a tensor of its own. Static. */
const upg_tensor_rule *upg_canonical_rules(size_t *n_rules);

/** Norm weights: f32 vectors [n]; all other roles are matrices. */
bool upg_role_is_vector(upg_role role);
/** Roles that every layer has; the others exist once. */
bool upg_role_in_layer(upg_role role);
/** Rows and columns of a role (of a vector: n and 1). Products do not overflow 64 bits. */
void upg_role_shape(const upg_model_config *config, upg_role role, uint32_t *n_rows,
                    uint32_t *n_cols);
/** The canonical name with '#' for the layer: "model.layers.#.mlp.up_proj.weight". Static. */
const char *upg_role_pattern(upg_role role);
/** Whether tensors of this rule exist once for each layer. */
bool upg_rule_in_layer(const upg_tensor_rule *rule);
/** Writes a rule's or role's name for one layer into text [UPG_TENSOR_NAME_CAP]. */
void upg_tensor_name(const char *pattern, uint32_t layer, char *text);
/** Whether `name` is the pattern's name for a layer < n_layers. */
bool upg_tensor_name_matches(const char *pattern, uint32_t n_layers, const char *name);

#endif
