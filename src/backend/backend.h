/* backend.h: what executes a program. One interface for ref, cpu and the device backends.
 *
 * A backend is created for one program and one KV layout and owns its scratch. It is used by one
 * thread at a time (the caller's lock); upg_backend_run allocates nothing. */
#ifndef UPG_BACKEND_BACKEND_H
#define UPG_BACKEND_BACKEND_H

#include <stdatomic.h>

#include "backend/kv_layout.h"
#include "program/program.h"

typedef struct upg_backend_options {
    uint32_t threads;      /* cpu: 0 = one per physical core */
    uint32_t max_rows;     /* rows of the largest batch; ≥ 1 */
    bool     emulate_int8; /* ref: quantise rotated inputs to int8 as the fast backends do, instead
                            * of keeping them in fp32 */
    bool decode_kernels_only; /* cpu: take the single-row path for every batch size (tests) */
} upg_backend_options;

/** One token of one sequence. Rows of the same sequence stand together, positions ascending by 1;
 * the KV entries of positions before the first one are in place already. */
typedef struct upg_batch_row {
    int32_t            token;    /* 0 ≤ token < vocab, checked by the caller */
    uint32_t           position; /* < 64 · kv->n_pages */
    const upg_kv_view *kv;
    float             *logits; /* NULL, or f32 [vocab] */
} upg_batch_row;

typedef struct upg_batch {
    uint32_t             n_rows; /* ≤ max_rows */
    const upg_batch_row *rows;
    const upg_kv_layout *kv_layout;
    const atomic_bool   *cancel; /* may be NULL; looked at before every op */
} upg_batch;

typedef struct upg_backend upg_backend;

typedef struct upg_backend_class {
    const char *name; /* "ref", "cpu" */
    /** Checks that it has every op, allocates scratch. Errors: E_UNSUPPORTED (names the op or the
     * layout), E_NOMEM, E_DEVICE. */
    upg_status (*create)(const upg_program *program, const upg_backend_options *options,
                         upg_backend **backend, upg_error *err);
    /** Runs all ops for the batch; logits of row i go to rows[i].logits. Errors: E_CANCELLED (KV
     * entries of the batch's positions are then undefined), E_DATA when a value becomes NaN or
     * infinite (names op and layer), E_DEVICE_LOST. */
    upg_status (*run)(upg_backend *backend, const upg_batch *batch, upg_error *err);
    /** What really runs: "cpu avx512vnni, 2 threads". Borrowed. */
    const char *(*describe)(const upg_backend *backend);
    /** Scratch bytes in use. */
    uint64_t (*memory)(const upg_backend *backend);
    void (*close)(upg_backend *backend); /* NULL is fine */
} upg_backend_class;

extern const upg_backend_class upg_backend_ref; /* backend/ref/: scalar fp32, the oracle */
extern const upg_backend_class upg_backend_cpu; /* backend/cpu/ */

/** The class for a device name ("ref", "cpu", NULL = the best). Errors: E_DEVICE listing those of
 * this build. */
upg_status upg_backend_find(const char *device, const upg_backend_class **class_, upg_error *err);

#endif
