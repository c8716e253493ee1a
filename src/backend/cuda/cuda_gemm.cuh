/* cuda_gemm.cuh: what the forms of cuda_gemm.cu share: arguments, tiles, results. */
#ifndef UPG_BACKEND_CUDA_CUDA_GEMM_CUH
#define UPG_BACKEND_CUDA_CUDA_GEMM_CUH

#include "backend/cuda/cuda_math.cuh"
#include "backend/cuda/cuda_prompt.h"

/* A block computes TILE_M batch rows × some outputs, a line of inputs at a time. */
enum { TILE_M = 128, TILE_M_BYTES = TILE_M * CU_LINE_BYTES };

typedef struct gemm_args {
    const uint8_t *x, *w; /* tiles */
    const float2  *factors;
    const float   *scales;
    float         *out;
    uint32_t       x_groups, w_groups, n_steps;
    uint32_t       n, n_out, out_stride; /* n_out: columns of out */
    uint32_t       m_tiles, n_tiles;
    uint32_t       result; /* cu_result */
} gemm_args;

static __device__ __forceinline__ uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* x as the nearest fp32 and what that leaves. */
static __device__ __forceinline__ float2 two_floats(int x)
{
    const float offset = 12582912.0f; /* 3·2^22 = 0x4B400000, the last bit of which counts 1 */
    const float high = (__int_as_float(0x4B400000 + (x >> 12)) - offset) * 4096.0f;
    const float low = __int_as_float(0x4B400000 + (x & 4095)) - offset;
    const float nearest = __fadd_rn(high, low);

    return make_float2(nearest, __fsub_rn(low, __fsub_rn(nearest, high)));
}

static __device__ __forceinline__ float2 two_floats(float x)
{
    return make_float2(x, 0.0f);
}

/* sum · factor · s_x, the product good to 2^-46 of it and then rounded to fp32: the bits of
 * upg_coded_output but for one in millions. Conversions from fp64 would take longer than a third of
 * a tile's products. */
template <typename T>
static __device__ __forceinline__ float output_of(T sum, float2 factor, float s_x)
{
    const float2 x = two_floats(sum);
    const float  p = __fmul_rn(x.x, factor.x);
    const float  e =
        __fmaf_rn(x.y, factor.x, __fmaf_rn(x.x, factor.y, __fmaf_rn(x.x, factor.x, -p)));
    const float y = __fmul_rn(p, s_x);

    return __fadd_rn(y, __fmaf_rn(e, s_x, __fmaf_rn(p, s_x, -y)));
}

static __device__ __forceinline__ float silu(float x)
{
    return __fdividef(x, 1.0f + __expf(-x));
}

/* Two neighbouring outputs of a row; the first is even and there. */
static __device__ __forceinline__ void put_pair(const gemm_args *a, float *to, uint32_t column,
                                                float2 y)
{
    if (column + 1 < a->n_out)
        *(float2 *)(to + column) = y;
    else
        to[column] = y.x;
}

static __device__ __forceinline__ float2 get_pair(const gemm_args *a, const float *from,
                                                  uint32_t column)
{
    if (column + 1 < a->n_out)
        return *(const float2 *)(from + column);
    return make_float2(from[column], 0.0f);
}

/* The sums that a thread has of rows m and m + 8: sums[j][0, 1] and sums[j][2, 3] are those of
 * decoded rows n0 + 8·j + 2·(lane % 4) and the next. */
template <int COLUMNS, typename T>
static __device__ __forceinline__ void write_sums(const gemm_args *a, const T (&sums)[COLUMNS][4],
                                                  uint32_t m, uint32_t n0)
{
    enum { CHUNK = COLUMNS % 4 == 0 ? 4 : 2 }; /* loads of the old values are in flight together */
    const uint32_t first = 2 * (threadIdx.x & 3);
    const bool     there[2] = { m < a->n, m + 8 < a->n };
    float          s_x[2];
    float         *to[2];

#pragma unroll
    for (int h = 0; h < 2; h++) {
        s_x[h] = there[h] ? __ldg(a->scales + m + 8 * h) : 0.0f;
        to[h] = a->out + (uint64_t)(m + 8 * h) * a->out_stride;
    }
    if (a->result == CU_SWIGLU) {
#pragma unroll
        for (int j = 0; j < COLUMNS; j += 2) {
            const uint32_t column = n0 / 2 + 4 * j + first;
            const float4   f = __ldg((const float4 *)(a->factors + n0 + 8 * j + first));
            const float4   g = __ldg((const float4 *)(a->factors + n0 + 8 * j + 8 + first));

#pragma unroll
            for (int h = 0; h < 2; h++) {
                float2 y;

                y.x = silu(output_of(sums[j][2 * h], make_float2(f.x, f.y), s_x[h])) *
                      output_of(sums[j + 1][2 * h], make_float2(g.x, g.y), s_x[h]);
                y.y = silu(output_of(sums[j][2 * h + 1], make_float2(f.z, f.w), s_x[h])) *
                      output_of(sums[j + 1][2 * h + 1], make_float2(g.z, g.w), s_x[h]);
                if (there[h] && column < a->n_out)
                    put_pair(a, to[h], column, y);
            }
        }
        return;
    }
#pragma unroll
    for (int j0 = 0; j0 < COLUMNS; j0 += CHUNK) {
        float2 old[CHUNK][2];

#pragma unroll
        for (int j = 0; j < CHUNK; j++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const uint32_t column = n0 + 8 * (j0 + j) + first;

                old[j][h] = make_float2(0.0f, 0.0f);
                if (a->result == CU_ADD && there[h] && column < a->n_out)
                    old[j][h] = get_pair(a, to[h], column);
            }
#pragma unroll
        for (int j = 0; j < CHUNK; j++) {
            const uint32_t column = n0 + 8 * (j0 + j) + first;
            const float4   f = __ldg((const float4 *)(a->factors + column));

#pragma unroll
            for (int h = 0; h < 2; h++) {
                float2 y;

                y.x = old[j][h].x + output_of(sums[j0 + j][2 * h], make_float2(f.x, f.y), s_x[h]);
                y.y =
                    old[j][h].y + output_of(sums[j0 + j][2 * h + 1], make_float2(f.z, f.w), s_x[h]);
                if (there[h] && column < a->n_out)
                    put_pair(a, to[h], column, y);
            }
        }
    }
}

#endif
