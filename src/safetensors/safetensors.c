/* safetensors.c: reading. Parse the JSON, check every number, sort, then freeze. */
#include "safetensors/safetensors.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/arena.h"
#include "base/checked.h"
#include "base/file.h"
#include "base/json.h"

struct upg_st {
    upg_map               map; /* empty when the bytes are the caller's */
    upg_span              bytes;
    uint64_t              data_offset;
    char                 *name;
    json_t               *metadata; /* or NULL */
    upg_arena             names;
    size_t                n_tensors;
    upg_st_tensor        *tensors; /* [n_tensors] by offset */
    const upg_st_tensor **by_name; /* [n_tensors] */
};

bool upg_st_elements(uint32_t rank, const uint64_t *shape, uint64_t *elements)
{
    *elements = 1;
    for (uint32_t d = 0; d < rank; d++) {
        if (!upg_mul_u64(*elements, shape[d], elements))
            return false;
    }
    return true;
}

upg_status upg_st_tensor_bytes(const char *name, upg_dtype dtype, uint32_t rank,
                               const uint64_t *shape, uint64_t *bytes, upg_error *err)
{
    uint64_t bits;

    if (!upg_st_elements(rank, shape, &bits) || !upg_mul_u64(bits, upg_dtype_bits(dtype), &bits))
        return upg_fail(err, UPG_E_FORMAT, "tensor \"%s\": its shape overflows 64 bits", name);
    if (bits % 8 != 0)
        return upg_fail(err, UPG_E_FORMAT,
                        "tensor \"%s\": %" PRIu64 " bits of %s are no whole number of bytes", name,
                        bits, upg_dtype_name(dtype));
    *bytes = bits / 8;
    return UPG_OK;
}

/* ---- one tensor ---------------------------------------------------------------------------- */

/* Names go into messages and onto terminals: nothing that would act there gets in. */
bool upg_st_name_ok(const char *name)
{
    size_t size = strnlen(name, UPG_ST_MAX_NAME + 1);

    for (size_t i = 0; i < size; i++) {
        if ((unsigned char)name[i] < 0x20 || name[i] == 0x7F)
            return false;
    }
    return size >= 1 && size <= UPG_ST_MAX_NAME;
}

static upg_status parse_dtype(const char *name, const json_t *info, upg_dtype *dtype,
                              upg_error *err)
{
    const json_t *field = json_object_get(info, "dtype");
    const char   *text = json_string_value(field);

    if (text == NULL || !upg_st_name_ok(text) || strlen(text) != json_string_length(field))
        return upg_fail(err, UPG_E_FORMAT,
                        "tensor \"%s\": \"dtype\" is missing or no string, \"BF16\" or the like "
                        "is needed",
                        name);
    if (!upg_dtype_find(text, dtype))
        return upg_fail(err, UPG_E_UNSUPPORTED,
                        "tensor \"%s\": dtype \"%s\" is not known to this version", name, text);
    return UPG_OK;
}

static upg_status parse_u64(const char *name, const char *field, const json_t *number,
                            uint64_t *value, upg_error *err)
{
    json_int_t integer = json_integer_value(number);

    if (!json_is_integer(number) || integer < 0)
        return upg_fail(err, UPG_E_FORMAT,
                        "tensor \"%s\": \"%s\" holds something else than integers from 0 up", name,
                        field);
    *value = (uint64_t)integer;
    return UPG_OK;
}

static upg_status parse_shape(const json_t *info, upg_st_tensor *t, upg_error *err)
{
    const json_t *shape = json_object_get(info, "shape");
    size_t        rank = json_array_size(shape);
    upg_status    st = UPG_OK;

    if (!json_is_array(shape))
        return upg_fail(err, UPG_E_FORMAT, "tensor \"%s\": \"shape\" is missing or no array",
                        t->name);
    if (rank > UPG_ST_MAX_RANK)
        return upg_fail(err, UPG_E_UNSUPPORTED, "tensor \"%s\": rank %zu, at most %d is supported",
                        t->name, rank, UPG_ST_MAX_RANK);
    t->rank = (uint32_t)rank;
    for (size_t d = 0; d < rank && st == UPG_OK; d++)
        st = parse_u64(t->name, "shape", json_array_get(shape, d), &t->shape[d], err);
    return st;
}

/* Turns data_offsets into a view: they must lie in the data section and span exactly what dtype
 * and shape imply. */
static upg_status parse_view(const json_t *info, upg_span data, upg_st_tensor *t, upg_error *err)
{
    const json_t *offsets = json_object_get(info, "data_offsets");
    uint64_t      begin = 0, end = 0, need = 0;
    upg_status    st = UPG_OK;

    if (!json_is_array(offsets) || json_array_size(offsets) != 2)
        return upg_fail(err, UPG_E_FORMAT,
                        "tensor \"%s\": \"data_offsets\" is missing or not two numbers", t->name);
    UPG_TRY(parse_u64(t->name, "data_offsets", json_array_get(offsets, 0), &begin, err));
    UPG_TRY(parse_u64(t->name, "data_offsets", json_array_get(offsets, 1), &end, err));
    UPG_TRY(upg_st_tensor_bytes(t->name, t->dtype, t->rank, t->shape, &need, err));
    if (end < begin || end - begin != need)
        return upg_fail(err, UPG_E_FORMAT,
                        "tensor \"%s\": data_offsets [%" PRIu64 ", %" PRIu64 "], but its shape and "
                        "dtype %s need %" PRIu64 " bytes",
                        t->name, begin, end, upg_dtype_name(t->dtype), need);
    if (!upg_span_slice(data, begin, need, &t->bytes))
        return upg_fail(err, UPG_E_FORMAT,
                        "tensor \"%s\" ends at byte %" PRIu64 ", the data section has %zu: is the "
                        "file truncated?",
                        t->name, end, data.size);
    t->file_offset = begin; /* parse_tensors adds the data section's own offset */
out:
    return st;
}

static upg_status parse_tensor(upg_st *file, const char *name, const json_t *info, upg_span data,
                               upg_st_tensor *t, upg_error *err)
{
    upg_status st = UPG_OK;

    if (!upg_st_name_ok(name))
        return upg_fail(err, UPG_E_FORMAT,
                        "the header names a tensor with %zu bytes or with control characters, 1 to "
                        "%d printable bytes are needed",
                        strlen(name), UPG_ST_MAX_NAME);
    t->name = upg_arena_strndup(&file->names, name, strlen(name), err);
    UPG_TRY(t->name ? UPG_OK : UPG_E_NOMEM);
    t->file = file->name;
    if (!json_is_object(info))
        return upg_fail(err, UPG_E_FORMAT, "tensor \"%s\": its header entry is no object", name);
    UPG_TRY(parse_dtype(name, info, &t->dtype, err));
    UPG_TRY(parse_shape(info, t, err));
    UPG_TRY(parse_view(info, data, t, err));
out:
    return st;
}

/* ---- the header ---------------------------------------------------------------------------- */

static int by_offset(const void *a, const void *b)
{
    const upg_st_tensor *x = a, *y = b;

    if (x->file_offset != y->file_offset)
        return x->file_offset < y->file_offset ? -1 : 1;
    if (x->bytes.size != y->bytes.size) /* empty tensors come first where they stand */
        return x->bytes.size < y->bytes.size ? -1 : 1;
    return strcmp(x->name, y->name);
}

static int by_name(const void *a, const void *b)
{
    const upg_st_tensor *const *x = a, *const *y = b;

    return strcmp((*x)->name, (*y)->name);
}

static upg_status parse_metadata(upg_st *file, json_t *metadata, upg_error *err)
{
    const char *key;
    json_t     *value;

    if (!json_is_object(metadata))
        return upg_fail(err, UPG_E_FORMAT, "\"__metadata__\" is no object");
    json_object_foreach(metadata, key, value)
    {
        if (!json_is_string(value))
            return upg_fail(err, UPG_E_FORMAT,
                            "\"__metadata__\" may hold strings only, and one value is something "
                            "else");
    }
    file->metadata = json_incref(metadata);
    return UPG_OK;
}

/* The tensors in the order of their offsets must tile the data section. */
static upg_status check_tiling(const upg_st *file, upg_span data, upg_error *err)
{
    uint64_t at = 0;

    for (size_t i = 0; i < file->n_tensors; i++) {
        const upg_st_tensor *t = &file->tensors[i];

        if (t->file_offset != at)
            return upg_fail(err, UPG_E_FORMAT,
                            "tensor \"%s\" begins at byte %" PRIu64 " of the data section, %s byte "
                            "%" PRIu64 ", where the one before it ends",
                            t->name, t->file_offset,
                            t->file_offset < at ? "before" : "and leaves a hole after", at);
        at += t->bytes.size;
    }
    if (at != data.size)
        return upg_fail(err, UPG_E_FORMAT,
                        "the last tensor ends at byte %" PRIu64 " of the data section, which has "
                        "%zu: the file was cut or something was appended",
                        at, data.size);
    return UPG_OK;
}

static upg_status parse_tensors(upg_st *file, json_t *header, upg_span data, upg_error *err)
{
    size_t      n = json_object_size(header);
    const char *key;
    json_t     *value;
    upg_status  st = UPG_OK;

    file->tensors = upg_calloc(n, sizeof *file->tensors, err);
    UPG_TRY(file->tensors ? UPG_OK : UPG_E_NOMEM);
    json_object_foreach(header, key, value)
    {
        if (strcmp(key, "__metadata__") == 0)
            UPG_TRY(parse_metadata(file, value, err));
        else
            UPG_TRY(parse_tensor(file, key, value, data, &file->tensors[file->n_tensors++], err));
    }
    qsort(file->tensors, file->n_tensors, sizeof *file->tensors, by_offset);
    UPG_TRY(check_tiling(file, data, err));
    file->by_name = upg_calloc(file->n_tensors, sizeof *file->by_name, err);
    UPG_TRY(file->by_name ? UPG_OK : UPG_E_NOMEM);
    for (size_t i = 0; i < file->n_tensors; i++) {
        file->tensors[i].file_offset += file->data_offset;
        file->by_name[i] = &file->tensors[i];
    }
    qsort(file->by_name, file->n_tensors, sizeof *file->by_name, by_name);
out:
    return st;
}

/* Finds header text and data section; the length field is the first thing not to be believed. */
static upg_status split(upg_st *file, upg_span *text, upg_span *data, upg_error *err)
{
    uint64_t size = 0;

    if (file->bytes.size < 8)
        return upg_fail(err, UPG_E_FORMAT,
                        "%zu bytes are too few for a safetensors file: is it truncated?",
                        file->bytes.size);
    for (unsigned i = 0; i < 8; i++)
        size |= (uint64_t)file->bytes.data[i] << 8 * i;
    if (size > UPG_ST_MAX_HEADER)
        return upg_fail(err, UPG_E_FORMAT,
                        "the header's length is %" PRIu64 ", at most %d is allowed: is this a "
                        "safetensors file?",
                        size, UPG_ST_MAX_HEADER);
    if (!upg_span_slice(file->bytes, 8, size, text))
        return upg_fail(err, UPG_E_FORMAT,
                        "the header's length is %" PRIu64 ", but the file has %zu bytes: is it "
                        "truncated?",
                        size, file->bytes.size);
    if (size == 0 || text->data[0] != '{')
        return upg_fail(err, UPG_E_FORMAT,
                        "the header does not begin with '{': is this a safetensors file?");
    file->data_offset = 8 + size;
    *data = (upg_span) { text->data + size, file->bytes.size - 8 - (size_t)size };
    return UPG_OK;
}

static upg_status parse_file(upg_st *file, upg_error *err)
{
    upg_span   text = { 0 }, data = { 0 };
    json_t    *header = NULL;
    upg_status st = UPG_OK;

    UPG_TRY(split(file, &text, &data, err));
    st = upg_json_parse(text, &header, err);
    if (st != UPG_OK)
        upg_error_prefix(err, "header: ");
    UPG_TRY(st);
    UPG_TRY(parse_tensors(file, header, data, err));
out:
    json_decref(header);
    return st;
}

/* ---- open and close ------------------------------------------------------------------------ */

static upg_status create(const char *name, upg_st **file, upg_error *err)
{
    upg_st *f = upg_calloc(1, sizeof *f, err);

    *file = f;
    if (f == NULL)
        return UPG_E_NOMEM;
    f->name = upg_strndup(name, strlen(name), err);
    return f->name ? UPG_OK : UPG_E_NOMEM;
}

upg_status upg_st_open(const char *path, upg_st **file, upg_error *err)
{
    const char *slash = strrchr(path, '/');
    upg_st     *f = NULL;
    upg_status  st;

    UPG_TRY(create(slash ? slash + 1 : path, &f, err));
    UPG_TRY(upg_map_open(path, &f->map, err));
    f->bytes = f->map.bytes;
    UPG_TRY(parse_file(f, err));
out:
    if (st != UPG_OK) {
        upg_error_prefix(err, "%s: ", path);
        upg_st_close(f);
        f = NULL;
    }
    *file = f;
    return st;
}

upg_status upg_st_parse(upg_span bytes, const char *name, upg_st **file, upg_error *err)
{
    upg_st    *f = NULL;
    upg_status st;

    UPG_TRY(create(name, &f, err));
    f->bytes = bytes;
    UPG_TRY(parse_file(f, err));
out:
    if (st != UPG_OK) {
        upg_st_close(f);
        f = NULL;
    }
    *file = f;
    return st;
}

upg_status upg_st_check_map(const upg_st *file, upg_error *err)
{
    upg_status st = upg_map_check(&file->map, err);

    if (st != UPG_OK)
        upg_error_prefix(err, "%s: ", file->name);
    return st;
}

void upg_st_close(upg_st *file)
{
    if (file == NULL)
        return;
    json_decref(file->metadata);
    upg_free(file->by_name);
    upg_free(file->tensors);
    upg_arena_deinit(&file->names);
    upg_free(file->name);
    upg_map_close(&file->map);
    upg_free(file);
}

/* ---- views --------------------------------------------------------------------------------- */

size_t upg_st_count(const upg_st *file)
{
    return file->n_tensors;
}

const upg_st_tensor *upg_st_at(const upg_st *file, size_t i)
{
    return i < file->n_tensors ? &file->tensors[i] : NULL;
}

const upg_st_tensor *upg_st_find(const upg_st *file, const char *name)
{
    upg_st_tensor               key = { .name = name };
    const upg_st_tensor        *wanted = &key;
    const upg_st_tensor *const *found =
        bsearch(&wanted, file->by_name, file->n_tensors, sizeof *file->by_name, by_name);

    return found ? *found : NULL;
}

const char *upg_st_metadata(const upg_st *file, const char *key)
{
    return json_string_value(json_object_get(file->metadata, key));
}

upg_span upg_st_bytes(const upg_st *file)
{
    return file->bytes;
}

uint64_t upg_st_data_offset(const upg_st *file)
{
    return file->data_offset;
}
