/* cuda_prompt.cu: norm, rotation and rounding of many rows: one block for each, a warp for each
 * rotation block. Lane l of a warp holds inputs 4·l … 4·l + 3 of every 128, so butterflies of
 * distance 1 and 2 and of 128 and more stay in its registers, the others are exchanges. */
#include "backend/cuda/cuda_tiles.cuh"

namespace
{

enum { WARPS = 8 };

template <typename T, typename F> __device__ __forceinline__ T over_block(T x, T *slots, F join)
{
    for (int d = 16; d > 0; d >>= 1)
        x = join(x, __shfl_xor_sync(~0u, x, d));
    if ((threadIdx.x & 31) == 0)
        slots[threadIdx.x >> 5] = x;
    __syncthreads();
    x = slots[0];
#pragma unroll
    for (int w = 1; w < WARPS; w++)
        x = join(x, slots[w]);
    return x;
}

/* Distance d < 4 within a lane's four. */
__device__ __forceinline__ void butterfly(float &a, float &b)
{
    float sum = a + b;

    b = a - b;
    a = sum;
}

template <int QUADS>
__device__ __forceinline__ void hadamard_warp(float (&x)[QUADS][4], float scale)
{
#pragma unroll
    for (int q = 0; q < QUADS; q++) {
        butterfly(x[q][0], x[q][1]);
        butterfly(x[q][2], x[q][3]);
        butterfly(x[q][0], x[q][2]);
        butterfly(x[q][1], x[q][3]);
    }
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
        bool second = threadIdx.x & d;

#pragma unroll
        for (int q = 0; q < QUADS; q++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float other = __shfl_xor_sync(~0u, x[q][i], d);

                x[q][i] = second ? other - x[q][i] : x[q][i] + other;
            }
    }
#pragma unroll
    for (int d = 1; d < QUADS; d *= 2)
#pragma unroll
        for (int q = 0; q < QUADS; q++)
            if ((q & d) == 0)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    butterfly(x[q][i], x[q + d][i]);
#pragma unroll
    for (int q = 0; q < QUADS; q++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            x[q][i] *= scale;
}

__device__ __forceinline__ float4 times(float4 a, float4 b)
{
    return make_float4(a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w);
}

/* The norm's factor of a row. */
__device__ __forceinline__ float norm_of(const float4 *from, uint32_t width, float eps,
                                         double *slots, uint32_t *bad)
{
    double squares = 0;

    for (uint32_t j = threadIdx.x; j < width / 4; j += 32 * WARPS) {
        float4 v = from[j];

        squares += (double)v.x * v.x + (double)v.y * v.y + ((double)v.z * v.z + (double)v.w * v.w);
    }
    squares = over_block(squares, slots, [](double a, double b) { return a + b; });
    if (!is_number((float)squares))
        atomicOr(bad, 1u);
    return (float)(1.0 / sqrt(squares / width + (double)eps));
}

template <int LOG, bool NORM>
__global__ void __launch_bounds__(32 * WARPS)
    rows_kernel(const float *x, uint32_t x_stride, const float *norm, float eps, cu_prepared to,
                uint32_t *bad)
{
    enum { QUADS = 1 << (LOG - 7) };
    extern __shared__ float4 rotated[];
    __shared__ double        sums[WARPS];
    __shared__ float         largest[WARPS];
    const float4            *from = (const float4 *)(x + (uint64_t)blockIdx.x * x_stride);
    const float4            *signs = (const float4 *)to.signs, *weights = (const float4 *)norm;
    const float             *y = (const float *)rotated;
    const uint32_t           lane = threadIdx.x & 31, warp = threadIdx.x >> 5, row = blockIdx.x;
    const float              scale = __fdiv_rn(1.0f, __fsqrt_rn((float)(1 << LOG)));
    const float              factor = NORM ? norm_of(from, to.width, eps, sums, bad) : 1.0f;
    float                    max = 0.0f, inverse, s_x;
    bool                     good = true;

    for (uint32_t b = warp; b < to.width >> LOG; b += WARPS) {
        float v[QUADS][4];

#pragma unroll
        for (int q = 0; q < QUADS; q++) {
            const uint32_t at = (b << LOG >> 2) + 32 * q + lane;
            float4         one = from[at];

            if (NORM) {
                one = make_float4(one.x * factor, one.y * factor, one.z * factor, one.w * factor);
                one = times(one, __ldg(weights + at));
            }
            one = times(one, __ldg(signs + at));
            v[q][0] = one.x, v[q][1] = one.y, v[q][2] = one.z, v[q][3] = one.w;
        }
        hadamard_warp(v, scale);
#pragma unroll
        for (int q = 0; q < QUADS; q++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                good = good && is_number(v[q][i]);
                max = fmaxf(max, fabsf(v[q][i]));
            }
            rotated[(b << LOG >> 2) + 32 * q + lane] =
                make_float4(v[q][0], v[q][1], v[q][2], v[q][3]);
        }
    }
    if (!good)
        atomicOr(bad, 1u);
    max = over_block(max, largest, [](float a, float b) { return fmaxf(a, b); });
    s_x = int8_scale(max, &inverse);
    for (uint32_t w = threadIdx.x; w < words_of_tiles(&to); w += 32 * WARPS)
        put_tile_word(&to, row, w, inverse, [&](uint32_t j) { return y[j]; });
    if (threadIdx.x == 0)
        to.scales[row] = s_x;
}

typedef void (*rows_function)(const float *, uint32_t, const float *, float, cu_prepared,
                              uint32_t *);

template <bool NORM> rows_function rows_of(uint32_t log_block)
{
    return log_block == 7    ? rows_kernel<7, NORM>
           : log_block == 8  ? rows_kernel<8, NORM>
           : log_block == 9  ? rows_kernel<9, NORM>
           : log_block == 10 ? rows_kernel<10, NORM>
                             : (rows_function)NULL;
}

} // namespace

extern "C" int cu_launch_prompt_rows(const float *x, uint32_t x_stride, const float *norm,
                                     float eps, const cu_prepared *to, uint32_t n_rows,
                                     uint32_t *bad, bool *done, cu_stream stream)
{
    rows_function kernel = norm ? rows_of<true>(to->log_block) : rows_of<false>(to->log_block);
    size_t        bytes = (size_t)to->width * sizeof(float);
    cudaError_t   e;

    *done = to->rotated && kernel != NULL && bytes <= 96 << 10 && !(to->forms & CU_CODES);
    if (!*done)
        return cudaSuccess;
    e = cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             (int)bytes);
    if (e != cudaSuccess)
        return e;
    kernel<<<n_rows, 32 * WARPS, bytes, stream>>>(x, x_stride, norm, eps, *to, bad);
    return cudaGetLastError();
}
