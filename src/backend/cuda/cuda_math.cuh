/* cuda_math.cuh: arithmetic that several kernels share: the last rounding of a coded product, the
 * blockwise Hadamard transform, int8 rounding, products of bits.
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
    static_assert(CU_THREADS == 480, "those that compute");
    asm volatile("bar.sync 1, 480;" ::: "memory");
}

static __device__ __noinline__ float block_max(float x, float *slots)
{
    for (int d = 16; d > 0; d >>= 1)
        x = fmaxf(x, __shfl_xor_sync(~0u, x, d));
    block_sync();
    if ((threadIdx.x & 31) == 0)
        slots[threadIdx.x >> 5] = x;
    block_sync();
    x = slots[min(threadIdx.x & 31, CU_WARPS - 1)];
    for (int d = 16; d > 0; d >>= 1)
        x = fmaxf(x, __shfl_xor_sync(~0u, x, d));
    return x;
}

static __device__ __noinline__ double block_sum(double x, double *slots)
{
    for (int d = 16; d > 0; d >>= 1)
        x += __shfl_xor_sync(~0u, x, d);
    block_sync();
    if ((threadIdx.x & 31) == 0)
        slots[threadIdx.x >> 5] = x;
    block_sync();
    x = (threadIdx.x & 31) < CU_WARPS ? slots[threadIdx.x & 31] : 0.0;
    for (int d = 16; d > 0; d >>= 1)
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

#pragma unroll 1
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

/* Distances 2^log_d … of blocks of 2^log_block, and the scale, in place; x padded, n a multiple of
 * the block. Begins after a barrier, ends with one. */
static __device__ __noinline__ void hadamard_from(float *x, uint32_t n, uint32_t log_block,
                                                  uint32_t log_d)
{
    float scale = __fdiv_rn(1.0f, __fsqrt_rn((float)(1u << log_block)));

#pragma unroll 1
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

static __device__ __forceinline__ void hadamard(float *x, uint32_t n, uint32_t log_block)
{
    hadamard_from(x, n, log_block, 0);
}

/* ---- products of bits and bytes ----------------------------------------------------------------
 * One word of a tile's row holds 32 bits. Masked with 0x01010101 << s it is four bytes, 2^s or 0,
 * of inputs s, 8 + s, 16 + s and 24 + s: an operand of the int8 tensor-core product as it stands.
 * Eight masks use up the word; sum s counts 2^s-fold. So the inputs of a tile are stored as bytes
 * in this order: word 16·t + 2·s + h holds inputs 128·h + 32·t + s + {0, 8, 16, 24}, where lane t
 * of four finds its 64 bytes side by side. */

/* Input of byte i of a word of a tile. */
static __device__ __forceinline__ uint32_t input_of(uint32_t word, uint32_t i)
{
    return (word & 1) * 128 + (word >> 4 & 3) * 32 + (word >> 1 & 7) + 8 * i;
}

/* Where input j of a vector lies in that order, in bytes (or elements). */
static __device__ __forceinline__ uint32_t place_of(uint32_t j)
{
    uint32_t word = (j >> 5 & 3) * 16 + (j & 7) * 2 + (j >> 7 & 1);

    return (j & ~255u) + word * 4 + (j >> 3 & 3);
}

/* Rounded to the nearest even integer; |x·inverse| < 2^22. The low byte is the int8 code. */
static __device__ __forceinline__ uint32_t rounded(float x, float inverse)
{
    return __float_as_uint(__fadd_rn(__fmul_rn(x, inverse), 12582912.0f));
}

static __device__ __forceinline__ uint32_t pack_codes(const float x[4], float inverse)
{
    uint32_t low = __byte_perm(rounded(x[0], inverse), rounded(x[1], inverse), 0x0040);
    uint32_t high = __byte_perm(rounded(x[2], inverse), rounded(x[3], inverse), 0x0040);

    return __byte_perm(low, high, 0x5410);
}

/* ---- one row: bit planes -----------------------------------------------------------------------
 * The one-bit product ANDs 16 × 256 bits with 256 × 8 and counts: its 8 columns are the bit planes
 * of one row's codes, Σ_j b_j·q_j = Σ_p w_p·count_p, w = 1, 2, … 64, −128. On Hopper it passes 1.7
 * times as many stored bits a clock as the int8 product, which serves 8 rows at once instead. */

/* Eight bytes lie one above the other in each byte column of x; turned over: bit s of byte i of
 * x[p] was bit p of byte i of x[s]. */
static __device__ __forceinline__ void turn_bits(uint32_t x[8])
{
    const uint32_t masks[3] = { 0x0F0F0F0Fu, 0x33333333u, 0x55555555u };

#pragma unroll
    for (int level = 0; level < 3; level++) {
        const int d = 4 >> level;

#pragma unroll
        for (int i = 0; i < 8; i++) {
            if (i & d)
                continue;
            uint32_t other = (x[i] >> d ^ x[i + d]) & masks[level];

            x[i + d] ^= other;
            x[i] ^= other << d;
        }
    }
}

/* Where word w of a vector's codes lies in shared memory. */
static __device__ __forceinline__ uint32_t code_at(uint32_t w)
{
    return w + (w >> 4 << 2);
}

/* Bit planes of the 16 words of lane t of a tile, from its codes. Bit 8·i + s of a plane is input
 * s + 8·i. Planes stand as u32 [n_ktiles][CU_PLANE_WORDS]: in it [2 halves][8 planes][4 lanes]:
 * lane l of a warp reads words l and 32 + l. */
static __device__ __forceinline__ void make_planes(const uint32_t *codes, uint32_t tile, uint32_t t,
                                                   uint32_t *planes)
{
    const uint4 *from = (const uint4 *)(codes + tile * CU_CODE_WORDS + 20 * t);
    uint32_t    *to = planes + tile * CU_PLANE_WORDS + t, x[2][8];

#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint4 v = from[i];

        x[0][2 * i] = v.x, x[1][2 * i] = v.y, x[0][2 * i + 1] = v.z, x[1][2 * i + 1] = v.w;
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        turn_bits(x[h]);
#pragma unroll
        for (int p = 0; p < 8; p++)
            to[32 * h + 4 * p] = x[h][p];
    }
}

static __device__ __forceinline__ void mma_b1(int c[4], uint4 a, uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc "
                 "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
}

/* Sums over the planes: afterwards lanes 4·g hold Σ_j b_j·q_j of rows g and 8 + g; c is zero. */
static __device__ __forceinline__ void take_planes(int c[4], int *low, int *high)
{
    int t = threadIdx.x & 3, w0 = 1 << 2 * t, w1 = t == 3 ? -128 : 2 << 2 * t;

    *low = c[0] * w0 + c[1] * w1;
    *high = c[2] * w0 + c[3] * w1;
    *low += __shfl_xor_sync(~0u, *low, 1);
    *high += __shfl_xor_sync(~0u, *high, 1);
    *low += __shfl_xor_sync(~0u, *low, 2);
    *high += __shfl_xor_sync(~0u, *high, 2);
    c[0] = c[1] = c[2] = c[3] = 0;
}

/* ---- up to 8 rows: bytes ----------------------------------------------------------------------
 */

static __device__ __forceinline__ void mma_i8(int c[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                              uint32_t a3, uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 "
                 "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* The 64 bytes of inputs that a lane of group g < n (its row of the batch) wants; zeros elsewhere
 * must be in x from the start. */
static __device__ __forceinline__ void load_codes(uint4 x[4], uint32_t shared_address, bool mine)
{
#pragma unroll
    for (int i = 0; i < 4; i++)
        asm volatile("{ .reg .pred p; setp.ne.u32 p, %5, 0; "
                     "@p ld.shared.v4.u32 {%0,%1,%2,%3}, [%4]; }"
                     : "+r"(x[i].x), "+r"(x[i].y), "+r"(x[i].z), "+r"(x[i].w)
                     : "r"(shared_address + 16 * i), "r"((uint32_t)mine));
}

/* Sums of one tile: c[s] += (bits & mask s)·x for the eight masks. */
static __device__ __forceinline__ void multiply_tile(int c[8][4], uint4 bits, const uint4 x[4])
{
#pragma unroll
    for (int s = 0; s < 8; s++) {
        const uint32_t m = 0x01010101u << s;
        const uint4    v = x[s >> 1];

        mma_i8(c[s], bits.x & m, bits.y & m, bits.z & m, bits.w & m, s & 1 ? v.z : v.x,
               s & 1 ? v.w : v.y);
    }
}

/* Register r of the sums: Σ_j b_j·q_j; then the sums are zero again. */
static __device__ __forceinline__ int take_sum(int c[8][4], int r)
{
    int sum = 0;

#pragma unroll
    for (int s = 0; s < 8; s++) {
        sum += c[s][r] >> s;
        c[s][r] = 0;
    }
    return sum;
}

/* ---- words that say by themselves whether they are there ---------------------------------------
 * A block that makes a vector writes its words; those that read it look until a word is no longer
 * EMPTY. Each word is valid by itself, so nothing orders them. No result of arithmetic is EMPTY: a
 * NaN that the hardware makes is 0x7FFFFFFF. */
#define CU_EMPTY 0xFFFFFFFFu

static __device__ __forceinline__ void publish(uint32_t *to, uint32_t x)
{
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(to), "r"(x) : "memory");
}

static __device__ __forceinline__ uint32_t look_at_word(const uint32_t *from)
{
    uint32_t x;

    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(x) : "l"(from) : "memory");
    return x;
}

static __device__ __forceinline__ uint32_t wait_for(const uint32_t *from)
{
    uint32_t x;

    do
        x = look_at_word(from);
    while (x == CU_EMPTY);
    return x;
}

static __device__ __forceinline__ uint4 look_at(const uint4 *from)
{
    uint4 x;

    asm volatile("ld.relaxed.gpu.global.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                 : "l"(from)
                 : "memory");
    return x;
}

static __device__ __forceinline__ bool is_there(uint4 x)
{
    return max(max(x.x, x.y), max(x.z, x.w)) != CU_EMPTY;
}

/* ---- who owns which tile (cuda_shared.h) ------------------------------------------------------
 */

/* Of a block's row tiles the last comes first: the next block needs its sums. Its tiles are dealt
 * to the warps in turn; of the other row tiles each warp has a contiguous part. */
typedef struct cu_share {
    uint32_t begin, n, n_k; /* units of a block; of a row tile */
} cu_share;

static __device__ __forceinline__ cu_share share_of(uint32_t n_units, uint32_t n_k, uint32_t cta,
                                                    uint32_t n_ctas)
{
    const uint32_t n_tiles = n_units / n_k; /* n_units · n_ctas < 2^32: the host has checked */
    cu_share       s;

    s.begin = n_tiles * cta / n_ctas * n_k;
    s.n = n_tiles * (cta + 1) / n_ctas * n_k - s.begin;
    s.n_k = n_k;
    return s;
}

/* Of n things dealt in turn, those that warps below `warp` get. */
static __device__ __forceinline__ uint32_t dealt_before(uint32_t n, uint32_t warp)
{
    return n / CU_WARPS * warp + min(n % CU_WARPS, warp);
}

static __device__ __forceinline__ uint32_t dealt_to(uint32_t n, uint32_t warp)
{
    return n / CU_WARPS + (warp < n % CU_WARPS);
}

/* A warp's units of the last row tile. */
static __device__ __forceinline__ uint32_t last_of_warp(cu_share s, uint32_t warp)
{
    return s.n == 0 ? 0 : dealt_to(s.n_k, warp);
}

/* The first of its others. */
static __device__ __forceinline__ uint32_t first_of_warp(cu_share s, uint32_t warp)
{
    return dealt_before(s.n, warp) - (s.n == 0 ? 0 : dealt_before(s.n_k, warp));
}

/* Index of a unit's tile in the whole tape memory. */
static __device__ __forceinline__ uint64_t tile_of_unit(const cu_product *p, cu_tape tape,
                                                        uint32_t unit)
{
    uint32_t row_tile = unit / p->n_ktiles;
    uint32_t cta = ((row_tile + 1) * tape.n_ctas - 1) / (p->n_units / p->n_ktiles);
    cu_share s = share_of(p->n_units, p->n_ktiles, cta, tape.n_ctas);
    uint32_t local = unit - s.begin, warp = CU_WARPS - 1, at;

    if (local >= s.n - s.n_k) {
        at = local - (s.n - s.n_k);
    } else {
        while (first_of_warp(s, warp) > local)
            warp--;
        at = CU_WARPS * (last_of_warp(s, warp) + local - first_of_warp(s, warp)) + warp;
    }
    return (uint64_t)tape.base[cta] + p->offset[cta] + at;
}

static __device__ __forceinline__ bool is_number(float x)
{
    return (__float_as_uint(x) & 0x7F800000u) != 0x7F800000u;
}

#endif
