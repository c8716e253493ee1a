/* checkpoint_list.h: the tensors that a checkpoint of a model has, in the order in which
 * transformers saves them. */
#ifndef UPG_MODEL_CHECKPOINT_LIST_H
#define UPG_MODEL_CHECKPOINT_LIST_H

#include "base/arena.h"
#include "model/architecture.h"
#include "safetensors/safetensors.h"

typedef struct upg_checkpoint_list {
    size_t                  n;
    upg_st_entry           *entries; /* [n]: BF16; names are the architecture's own */
    const upg_tensor_rule **rules;   /* [n]: which roles' rows are stacked in it */
    uint32_t               *layers;  /* [n]: 0 outside the layers */
} upg_checkpoint_list;

/** Lists them; everything lives in `arena`. Errors: E_NOMEM. */
upg_status upg_checkpoint_list_make(const upg_model_config *config, upg_arena *arena,
                                    upg_checkpoint_list *list, upg_error *err);

#endif
