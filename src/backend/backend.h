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
    bool decode_kernels_only; /* cpu: take the single-row path for every batch size; cuda: run op by
                               * op, never a whole token in one launch (tests) */
    bool        unpinned;     /* cpu: threads are left to the system (base/topology.h) */
    bool        lut8;         /* cpu: few rows by tables of 8 bits (kernels/quantised.h) */
    const char *device;       /* as given to upg_backend_find: "cuda:1"; NULL = the class's first */
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
    /* NULL, or [n_ops + 1]: when the first op began and when each ended, by upg_now_ns. Only for
     * classes with times_ops. */
    uint64_t *op_ns;
    /* cpu, where it pays, and classes with takes_fast: products with weights rounded to 8 bits
     * (kernels/quantised.h), except those of LOGITS. What a row gives depends on this flag, but not
     * on the other rows; on cuda batches of 8 rows and less are exact all the same. */
    bool fast;
} upg_batch;

/** How a device draws tokens by itself: runtime/sampler.h's settings and history. */
typedef struct upg_draw_bias {
    int32_t token;
    float   value;
} upg_draw_bias;

typedef struct upg_draw {
    uint32_t             n_tokens; /* only tokens below it are drawn */
    uint32_t             top_k;
    float                temperature, top_p, min_p; /* as in upg_sampling; 0 = off */
    float                repetition_penalty, presence_penalty, frequency_penalty;
    uint64_t             seed, place; /* of the first drawn token in the stream of random values */
    const upg_draw_bias *biases;      /* no token twice */
    size_t               n_biases;
    const int32_t       *history; /* [n_history], the token that is computed first included */
    const uint8_t       *drawn;   /* [n_history]: 1 when the token was drawn */
    uint32_t             n_history;
} upg_draw;

typedef struct upg_backend upg_backend;

typedef struct upg_backend_class {
    const char *name;       /* "ref", "cpu" */
    bool        times_ops;  /* fills upg_batch.op_ns */
    bool        takes_fast; /* upg_batch.fast always counts, whatever the host's CPU */
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
    /* KV pages in the device's own memory; all four are NULL where pages are the host's. Called by
     * any thread, also while `run` runs. */
    /** Bytes that pages could take now; 0 = not known. */
    uint64_t (*kv_available)(upg_backend *backend);
    /** Errors: E_NOMEM, E_DEVICE_LOST. */
    upg_status (*kv_allocate)(upg_backend *backend, size_t bytes, uint8_t **page, upg_error *err);
    void (*kv_free)(upg_backend *backend, uint8_t *page, size_t bytes);
    /** Between pages, or between a page and host memory. */
    upg_status (*kv_copy)(upg_backend *backend, void *to, const void *from, size_t bytes,
                          upg_error *err);
    /** NULL, or told of each new page in host memory: where it is to lie. Called as those above. */
    void (*kv_place)(upg_backend *backend, uint8_t *page, size_t bytes);
} upg_backend_class;

extern const upg_backend_class upg_backend_ref; /* backend/ref/: scalar fp32, the oracle */
extern const upg_backend_class upg_backend_cpu; /* backend/cpu/ */

/** The class for a device name: "ref", "cpu", "cuda", "cuda:N"; NULL = the best: a GPU that can be
 * used, else the CPU. Errors: E_DEVICE listing those of this build, or saying what the GPU lacks.
 */
upg_status upg_backend_find(const char *device, const upg_backend_class **class_, upg_error *err);

#endif
