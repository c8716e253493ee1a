/* cuda_blas.h: products of row-major matrices on the device: cuBLAS where it is installed, found at
 * run time, else kernels of our own. The two add in different orders. */
#ifndef UPG_BACKEND_CUDA_CUDA_BLAS_H
#define UPG_BACKEND_CUDA_CUDA_BLAS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct cuda_blas {
    void *library, *handle; /* NULL: our own kernels */
    void *sgemm, *set_math;
    void *stream;
    int   version;
    bool  fast; /* the math mode that is set */
} cuda_blas;

/* Whether operands may be rounded to TF32 (10 bits of fraction, sums in fp32). */
typedef enum cuda_blas_precision { CUDA_BLAS_FLOAT, CUDA_BLAS_TF32 } cuda_blas_precision;

void cuda_blas_open(cuda_blas *blas, void *stream);
void cuda_blas_close(cuda_blas *blas);
/** C[m][n] = alpha·op(A)·op(B) + beta·C, op(A) being [m][k], op(B) [k][n]. A CUDA error or 0. */
int cuda_blas_gemm(cuda_blas *blas, cuda_blas_precision precision, bool transpose_a,
                   bool transpose_b, uint32_t m, uint32_t n, uint32_t k, float alpha,
                   const float *a, size_t a_stride, const float *b, size_t b_stride, float beta,
                   float *c, size_t c_stride);

/* cuda_gemm_plain.cu: in fp32; A −= B·Cᵀ in fp64 on the lower triangle of tiles. */
int cu_launch_sgemm(bool transpose_a, bool transpose_b, uint32_t m, uint32_t n, uint32_t k,
                    float alpha, const float *a, size_t a_stride, const float *b, size_t b_stride,
                    float beta, float *c, size_t c_stride, void *stream);

#ifdef __cplusplus
}
#endif
#endif
