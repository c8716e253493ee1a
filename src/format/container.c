/* container.c: opening. The order matters: hashes of the header first (so that damage is called
 * damage), then the version (so that a newer file is called newer), then the hashes of the parts,
 * then everything that the manifest claims. */
#include "format/container.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "format/manifest.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "code bits and scales are used where they lie in the file: little-endian machines only"
#endif

static const struct {
    const char *tensor, *file;
} parts[UPG_PART_COUNT] = {
#define UPG_PART_ROW(name, tensor, file) { tensor, file },
    UPG_PART_MAP(UPG_PART_ROW)
#undef UPG_PART_ROW
};

const char *upg_part_name(upg_part part)
{
    return parts[part].tensor;
}

const char *upg_part_file(upg_part part)
{
    return parts[part].file;
}

static bool has_prefix(const char *name, const char *prefix)
{
    return strncmp(name, prefix, strlen(prefix)) == 0;
}

static bool is_pad(const upg_st_tensor *t)
{
    return has_prefix(t->name, "pad.") && t->dtype == UPG_U8;
}

/* ---- steps of opening ---------------------------------------------------------------------- */

static upg_status check_range(const upg_hash_table *hashes, uint64_t begin, uint64_t end,
                              const char *what, upg_error *err)
{
    size_t bad = 0;

    if (upg_hash_table_range_ok(hashes, begin, end, &bad))
        return UPG_OK;
    return upg_fail(err, UPG_E_CORRUPT,
                    "%s is damaged: the 1 MiB at byte %" PRIu64 " differs from its hash; get the "
                    "file again",
                    what, (uint64_t)bad * UPG_HASH_CHUNK);
}

/* The length field itself may be damaged: then chunk 0 is. */
static upg_status check_header(const upg_hash_table *hashes, upg_error *err)
{
    uint64_t end = 0;

    for (unsigned i = 0; i < 8 && i < hashes->file.size; i++)
        end |= (uint64_t)hashes->file.data[i] << 8 * i;
    end = end > UPG_ST_MAX_HEADER ? UPG_ST_MAX_HEADER : end;
    return check_range(hashes, 0, end + 8, "the header", err);
}

/* Finds the U8 tensors upg.*; returns where the first of them begins. */
static upg_status find_parts(upg_container *c, uint64_t *begin, upg_error *err)
{
    *begin = UINT64_MAX;
    for (size_t i = upg_st_count(c->file); i-- > 0;) {
        const upg_st_tensor *t = upg_st_at(c->file, i);

        if (!has_prefix(t->name, "upg."))
            continue;
        if (t->dtype != UPG_U8 || t->rank != 1)
            return upg_fail(err, UPG_E_FORMAT, "tensor \"%s\" is not U8 of one dimension", t->name);
        *begin = t->file_offset;
        for (unsigned p = 0; p < UPG_PART_COUNT; p++) {
            if (strcmp(t->name, parts[p].tensor) == 0)
                c->parts[p] = t->bytes;
        }
    }
    if (c->parts[UPG_PART_MANIFEST].size == 0)
        return upg_fail(err, UPG_E_FORMAT,
                        "tensor \"upg.manifest\" is missing: this is a safetensors file, but no "
                        ".upg file");
    return UPG_OK;
}

/* The last tensor must be the hash table that was found from the end. */
static upg_status check_hash_tensor(const upg_container *c, upg_error *err)
{
    const upg_st_tensor *t = upg_st_find(c->file, "upg.hashes");

    if (t == NULL || t->file_offset != c->hashes.covered)
        return upg_fail(err, UPG_E_FORMAT,
                        "tensor \"upg.hashes\" is not the hash table at byte %" PRIu64,
                        c->hashes.covered);
    return UPG_OK;
}

/* What no matrix uses and is no part or padding is a dense tensor. Counts weights and parameters.
 */
static upg_status gather_dense(upg_container *c, const bool *used, uint64_t parts_begin,
                               upg_error *err)
{
    uint64_t parameters = 0, elements = 0;

    for (size_t m = 0; m < c->n_matrices; m++)
        parameters += (uint64_t)c->matrices[m].coded.n_rows * c->matrices[m].coded.n_cols;
    c->dense = upg_arena_alloc(&c->arena, upg_st_count(c->file), sizeof(upg_st_tensor *), err);
    if (c->dense == NULL)
        return UPG_E_NOMEM;
    for (size_t i = 0; i < upg_st_count(c->file); i++) {
        const upg_st_tensor *t = upg_st_at(c->file, i);

        if (is_pad(t) || has_prefix(t->name, "upg."))
            continue;
        if (t->file_offset >= parts_begin)
            return upg_fail(err, UPG_E_FORMAT, "tensor \"%s\" lies behind the parts (upg.*)",
                            t->name);
        if (used[i])
            continue;
        if (t->dtype != UPG_F32 && t->dtype != UPG_F16 && t->dtype != UPG_BF16)
            return upg_fail(err, UPG_E_FORMAT,
                            "tensor \"%s\" is %s and belongs to no matrix of the manifest; F32, "
                            "F16 or BF16 is needed",
                            t->name, upg_dtype_name(t->dtype));
        if (upg_container_matrix_find(c, t->name) != NULL)
            return upg_fail(err, UPG_E_FORMAT, "\"%s\" is both a coded matrix and a dense tensor",
                            t->name);
        if (t->file_offset % 64 != 0)
            return upg_fail(err, UPG_E_FORMAT,
                            "tensor \"%s\" begins at byte %" PRIu64 ", no multiple of 64", t->name,
                            t->file_offset);
        (void)upg_st_elements(t->rank, t->shape, &elements); /* checked: equals its bytes */
        parameters += elements;
        c->dense[c->n_dense++] = t;
    }
    if (parameters != c->parameters)
        return upg_fail(err, UPG_E_FORMAT,
                        "upg.manifest: field \"parameters\" is %" PRIu64 ", the tensors have "
                        "%" PRIu64,
                        c->parameters, parameters);
    c->weight_bytes = parts_begin - upg_st_data_offset(c->file);
    return UPG_OK;
}

/* Manifest and all that hangs on it. `table` is how finding the hash table went, *table_err why. */
static upg_status read_manifest(upg_container *c, upg_status table, const upg_error *table_err,
                                upg_error *err)
{
    json_t    *root = NULL;
    bool      *used = NULL;
    uint64_t   parts_begin = 0;
    upg_status st;

    UPG_TRY(find_parts(c, &parts_begin, err));
    if (table == UPG_OK && !c->is_verified)
        UPG_TRY(check_range(&c->hashes, parts_begin, c->hashes.covered,
                            "the end of the file (config, tokenizer, manifest)", err));
    st = upg_json_parse(c->parts[UPG_PART_MANIFEST], &root, err);
    if (st != UPG_OK)
        upg_error_prefix(err, "upg.manifest: ");
    UPG_TRY(st);
    UPG_TRY(upg_manifest_version(root, c, err));
    if (table != UPG_OK) {
        if (err != NULL)
            *err = *table_err;
        UPG_TRY(table);
    }
    UPG_TRY(check_hash_tensor(c, err));
    used = upg_calloc(upg_st_count(c->file), sizeof *used, err);
    UPG_TRY(used ? UPG_OK : UPG_E_NOMEM);
    UPG_TRY(upg_manifest_parse(root, c, used, err));
    UPG_TRY(gather_dense(c, used, parts_begin, err));
out:
    upg_free(used);
    json_decref(root);
    return st;
}

static upg_status parse(upg_container *c, upg_span bytes, const char *name, upg_error *err)
{
    upg_error  table_err = { 0 };
    upg_status st, table;

    if ((uintptr_t)bytes.data % 64 != 0)
        return upg_fail(err, UPG_E_ARG, "the bytes do not begin at a 64-byte boundary");
    c->file_bytes = bytes.size;
    table = upg_hash_table_find(bytes, &c->hashes, &table_err);
    if (table == UPG_OK && !c->is_verified)
        UPG_TRY(check_header(&c->hashes, err));
    UPG_TRY(upg_st_parse(bytes, name, &c->file, err));
    UPG_TRY(read_manifest(c, table, &table_err, err));
out:
    return st;
}

/* ---- open and close ------------------------------------------------------------------------ */

upg_status upg_container_open(const char *path, upg_container **container, upg_error *err)
{
    const char    *slash = strrchr(path, '/');
    upg_container *c = upg_calloc(1, sizeof *c, err);
    upg_status     st;

    UPG_TRY(c ? UPG_OK : UPG_E_NOMEM);
    UPG_TRY(upg_map_open(path, &c->map, err));
    UPG_TRY(parse(c, c->map.bytes, slash ? slash + 1 : path, err));
out:
    if (st != UPG_OK) {
        upg_error_prefix(err, "%s: ", path);
        upg_container_close(c);
        c = NULL;
    }
    *container = c;
    return st;
}

static upg_status parse_as(bool is_verified, upg_span bytes, const char *name,
                           upg_container **container, upg_error *err)
{
    upg_container *c = upg_calloc(1, sizeof *c, err);
    upg_status     st = UPG_E_NOMEM;

    if (c != NULL) {
        c->is_verified = is_verified;
        st = parse(c, bytes, name, err);
    }
    if (st != UPG_OK) {
        upg_container_close(c);
        c = NULL;
    }
    *container = c;
    return st;
}

upg_status upg_container_parse(upg_span bytes, const char *name, upg_container **container,
                               upg_error *err)
{
    return parse_as(false, bytes, name, container, err);
}

upg_status upg_container_parse_verified(upg_span bytes, const char *name, upg_container **container,
                                        upg_error *err)
{
    return parse_as(true, bytes, name, container, err);
}

upg_status upg_container_check_map(const upg_container *container, upg_error *err)
{
    upg_status st = upg_map_check(&container->map, err);

    if (st != UPG_OK && container->n_dense > 0)
        upg_error_prefix(err, "%s: ", container->dense[0]->file);
    return st;
}

void upg_container_close(upg_container *container)
{
    if (container == NULL)
        return;
    upg_st_close(container->file);
    upg_arena_deinit(&container->arena);
    upg_map_close(&container->map);
    upg_free(container);
}

/* ---- views --------------------------------------------------------------------------------- */

const upg_container_matrix *upg_container_matrix_find(const upg_container *container,
                                                      const char          *name)
{
    for (size_t i = 0; i < container->n_matrices; i++) {
        if (strcmp(container->matrices[i].name, name) == 0)
            return &container->matrices[i];
    }
    return NULL;
}

const upg_st_tensor *upg_container_dense_find(const upg_container *container, const char *name)
{
    const upg_st_tensor *t = upg_st_find(container->file, name);

    for (size_t i = 0; i < container->n_dense && t != NULL; i++) {
        if (container->dense[i] == t)
            return t;
    }
    return NULL;
}

const upg_st *upg_container_tensors(const upg_container *container)
{
    return container->file;
}

upg_status upg_container_check(const upg_container *container, const upg_st_tensor *tensor,
                               upg_error *err)
{
    return check_range(&container->hashes, tensor->file_offset,
                       tensor->file_offset + tensor->bytes.size, tensor->name, err);
}
