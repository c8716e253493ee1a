/* container_layout.c: from a plan to offsets.
 *
 *   header | code … | scale … | outliers … | dense … | parts … | hashes
 *
 * Code tensors are multiples of 64 bytes, so padding appears only behind scales, outliers, dense
 * tensors and parts. */
#include "format/container_layout.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"

/* Room for one more padding entry, {"pad.12345":{"dtype":"U8","shape":[63],"data_offsets":[…]}},
 * and for offsets that become longer or shorter with the report. */
#define HEADER_SLACK 256

uint64_t upg_plan_words_before(const upg_matrix_plan *m, uint32_t band)
{
    uint64_t words = 0;

    for (uint32_t i = 0; i < band; i++) {
        uint64_t n_binary = upg_code_binary_rows(&m->bands[i].code, m->bands[i].n_rows);

        words += upg_band_words((uint32_t)n_binary, m->n_cols);
    }
    return words;
}

/* ---- checking the plan --------------------------------------------------------------------- */

static upg_status check_matrix(const upg_matrix_plan *m, upg_error *err)
{
    uint64_t   rows = 0, bytes = 0;
    upg_status st = UPG_OK;

    if (!upg_st_name_ok(m->name) || strlen(m->name) > UPG_ST_MAX_NAME - 9)
        return upg_fail(err, UPG_E_ARG, "a matrix has no usable name");
    if (m->n_rows == 0 || m->n_cols == 0 || m->n_rows > INT32_MAX || m->n_cols > INT32_MAX)
        return upg_fail(err, UPG_E_ARG, "matrix \"%s\": %u × %u, both must be 1 … 2147483647",
                        m->name, m->n_rows, m->n_cols);
    for (uint32_t i = 0; i < m->n_bands; i++) {
        st = upg_code_check(&m->bands[i].code, err);
        if (st != UPG_OK) {
            upg_error_prefix(err, "matrix \"%s\", band %u: ", m->name, i);
            return UPG_E_ARG;
        }
        if (m->bands[i].n_rows == 0 || upg_code_binary_rows(&m->bands[i].code, m->bands[i].n_rows) >
                                           UINT32_MAX - UPG_BLOCK_ROWS)
            return upg_fail(err, UPG_E_ARG, "matrix \"%s\": band %u has %u rows", m->name, i,
                            m->bands[i].n_rows);
        rows += m->bands[i].n_rows;
    }
    if (rows != m->n_rows)
        return upg_fail(err, UPG_E_ARG, "matrix \"%s\": the bands have %" PRIu64 " of %u rows",
                        m->name, rows, m->n_rows);
    if (m->outliers.n_columns > m->n_cols || m->outliers.gap_bytes > INT64_MAX ||
        !upg_outliers_bytes(&m->outliers, m->n_rows, &bytes) || bytes > INT64_MAX)
        return upg_fail(err, UPG_E_ARG, "matrix \"%s\": %" PRIu32 " columns of outliers among %u",
                        m->name, m->outliers.n_columns, m->n_cols);
    return UPG_OK;
}

static upg_status check_dense(const upg_st_entry *d, upg_error *err)
{
    uint64_t elements = 0;

    if (!upg_st_name_ok(d->name) || strncmp(d->name, "upg.", 4) == 0 ||
        strncmp(d->name, "pad.", 4) == 0)
        return upg_fail(err, UPG_E_ARG, "a dense tensor has no usable name");
    if (d->dtype != UPG_F32 && d->dtype != UPG_F16 && d->dtype != UPG_BF16)
        return upg_fail(err, UPG_E_ARG, "dense tensor \"%s\": dtype %s, F32, F16 or BF16 is needed",
                        d->name, upg_dtype_name(d->dtype));
    if (d->rank > UPG_ST_MAX_RANK || !upg_st_elements(d->rank, d->shape, &elements) ||
        elements == 0 || elements > INT64_MAX / 4)
        return upg_fail(err, UPG_E_ARG, "dense tensor \"%s\" is empty, or its shape is too large",
                        d->name);
    return UPG_OK;
}

upg_status upg_plan_check(const upg_container_plan *plan, upg_error *err)
{
    upg_status st = UPG_OK;

    for (size_t i = 0; i < plan->n_matrices; i++)
        UPG_TRY(check_matrix(&plan->matrices[i], err));
    for (size_t i = 0; i < plan->n_dense; i++)
        UPG_TRY(check_dense(&plan->dense[i], err));
    if (plan->parts[UPG_PART_MANIFEST].size != 0 || plan->parts[UPG_PART_QUALITY].size != 0)
        return upg_fail(err, UPG_E_ARG, "manifest and quality report are the writer's to fill");
    if (plan->source_bytes > INT64_MAX)
        return upg_fail(err, UPG_E_ARG, "source_bytes is above 2^63");
out:
    return st;
}

/* ---- placing ------------------------------------------------------------------------------- */

typedef struct placer {
    upg_layout *layout;
    uint64_t    at; /* bytes from the data section's begin */
    uint32_t    n_pads;
} placer;

static upg_status add_pad(placer *p, upg_error *err)
{
    upg_layout *l = p->layout;
    uint64_t    aligned = 0;
    char        name[32];

    if (!upg_round_up_u64(p->at, UPG_ALIGN_TENSOR, &aligned) || aligned > INT64_MAX)
        return upg_fail(err, UPG_E_ARG, "the file would pass 63 bits");
    if (aligned == p->at)
        return UPG_OK;
    snprintf(name, sizeof name, "pad.%" PRIu32, p->n_pads++);
    l->entries[l->n_entries] =
        (upg_st_entry) { .name = upg_arena_strndup(&l->arena, name, strlen(name), err),
                         .dtype = UPG_U8,
                         .rank = 1,
                         .shape = { aligned - p->at } };
    if (l->entries[l->n_entries].name == NULL)
        return UPG_E_NOMEM;
    l->n_entries++;
    p->at = aligned;
    return UPG_OK;
}

/* Places the next slot; one without bytes gets no tensor. */
static upg_status place(placer *p, const upg_st_entry *entry, upg_error *err)
{
    upg_layout *l = p->layout;
    uint64_t    bytes = 0;
    upg_status  st = UPG_OK;

    UPG_TRY(upg_st_tensor_bytes(entry->name, entry->dtype, entry->rank, entry->shape, &bytes, err));
    if (bytes > 0) {
        UPG_TRY(add_pad(p, err));
        l->entries[l->n_entries++] = *entry;
    }
    l->slots[l->n_slots++] = (upg_slot) { .name = entry->name, .offset = p->at, .bytes = bytes };
    if (!upg_add_u64(p->at, bytes, &p->at) || p->at > INT64_MAX)
        return upg_fail(err, UPG_E_ARG, "the file would pass 63 bits at \"%s\"", entry->name);
out:
    return st;
}

static upg_status place_vector(placer *p, const char *name, upg_dtype dtype, uint64_t elements,
                               upg_error *err)
{
    upg_st_entry entry = { .name = name, .dtype = dtype, .rank = 1, .shape = { elements } };

    return place(p, &entry, err);
}

/* NAME + suffix in the arena. */
static const char *suffixed(upg_layout *layout, const char *name, const char *suffix,
                            upg_error *err)
{
    char full[UPG_ST_MAX_NAME + 1];
    int  size = snprintf(full, sizeof full, "%s%s", name, suffix);

    return upg_arena_strndup(&layout->arena, full, (size_t)size, err);
}

static upg_status place_outliers(placer *p, const upg_matrix_plan *m, upg_error *err)
{
    const char *name = suffixed(p->layout, m->name, ".outliers", err);
    uint64_t    bytes = 0;

    if (name == NULL)
        return UPG_E_NOMEM;
    (void)upg_outliers_bytes(&m->outliers, m->n_rows, &bytes); /* checked: check_matrix */
    return place_vector(p, name, UPG_U8, bytes, err);
}

static upg_status place_weights(placer *p, const upg_container_plan *plan, upg_error *err)
{
    upg_layout *l = p->layout;
    upg_status  st = UPG_OK;

    for (size_t i = 0; i < plan->n_matrices; i++) {
        const upg_matrix_plan *m = &plan->matrices[i];
        const char            *name = suffixed(l, m->name, ".code", err);

        UPG_TRY(name ? UPG_OK : UPG_E_NOMEM);
        UPG_TRY(place_vector(p, name, UPG_U32, upg_plan_words_before(m, m->n_bands), err));
        l->parameters += (uint64_t)m->n_rows * m->n_cols;
    }
    for (size_t i = 0; i < plan->n_matrices; i++) {
        const char *name = suffixed(l, plan->matrices[i].name, ".scale", err);

        UPG_TRY(name ? UPG_OK : UPG_E_NOMEM);
        UPG_TRY(place_vector(p, name, UPG_F16, plan->matrices[i].n_rows, err));
    }
    for (size_t i = 0; i < plan->n_matrices; i++)
        UPG_TRY(place_outliers(p, &plan->matrices[i], err));
    for (size_t i = 0; i < plan->n_dense; i++) {
        uint64_t elements = 0;

        UPG_TRY(place(p, &plan->dense[i], err));
        (void)upg_st_elements(plan->dense[i].rank, plan->dense[i].shape, &elements);
        l->parameters += elements; /* no overflow: each element takes bytes of a 63-bit file */
    }
    UPG_TRY(add_pad(p, err));
    l->weight_bytes = p->at;
out:
    return st;
}

static upg_status place_parts(placer *p, const upg_container_plan *plan, size_t manifest_bytes,
                              size_t quality_bytes, upg_error *err)
{
    upg_status st = UPG_OK;

    for (unsigned part = 0; part < UPG_PART_COUNT; part++) {
        size_t bytes = part == UPG_PART_MANIFEST  ? manifest_bytes
                       : part == UPG_PART_QUALITY ? quality_bytes
                                                  : plan->parts[part].size;

        UPG_TRY(place_vector(p, upg_part_name((upg_part)part), UPG_U8, bytes, err));
    }
    UPG_TRY(add_pad(p, err));
out:
    return st;
}

/* The hash table's size follows from the bytes before it, the header's included. */
static upg_status place_hashes(placer *p, uint64_t data_offset, upg_error *err)
{
    return place_vector(p, "upg.hashes", UPG_U8, upg_hash_table_bytes(data_offset + p->at), err);
}

/* Bytes that the header needs at most, the slack included, rounded up to a page. */
static upg_status choose_data_offset(upg_layout *layout, uint64_t *data_offset, upg_error *err)
{
    upg_status st =
        upg_st_write_header(layout->entries, layout->n_entries, "upg", 1, 0, &layout->header, err);

    if (st == UPG_OK &&
        !upg_round_up_u64(layout->header.size + HEADER_SLACK, UPG_ALIGN_DATA, data_offset))
        st = upg_fail(err, UPG_E_ARG, "the header is too large");
    return st;
}

upg_status upg_layout_build(const upg_container_plan *plan, size_t manifest_bytes,
                            size_t quality_bytes, uint64_t data_offset, upg_layout *layout,
                            upg_error *err)
{
    placer     p = { .layout = layout };
    size_t     n = 3 * plan->n_matrices + plan->n_dense + UPG_PART_COUNT + 1;
    upg_status st = UPG_OK;

    *layout = (upg_layout) { 0 };
    upg_buffer_init(&layout->header, (size_t)UPG_ST_MAX_HEADER + 8);
    layout->slots = upg_arena_alloc(&layout->arena, n, sizeof *layout->slots, err);
    layout->entries = upg_arena_alloc(&layout->arena, 2 * n + 2, sizeof *layout->entries, err);
    UPG_TRY(layout->slots && layout->entries ? UPG_OK : UPG_E_NOMEM);
    UPG_TRY(place_weights(&p, plan, err));
    UPG_TRY(place_parts(&p, plan, manifest_bytes, quality_bytes, err));
    if (data_offset == 0)
        UPG_TRY(choose_data_offset(layout, &data_offset, err));
    UPG_TRY(place_hashes(&p, data_offset, err));
    UPG_TRY(upg_st_write_header(layout->entries, layout->n_entries, "upg", UPG_ALIGN_DATA,
                                data_offset, &layout->header, err));
    if (layout->header.size != data_offset)
        UPG_TRY(
            upg_fail(err, UPG_E_INTERNAL, "the header outgrew its %" PRIu64 " bytes", data_offset));
    for (size_t i = 0; i < layout->n_slots; i++)
        layout->slots[i].offset += data_offset;
    layout->data_offset = data_offset;
    layout->file_bytes = data_offset + p.at;
out:
    if (st != UPG_OK)
        upg_layout_deinit(layout);
    return st;
}

void upg_layout_deinit(upg_layout *layout)
{
    upg_buffer_deinit(&layout->header);
    upg_arena_deinit(&layout->arena);
    *layout = (upg_layout) { 0 };
}
