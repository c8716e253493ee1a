/* cuda_math.cuh: arithmetic that several kernels share: the last rounding of a coded product, the
 * blockwise Hadamard transform, int8 rounding, bit planes.
 *
 * Butterflies run by distance 1, 2, 4, … and scale once, as codec/rotation.c does, so that x' has
 * the same bits as on the host. Vectors in shared memory are padded by one word in 16: passes of
 * four distances at once then read without bank conflicts. */
#ifndef UPG_BACKEND_CUDA_CUDA_MATH_CUH
#define UPG_BACKEND_CUDA_CUDA_MATH_CUH

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "backend/cuda/cuda_shared.h"

static __device__ __forceinline__ uint32_t pad(uint32_t i)
{
    return i + (i >> 4);
}

static __host__ __device__ __forceinline__ uint32_t padded(uint32_t n)
{
    return n + (n >> 4) + 1;
}

static __device__ __forceinline__ float int8_scale(float max, float *inverse)
{
    if (!(max >= 0x1p-100f)) {
        *inverse = 0.0f;
        return 0.0f;
    }
    *inverse = __fdiv_rn(127.0f, max);
    return __fdiv_rn(max, 127.0f);
}

static __device__ __forceinline__ double coded_factor(uint16_t scale, float gain, float s_x)
{
    return __dmul_rn(__dmul_rn((double)__half2float(__ushort_as_half(scale)), (double)gain),
                     (double)s_x);
}

static __device__ __forceinline__ uint32_t bits_before(uint32_t k0, uint32_t k1, uint32_t r)
{
    return (r + 1) / 2 * k0 + r / 2 * k1;
}

/* Index of row r's newest bit among the band's binary rows. */
static __device__ __forceinline__ uint32_t newest_bit(const cu_band *b, uint32_t r)
{
    return b->length - b->k0 + bits_before(b->k0, b->k1, r + 1) - 1;
}

/* ---- reductions over all CU_THREADS threads; `slots` holds 32 words ---------------------------
 */

static __device__ __forceinline__ void block_sync()
{
    asm volatile("bar.sync 1, 512;" ::: "memory"); /* the threads that compute, not the loader */
}

static __device__ __forceinline__ float block_max(float x, float *slots)
{
    for (int d = 16; d > 0; d >>= 1)
        x = fmaxf(x, __shfl_xor_sync(~0u, x, d));
    block_sync();
    if ((threadIdx.x & 31) == 0)
        slots[threadIdx.x >> 5] = x;
    block_sync();
    x = slots[threadIdx.x & (CU_WARPS - 1)];
    for (int d = CU_WARPS / 2; d > 0; d >>= 1)
        x = fmaxf(x, __shfl_xor_sync(~0u, x, d));
    return x;
}

static __device__ __forceinline__ double block_sum(double x, double *slots)
{
    for (int d = 16; d > 0; d >>= 1)
        x += __shfl_xor_sync(~0u, x, d);
    block_sync();
    if ((threadIdx.x & 31) == 0)
        slots[threadIdx.x >> 5] = x;
    block_sync();
    x = slots[threadIdx.x & (CU_WARPS - 1)];
    for (int d = CU_WARPS / 2; d > 0; d >>= 1)
        x += __shfl_xor_sync(~0u, x, d);
    return x;
}

/* ---- Hadamard ----------------------------------------------------------------------------------
 */

/* Distances d, 2d, … 2^(BITS−1)·d of a padded vector of n elements in shared memory. */
template <int BITS>
static __device__ __forceinline__ void hadamard_pass(float *x, uint32_t n, uint32_t log_d,
                                                     float scale)
{
    uint32_t d = 1u << log_d;

    for (uint32_t g = threadIdx.x; g < n >> BITS; g += CU_THREADS) {
        uint32_t base = ((g >> log_d) << (log_d + BITS)) + (g & (d - 1));
        float    v[1 << BITS];

#pragma unroll
        for (int i = 0; i < 1 << BITS; i++)
            v[i] = x[pad(base + ((uint32_t)i << log_d))];
#pragma unroll
        for (int half = 1; half < 1 << BITS; half *= 2)
#pragma unroll
            for (int i = 0; i < 1 << BITS; i++)
                if ((i & half) == 0) {
                    float a = v[i], b = v[i + half];

                    v[i] = a + b;
                    v[i + half] = a - b;
                }
#pragma unroll
        for (int i = 0; i < 1 << BITS; i++)
            x[pad(base + ((uint32_t)i << log_d))] = v[i] * scale;
    }
    block_sync();
}

/* In place; x padded, n a multiple of the block. Begins after a barrier, ends with one. */
static __device__ __forceinline__ void hadamard(float *x, uint32_t n, uint32_t log_block)
{
    float    scale = __fdiv_rn(1.0f, __fsqrt_rn((float)(1u << log_block)));
    uint32_t log_d = 0;

    for (; log_block - log_d >= 4; log_d += 4)
        hadamard_pass<4>(x, n, log_d, log_d + 4 == log_block ? scale : 1.0f);
    if (log_block - log_d == 3)
        hadamard_pass<3>(x, n, log_d, scale);
    else if (log_block - log_d == 2)
        hadamard_pass<2>(x, n, log_d, scale);
    else if (log_block - log_d == 1)
        hadamard_pass<1>(x, n, log_d, scale);
    else if (log_block == 0)
        block_sync();
}

/* ---- bit planes -------------------------------------------------------------------------------
 */

/* Where word `word` (inputs 32·word …) of plane p of a tile lies: as the instruction's B operand
 * wants it, so that lane l reads words l and 32 + l. */
static __device__ __forceinline__ uint32_t plane_word(uint32_t group, uint32_t p)
{
    uint32_t tile = group >> 3, word = group & 7;

    return tile * CU_PLANE_WORDS + (word >> 2) * 32 + p * 4 + (word & 3);
}

/* One warp, one group of 32 inputs: lane l holds input l. */
static __device__ __forceinline__ void store_planes(uint32_t *planes, uint32_t group, int q)
{
    uint32_t lane = threadIdx.x & 31, mine = 0;

#pragma unroll
    for (int p = 0; p < 8; p++) {
        uint32_t word = __ballot_sync(~0u, q >> p & 1);

        if (lane == (uint32_t)p)
            mine = word;
    }
    if (lane < 8)
        planes[plane_word(group, lane)] = mine;
}

static __device__ __forceinline__ void mma_b1(int c[4], uint4 a, uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc "
                 "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
}

/* Sums over the planes: afterwards lanes with l % 4 = 0 hold Σ_j b_j·q_j of rows l/4 and 8 + l/4.
 */
static __device__ __forceinline__ void weigh_planes(const int c[4], int *low, int *high)
{
    int t = threadIdx.x & 3, w0 = 1 << 2 * t, w1 = t == 3 ? -128 : 2 << 2 * t;

    *low = c[0] * w0 + c[1] * w1;
    *high = c[2] * w0 + c[3] * w1;
    *low += __shfl_xor_sync(~0u, *low, 1);
    *high += __shfl_xor_sync(~0u, *high, 1);
    *low += __shfl_xor_sync(~0u, *low, 2);
    *high += __shfl_xor_sync(~0u, *high, 2);
}

/* ---- who owns which tile (cuda_shared.h) ------------------------------------------------------
 */

typedef struct cu_share {
    uint32_t begin, n;     /* units of a block */
    uint32_t rounds, rest; /* warps below `rest` take part in the last round */
} cu_share;

static __device__ __forceinline__ cu_share share_of(uint32_t n_units, uint32_t cta, uint32_t n_ctas)
{
    cu_share s;

    s.begin = (uint32_t)((uint64_t)n_units * cta / n_ctas);
    s.n = (uint32_t)((uint64_t)n_units * (cta + 1) / n_ctas) - s.begin;
    s.rounds = (s.n + CU_WARPS - 1) / CU_WARPS;
    s.rest = s.n - CU_WARPS * (s.rounds - (s.n > 0));
    return s;
}

static __device__ __forceinline__ uint32_t first_of_warp(cu_share s, uint32_t warp)
{
    return s.begin + (warp <= s.rest ? warp * s.rounds
                                     : s.rest * s.rounds + (warp - s.rest) * (s.rounds - 1));
}

static __device__ __forceinline__ uint32_t rounds_of_warp(cu_share s, uint32_t warp)
{
    return s.n == 0 ? 0 : warp < s.rest ? s.rounds : s.rounds - 1;
}

/* Index of a unit's tile in the whole tape memory. */
static __device__ __forceinline__ uint64_t tile_of_unit(const cu_product *p, cu_tape tape,
                                                        uint32_t unit)
{
    uint32_t cta = (uint32_t)((((uint64_t)unit + 1) * tape.n_ctas - 1) / p->n_units);
    cu_share s = share_of(p->n_units, cta, tape.n_ctas);
    uint32_t local = unit - s.begin, warp, round;

    if (local < s.rest * s.rounds) {
        warp = local / s.rounds;
        round = local % s.rounds;
    } else {
        local -= s.rest * s.rounds;
        warp = s.rest + local / (s.rounds - 1);
        round = local % (s.rounds - 1);
    }
    return (uint64_t)tape.base[cta] + p->offset[cta] + CU_WARPS * round + warp;
}

static __device__ __forceinline__ bool is_number(float x)
{
    return (__float_as_uint(x) & 0x7F800000u) != 0x7F800000u;
}

#endif
