/* cuda_blas.c: cuBLAS by dlopen. The module itself needs the driver alone; a machine that
 * compresses has the toolkit, or takes somewhat longer. */
#include "backend/cuda/cuda_blas.h"

#include <cublas_v2.h>
#include <dlfcn.h>
#include <string.h>

typedef cublasStatus_t create_function(cublasHandle_t *);
typedef cublasStatus_t destroy_function(cublasHandle_t);
typedef cublasStatus_t stream_function(cublasHandle_t, cudaStream_t);
typedef cublasStatus_t version_function(cublasHandle_t, int *);
typedef cublasStatus_t math_function(cublasHandle_t, cublasMath_t);
typedef cublasStatus_t sgemm_function(cublasHandle_t, cublasOperation_t, cublasOperation_t, int,
                                      int, int, const float *, const float *, int, const float *,
                                      int, const float *, float *, int);

/* A function by name; C has no conversion from object to function pointers. */
#define FIND(blas, name, function)                                                                 \
    do {                                                                                           \
        void *symbol = dlsym((blas)->library, name);                                               \
                                                                                                   \
        memcpy(&(function), &symbol, sizeof(function));                                            \
    } while (0)

static bool start(cuda_blas *blas)
{
    create_function  *create;
    stream_function  *set_stream;
    version_function *get_version;
    cublasHandle_t    handle = NULL;

    FIND(blas, "cublasCreate_v2", create);
    FIND(blas, "cublasSetStream_v2", set_stream);
    FIND(blas, "cublasGetVersion_v2", get_version);
    blas->sgemm = dlsym(blas->library, "cublasSgemm_v2");
    blas->set_math = dlsym(blas->library, "cublasSetMathMode");
    if (create == NULL || set_stream == NULL || get_version == NULL || blas->sgemm == NULL ||
        blas->set_math == NULL || create(&handle) != CUBLAS_STATUS_SUCCESS)
        return false;
    blas->handle = handle;
    return set_stream(handle, blas->stream) == CUBLAS_STATUS_SUCCESS &&
           get_version(handle, &blas->version) == CUBLAS_STATUS_SUCCESS;
}

void cuda_blas_open(cuda_blas *blas, void *stream)
{
    static const char *const names[] = { "libcublas.so.13", "libcublas.so.12",
                                         "/usr/local/cuda/lib64/libcublas.so.13",
                                         "/usr/local/cuda/lib64/libcublas.so.12" };

    *blas = (cuda_blas) { .stream = stream };
    for (size_t i = 0; i < sizeof names / sizeof *names && blas->library == NULL; i++)
        blas->library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    if (blas->library != NULL && !start(blas))
        cuda_blas_close(blas);
}

void cuda_blas_close(cuda_blas *blas)
{
    destroy_function *destroy;

    if (blas->handle != NULL) {
        FIND(blas, "cublasDestroy_v2", destroy);
        if (destroy != NULL)
            (void)destroy(blas->handle);
    }
    blas->handle = NULL; /* the library stays: it does not like to be unloaded */
}

int cuda_blas_gemm(cuda_blas *blas, cuda_blas_precision precision, bool transpose_a,
                   bool transpose_b, uint32_t m, uint32_t n, uint32_t k, float alpha,
                   const float *a, size_t a_stride, const float *b, size_t b_stride, float beta,
                   float *c, size_t c_stride)
{
    sgemm_function *sgemm;
    math_function  *set_math;
    bool            fast = precision == CUDA_BLAS_TF32;

    if (blas->handle == NULL)
        return cu_launch_sgemm(transpose_a, transpose_b, m, n, k, alpha, a, a_stride, b, b_stride,
                               beta, c, c_stride, blas->stream);
    memcpy(&sgemm, &blas->sgemm, sizeof sgemm);
    memcpy(&set_math, &blas->set_math, sizeof set_math);
    if (fast != blas->fast &&
        set_math(blas->handle, fast ? CUBLAS_TF32_TENSOR_OP_MATH : CUBLAS_DEFAULT_MATH) !=
            CUBLAS_STATUS_SUCCESS)
        return cudaErrorUnknown;
    blas->fast = fast;
    /* column-major: Cᵀ = op(B)ᵀ·op(A)ᵀ */
    return sgemm(blas->handle, transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N,
                 transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N, (int)n, (int)m, (int)k, &alpha, b,
                 (int)b_stride, a, (int)a_stride, &beta, c, (int)c_stride) == CUBLAS_STATUS_SUCCESS
               ? cudaSuccess
               : cudaErrorUnknown;
}
