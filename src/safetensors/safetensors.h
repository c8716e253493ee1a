/* safetensors.h: safetensors files as checked views, and their headers as text.
 *
 * The format: 8 bytes, the header's length N as little-endian u64; N bytes of JSON; the data
 * section. Everything a file says is checked before a view exists (safetensors README, "Format",
 * and the checks of its reference implementation): invariants of every open file are
 *
 *   1. Tensors are sorted by offset, do not overlap, leave no hole, and end where the file ends.
 *   2. shape · dtype is exactly the bytes of the view.
 *   3. Names are unique, 1 … 256 bytes of UTF-8 without control characters. */
#ifndef UPG_SAFETENSORS_SAFETENSORS_H
#define UPG_SAFETENSORS_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/span.h"
#include "safetensors/dtype.h"

enum { UPG_ST_MAX_RANK = 8, UPG_ST_MAX_NAME = 256, UPG_ST_MAX_HEADER = 100000000 };

typedef struct upg_st_tensor {
    const char *name;
    const char *file; /* name of the file it lies in, for messages */
    upg_dtype   dtype;
    uint32_t    rank;
    uint64_t    shape[UPG_ST_MAX_RANK]; /* 0 past the rank */
    upg_span    bytes;                  /* lives as long as the file is open */
    uint64_t    file_offset;            /* of the first byte */
} upg_st_tensor;

typedef struct upg_st upg_st;

/** Maps and checks a file. Errors (all name the path): E_NOT_FOUND, E_IO, E_FORMAT, E_UNSUPPORTED
 * (rank above 8, a dtype without a known size), E_NOMEM. */
upg_status upg_st_open(const char *path, upg_st **file, upg_error *err);
/** The same on bytes that the caller keeps alive; `name` is for tensor.file and is copied. */
upg_status upg_st_parse(upg_span bytes, const char *name, upg_st **file, upg_error *err);
/** NULL is fine. */
void upg_st_close(upg_st *file);
/** upg_map_check of a mapped file, with its path. Errors: E_IO. */
upg_status upg_st_check_map(const upg_st *file, upg_error *err);

size_t upg_st_count(const upg_st *file);
/** Tensor i < upg_st_count in file order; borrowed from the file. */
const upg_st_tensor *upg_st_at(const upg_st *file, size_t i);
/** NULL when there is none of that name. */
const upg_st_tensor *upg_st_find(const upg_st *file, const char *name);
/** A value of __metadata__, or NULL. Borrowed from the file. */
const char *upg_st_metadata(const upg_st *file, const char *key);
/** The whole file. */
upg_span upg_st_bytes(const upg_st *file);
/** File offset at which the data section begins: 8 + N. */
uint64_t upg_st_data_offset(const upg_st *file);

/** Whether a name may be a tensor's: invariant 3. Such names are safe in messages. */
bool upg_st_name_ok(const char *name);
/** Elements, or false when the product of the shape overflows 64 bits. */
bool upg_st_elements(uint32_t rank, const uint64_t *shape, uint64_t *elements);
/** Bytes of a tensor. Errors: E_FORMAT naming it (overflow; not a whole number of bytes). */
upg_status upg_st_tensor_bytes(const char *name, upg_dtype dtype, uint32_t rank,
                               const uint64_t *shape, uint64_t *bytes, upg_error *err);

/** One tensor of a header to be written. */
typedef struct upg_st_entry {
    const char *name;
    upg_dtype   dtype;
    uint32_t    rank;
    uint64_t    shape[UPG_ST_MAX_RANK];
} upg_st_entry;

/** Writes a file's first bytes, length and JSON, into `header` (replaced; its max bounds the size):
 * the tensors lie in the order given, one directly after the other. `format` becomes
 * __metadata__.format unless NULL. Padded with spaces so that the data section begins at a multiple
 * of `unit` (a power of two), and at `least` or later. Equal input gives equal bytes.
 * Errors: E_ARG for a name that is no safetensors name; E_FORMAT as upg_st_tensor_bytes; E_NOMEM;
 * E_BUDGET past header->max. */
upg_status upg_st_write_header(const upg_st_entry *entries, size_t n_entries, const char *format,
                               uint64_t unit, uint64_t least, upg_buffer *header, upg_error *err);

#endif
