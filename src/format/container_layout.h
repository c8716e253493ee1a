/* container_layout.h: where everything of a plan lies in the file (docs/FORMAT.md, "Layout"). */
#ifndef UPG_FORMAT_CONTAINER_LAYOUT_H
#define UPG_FORMAT_CONTAINER_LAYOUT_H

#include "format/container_writer.h"

enum { UPG_ALIGN_DATA = 4096, UPG_ALIGN_TENSOR = 64 };

/** One tensor that is not padding. */
typedef struct upg_slot {
    const char *name;
    uint64_t    offset, bytes; /* in the file */
} upg_slot;

/** Slots: code, scale and outliers of each matrix, dense tensors, parts, hash table. What is absent
 * has no bytes. */
typedef struct upg_layout {
    upg_arena     arena;
    size_t        n_slots;
    upg_slot     *slots;
    size_t        n_entries; /* of the header: slots with bytes, and padding */
    upg_st_entry *entries;
    upg_buffer    header; /* the file's first bytes */
    uint64_t      data_offset, file_bytes, weight_bytes, parameters;
} upg_layout;

/** Slot numbers. */
static inline size_t upg_slot_code(size_t matrix)
{
    return matrix;
}

static inline size_t upg_slot_scale(const upg_container_plan *plan, size_t matrix)
{
    return plan->n_matrices + matrix;
}

static inline size_t upg_slot_outliers(const upg_container_plan *plan, size_t matrix)
{
    return 2 * plan->n_matrices + matrix;
}

static inline size_t upg_slot_dense(const upg_container_plan *plan, size_t index)
{
    return 3 * plan->n_matrices + index;
}

static inline size_t upg_slot_part(const upg_container_plan *plan, upg_part part)
{
    return 3 * plan->n_matrices + plan->n_dense + part;
}

static inline size_t upg_slot_hashes(const upg_container_plan *plan)
{
    return 3 * plan->n_matrices + plan->n_dense + UPG_PART_COUNT;
}

/** Checks a plan. Errors: E_ARG naming tensor and field. */
upg_status upg_plan_check(const upg_container_plan *plan, upg_error *err);
/** Lays a checked plan out. The data section begins at `data_offset`; 0 = the least that leaves the
 * header room for a quality report of any size up to quality_bytes. Errors: as
 * upg_container_plan_size. */
upg_status upg_layout_build(const upg_container_plan *plan, size_t manifest_bytes,
                            size_t quality_bytes, uint64_t data_offset, upg_layout *layout,
                            upg_error *err);
/** A zeroed layout is fine. */
void upg_layout_deinit(upg_layout *layout);

/** Words of a matrix's bands before `band` (band = n_bands: of all). Checked by the build. */
uint64_t upg_plan_words_before(const upg_matrix_plan *matrix, uint32_t band);

#endif
