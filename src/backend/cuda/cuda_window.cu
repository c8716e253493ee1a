/* cuda_window.cu: what stands between the products of a layer, over windows of tokens. */
#include <cuda_runtime.h>

#include "backend/cuda/cuda_layer.h"

namespace
{

enum { THREADS = 256, QUERIES = 32 };

__device__ float block_sum(float x, float *partial)
{
    partial[threadIdx.x] = x;
    __syncthreads();
    for (uint32_t half = THREADS / 2; half > 0; half /= 2) {
        if (threadIdx.x < half)
            partial[threadIdx.x] += partial[threadIdx.x + half];
        __syncthreads();
    }
    return partial[0];
}

__global__ void __launch_bounds__(THREADS)
    rmsnorm_kernel(uint32_t width, const float *x, const float *weight, float eps, float *out)
{
    __shared__ float partial[THREADS];
    const float     *from = x + (size_t)blockIdx.x * width;
    float            sum = 0, r;

    for (uint32_t i = threadIdx.x; i < width; i += THREADS)
        sum += from[i] * from[i];
    r = rsqrtf(block_sum(sum, partial) / (float)width + eps);
    for (uint32_t i = threadIdx.x; i < width; i += THREADS)
        out[(size_t)blockIdx.x * width + i] = from[i] * r * weight[i];
}

__global__ void turn_kernel(float *x, uint32_t n_heads, uint32_t head_dim, uint32_t half,
                            uint32_t window, const float *cosine, const float *sine)
{
    uint32_t t = blockIdx.x % window;
    float   *row = x + (size_t)blockIdx.x * n_heads * head_dim;

    for (uint32_t e = threadIdx.x; e < n_heads * half; e += blockDim.x) {
        uint32_t i = e % half;
        float   *head = row + e / half * head_dim, low = head[i], high = head[i + half];
        float    c = cosine[(size_t)t * half + i], s = sine[(size_t)t * half + i];

        head[i] = low * c - high * s;
        head[i + half] = high * c + low * s;
    }
}

/* scores[QUERIES][window] of the queries from `first` on: a thread for each key. */
__device__ void score_keys(const cu_attention *a, const float *q, const float *k, uint32_t n_keys,
                           float *scores)
{
    const uint32_t d = a->head_dim;

    for (uint32_t t = threadIdx.x; t < n_keys; t += THREADS) {
        float        sum[QUERIES] = {};
        const float *key = k + (size_t)t * a->kv_stride;

        for (uint32_t i = 0; i < d; i++) {
            float x = key[i];

#pragma unroll
            for (int j = 0; j < QUERIES; j++)
                sum[j] += q[i * QUERIES + j] * x;
        }
#pragma unroll
        for (int j = 0; j < QUERIES; j++)
            scores[(size_t)j * a->window + t] = sum[j];
    }
}

/* Softmax over the keys that each query sees, zero elsewhere; a warp for each query in turn. */
__device__ void soften(const cu_attention *a, uint32_t first, uint32_t n_keys, float *scores)
{
    const uint32_t lane = threadIdx.x % 32;
    const float    scale = rsqrtf((float)a->head_dim);

    for (uint32_t j = threadIdx.x / 32; j < QUERIES; j += THREADS / 32) {
        float   *row = scores + (size_t)j * a->window;
        uint32_t last = first + j, begin = 0;
        float    most = -INFINITY, sum = 0;

        if (a->sliding != 0 && last + 1 > a->sliding)
            begin = last + 1 - a->sliding;
        for (uint32_t t = begin + lane; t <= last && t < n_keys; t += 32)
            most = fmaxf(most, row[t]);
        for (int bit = 16; bit > 0; bit /= 2)
            most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFu, most, bit));
        for (uint32_t t = lane; t < n_keys; t += 32) {
            row[t] = t >= begin && t <= last ? expf((row[t] - most) * scale) : 0;
            sum += row[t];
        }
        for (int bit = 16; bit > 0; bit /= 2)
            sum += __shfl_xor_sync(0xFFFFFFFFu, sum, bit);
        for (uint32_t t = lane; t < n_keys; t += 32)
            row[t] /= sum;
    }
}

/* A block for 32 queries of one head of one window. */
__global__ void __launch_bounds__(THREADS) attention_kernel(const cu_attention a)
{
    extern __shared__ float shared[];
    float                  *q = shared, *scores = shared + QUERIES * a.head_dim;
    const uint32_t          first = blockIdx.x * QUERIES, head = blockIdx.y, d = a.head_dim;
    const uint32_t          kv = head / (a.n_heads / a.n_kv_heads);
    const uint32_t          n_keys = min(a.window, first + QUERIES);
    const size_t            row0 = (size_t)blockIdx.z * a.window;
    const float            *k = a.k + row0 * a.kv_stride + (size_t)kv * d;
    const float            *v = a.v + row0 * a.kv_stride + (size_t)kv * d;

    for (uint32_t e = threadIdx.x; e < QUERIES * d; e += THREADS) {
        uint32_t j = e / d, i = e % d;

        q[i * QUERIES + j] =
            first + j < a.window ? a.q[(row0 + first + j) * a.q_stride + (size_t)head * d + i] : 0;
    }
    __syncthreads();
    score_keys(&a, q, k, n_keys, scores);
    __syncthreads();
    soften(&a, first, n_keys, scores);
    __syncthreads();
    for (uint32_t e = threadIdx.x; e < QUERIES / 8 * d; e += THREADS) { /* 8 queries of one i */
        uint32_t i = e % d, j0 = e / d * 8;
        float    sum[8] = {};

        for (uint32_t t = 0; t < n_keys; t++) {
            float x = v[(size_t)t * a.kv_stride + i];

#pragma unroll
            for (int j = 0; j < 8; j++)
                sum[j] += scores[(size_t)(j0 + j) * a.window + t] * x;
        }
        for (uint32_t j = 0; j < 8; j++)
            if (first + j0 + j < a.window)
                a.out[(row0 + first + j0 + j) * a.q_stride + (size_t)head * d + i] = sum[j];
    }
}

__global__ void gate_kernel(uint64_t n, const float *up, float *gate)
{
    for (uint64_t e = (uint64_t)blockIdx.x * THREADS + threadIdx.x; e < n;
         e += (uint64_t)gridDim.x * THREADS)
        gate[e] = gate[e] / (1.0f + expf(-gate[e])) * up[e];
}

__global__ void rotate_kernel(uint32_t width, const float *signs, uint32_t block, const float *from,
                              float *to)
{
    extern __shared__ float x[];
    const size_t            at = (size_t)blockIdx.y * width + (size_t)blockIdx.x * block;
    const float             scale = 1.0f / sqrtf((float)block);

    for (uint32_t i = threadIdx.x; i < block; i += THREADS)
        x[i] = from[at + i] * signs[blockIdx.x * block + i];
    for (uint32_t half = 1; half < block; half *= 2) {
        __syncthreads();
        for (uint32_t e = threadIdx.x; e < block / 2; e += THREADS) {
            uint32_t i = e / half * 2 * half + e % half;
            float    a = x[i], b = x[i + half];

            x[i] = a + b;
            x[i + half] = a - b;
        }
    }
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < block; i += THREADS)
        to[at + i] = x[i] * scale;
}

} // namespace

int cu_launch_rmsnorm(uint32_t n, uint32_t width, const float *x, const float *weight, float eps,
                      float *out, void *stream)
{
    rmsnorm_kernel<<<n, THREADS, 0, (cudaStream_t)stream>>>(width, x, weight, eps, out);
    return (int)cudaGetLastError();
}

int cu_launch_turn(float *x, uint32_t n, uint32_t n_heads, uint32_t head_dim, uint32_t half,
                   uint32_t window, const float *cosine, const float *sine, void *stream)
{
    turn_kernel<<<n, THREADS, 0, (cudaStream_t)stream>>>(x, n_heads, head_dim, half, window, cosine,
                                                         sine);
    return (int)cudaGetLastError();
}

int cu_launch_window_attention(const cu_attention *a, void *stream)
{
    dim3   grid((a->window + QUERIES - 1) / QUERIES, a->n_heads, a->n_windows);
    size_t bytes = QUERIES * ((size_t)a->window + a->head_dim) * sizeof(float);
    int e = (int)cudaFuncSetAttribute(attention_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      (int)bytes);

    if (e == cudaSuccess) {
        attention_kernel<<<grid, THREADS, bytes, (cudaStream_t)stream>>>(*a);
        e = (int)cudaGetLastError();
    }
    return e;
}

int cu_launch_gate(uint64_t n, const float *up, float *gate, void *stream)
{
    uint64_t blocks = (n + THREADS - 1) / THREADS;

    gate_kernel<<<(uint32_t)(blocks < 8192 ? blocks : 8192), THREADS, 0, (cudaStream_t)stream>>>(
        n, up, gate);
    return (int)cudaGetLastError();
}

int cu_launch_rotate(uint32_t n, uint32_t width, const float *signs, uint32_t block,
                     const float *from, float *to, void *stream)
{
    rotate_kernel<<<dim3(width / block, n), THREADS, block * sizeof(float), (cudaStream_t)stream>>>(
        width, signs, block, from, to);
    return (int)cudaGetLastError();
}
