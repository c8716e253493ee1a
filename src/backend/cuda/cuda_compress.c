/* cuda_compress.c: the compressor's device: opened, closed, its buffers. */
#include "backend/cuda/cuda_compress.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

upg_status cc_check(int cuda_error, const char *what, upg_error *err)
{
    if (cuda_error == cudaSuccess)
        return UPG_OK;
    (void)cudaGetLastError();
    if (cuda_error == cudaErrorMemoryAllocation)
        return upg_fail(err, UPG_E_NOMEM, "out of the GPU's memory: %s", what);
    return upg_fail(err, UPG_E_DEVICE_LOST, "the GPU failed: %s: %s", what,
                    cudaGetErrorString((cudaError_t)cuda_error));
}

/* ---- buffers ----------------------------------------------------------------------------------
 */

void cc_release(cc_buffer *buffer)
{
    (void)cudaFree(buffer->at);
    *buffer = (cc_buffer) { NULL, 0 };
}

upg_status cc_room(cc_buffer *buffer, size_t bytes, const char *what, upg_error *err)
{
    int e;

    if (bytes <= buffer->bytes)
        return UPG_OK;
    cc_release(buffer);
    e = cudaMalloc(&buffer->at, bytes);
    if (e == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError();
        return upg_fail(err, UPG_E_NOMEM,
                        "out of the GPU's memory: %zu MiB for %s; compress with --device cpu",
                        bytes >> 20, what);
    }
    if (e == cudaSuccess)
        buffer->bytes = bytes;
    return cc_check(e, what, err);
}

upg_status cc_up(cc_device *d, void *to, const void *from, size_t bytes, upg_error *err)
{
    return cc_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, d->stream),
                    "copying to it", err);
}

upg_status cc_down(cc_device *d, void *to, const void *from, size_t bytes, upg_error *err)
{
    int e = cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, d->stream);

    if (e == cudaSuccess)
        e = cudaStreamSynchronize(d->stream);
    return cc_check(e, "computing", err);
}

upg_status cc_clear(cc_device *d, void *to, size_t bytes, upg_error *err)
{
    return cc_check(cudaMemsetAsync(to, 0, bytes, d->stream), "clearing memory", err);
}

/* ---- open, close ------------------------------------------------------------------------------
 */

static void release_all(cc_device *d)
{
    cc_buffer *const all[] = { &d->units,   &d->choices, &d->scaled,   &d->small,   &d->targets,
                               &d->weights, &d->windows, &d->lower,    &d->decoded, &d->errors,
                               &d->bits,    &d->sum,     &d->mixed,    &d->square,  &d->diagonal,
                               &d->sums,    &d->signs,   &d->info,     &d->x,       &d->y,
                               &d->correct, &d->moved,   &d->norms,    &d->angles,  &d->state,
                               &d->q,       &d->k,       &d->v,        &d->wide,    &d->gate,
                               &d->up,      &d->narrow,  &d->originals };

    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        cc_release(all[i]);
    for (int s = 0; s < 2; s++)
        for (int m = 0; m < CC_LAYER_MATRICES; m++)
            cc_release(&d->matrix[s][m]);
}

static void close_device(upg_compress_device *device)
{
    cc_device *d = cc_of(device);

    if (d == NULL)
        return;
    (void)cudaSetDevice(d->device);
    if (d->stream)
        (void)cudaStreamSynchronize(d->stream);
    cc_free_codes(d);
    release_all(d);
    cuda_blas_close(&d->blas);
    if (d->stream)
        (void)cudaStreamDestroy(d->stream);
    upg_free(d);
}

static const char *describe(const upg_compress_device *device)
{
    return ((const cc_device *)(const void *)device)->description;
}

/* "cuda" is device 0, "cuda:N" device N. */
static upg_status choose_device(cc_device *d, const char *name, upg_error *err)
{
    int   n = 0, e = cudaGetDeviceCount(&n);
    char *end = NULL;
    long  wanted = 0;

    if (e != cudaSuccess || n == 0)
        return upg_fail(err, UPG_E_DEVICE, "no usable NVIDIA GPU: %s",
                        e != cudaSuccess ? cudaGetErrorString((cudaError_t)e) : "none is there");
    if (strncmp(name, "cuda:", 5) == 0) {
        wanted = strtol(name + 5, &end, 10);
        if (end == name + 5 || *end != '\0' || wanted < 0)
            return upg_fail(err, UPG_E_DEVICE, "device \"%.32s\": after \"cuda:\" stands a number",
                            name);
    }
    if (wanted >= n)
        return upg_fail(err, UPG_E_DEVICE, "device \"%.32s\": there are %d, from cuda:0 on", name,
                        n);
    d->device = (int)wanted;
    return cc_check(cudaSetDevice(d->device), "choosing the device", err);
}

static upg_status ask_device(cc_device *d, upg_error *err)
{
    struct cudaDeviceProp p;
    int                   e = cudaGetDeviceProperties(&p, d->device);

    if (e != cudaSuccess)
        return cc_check(e, "asking the device", err);
    if (p.major < 8)
        return upg_fail(err, UPG_E_DEVICE,
                        "%s has compute capability %d.%d; compressing needs 8.0 or more", p.name,
                        p.major, p.minor);
    d->n_sms = p.multiProcessorCount;
    e = cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking);
    if (e != cudaSuccess)
        return cc_check(e, "making a stream", err);
    cuda_blas_open(&d->blas, d->stream);
    if (d->blas.handle != NULL)
        snprintf(d->description, sizeof d->description, "cuda %.64s, cuBLAS %d", p.name,
                 d->blas.version);
    else
        snprintf(d->description, sizeof d->description, "cuda %.64s, without cuBLAS", p.name);
    return UPG_OK;
}

static upg_status open_device(const char *name, upg_compress_device **opened, upg_error *err);

static const upg_compress_class class_cuda = { .struct_size = sizeof class_cuda,
                                               .open = open_device,
                                               .close = close_device,
                                               .describe = describe,
                                               .columns = cc_columns,
                                               .moments_begin = cc_moments_begin,
                                               .moments_add = cc_moments_add,
                                               .moments_factor = cc_moments_factor,
                                               .moments_correct = cc_moments_correct,
                                               .moments_read = cc_moments_read,
                                               .feedback = cc_feedback,
                                               .layer_begin = cc_layer_begin,
                                               .layer_matrix = cc_layer_matrix,
                                               .layer_norms = cc_layer_norms,
                                               .layer_pass = cc_layer_pass };

static upg_status open_device(const char *name, upg_compress_device **opened, upg_error *err)
{
    cc_device *d = upg_calloc(1, sizeof *d, err);
    upg_status st = d != NULL ? UPG_OK : UPG_E_NOMEM;

    if (st == UPG_OK) {
        d->base.class_ = &class_cuda;
        st = choose_device(d, name, err);
    }
    if (st == UPG_OK)
        st = ask_device(d, err);
    if (st != UPG_OK) {
        close_device((upg_compress_device *)(void *)d);
        d = NULL;
    }
    *opened = (upg_compress_device *)(void *)d;
    return st;
}

__attribute__((visibility("default"))) const upg_compress_class *upg_cuda_module_compress(void);

const upg_compress_class *upg_cuda_module_compress(void)
{
    return &class_cuda;
}
