/* cuda_outliers.cu: what a product of a matrix with outliers (codec/outliers.h) adds to the coded
 * sum, and the plain inputs that it reads, for the rows of a batch. Sums are fp64, as the
 * definition's. */
#include "backend/cuda/cuda_shared.h"

namespace
{

enum { THREADS = 128, ROWS = 8 /* of the batch, that a thread has in hand */ };

/* out[m][r] += e_r for a row r of the matrix and ROWS rows of the batch. */
__global__ void __launch_bounds__(THREADS)
    add_kernel(cu_outliers o, const float *__restrict__ x, uint32_t x_stride, uint32_t n,
               float *__restrict__ out, uint32_t out_stride)
{
    const uint32_t r = blockIdx.x * THREADS + threadIdx.x, first = blockIdx.y * ROWS;
    double         sum[ROWS] = { 0 };

    if (r >= o.n_rows)
        return;
    x += (uint64_t)first * x_stride;
    n = min(n - first, (uint32_t)ROWS);
    for (uint32_t k = o.n_sparse ? o.row_begin[r] : 0; o.n_sparse && k < o.row_begin[r + 1]; k++) {
        const float *column = x + o.columns[k];
        const double value = (double)o.values[k];

#pragma unroll
        for (int m = 0; m < ROWS; m++)
            if (m < n)
                sum[m] += value * (double)column[(uint64_t)m * x_stride];
    }
#pragma unroll
    for (int m = 0; m < ROWS; m++)
        sum[m] *= (double)o.scale;
    for (uint32_t d = 0; d < o.n_columns; d++) {
        const float *column = x + o.column[d];
        const double value = (double)o.column_values[(uint64_t)d * o.n_rows + r];
        const double scale = (double)o.column_scales[d];

#pragma unroll
        for (int m = 0; m < ROWS; m++)
            if (m < n)
                sum[m] += value * (scale * (double)column[(uint64_t)m * x_stride]);
    }
#pragma unroll
    for (int m = 0; m < ROWS; m++)
        if (m < n)
            out[(uint64_t)(first + m) * out_stride + r] += (float)sum[m];
}

/* Rows of a table: out[i] += outliers of the token's row. Single ones and columns may meet. */
__global__ void embed_kernel(cu_outliers o, const cu_row *rows, float *out, uint32_t stride)
{
    const uint32_t r = (uint32_t)rows[blockIdx.x].token;
    float         *to = out + (uint64_t)blockIdx.x * stride;

    for (uint32_t k = (o.n_sparse ? o.row_begin[r] : 0) + threadIdx.x;
         o.n_sparse && k < o.row_begin[r + 1]; k += blockDim.x)
        to[o.columns[k]] += o.scale * (float)o.values[k];
    __syncthreads();
    for (uint32_t d = threadIdx.x; d < o.n_columns; d += blockDim.x)
        to[o.column[d]] += o.column_scales[d] * (float)o.column_values[(uint64_t)d * o.n_rows + r];
}

/* The normed residual, a block for each row. */
__global__ void norm_kernel(const float *x, uint32_t x_stride, const float *weight, float eps,
                            uint32_t width, float *out, uint32_t out_stride)
{
    __shared__ float sums[32];
    const float     *from = x + (uint64_t)blockIdx.x * x_stride;
    float            sum = 0.0f;

    for (uint32_t i = threadIdx.x; i < width; i += blockDim.x)
        sum = fmaf(from[i], from[i], sum);
    for (int d = 16; d > 0; d >>= 1)
        sum += __shfl_xor_sync(~0u, sum, d);
    if (threadIdx.x % 32 == 0)
        sums[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = 0.0f;
    for (uint32_t w = 0; w < blockDim.x / 32; w++)
        sum += sums[w];
    sum = 1.0f / sqrtf(sum / (float)width + eps);
    for (uint32_t i = threadIdx.x; i < width; i += blockDim.x)
        out[(uint64_t)blockIdx.x * out_stride + i] = from[i] * sum * weight[i];
}

__global__ void swiglu_kernel(const float *gate_up, uint32_t stride, uint32_t width, float *out,
                              uint32_t out_stride)
{
    const uint32_t i = blockIdx.x * THREADS + threadIdx.x;
    const float   *row = gate_up + (uint64_t)blockIdx.y * stride;

    if (i < width)
        out[(uint64_t)blockIdx.y * out_stride + i] =
            row[i] / (1.0f + expf(-row[i])) * row[width + i];
}

} // namespace

extern "C" int cu_launch_outliers(const cu_outliers *o, const float *x, uint32_t x_stride,
                                  uint32_t n, float *out, uint32_t out_stride, cu_stream stream)
{
    dim3 grid((o->n_rows + THREADS - 1) / THREADS, (n + ROWS - 1) / ROWS);

    add_kernel<<<grid, THREADS, 0, stream>>>(*o, x, x_stride, n, out, out_stride);
    return cudaGetLastError();
}

extern "C" int cu_launch_embed_outliers(const cu_outliers *o, const cu_row *rows, uint32_t n,
                                        float *out, uint32_t stride, cu_stream stream)
{
    embed_kernel<<<n, THREADS, 0, stream>>>(*o, rows, out, stride);
    return cudaGetLastError();
}

extern "C" int cu_launch_plain_norm(const float *x, uint32_t x_stride, const float *weight,
                                    float eps, uint32_t width, uint32_t n, float *out,
                                    uint32_t out_stride, cu_stream stream)
{
    norm_kernel<<<n, 512, 0, stream>>>(x, x_stride, weight, eps, width, out, out_stride);
    return cudaGetLastError();
}

extern "C" int cu_launch_plain_swiglu(const float *gate_up, uint32_t stride, uint32_t width,
                                      uint32_t n, float *out, uint32_t out_stride, cu_stream stream)
{
    swiglu_kernel<<<dim3((width + THREADS - 1) / THREADS, n), THREADS, 0, stream>>>(
        gate_up, stride, width, out, out_stride);
    return cudaGetLastError();
}
