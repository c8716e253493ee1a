/* cuda_factor.cu: a blocked right-looking Cholesky factor in fp64, and triangular solves in fp32.
 */
#include "backend/cuda/cuda_factor.h"

#include <cuda_runtime.h>

namespace
{

enum { BLOCK = CU_FACTOR_BLOCK, PITCH = BLOCK + 1, TILE = 64, DEPTH = 16 };

__global__ void damped_kernel(const float *sum, uint32_t width, double scale, double added,
                              double *a)
{
    uint32_t j = blockIdx.x * blockDim.x + threadIdx.x, i = blockIdx.y;

    if (j <= i && i < width)
        a[(size_t)i * width + j] =
            scale * (double)sum[(size_t)i * width + j] + (i == j ? added : 0);
}

/* The diagonal block of `n` rows, by one block of 256 threads. */
__global__ void __launch_bounds__(256)
    diagonal_kernel(double *a, uint32_t width, uint32_t n, int32_t *info)
{
    extern __shared__ double t[]; /* [BLOCK][PITCH] */

    for (uint32_t e = threadIdx.x; e < n * n; e += 256)
        t[e / n * PITCH + e % n] = a[(size_t)(e / n) * width + e % n];
    __syncthreads();
    for (uint32_t k = 0; k < n; k++) {
        double pivot = t[k * PITCH + k];

        if (!(pivot > 0) || isinf(pivot)) { /* NaN too; the same for all threads */
            if (threadIdx.x == 0)
                *info = 1;
            return;
        }
        pivot = sqrt(pivot);
        __syncthreads();
        for (uint32_t i = k + threadIdx.x; i < n; i += 256)
            t[i * PITCH + k] = i == k ? pivot : t[i * PITCH + k] / pivot;
        __syncthreads();
        for (uint32_t e = threadIdx.x; e < n * n; e += 256) {
            uint32_t i = e / n, j = e % n;

            if (i > k && j > k && j <= i)
                t[i * PITCH + j] -= t[i * PITCH + k] * t[j * PITCH + k];
        }
        __syncthreads();
    }
    for (uint32_t e = threadIdx.x; e < n * n; e += 256)
        if (e % n <= e / n)
            a[(size_t)(e / n) * width + e % n] = t[e / n * PITCH + e % n];
}

/* A block of rows x [64][n] := x·T⁻¹, a thread for each row. transposed: x·Tᵀ⁻¹, columns ascending;
 * else descending. */
template <typename T, bool TRANSPOSED, bool UNIT>
__global__ void __launch_bounds__(BLOCK)
    solve_kernel(uint32_t rows, uint32_t n, const T *l, size_t l_stride, T *x, size_t x_stride)
{
    extern __shared__ uint8_t raw[];
    T                        *tl = (T *)raw, *tx = tl + BLOCK * PITCH;
    uint32_t                  r0 = blockIdx.x * BLOCK, own = threadIdx.x;

    for (uint32_t e = threadIdx.x; e < n * n; e += BLOCK)
        tl[e / n * PITCH + e % n] = l[(size_t)(e / n) * l_stride + e % n];
    for (uint32_t e = threadIdx.x; e < BLOCK * n; e += BLOCK)
        if (r0 + e / n < rows)
            tx[e / n * PITCH + e % n] = x[(size_t)(r0 + e / n) * x_stride + e % n];
    __syncthreads();
    for (uint32_t step = 0; step < n && r0 + own < rows; step++) {
        uint32_t j = TRANSPOSED ? step : n - 1 - step;
        T        value = tx[own * PITCH + j];

        if (TRANSPOSED)
            for (uint32_t i = 0; i < j; i++)
                value -= tx[own * PITCH + i] * tl[j * PITCH + i];
        else
            for (uint32_t i = j + 1; i < n; i++)
                value -= tx[own * PITCH + i] * tl[i * PITCH + j];
        tx[own * PITCH + j] = UNIT ? value : value / tl[j * PITCH + j];
    }
    __syncthreads();
    for (uint32_t e = threadIdx.x; e < BLOCK * n; e += BLOCK)
        if (r0 + e / n < rows)
            x[(size_t)(r0 + e / n) * x_stride + e % n] = tx[e / n * PITCH + e % n];
}

/* c[i][j] −= Σ_k p[i][k]·p[j][k] for tiles on and below the diagonal; p has n ≤ 64 columns and the
 * stride of c. */
__global__ void __launch_bounds__(256)
    update_kernel(uint32_t size, uint32_t n, const double *p, double *c, size_t stride)
{
    __shared__ double sa[DEPTH][TILE + 1], sb[DEPTH][TILE + 1];
    const uint32_t    i0 = blockIdx.y * TILE, j0 = blockIdx.x * TILE;
    const uint32_t    ti = threadIdx.x / 16, tj = threadIdx.x % 16;
    double            sum[4][4] = {};

    if (blockIdx.x > blockIdx.y)
        return;
    for (uint32_t k0 = 0; k0 < n; k0 += DEPTH) {
        for (uint32_t e = threadIdx.x; e < TILE * DEPTH; e += 256) {
            uint32_t i = e / DEPTH, k = e % DEPTH;
            bool     there = k0 + k < n;

            sa[k][i] = there && i0 + i < size ? p[(size_t)(i0 + i) * stride + k0 + k] : 0;
            sb[k][i] = there && j0 + i < size ? p[(size_t)(j0 + i) * stride + k0 + k] : 0;
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < DEPTH; k++) {
            double x[4], y[4];

#pragma unroll
            for (int i = 0; i < 4; i++) {
                x[i] = sa[k][ti + 16 * i];
                y[i] = sb[k][tj + 16 * i];
            }
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    sum[i][j] += x[i] * y[j];
        }
        __syncthreads();
    }
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) {
            uint32_t row = i0 + ti + 16 * i, column = j0 + tj + 16 * j;

            if (row < size && column <= row)
                c[(size_t)row * stride + column] -= sum[i][j];
        }
}

__global__ void subtract_kernel(const float *sum, uint32_t width, float scale, float *mixed)
{
    uint32_t j = blockIdx.x * blockDim.x + threadIdx.x, i = blockIdx.y;

    if (j < width) {
        float h = j <= i ? sum[(size_t)i * width + j] : sum[(size_t)j * width + i];

        mixed[(size_t)i * width + j] = scale * (mixed[(size_t)i * width + j] - h);
    }
}

__global__ void __launch_bounds__(256)
    unit_lower_kernel(const double *a, uint32_t width, float *lower, float *diagonal, double *sums)
{
    __shared__ double partial[256];
    size_t            i = blockIdx.x;
    double            sum = 0, d = a[i * width + i];

    for (uint32_t j = threadIdx.x; j < width; j += 256) {
        float x = j < i    ? (float)(a[i * width + j] / a[(size_t)j * width + j])
                  : j == i ? 1.0f
                           : 0.0f;

        lower[i * width + j] = x;
        sum += j < i ? (double)x * (double)x : 0;
    }
    partial[threadIdx.x] = sum;
    __syncthreads();
    for (uint32_t half = 128; half > 0; half /= 2) {
        if (threadIdx.x < half)
            partial[threadIdx.x] += partial[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        sums[i] = partial[0];
        diagonal[i] = (float)(d * d);
    }
}

__global__ void divide_kernel(uint64_t n, uint32_t width, const float *diagonal, float *x)
{
    for (uint64_t e = (uint64_t)blockIdx.x * 256 + threadIdx.x; e < n;
         e += (uint64_t)gridDim.x * 256)
        x[e] /= diagonal[e % width];
}

__global__ void add_kernel(uint64_t n, const float *y, float *x)
{
    for (uint64_t e = (uint64_t)blockIdx.x * 256 + threadIdx.x; e < n;
         e += (uint64_t)gridDim.x * 256)
        x[e] += y[e];
}

template <typename T> constexpr int solve_bytes()
{
    return 2 * BLOCK * PITCH * (int)sizeof(T);
}

uint32_t blocks_for(uint64_t n)
{
    uint64_t blocks = (n + 255) / 256;

    return (uint32_t)(blocks < 4096 ? blocks : 4096);
}

} // namespace

int cu_launch_damped(const float *sum, uint32_t width, double scale, double added, double *a,
                     void *stream)
{
    damped_kernel<<<dim3((width + 255) / 256, width), 256, 0, (cudaStream_t)stream>>>(
        sum, width, scale, added, a);
    return (int)cudaGetLastError();
}

int cu_launch_cholesky(double *a, uint32_t width, int32_t *info, void *stream)
{
    cudaStream_t s = (cudaStream_t)stream;
    cudaError_t  e =
        cudaFuncSetAttribute(solve_kernel<double, true, false>,
                             cudaFuncAttributeMaxDynamicSharedMemorySize, solve_bytes<double>());

    for (uint32_t at = 0; at < width && e == cudaSuccess; at += BLOCK) {
        uint32_t n = width - at < BLOCK ? width - at : BLOCK, left = width - at - n;
        double  *diagonal = a + (size_t)at * width + at, *panel = diagonal + (size_t)n * width;
        uint32_t tiles = (left + TILE - 1) / TILE;

        diagonal_kernel<<<1, 256, BLOCK * PITCH * sizeof(double), s>>>(diagonal, width, n, info);
        if (left > 0) {
            solve_kernel<double, true, false>
                <<<(left + BLOCK - 1) / BLOCK, BLOCK, solve_bytes<double>(), s>>>(
                    left, n, diagonal, width, panel, width);
            update_kernel<<<dim3(tiles, tiles), 256, 0, s>>>(left, n, panel, panel + n, width);
        }
        e = cudaGetLastError();
    }
    return (int)e;
}

int cu_launch_subtract(const float *sum, uint32_t width, float scale, float *mixed, void *stream)
{
    subtract_kernel<<<dim3((width + 255) / 256, width), 256, 0, (cudaStream_t)stream>>>(
        sum, width, scale, mixed);
    return (int)cudaGetLastError();
}

int cu_launch_unit_lower(const double *a, uint32_t width, float *lower, float *diagonal,
                         double *sums, void *stream)
{
    unit_lower_kernel<<<width, 256, 0, (cudaStream_t)stream>>>(a, width, lower, diagonal, sums);
    return (int)cudaGetLastError();
}

int cu_launch_solve(bool transposed, uint32_t rows, uint32_t n, const float *l, size_t l_stride,
                    float *x, size_t x_stride, void *stream)
{
    uint32_t     blocks = (rows + BLOCK - 1) / BLOCK;
    cudaStream_t s = (cudaStream_t)stream;

    if (transposed)
        solve_kernel<float, true, true>
            <<<blocks, BLOCK, solve_bytes<float>(), s>>>(rows, n, l, l_stride, x, x_stride);
    else
        solve_kernel<float, false, true>
            <<<blocks, BLOCK, solve_bytes<float>(), s>>>(rows, n, l, l_stride, x, x_stride);
    return (int)cudaGetLastError();
}

int cu_launch_divide(uint32_t rows, uint32_t width, const float *diagonal, float *x, void *stream)
{
    divide_kernel<<<blocks_for((uint64_t)rows * width), 256, 0, (cudaStream_t)stream>>>(
        (uint64_t)rows * width, width, diagonal, x);
    return (int)cudaGetLastError();
}

int cu_launch_add(uint64_t n, const float *y, float *x, void *stream)
{
    add_kernel<<<blocks_for(n), 256, 0, (cudaStream_t)stream>>>(n, y, x);
    return (int)cudaGetLastError();
}
