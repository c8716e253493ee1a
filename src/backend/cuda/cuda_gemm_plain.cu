/* cuda_gemm_plain.cu: products without a library: tiles of 64 × 64 by 256 threads. */
#include <cuda_runtime.h>

#include "backend/cuda/cuda_blas.h"

namespace
{

enum { TILE = 64, DEPTH = 16 };

/* Element (i, j) of op(X), 0 outside rows × cols. */
template <bool TRANSPOSE>
__device__ __forceinline__ float element(const float *x, size_t stride, uint32_t i, uint32_t j,
                                         uint32_t rows, uint32_t cols)
{
    if (i >= rows || j >= cols)
        return 0;
    return TRANSPOSE ? x[(size_t)j * stride + i] : x[(size_t)i * stride + j];
}

template <bool TA, bool TB>
__global__ void __launch_bounds__(256)
    sgemm_kernel(uint32_t m, uint32_t n, uint32_t k, float alpha, const float *a, size_t a_stride,
                 const float *b, size_t b_stride, float beta, float *c, size_t c_stride)
{
    __shared__ float sa[DEPTH][TILE + 4], sb[DEPTH][TILE + 4];
    const uint32_t   i0 = blockIdx.y * TILE, j0 = blockIdx.x * TILE;
    const uint32_t   ti = threadIdx.x / 16 * 4, tj = threadIdx.x % 16 * 4;
    float            sum[4][4] = {};

    for (uint32_t p = 0; p < k; p += DEPTH) {
        for (uint32_t e = threadIdx.x; e < TILE * DEPTH; e += 256) {
            uint32_t ia = TA ? e % TILE : e / DEPTH, pa = TA ? e / TILE : e % DEPTH;
            uint32_t jb = TB ? e / DEPTH : e % TILE, pb = TB ? e % DEPTH : e / TILE;

            sa[pa][ia] = element<TA>(a, a_stride, i0 + ia, p + pa, m, k);
            sb[pb][jb] = element<TB>(b, b_stride, p + pb, j0 + jb, k, n);
        }
        __syncthreads();
#pragma unroll
        for (int d = 0; d < DEPTH; d++) {
            float4 x = *(const float4 *)&sa[d][ti], y = *(const float4 *)&sb[d][tj];
            float  xs[4] = { x.x, x.y, x.z, x.w }, ys[4] = { y.x, y.y, y.z, y.w };

#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    sum[i][j] += xs[i] * ys[j];
        }
        __syncthreads();
    }
    for (uint32_t i = 0; i < 4; i++)
        for (uint32_t j = 0; j < 4; j++)
            if (i0 + ti + i < m && j0 + tj + j < n) {
                float *to = c + (size_t)(i0 + ti + i) * c_stride + j0 + tj + j;

                *to = beta == 0 ? alpha * sum[i][j] : alpha * sum[i][j] + beta * *to;
            }
}

} // namespace

int cu_launch_sgemm(bool transpose_a, bool transpose_b, uint32_t m, uint32_t n, uint32_t k,
                    float alpha, const float *a, size_t a_stride, const float *b, size_t b_stride,
                    float beta, float *c, size_t c_stride, void *stream)
{
    dim3         grid((n + TILE - 1) / TILE, (m + TILE - 1) / TILE);
    cudaStream_t s = (cudaStream_t)stream;

    if (m == 0 || n == 0)
        return 0;
#define UPG_SGEMM(ta, tb)                                                                          \
    sgemm_kernel<ta, tb>                                                                           \
        <<<grid, 256, 0, s>>>(m, n, k, alpha, a, a_stride, b, b_stride, beta, c, c_stride)
    if (transpose_a && transpose_b)
        UPG_SGEMM(true, true);
    else if (transpose_a)
        UPG_SGEMM(true, false);
    else if (transpose_b)
        UPG_SGEMM(false, true);
    else
        UPG_SGEMM(false, false);
#undef UPG_SGEMM
    return (int)cudaGetLastError();
}
