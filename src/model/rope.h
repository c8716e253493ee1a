/* rope.h: rotary frequencies from config.json, as transformers computes them. */
#ifndef UPG_MODEL_ROPE_H
#define UPG_MODEL_ROPE_H

#include <jansson.h>

#include "model/model_config.h"

/** Fills config->rope from the root object of config.json; architecture, head_dim and context are
 * set. Arrays live in `arena`. Errors: E_FORMAT, E_UNSUPPORTED (rope type by name), E_NOMEM. */
upg_status upg_rope_read(const json_t *root, upg_arena *arena, upg_model_config *config,
                         upg_error *err);

#endif
