/* container_writer.h: making .upg files.
 *
 * The writer is created with the complete plan: every offset is known before anything is encoded,
 * and data may come in any order from any thread. Equal plan and data give equal bytes. The file's
 * name appears only when upg_container_commit has succeeded. */
#ifndef UPG_FORMAT_CONTAINER_WRITER_H
#define UPG_FORMAT_CONTAINER_WRITER_H

#include "base/error.h"
#include "base/pool.h"
#include "base/progress.h"
#include "base/span.h"
#include "codec/coded_matrix.h"
#include "format/container.h"

typedef struct upg_band_plan {
    uint32_t n_rows;
    upg_code code;
} upg_band_plan;

typedef struct upg_matrix_plan {
    const char          *name;
    uint32_t             n_rows, n_cols;
    uint64_t             rotation_seed;
    uint32_t             n_bands;
    const upg_band_plan *bands; /* in row order; their rows add up to n_rows */
    upg_outlier_counts   outliers;
} upg_matrix_plan;

/** Everything is borrowed until the writer is finished or discarded. */
typedef struct upg_container_plan {
    size_t                 n_matrices;
    const upg_matrix_plan *matrices; /* in reading order: the file's order */
    size_t                 n_dense;
    const upg_st_entry    *dense;                 /* F32, F16 or BF16 */
    upg_span               parts[UPG_PART_COUNT]; /* MANIFEST and QUALITY stay empty */
    uint64_t               source_bytes;          /* tensors of the checkpoint as shipped */
    const char            *options_json; /* an object that tells how the file was made; NULL = {} */
    size_t                 quality_capacity; /* most bytes of the quality report; unused ones cost
                                                nothing */
} upg_container_plan;

typedef struct upg_container_size {
    uint64_t parameters;
    uint64_t weight_bytes; /* exact */
    uint64_t file_bytes;   /* at most: with a quality report of full capacity */
} upg_container_size;

/** What a plan will take; touches no file. Errors: E_ARG (names the matrix and the field),
 * E_FORMAT, E_NOMEM. */
upg_status upg_container_plan_size(const upg_container_plan *plan, upg_container_size *size,
                                   upg_error *err);

typedef struct upg_container_writer upg_container_writer;

/** Creates PATH's temporary, reserves its disk space and writes the parts. Errors: as plan_size;
 * E_EXISTS, E_NOSPACE, E_IO. */
upg_status upg_container_writer_create(const char *path, bool overwrite,
                                       const upg_container_plan *plan,
                                       upg_container_writer **writer, upg_error *err);
/** Writes words first … first + n − 1 of a band's code (coded_matrix.h has the layout; n =
 * upg_band_words for all of it). Any thread. Errors: E_ARG, E_IO, E_NOSPACE. */
upg_status upg_container_write_code(upg_container_writer *writer, size_t matrix, uint32_t band,
                                    uint64_t first, const uint32_t *words, size_t n,
                                    upg_error *err);
/** Writes the fp16 scales of rows first … first + n − 1 of a matrix. Any thread. */
upg_status upg_container_write_scales(upg_container_writer *writer, size_t matrix, uint32_t first,
                                      const uint16_t *scales, size_t n, upg_error *err);
/** Writes all of a matrix's outliers, as upg_outliers_print gives them. Any thread. */
upg_status upg_container_write_outliers(upg_container_writer *writer, size_t matrix,
                                        const void *bytes, size_t size, upg_error *err);
/** Writes bytes of dense tensor `index` from byte `offset` on. Any thread. */
upg_status upg_container_write_dense(upg_container_writer *writer, size_t index, uint64_t offset,
                                     const void *bytes, size_t size, upg_error *err);
/** Notes a matrix's measured relative error, ≥ 0; without this it counts as not measured. Any
 * thread, each matrix by one. */
void upg_container_set_error(upg_container_writer *writer, size_t matrix, double relative_error);
/** Writes manifest, report and header and hashes the file as it reads back (stage "hash", in
 * bytes): the temporary is then a whole .upg file, to be opened, closed and committed. Sealing
 * again replaces the report by one that is no shorter. quality_json may be empty. pool NULL: on
 * this thread. The writer stays the caller's, who discards it after a failure. Errors: E_STATE
 * (names the tensor that was not wholly written), E_BUDGET (the report exceeds its capacity),
 * E_FORMAT (the report is no JSON), E_CANCELLED, E_IO, E_NOSPACE, E_NOMEM. */
upg_status upg_container_seal(upg_container_writer *writer, upg_span quality_json, upg_pool *pool,
                              const upg_listener *listener, upg_error *err);
/** Path of the temporary, borrowed until the writer is gone. */
const char *upg_container_temporary(const upg_container_writer *writer);
/** Takes the writer: syncs, renames. On failure nothing is left behind. Errors: E_STATE (not
 * sealed), E_IO, E_NOSPACE, E_EXISTS. */
upg_status upg_container_commit(upg_container_writer *writer, upg_error *err);
/** Takes the writer: seals and commits. Errors: of both. */
upg_status upg_container_finish(upg_container_writer *writer, upg_span quality_json, upg_pool *pool,
                                const upg_listener *listener, upg_error *err);
/** Removes the temporary. NULL is fine. */
void upg_container_discard(upg_container_writer *writer);

#endif
