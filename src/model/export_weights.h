/* export_weights.h: a model's weights as a Hugging Face checkpoint folder of bf16: the way out of
 * the format. Coded matrices are decoded, rotated back (docs/FORMAT.md, "Rotation": a row is
 * (w'·H/√B)·D), their outliers added, and rounded to bf16; roles are stacked again into the tensors
 * that the architecture has (qkv_proj, gate_up_proj). */
#ifndef UPG_MODEL_EXPORT_WEIGHTS_H
#define UPG_MODEL_EXPORT_WEIGHTS_H

#include "base/pool.h"
#include "base/progress.h"
#include "model/weights.h"

/** Writes the folder: weights, config.json, and the tokenizer's files that the model has.
 * shard_bytes 0 = transformers' default. Reports stage "export" in weights. Errors: as
 * upg_checkpoint_writer_create; E_CANCELLED, E_IO, E_NOMEM. */
upg_status upg_weights_export(const upg_weights *weights, const char *folder, uint64_t shard_bytes,
                              upg_pool *pool, const upg_listener *listener, upg_error *err);

#endif
