/* synthetic_file.h: a synthetic model (synthetic.h) as a .upg file, to measure what loading a real
 * one takes. */
#ifndef UPG_MODEL_SYNTHETIC_FILE_H
#define UPG_MODEL_SYNTHETIC_FILE_H

#include "base/progress.h"
#include "model/random_checkpoint.h"
#include "model/synthetic.h"

/** Writes a shape's weights with the side files that a .upg file keeps (others are left out). The
 * file appears only when complete. Reports stage "synth", then "hash", in bytes. Errors: as
 * upg_weights_synthetic, upg_container_writer_create and upg_container_finish; E_CANCELLED. */
upg_status upg_synthetic_write(const char *path, const char *shape, const upg_side_file *files,
                               size_t n_files, upg_pool *pool, const upg_listener *listener,
                               upg_error *err);

#endif
