/* cuda_tools.h: what the module offers beside the backend's class, for benchmarks and tests. */
#ifndef UPG_BACKEND_CUDA_CUDA_TOOLS_H
#define UPG_BACKEND_CUDA_CUDA_TOOLS_H

#include "backend/backend.h"

typedef enum upg_cuda_way {
    UPG_CUDA_ONE_LAUNCH, /* the token kernel, all tokens in one launch */
    UPG_CUDA_GRAPH, /* a launch for each step, with programmatic dependent launch, as a graph */
    UPG_CUDA_STEPS  /* the same without a graph */
} upg_cuda_way;

typedef struct upg_cuda_tools {
    size_t struct_size;
    /** Decodes n tokens greedily from `token` at `position`, all on the device; pages for them are
     * in place. milliseconds: of the device, by events. */
    upg_status (*decode)(upg_backend *backend, upg_cuda_way way, const upg_kv_view *kv,
                         const upg_kv_layout *layout, int32_t token, uint32_t position, uint32_t n,
                         int32_t *tokens, double *milliseconds, upg_error *err);
    /** The same in one launch, each token drawn as `draw` says; −1: nothing could be drawn, what
     * follows means nothing. logprobs NULL, or f32 [n]. Errors: E_UNSUPPORTED (to be drawn by the
     * host), E_DEVICE_LOST. */
    upg_status (*draw)(upg_backend *backend, const upg_draw *draw, const upg_kv_view *kv,
                       const upg_kv_layout *layout, int32_t token, uint32_t position, uint32_t n,
                       int32_t *tokens, float *logprobs, double *milliseconds, upg_error *err);
    /** Reads `bytes` of the weights in device memory `times` times; milliseconds for all. */
    upg_status (*read)(upg_backend *backend, uint64_t bytes, uint32_t times, double *milliseconds,
                       upg_error *err);
    /** Bytes of code bits that a token reads. */
    uint64_t (*token_bytes)(const upg_backend *backend);
    /** Runs a batch as often as asked with device events around each; milliseconds [times]. */
    upg_status (*time_batch)(upg_backend *backend, const upg_batch *batch, uint32_t times,
                             double *milliseconds, upg_error *err);
    /** Products alone, in one launch: those of all ops with this code and matrix 0 of this role,
     * `times` times, multiplied or only read through the ring. *bytes: streamed in all. */
    upg_status (*bare)(upg_backend *backend, upg_role role, uint32_t times, bool multiplies,
                       uint64_t *bytes, double *milliseconds, upg_error *err);
    /** Clocks of one token's steps: long long [blocks][n_steps][6], 0 where nothing was
     * noted: [0] begin; [5] end; [1] the input is there; products: [2] rotated and rounded, [3]
     * planes made, [4] tiles done; attention: [2] key and value appended, [3] the block's part
     * done. kinds [n_steps]: cu_step_kind. n_steps: launches of UPG_CUDA_STEPS. */
    upg_status (*trace)(upg_backend *backend, const upg_kv_view *kv, const upg_kv_layout *layout,
                        uint32_t position, long long *clocks, int *kinds, upg_error *err);
    uint32_t (*launches)(const upg_backend *backend, upg_cuda_way way);
    uint32_t (*blocks)(const upg_backend *backend);
} upg_cuda_tools;

/** Symbol "upg_cuda_module_tools", beside "upg_cuda_module_open". */
typedef const upg_cuda_tools *(*upg_cuda_tools_function)(void);

#endif
