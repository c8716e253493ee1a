/* random_checkpoint.h: checkpoint folders of a real model's exact shape with random weights, to try
 * what a long compression takes where the model itself is not at hand.
 *
 * Weights are bf16 and drawn from 65536 quantiles of a Gaussian with the standard deviation 0.02,
 * or of a heavy-tailed distribution of the same spread: Student's t with 4 degrees of freedom, and
 * one input column in 256 eight times as large. Norms lie in [0.75, 1.25). The same shape, seed and
 * kind always give the same bytes. */
#ifndef UPG_MODEL_RANDOM_CHECKPOINT_H
#define UPG_MODEL_RANDOM_CHECKPOINT_H

#include "base/pool.h"
#include "base/progress.h"
#include "base/span.h"
#include "model/checkpoint_list.h"

/** A file that is put beside the weights. */
typedef struct upg_side_file {
    const char *name;
    upg_span    bytes;
} upg_side_file;

typedef struct upg_random_settings {
    upg_span             config_json; /* upg_random_config */
    bool                 heavy_tailed;
    uint64_t             seed, shard_bytes; /* shard_bytes 0 = transformers' default */
    const upg_side_file *files;             /* [n_files]: tokenizer.json and the like */
    size_t               n_files;
    const upg_listener  *listener;
} upg_random_settings;

/** The config.json of a known shape, "phi4", "phi4-nano" or "phi4-micro"; in `arena`. Errors: E_ARG
 * (lists the shapes), E_NOMEM. */
upg_status upg_random_config(const char *shape, upg_arena *arena, upg_span *config_json,
                             upg_error *err);
/** The same config.json with another number of layers, else byte for byte. Errors: E_FORMAT when
 * "num_hidden_layers" is not there exactly once, E_NOMEM. */
upg_status upg_random_config_layers(upg_span config_json, uint32_t layers, upg_arena *arena,
                                    upg_span *changed, upg_error *err);
/** Writes the folder. Reports stage "synth" in bytes. Errors: as upg_model_config_read and
 * upg_checkpoint_writer_create; E_CANCELLED. */
upg_status upg_random_checkpoint_write(const char *folder, const upg_random_settings *settings,
                                       upg_pool *pool, upg_error *err);

#endif
