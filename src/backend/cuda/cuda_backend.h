/* cuda_backend.h: what the host files of backend/cuda share.
 *
 * A program runs in two ways. A single row of a fully coded model runs as ONE launch of the token
 * kernel (cuda_token.cu). Everything else runs op by op (cuda_run.c). Invariants:
 *   1. All device memory but KV pages is one allocation, planned before it is made.
 *   2. Running allocates nothing on host or device.
 *   3. After an error of the device every call answers E_DEVICE_LOST. */
#ifndef UPG_BACKEND_CUDA_CUDA_BACKEND_H
#define UPG_BACKEND_CUDA_CUDA_BACKEND_H

#include <cuda_runtime_api.h>
#include <pthread.h>

#include "backend/backend.h"
#include "backend/cuda/cuda_shared.h"
#include "backend/cuda/cuda_tools.h"

enum { CUDA_LOGIT_ROWS = 16, CUDA_MAX_TOKENS = 4096 /* of one many-token launch */ };

/* An op of the program on the device. */
typedef struct cuda_op {
    bool              coded;
    cu_product        product; /* its pointers are the device's */
    const cu_product *on_device;
    cu_band          *bands; /* host copy, with the device's scales */
    const void       *dense[3];
    const float      *norm, *signed_norm; /* signed: times the rotation's signs */
    cu_outliers       outliers[3];
} cuda_op;

typedef struct cuda_slot {
    float      *values; /* f32 [max_rows][stride] */
    cu_prepared prepared;
    uint32_t    stride;
} cuda_slot;

/* What the host sends before every batch, in pinned memory; the device has a copy. */
typedef struct cuda_inbox {
    cu_token_state state;
    cu_row        *rows;  /* [max_rows] */
    uint8_t      **pages; /* [n_page_slots] */
} cuda_inbox;

typedef struct cuda_backend {
    const upg_program *program;
    int                device;
    cudaStream_t       stream;
    cudaStream_t       side;      /* decodes matrices for batches */
    cudaEvent_t        copied[2]; /* staging buffer i is free again */
    cudaEvent_t        decoded, multiplied;
    uint32_t           n_ctas, shared_limit, max_rows;
    cuda_op           *ops;
    cuda_slot         *slots;
    bool               one_launch; /* single rows run in the token kernel */
    bool               lost;

    /* device memory */
    uint8_t     *base;
    size_t       used, size;         /* of the plan */
    uint8_t     *blob, *blob_device; /* small tables: host image and where it goes */
    size_t       blob_used, blob_size;
    cu_tape      tape;
    uint64_t     n_tiles;
    uint32_t    *tape_base; /* host copy, [n_ctas + 1] */
    cu_embedding embedding;
    uint8_t     *staging; /* raw bits while loading, decoded matrices later */
    size_t       staging_bytes;
    float       *scratch, *mixed, *logits, *partial, *softmax;
    uint32_t     scratch_stride;
    int32_t     *u;
    uint32_t    *bad;
    const float *inv_freq, *long_inv_freq;
    cu_row      *rows;
    uint8_t    **pages;
    uint32_t     n_page_slots;

    /* the token kernel */
    cu_step        *steps; /* host copy */
    uint32_t        n_steps, n_products;
    cu_token_args   token;         /* type of KV filled in at run time */
    uint32_t        ring_pages[3]; /* by KV type */
    const uint32_t *step_tiles;    /* [n_products + 1][n_ctas] on the device */

    /* models with outliers */
    float *plain; /* [max_rows][plain_stride]: what the next product reads, neither rotated nor
                   * rounded */
    uint32_t plain_stride;

    /* tokens drawn on the device */
    cu_draw   draw;      /* what cuda_draw.c lays out */
    uint32_t *draw_host; /* pinned: marks, then biases, [vocab] each */

    /* pinned */
    uint8_t   *pinned[2]; /* staging */
    cuda_inbox inbox;
    float     *logits_out;
    uint32_t  *bad_out;
    int32_t   *tokens_out; /* [CUDA_MAX_TOKENS] */

    pthread_mutex_t   kv_lock; /* guards the list below; no other lock is taken under it */
    struct cuda_page *free_pages;
    uint64_t          kv_bytes, device_bytes;
    char              description[128];
} cuda_backend;

/** OK, or the backend is lost: E_NOMEM for memory, E_DEVICE at creation, else E_DEVICE_LOST. */
upg_status upg_cuda_check(int cuda_error, const char *what, upg_error *err);

/* ---- cuda_layout.c: what lies where -----------------------------------------------------------
 */

/** Plans ops, slots and memory, checks that it fits, allocates, fills tables. Errors: E_NOMEM with
 * what is needed and what there is, E_UNSUPPORTED. */
upg_status upg_cuda_layout(cuda_backend *b, upg_error *err);
/** `bytes` of device memory at a 256-byte boundary; NULL while planning. */
void *upg_cuda_take(cuda_backend *b, size_t bytes);
/** A copy of host data in the tables; the address is the device's (NULL while planning). */
const void *upg_cuda_table(cuda_backend *b, const void *data, size_t bytes);

/* ---- cuda_upload.c ----------------------------------------------------------------------------
 */

/** Copies host memory to the device through pinned buffers, in stream order. */
upg_status upg_cuda_upload(cuda_backend *b, void *to, const void *from, size_t bytes,
                           upg_error *err);
/** All weights, once. */
upg_status upg_cuda_upload_weights(cuda_backend *b, upg_error *err);

/* ---- cuda_steps.c -----------------------------------------------------------------------------
 */

/** Whether the token kernel can run this program; plans its memory and steps. */
bool upg_cuda_plan_steps(cuda_backend *b);
/** Runs steps for n tokens from state: one launch, or one for each step. */
upg_status upg_cuda_run_steps(cuda_backend *b, const upg_kv_layout *kv, uint32_t n_tokens,
                              bool one_launch, upg_error *err);
/** Limits how many pages of the ring are on their way at once. */
void upg_cuda_choose_in_flight(cu_token_args *t);
/** Room in shared memory for this KV type. */
upg_status upg_cuda_prepare_steps(cuda_backend *b, upg_error *err);

/* ---- cuda_outliers.c --------------------------------------------------------------------------
 * Each does nothing where there are none; those of the second part return a cudaError_t. */

bool       upg_cuda_op_has_outliers(const upg_op *op);
bool       upg_cuda_has_outliers(const upg_program *program);
void       upg_cuda_lay_outliers(cuda_backend *b);
upg_status upg_cuda_upload_outliers(cuda_backend *b, upg_error *err);

int upg_cuda_plain_norm(cuda_backend *b, const upg_op *op, const float *x, uint32_t x_stride,
                        uint32_t n);
int upg_cuda_plain_copy(cuda_backend *b, const upg_op *op, const float *x, uint32_t x_stride,
                        uint32_t n);
int upg_cuda_plain_swiglu(cuda_backend *b, const upg_op *op, uint32_t n); /* of b->scratch */
int upg_cuda_embed_outliers(cuda_backend *b, const upg_op *op, uint32_t n);
/* Behind the product of rows row0 … of the op's input. */
int upg_cuda_add_outliers(cuda_backend *b, const upg_op *op, uint32_t row0, uint32_t n, float *out,
                          uint32_t out_stride);

/* ---- cuda_draw.c ------------------------------------------------------------------------------
 */

/** Memory for drawing tokens on the device. */
void upg_cuda_lay_draw(cuda_backend *b);
/** Makes the launches that follow draw tokens like this; NULL: take the best one. logprobs: keep
 * them too. Errors: E_UNSUPPORTED (a token with two biases: rounding depends on their order),
 * E_ARG, E_DEVICE_LOST. */
upg_status upg_cuda_set_draw(cuda_backend *b, const upg_draw *draw, bool logprobs, upg_error *err);

/* ---- cuda_run.c -------------------------------------------------------------------------------
 */

upg_status upg_cuda_run(upg_backend *backend, const upg_batch *batch, upg_error *err);
cu_kv      upg_cuda_kv(const cuda_backend *b, const upg_kv_layout *layout);
/** Rows and pages of a batch into the inbox and to the device. */
upg_status upg_cuda_send_rows(cuda_backend *b, const upg_batch *batch, upg_error *err);

#endif
