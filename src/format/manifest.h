/* manifest.h: the JSON text in "upg.manifest" (docs/FORMAT.md, "Manifest"). */
#ifndef UPG_FORMAT_MANIFEST_H
#define UPG_FORMAT_MANIFEST_H

#include "base/buffer.h"
#include "base/json.h"
#include "format/container.h"
#include "format/container_writer.h"

/** In "features" when a matrix has outliers. */
#define UPG_FEATURE_OUTLIERS "outliers"

/** Checks format name, version and features before anything else is believed. Errors: E_FORMAT,
 * E_VERSION. */
upg_status upg_manifest_version(const json_t *root, upg_container *container, upg_error *err);
/** Fills parameters … matrices and options of a container whose `file` is open, checks every value
 * and binds the tensors. used [upg_st_count] becomes true for the tensors bound. */
upg_status upg_manifest_parse(const json_t *root, upg_container *container, bool *used,
                              upg_error *err);
/** Writes the manifest of a plan; relative_errors f64 [n_matrices], < 0 = not measured. */
upg_status upg_manifest_print(const upg_container_plan *plan, uint64_t parameters,
                              const double *relative_errors, upg_buffer *text, upg_error *err);
/** Bytes that upg_manifest_print of this plan never passes, whatever the errors are. */
upg_status upg_manifest_bound(const upg_container_plan *plan, size_t *bytes, upg_error *err);

#endif
