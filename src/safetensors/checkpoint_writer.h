/* checkpoint_writer.h: writing a Hugging Face checkpoint folder as transformers does.
 *
 * Tensors come in the order of the list given; they fill shards greedily in that order, each shard
 * as full as its limit allows. One shard is model.safetensors without an index, several are
 * model-00001-of-0000N.safetensors with one. Within a shard tensors lie sorted by name. Data is
 * written as it comes; the folder takes its name only when it is complete. */
#ifndef UPG_SAFETENSORS_CHECKPOINT_WRITER_H
#define UPG_SAFETENSORS_CHECKPOINT_WRITER_H

#include "safetensors/safetensors.h"

/** What transformers takes unless told otherwise. */
#define UPG_DEFAULT_SHARD_BYTES UINT64_C(5000000000)

/** Which shard each tensor goes to: shard_of u32 [n], ascending; the number of shards in *n_shards.
 * A tensor above the limit gets a shard of its own. Errors: E_FORMAT naming the tensor whose shape
 * overflows. */
upg_status upg_shards_assign(const upg_st_entry *entries, size_t n, uint64_t shard_bytes,
                             uint32_t *shard_of, uint32_t *n_shards, upg_error *err);

typedef struct upg_checkpoint_writer upg_checkpoint_writer;

/** Creates the folder's temporary. entries [n] are borrowed until the end. shard_bytes 0 = the
 * default. Errors: E_EXISTS, E_NOSPACE (what is needed, what is free), E_ARG, E_FORMAT, E_IO,
 * E_NOMEM. */
upg_status upg_checkpoint_writer_create(const char *path, const upg_st_entry *entries, size_t n,
                                        uint64_t shard_bytes, upg_checkpoint_writer **writer,
                                        upg_error *err);
/** Bytes of all tensors together. */
uint64_t upg_checkpoint_writer_bytes(const upg_checkpoint_writer *writer);
/** Appends bytes of the tensor at hand; when it has all of its own, the next one's turn comes.
 * Errors: E_ARG (more than the tensor takes), E_IO, E_NOSPACE. */
upg_status upg_checkpoint_write(upg_checkpoint_writer *writer, const void *bytes, size_t size,
                                upg_error *err);
/** Writes another file of the folder. */
upg_status upg_checkpoint_write_file(upg_checkpoint_writer *writer, const char *name,
                                     upg_span bytes, upg_error *err);
/** Takes the writer: writes the index and gives the folder its name. On failure nothing is left.
 * Errors: E_STATE (names the tensor that is not complete), E_EXISTS, E_IO, E_NOSPACE. */
upg_status upg_checkpoint_writer_commit(upg_checkpoint_writer *writer, upg_error *err);
/** Removes what was written. NULL is fine. */
void upg_checkpoint_writer_discard(upg_checkpoint_writer *writer);

#endif
