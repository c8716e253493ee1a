/* container.h: reading .upg files (docs/FORMAT.md).
 *
 * A .upg file is one valid safetensors file: first the weights, then the parts (config, tokenizer,
 * manifest, quality report), last the hash table. Invariants of every open container:
 *
 *   1. All that the manifest says was checked: bands cover their matrix, codes are valid, every
 *      span has exactly the size that follows; nothing behind the structs needs a check again.
 *   2. The bytes of header and parts matched their hashes when the file was opened. Weights are
 *      checked by upg_container_verify or upg_container_check, not by opening.
 *   3. Code bits and scales are used where they lie in the map, 64-byte aligned. */
#ifndef UPG_FORMAT_CONTAINER_H
#define UPG_FORMAT_CONTAINER_H

#include "base/arena.h"
#include "base/error.h"
#include "base/file.h"
#include "base/pool.h"
#include "base/progress.h"
#include "base/span.h"
#include "codec/coded_matrix.h"
#include "format/hash_table.h"
#include "safetensors/safetensors.h"

/* 1.1: outliers. */
enum { UPG_FORMAT_MAJOR = 1, UPG_FORMAT_MINOR = 1 };

/** X(NAME, "tensor", "file it came from"). In file order. */
#define UPG_PART_MAP(X)                                                                            \
    X(CONFIG, "upg.config", "config.json")                                                         \
    X(GENERATION_CONFIG, "upg.generation_config", "generation_config.json")                        \
    X(TOKENIZER, "upg.tokenizer", "tokenizer.json")                                                \
    X(TOKENIZER_CONFIG, "upg.tokenizer_config", "tokenizer_config.json")                           \
    X(CHAT_TEMPLATE, "upg.chat_template", "chat_template.jinja")                                   \
    X(MANIFEST, "upg.manifest", "")                                                                \
    X(QUALITY, "upg.quality", "")

typedef enum upg_part {
#define UPG_PART_ENUM(name, tensor, file) UPG_PART_##name,
    UPG_PART_MAP(UPG_PART_ENUM)
#undef UPG_PART_ENUM
        UPG_PART_COUNT
} upg_part;

/** The tensor's name, "upg.config" …; static. */
const char *upg_part_name(upg_part part);
/** The checkpoint's file that the part is a copy of, or "". Static. */
const char *upg_part_file(upg_part part);

typedef struct upg_container_matrix {
    const char          *name;
    upg_coded_matrix     coded;
    double               relative_error; /* |W − W'|² / |W|², measured; < 0 = not measured */
    const upg_st_tensor *code, *scale;
    const upg_st_tensor *outliers; /* NULL without */
} upg_container_matrix;

typedef struct upg_container {
    uint32_t                    version_major, version_minor;
    const char                 *writer;       /* "upg 0.1.0" */
    uint64_t                    parameters;   /* values of all matrices and dense tensors */
    uint64_t                    source_bytes; /* tensors of the checkpoint as shipped */
    uint64_t                    file_bytes;
    uint64_t                    weight_bytes; /* code, scales, dense tensors, padding between */
    size_t                      n_matrices;
    const upg_container_matrix *matrices; /* [n_matrices] in the manifest's order */
    size_t                      n_dense;
    const upg_st_tensor       **dense; /* [n_dense] in file order: F32, F16 or BF16 */
    upg_span                    parts[UPG_PART_COUNT]; /* empty when absent */
    const char                 *options_json;          /* how the file was made; an object */
    /* private */
    upg_map        map;
    bool           is_verified; /* all chunks matched their hashes before it was parsed */
    upg_st        *file;
    upg_hash_table hashes;
    upg_arena      arena;
} upg_container;

/** Maps and checks a file. It must not change while it is open. Errors (all name the path):
 * E_NOT_FOUND, E_IO, E_FORMAT, E_VERSION, E_CORRUPT, E_UNSUPPORTED, E_NOMEM. */
upg_status upg_container_open(const char *path, upg_container **container, upg_error *err);
/** The same on bytes that the caller keeps alive, at a 64-byte boundary. */
upg_status upg_container_parse(upg_span bytes, const char *name, upg_container **container,
                               upg_error *err);
/** The same of bytes whose chunks have all been compared with their hashes: not again. */
upg_status upg_container_parse_verified(upg_span bytes, const char *name, upg_container **container,
                                        upg_error *err);
/** NULL is fine. */
void upg_container_close(upg_container *container);
/** Whether the file still has what was read from it. Errors: E_IO naming it. */
upg_status upg_container_check_map(const upg_container *container, upg_error *err);

/** NULL when there is none of that name. */
const upg_container_matrix *upg_container_matrix_find(const upg_container *container,
                                                      const char          *name);
/** NULL when there is no dense tensor of that name. */
const upg_st_tensor *upg_container_dense_find(const upg_container *container, const char *name);
/** All tensors of the file, for listings. */
const upg_st *upg_container_tensors(const upg_container *container);

/** Compares the chunks that hold one tensor with their hashes. Errors: E_CORRUPT. */
upg_status upg_container_check(const upg_container *container, const upg_st_tensor *tensor,
                               upg_error *err);
/** The error for a chunk that differs from its hash: number, bytes, the tensors that lie in it. */
upg_status upg_container_bad_chunk(upg_span bytes, const upg_hash_table *table, size_t chunk,
                                   upg_error *err);
/** Reads a whole file against its hashes, then checks its structure. pool NULL: on this thread.
 * Reports stage "verify" in bytes. Errors: as upg_container_open; E_CORRUPT: *bad_offset is the
 * first bad chunk's (a damaged table's begin; the file's size when the end is missing) and the
 * message names the tensor;
 * E_CANCELLED. */
upg_status upg_container_verify(const char *path, upg_pool *pool, const upg_listener *listener,
                                uint64_t *bad_offset, upg_error *err);

#endif
