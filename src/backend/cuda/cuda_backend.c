/* cuda_backend.c: creates and closes the executor of one program on one NVIDIA GPU; the module's
 * entry. */
#include "backend/cuda/cuda_backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda_module.h"
#include "base/alloc.h"

enum { PINNED_BYTES = 16 << 20, MAX_SEQUENCES = 64 };

static cuda_backend *cuda_of(upg_backend *backend)
{
    return (cuda_backend *)(void *)backend;
}

/* ---- KV pages ---------------------------------------------------------------------------------
 */

/* A page that was given back; pages of other sizes may be among them. */
typedef struct cuda_page {
    struct cuda_page *next;
    uint8_t          *memory;
    size_t            bytes;
} cuda_page;

static upg_status allocate_page(upg_backend *backend, size_t bytes, uint8_t **page, upg_error *err)
{
    cuda_backend *b = cuda_of(backend);
    void         *memory = NULL;
    int           e = cudaSetDevice(b->device);

    *page = NULL;
    pthread_mutex_lock(&b->kv_lock);
    for (cuda_page **p = &b->free_pages; *p != NULL; p = &(*p)->next)
        if ((*p)->bytes == bytes) {
            cuda_page *found = *p;

            *p = found->next;
            *page = found->memory;
            upg_free(found);
            break;
        }
    if (*page == NULL)
        b->kv_bytes += bytes;
    pthread_mutex_unlock(&b->kv_lock);
    if (*page != NULL)
        return UPG_OK;
    if (e == cudaSuccess)
        e = cudaMalloc(&memory, bytes);
    if (e == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError(); /* this one leaves the device as it was */
        return upg_fail(err, UPG_E_NOMEM,
                        "the GPU has no room for %.1f MB more of context: close sessions, or use "
                        "an int8 KV cache",
                        (double)bytes * 1e-6);
    }
    *page = memory;
    return upg_cuda_check(e, "allocating a page of the KV cache", err);
}

static void free_page(upg_backend *backend, uint8_t *page, size_t bytes)
{
    cuda_backend *b = cuda_of(backend);
    cuda_page    *entry = upg_calloc(1, sizeof *entry, NULL);

    if (entry == NULL) {
        (void)cudaFree(page);
        return;
    }
    entry->memory = page;
    entry->bytes = bytes;
    pthread_mutex_lock(&b->kv_lock);
    entry->next = b->free_pages;
    b->free_pages = entry;
    pthread_mutex_unlock(&b->kv_lock);
}

static uint64_t room_for_pages(upg_backend *backend)
{
    cuda_backend *b = cuda_of(backend);
    size_t        there = 0, total = 0;

    if (cudaSetDevice(b->device) != cudaSuccess || cudaMemGetInfo(&there, &total) != cudaSuccess)
        return 0;
    pthread_mutex_lock(&b->kv_lock);
    for (const cuda_page *p = b->free_pages; p != NULL; p = p->next)
        there += p->bytes;
    pthread_mutex_unlock(&b->kv_lock);
    return there;
}

static upg_status copy_page(upg_backend *backend, void *to, const void *from, size_t bytes,
                            upg_error *err)
{
    int e = cudaSetDevice(cuda_of(backend)->device);

    if (e == cudaSuccess)
        e = cudaMemcpy(to, from, bytes, cudaMemcpyDefault);
    return upg_cuda_check(e, "copying a page of the KV cache", err);
}

/* ---- closing, creating ------------------------------------------------------------------------
 */

static void free_host(cuda_backend *b)
{
    for (uint32_t i = 0; b->ops != NULL && i < b->program->n_ops; i++)
        upg_free(b->ops[i].bands);
    upg_free(b->ops);
    upg_free(b->slots);
    upg_free(b->steps);
    upg_free(b->tape_base);
    upg_free(b->blob);
}

static void close_backend(upg_backend *backend)
{
    cuda_backend *b = cuda_of(backend);

    if (b == NULL)
        return;
    (void)cudaSetDevice(b->device);
    if (b->side)
        (void)cudaStreamSynchronize(b->side);
    if (b->stream)
        (void)cudaStreamSynchronize(b->stream);
    while (b->free_pages != NULL) {
        cuda_page *page = b->free_pages;

        b->free_pages = page->next;
        (void)cudaFree(page->memory);
        upg_free(page);
    }
    for (int i = 0; i < 2; i++) {
        (void)cudaFreeHost(b->pinned[i]);
        if (b->copied[i])
            (void)cudaEventDestroy(b->copied[i]);
    }
    (void)cudaFreeHost(b->inbox.rows);
    (void)cudaFreeHost(b->inbox.pages);
    (void)cudaFreeHost(b->logits_out);
    (void)cudaFreeHost(b->bad_out);
    (void)cudaFreeHost(b->tokens_out);
    (void)cudaFreeHost(b->draw_host);
    (void)cudaFree(b->base);
    if (b->decoded)
        (void)cudaEventDestroy(b->decoded);
    if (b->multiplied)
        (void)cudaEventDestroy(b->multiplied);
    if (b->side)
        (void)cudaStreamDestroy(b->side);
    if (b->stream)
        (void)cudaStreamDestroy(b->stream);
    free_host(b);
    pthread_mutex_destroy(&b->kv_lock);
    upg_free(b);
}

/* "cuda" is device 0, "cuda:N" device N. */
static upg_status choose_device(cuda_backend *b, const char *name, upg_error *err)
{
    int   n = 0, e = cudaGetDeviceCount(&n);
    char *end = NULL;
    long  wanted = 0;

    if (e != cudaSuccess || n == 0)
        return upg_fail(err, UPG_E_DEVICE, "no usable NVIDIA GPU: %s",
                        e != cudaSuccess ? cudaGetErrorString((cudaError_t)e) : "none is there");
    if (name != NULL && strncmp(name, "cuda:", 5) == 0) {
        wanted = strtol(name + 5, &end, 10);
        if (end == name + 5 || *end != '\0' || wanted < 0)
            return upg_fail(err, UPG_E_DEVICE, "device \"%.32s\": after \"cuda:\" stands a number",
                            name);
    }
    if (wanted >= n)
        return upg_fail(err, UPG_E_DEVICE,
                        "device \"%.32s\": there %s %d GPU%s, the first is cuda:0", name,
                        n == 1 ? "is" : "are", n, n == 1 ? "" : "s");
    b->device = (int)wanted;
    return upg_cuda_check(cudaSetDevice(b->device), "choosing the device", err);
}

static upg_status ask_device(cuda_backend *b, upg_error *err)
{
    struct cudaDeviceProp p;
    int                   cooperative = 0, e = cudaGetDeviceProperties(&p, b->device);

    if (e == cudaSuccess)
        e = cudaDeviceGetAttribute(&cooperative, cudaDevAttrCooperativeLaunch, b->device);
    if (e != cudaSuccess)
        return upg_cuda_check(e, "asking the device", err);
    if (p.major < 8 || !cooperative)
        return upg_fail(err, UPG_E_DEVICE,
                        "%s has compute capability %d.%d; the cuda backend needs 8.0 or more",
                        p.name, p.major, p.minor);
    b->n_ctas = (uint32_t)p.multiProcessorCount;
    b->shared_limit = (uint32_t)p.sharedMemPerBlockOptin;
    snprintf(b->description, sizeof b->description, "cuda:%d %.64s, %d SMs, sm_%d%d", b->device,
             p.name, p.multiProcessorCount, p.major, p.minor);
    return UPG_OK;
}

static upg_status check_program(const cuda_backend *b, upg_error *err)
{
    const upg_model_config *c = &b->program->weights->config;
    uint32_t                widest = c->hidden > c->ffn ? c->hidden : c->ffn;

    if (widest < c->n_heads * c->head_dim)
        widest = c->n_heads * c->head_dim;
    if ((uint64_t)(widest + widest / 16) * 4 + 1024 > b->shared_limit)
        return upg_fail(err, UPG_E_UNSUPPORTED,
                        "a width of %u: a vector must fit %u KiB of the GPU's shared memory",
                        widest, b->shared_limit / 1024);
    for (uint32_t i = 0; i < b->program->n_ops; i++)
        if (upg_op_is_plain(b->program->ops[i].code))
            return upg_fail(err, UPG_E_UNSUPPORTED,
                            "op %u, %s: the cuda backend runs fused programs only", i,
                            upg_op_name(b->program->ops[i].code));
    return UPG_OK;
}

/* Blocks of the main stream come first where both have some waiting. */
static int create_streams(cuda_backend *b)
{
    int low = 0, high = 0, e = cudaDeviceGetStreamPriorityRange(&low, &high);

    if (e == cudaSuccess)
        e = cudaStreamCreateWithPriority(&b->stream, cudaStreamNonBlocking, high);
    if (e == cudaSuccess)
        e = cudaStreamCreateWithPriority(&b->side, cudaStreamNonBlocking, low);
    if (e == cudaSuccess)
        e = cudaEventCreateWithFlags(&b->decoded, cudaEventDisableTiming);
    if (e == cudaSuccess)
        e = cudaEventCreateWithFlags(&b->multiplied, cudaEventDisableTiming);
    return e;
}

static int allocate_pinned(cuda_backend *b)
{
    size_t vocab = b->program->weights->config.vocab, rows = b->max_rows;
    int    e = create_streams(b);

    for (int i = 0; i < 2 && e == cudaSuccess; i++) {
        e = cudaMallocHost((void **)&b->pinned[i], PINNED_BYTES);
        if (e == cudaSuccess)
            e = cudaEventCreateWithFlags(&b->copied[i], cudaEventDisableTiming);
    }
    if (e == cudaSuccess)
        e = cudaMallocHost((void **)&b->inbox.rows, rows * sizeof *b->inbox.rows);
    if (e == cudaSuccess)
        e = cudaMallocHost((void **)&b->inbox.pages, b->n_page_slots * sizeof *b->inbox.pages);
    if (e == cudaSuccess)
        e = cudaMallocHost((void **)&b->logits_out, CUDA_LOGIT_ROWS * vocab * sizeof(float));
    if (e == cudaSuccess)
        e = cudaMallocHost((void **)&b->bad_out, 64);
    if (e == cudaSuccess)
        e = cudaMallocHost((void **)&b->tokens_out, CUDA_MAX_TOKENS * sizeof *b->tokens_out);
    if (e == cudaSuccess)
        e = cudaMallocHost((void **)&b->draw_host, 2 * vocab * sizeof *b->draw_host);
    return e;
}

static upg_status create_backend(const upg_program *program, const upg_backend_options *options,
                                 upg_backend **backend, upg_error *err)
{
    uint32_t      context = program->weights->config.context, sequences = options->max_rows;
    cuda_backend *b = upg_calloc(1, sizeof *b, err);
    upg_status    st;

    UPG_TRY(b ? UPG_OK : UPG_E_NOMEM);
    pthread_mutex_init(&b->kv_lock, NULL);
    b->program = program;
    b->max_rows = options->max_rows;
    UPG_TRY(b->max_rows ? UPG_OK : upg_fail(err, UPG_E_ARG, "max_rows is 0"));
    sequences = sequences < MAX_SEQUENCES ? sequences : MAX_SEQUENCES;
    b->n_page_slots = (context / UPG_PAGE_TOKENS + 1) * sequences;
    UPG_TRY(choose_device(b, options->device, err));
    UPG_TRY(ask_device(b, err));
    UPG_TRY(check_program(b, err));
    UPG_TRY(upg_cuda_layout(b, err));
    UPG_TRY(upg_cuda_check(allocate_pinned(b), "allocating pinned memory", err));
    UPG_TRY(upg_cuda_upload_weights(b, err));
    UPG_TRY(upg_cuda_prepare_steps(b, err));
    if (options->decode_kernels_only || upg_cuda_has_outliers(program))
        b->one_launch = false;
    UPG_TRY(upg_cuda_check(cudaStreamSynchronize(b->stream), "loading the model", err));
out:
    if (st != UPG_OK) {
        (void)cudaGetLastError();
        close_backend((upg_backend *)(void *)b);
        b = NULL;
    }
    *backend = (upg_backend *)(void *)b;
    return st;
}

static const char *describe_backend(const upg_backend *backend)
{
    return ((const cuda_backend *)(const void *)backend)->description;
}

static uint64_t backend_memory(const upg_backend *backend)
{
    return ((const cuda_backend *)(const void *)backend)->device_bytes;
}

static const upg_backend_class class_cuda = { .name = "cuda",
                                              .times_ops = true,
                                              .takes_fast = true,
                                              .create = create_backend,
                                              .run = upg_cuda_run,
                                              .describe = describe_backend,
                                              .memory = backend_memory,
                                              .close = close_backend,
                                              .kv_available = room_for_pages,
                                              .kv_allocate = allocate_page,
                                              .kv_free = free_page,
                                              .kv_copy = copy_page };

/* ---- the module's entry -----------------------------------------------------------------------
 */

upg_status upg_cuda_module_open(const upg_cuda_module_host *host, const upg_backend_class **class_,
                                upg_error *err)
{
    int n = 0, e;

    *class_ = NULL;
    if (host->struct_size != sizeof *host || host->batch_size != sizeof(upg_batch) ||
        host->program_size != sizeof(upg_program) ||
        host->class_size != sizeof(upg_backend_class) || strcmp(host->version, UPG_VERSION) != 0)
        return upg_fail(err, UPG_E_DEVICE,
                        "the CUDA module is of version " UPG_VERSION ", the library of %.16s: "
                        "install both from one build",
                        host->version);
    e = cudaGetDeviceCount(&n);
    if (e != cudaSuccess || n == 0)
        return upg_fail(err, UPG_E_DEVICE, "no usable NVIDIA GPU: %s",
                        e != cudaSuccess ? cudaGetErrorString((cudaError_t)e) : "none is there");
    *class_ = &class_cuda;
    return UPG_OK;
}
