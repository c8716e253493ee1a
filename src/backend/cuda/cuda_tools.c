/* cuda_tools.c: see cuda_tools.h: decoding without the host, timing by device events. */
#include "backend/cuda/cuda_tools.h"

#include <string.h>

#include "backend/cuda/cuda_backend.h"

static cuda_backend *cuda_of(upg_backend *backend)
{
    return (cuda_backend *)(void *)backend;
}

#define TRY(call)                                                                                  \
    do {                                                                                           \
        int cuda_error = (call);                                                                   \
        if (cuda_error != cudaSuccess) {                                                           \
            st = upg_cuda_check(cuda_error, #call, err);                                           \
            goto out;                                                                              \
        }                                                                                          \
    } while (0)

typedef struct timer {
    cudaEvent_t begin, end;
} timer;

static int timer_start(cuda_backend *b, timer *t)
{
    int e = cudaEventCreate(&t->begin);

    if (e == cudaSuccess)
        e = cudaEventCreate(&t->end);
    return e == cudaSuccess ? (int)cudaEventRecord(t->begin, b->stream) : e;
}

static int timer_stop(cuda_backend *b, timer *t, double *milliseconds)
{
    float ms = 0;
    int   e = cudaEventRecord(t->end, b->stream);

    if (e == cudaSuccess)
        e = cudaEventSynchronize(t->end);
    if (e == cudaSuccess)
        e = cudaEventElapsedTime(&ms, t->begin, t->end);
    *milliseconds = (double)ms;
    (void)cudaEventDestroy(t->begin);
    (void)cudaEventDestroy(t->end);
    return e;
}

static int capture(cuda_backend *b, const upg_kv_layout *layout, cudaGraphExec_t *exec,
                   upg_error *err)
{
    cudaGraph_t graph;
    int         e = cudaStreamBeginCapture(b->stream, cudaStreamCaptureModeThreadLocal);

    if (e != cudaSuccess)
        return e;
    if (upg_cuda_run_steps(b, layout, 1, false, err) != UPG_OK) {
        (void)cudaStreamEndCapture(b->stream, &graph);
        return cudaErrorUnknown;
    }
    e = cudaStreamEndCapture(b->stream, &graph);
    if (e == cudaSuccess) {
        e = cudaGraphInstantiate(exec, graph, 0);
        (void)cudaGraphDestroy(graph);
    }
    return e;
}

/* One token after the other: each launch samples token_out[0]. */
static upg_status decode_many(cuda_backend *b, upg_cuda_way way, const upg_kv_layout *layout,
                              uint32_t n, int32_t *tokens, double *milliseconds, upg_error *err)
{
    cudaGraphExec_t exec = NULL;
    timer           t;
    upg_status      st = UPG_OK;

    if (way == UPG_CUDA_GRAPH)
        TRY(capture(b, layout, &exec, err));
    TRY(timer_start(b, &t));
    for (uint32_t i = 0; i < n; i++) {
        if (way == UPG_CUDA_GRAPH)
            TRY(cudaGraphLaunch(exec, b->stream));
        else
            UPG_TRY(upg_cuda_run_steps(b, layout, 1, false, err));
        TRY(cudaMemcpyAsync(b->tokens_out + i, b->token.tokens_out, sizeof(int32_t),
                            cudaMemcpyDeviceToHost, b->stream));
    }
    TRY(timer_stop(b, &t, milliseconds));
    memcpy(tokens, b->tokens_out, n * sizeof *tokens);
out:
    if (exec != NULL)
        (void)cudaGraphExecDestroy(exec);
    return st;
}

static upg_status decode(upg_backend *backend, upg_cuda_way way, const upg_kv_view *kv,
                         const upg_kv_layout *layout, int32_t token, uint32_t position, uint32_t n,
                         int32_t *tokens, double *milliseconds, upg_error *err)
{
    cuda_backend  *b = cuda_of(backend);
    upg_batch_row  row = { token, position, kv, NULL };
    upg_batch      batch = { .n_rows = 1, .rows = &row, .kv_layout = layout };
    cu_token_state state = { token, position, kv->long_rope, 0 };
    timer          t;
    upg_status     st = UPG_OK;

    if (!b->one_launch || n == 0 || n > CUDA_MAX_TOKENS)
        return upg_fail(err, UPG_E_UNSUPPORTED, "this model does not run in the token kernel");
    TRY(cudaSetDevice(b->device));
    UPG_TRY(upg_cuda_send_rows(b, &batch, err));
    memcpy(b->bad_out, &state, sizeof state);
    TRY(cudaMemcpyAsync(b->token.state, b->bad_out, sizeof state, cudaMemcpyHostToDevice,
                        b->stream));
    if (way != UPG_CUDA_ONE_LAUNCH)
        return decode_many(b, way, layout, n, tokens, milliseconds, err);
    TRY(timer_start(b, &t));
    UPG_TRY(upg_cuda_run_steps(b, layout, n, true, err));
    TRY(timer_stop(b, &t, milliseconds));
    TRY(cudaMemcpy(tokens, b->token.tokens_out, n * sizeof *tokens, cudaMemcpyDeviceToHost));
out:
    return st;
}

static upg_status draw_tokens(upg_backend *backend, const upg_draw *draw, const upg_kv_view *kv,
                              const upg_kv_layout *layout, int32_t token, uint32_t position,
                              uint32_t n, int32_t *tokens, float *logprobs, double *milliseconds,
                              upg_error *err)
{
    cuda_backend *b = cuda_of(backend);
    upg_status    st = UPG_OK;

    TRY(cudaSetDevice(b->device));
    UPG_TRY(upg_cuda_set_draw(b, draw, logprobs != NULL, err));
    st = decode(backend, UPG_CUDA_ONE_LAUNCH, kv, layout, token, position, n, tokens, milliseconds,
                err);
    UPG_TRY(st);
    if (logprobs != NULL)
        TRY(cudaMemcpy(logprobs, b->token.draw.logprobs, n * sizeof *logprobs,
                       cudaMemcpyDeviceToHost));
out:
    b->token.draw.on = false;
    return st;
}

static upg_status read_weights(upg_backend *backend, uint64_t bytes, uint32_t times,
                               double *milliseconds, upg_error *err)
{
    cuda_backend *b = cuda_of(backend);
    timer         t;
    upg_status    st = UPG_OK;

    TRY(cudaSetDevice(b->device));
    if (bytes > b->n_tiles * CU_TILE_BYTES)
        bytes = b->n_tiles * CU_TILE_BYTES;
    TRY(cu_launch_read(b->tape.bytes, bytes, b->bad, b->n_ctas, b->stream));
    TRY(timer_start(b, &t));
    for (uint32_t i = 0; i < times; i++)
        TRY(cu_launch_read(b->tape.bytes, bytes, b->bad, b->n_ctas, b->stream));
    TRY(timer_stop(b, &t, milliseconds));
out:
    return st;
}

static uint64_t token_bytes(const upg_backend *backend)
{
    return ((const cuda_backend *)(const void *)backend)->n_tiles * CU_TILE_BYTES;
}

static upg_status time_batch(upg_backend *backend, const upg_batch *batch, uint32_t times,
                             double *milliseconds, upg_error *err)
{
    cuda_backend *b = cuda_of(backend);
    upg_status    st = UPG_OK;

    TRY(cudaSetDevice(b->device));
    for (uint32_t i = 0; i < times; i++) {
        timer t;

        TRY(timer_start(b, &t));
        UPG_TRY(upg_cuda_run(backend, batch, err));
        TRY(timer_stop(b, &t, &milliseconds[i]));
    }
out:
    return st;
}

static upg_status bare(upg_backend *backend, upg_role role, uint32_t times, bool multiplies,
                       uint64_t *bytes, double *milliseconds, upg_error *err)
{
    cuda_backend     *b = cuda_of(backend);
    const cu_product *list[1024], **on_device = (const cu_product **)(void *)b->staging;
    uint32_t          n = 0;
    timer             t;
    upg_status        st = UPG_OK;

    TRY(cudaSetDevice(b->device));
    *bytes = 0;
    for (uint32_t i = 0; i < b->program->n_ops && n < 1024; i++)
        if (b->ops[i].coded && b->program->ops[i].w[0]->role == role) {
            list[n++] = b->ops[i].on_device;
            *bytes += (uint64_t)b->ops[i].product.n_units * CU_TILE_BYTES * times;
        }
    if (n == 0 || !b->one_launch)
        return upg_fail(err, UPG_E_UNSUPPORTED, "no coded matrix of this role");
    TRY(cudaMemcpy(on_device, list, n * sizeof *list, cudaMemcpyHostToDevice));
    b->token.n_pages_ring = b->ring_pages[0];
    upg_cuda_choose_in_flight(&b->token);
    TRY(timer_start(b, &t));
    TRY(cu_launch_bare(&b->token, on_device, n, times, multiplies, b->stream));
    TRY(timer_stop(b, &t, milliseconds));
out:
    return st;
}

static upg_status trace(upg_backend *backend, const upg_kv_view *kv, const upg_kv_layout *layout,
                        uint32_t position, long long *clocks, int *kinds, upg_error *err)
{
    cuda_backend *b = cuda_of(backend);
    size_t        bytes = 6 * (size_t)b->n_ctas * b->n_steps * sizeof *clocks;
    int32_t       token;
    double        ms;
    upg_status    st = UPG_OK;

    TRY(cudaSetDevice(b->device));
    if (bytes > b->staging_bytes)
        return upg_fail(err, UPG_E_UNSUPPORTED, "no room for clocks in this small model");
    TRY(cudaMemsetAsync(b->staging, 0, bytes, b->stream));
    b->token.trace = (long long *)(void *)b->staging;
    for (int i = 0; i < 2 && st == UPG_OK; i++)
        st = decode(backend, UPG_CUDA_ONE_LAUNCH, kv, layout, 1, position, 1, &token, &ms, err);
    b->token.trace = NULL;
    UPG_TRY(st);
    TRY(cudaMemcpy(clocks, b->staging, bytes, cudaMemcpyDeviceToHost));
    for (uint32_t i = 0; i < b->n_steps; i++)
        kinds[i] = b->steps[i].kind;
out:
    return st;
}

static uint32_t launches(const upg_backend *backend, upg_cuda_way way)
{
    const cuda_backend *b = (const cuda_backend *)(const void *)backend;

    return way == UPG_CUDA_ONE_LAUNCH ? 1 : b->n_steps;
}

static uint32_t blocks(const upg_backend *backend)
{
    return ((const cuda_backend *)(const void *)backend)->n_ctas;
}

__attribute__((visibility("default"))) const upg_cuda_tools *upg_cuda_module_tools(void);

const upg_cuda_tools *upg_cuda_module_tools(void)
{
    static const upg_cuda_tools tools = { .struct_size = sizeof tools,
                                          .decode = decode,
                                          .draw = draw_tokens,
                                          .read = read_weights,
                                          .token_bytes = token_bytes,
                                          .time_batch = time_batch,
                                          .bare = bare,
                                          .trace = trace,
                                          .launches = launches,
                                          .blocks = blocks };

    return &tools;
}
