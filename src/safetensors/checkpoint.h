/* checkpoint.h: a Hugging Face checkpoint folder as one set of tensors.
 *
 * Either model.safetensors, or model.safetensors.index.json and the shards its weight_map names
 * (where both are there the single file is read, as transformers does). Invariants: names are
 * unique over all shards, and every tensor that the index promises is in the shard it promises. */
#ifndef UPG_SAFETENSORS_CHECKPOINT_H
#define UPG_SAFETENSORS_CHECKPOINT_H

#include "safetensors/safetensors.h"

typedef struct upg_checkpoint upg_checkpoint;

/** Maps and checks every shard. Errors (all name the file): E_NOT_FOUND (no weights, a missing
 * shard), and as upg_st_open. */
upg_status upg_checkpoint_open(const char *folder, upg_checkpoint **checkpoint, upg_error *err);
/** NULL is fine. */
void upg_checkpoint_close(upg_checkpoint *checkpoint);
/** Whether all its files still have what was read from them. Errors: E_IO naming the file. */
upg_status upg_checkpoint_check_maps(const upg_checkpoint *checkpoint, upg_error *err);

size_t upg_checkpoint_count(const upg_checkpoint *checkpoint);
/** Tensor i < upg_checkpoint_count by name (strcmp); borrowed from the checkpoint. */
const upg_st_tensor *upg_checkpoint_at(const upg_checkpoint *checkpoint, size_t i);
/** NULL when there is none of that name. */
const upg_st_tensor *upg_checkpoint_find(const upg_checkpoint *checkpoint, const char *name);
/** The checkpoint as shipped: bytes of all tensors, headers not counted. */
uint64_t upg_checkpoint_source_bytes(const upg_checkpoint *checkpoint);
/** All its weight files together, headers included. */
uint64_t upg_checkpoint_file_bytes(const upg_checkpoint *checkpoint);

/** What an index.json says, checked for itself. */
typedef struct upg_shard_index {
    size_t       n_shards, n_tensors;
    const char **shards;   /* [n_shards] file names, sorted: no '/', no "..", no '.' in front */
    const char **tensors;  /* [n_tensors] names */
    uint32_t    *shard_of; /* [n_tensors] index into shards */
    void        *json;     /* private: holds the strings */
} upg_shard_index;

/** Parses the text of model.safetensors.index.json. Errors: E_FORMAT, E_NOMEM. */
upg_status upg_shard_index_parse(upg_span text, upg_shard_index *index, upg_error *err);
/** Frees what parse allocated; a zeroed index is fine. */
void upg_shard_index_deinit(upg_shard_index *index);

#endif
