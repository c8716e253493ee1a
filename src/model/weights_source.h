/* weights_source.h: what upg_weights keeps open, private to src/model. */
#ifndef UPG_MODEL_WEIGHTS_SOURCE_H
#define UPG_MODEL_WEIGHTS_SOURCE_H

#include "base/arena.h"
#include "base/file.h"
#include "format/container.h"
#include "model/architecture.h"
#include "model/weights.h"
#include "safetensors/checkpoint.h"

/** Exactly one of checkpoint, container and memory is there. */
typedef struct upg_weights_source {
    upg_checkpoint *checkpoint;
    upg_container  *container;
    void           *memory;                /* codes and scales of a synthetic model */
    upg_map         parts[UPG_PART_COUNT]; /* of a checkpoint: its small files */
    upg_arena       arena;                 /* names, vectors, frequencies, layers */
} upg_weights_source;

/** Finds every tensor that rules and config ask for, checks it and binds it to its roles; refuses
 * tensors that belong nowhere. Sets matrices, vectors, n_parameters and weight_bytes. Errors:
 * E_FORMAT (tensor, expected and found shape), E_UNSUPPORTED (dtype), E_DATA (norms), E_NOMEM. */
upg_status upg_weights_bind(upg_weights *weights, const upg_tensor_rule *rules, size_t n_rules,
                            upg_error *err);

#endif
