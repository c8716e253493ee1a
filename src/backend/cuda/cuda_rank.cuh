/* cuda_rank.cuh: searches among the weights of a vocabulary by rank, by one block, for
 * cuda_draw.cuh, where the whole is explained. */
#ifndef UPG_BACKEND_CUDA_CUDA_RANK_CUH
#define UPG_BACKEND_CUDA_CUDA_RANK_CUH

#include "backend/cuda/cuda_math.cuh"

namespace
{

enum {
    DRAW_SCAN = 3 * CU_DRAW_BINS, /* words of shared memory in front of what scans use */
    DRAW_FOUND = DRAW_SCAN + 64,  /* of what a search found */
    DRAW_WORDS = DRAW_FOUND + 16,
    DRAW_AHEAD = 8 /* vectors of 4 weights that a thread has on their way */
};

static_assert((int)DRAW_WORDS <= (int)CU_STAGED_WORDS, "shared memory that the token kernel has");

/* ---- over a block -------------------------------------------------------------------------------
 */

/* The best of all threads, in all of them: the largest value, of equal ones the lowest token. */
__device__ __forceinline__ void draw_best(float *value, uint32_t *token, uint32_t *memory)
{
    float    *values = (float *)(memory + DRAW_SCAN);
    uint32_t *tokens = memory + DRAW_SCAN + 32;

#pragma unroll 1
    for (int d = 16; d > 0; d >>= 1) {
        float    v = __shfl_xor_sync(~0u, *value, d);
        uint32_t t = __shfl_xor_sync(~0u, *token, d);

        if (v > *value || (v == *value && t < *token))
            *value = v, *token = t;
    }
    block_sync();
    if ((threadIdx.x & 31) == 0)
        values[threadIdx.x >> 5] = *value, tokens[threadIdx.x >> 5] = *token;
    block_sync();
#pragma unroll 1
    for (int w = 0; w < CU_WARPS; w++)
        if (values[w] > *value || (values[w] == *value && tokens[w] < *token))
            *value = values[w], *token = tokens[w];
}

/* Sums over the threads in front; each thread's end is the next one's begin, bit for bit. */
__device__ __forceinline__ void draw_scan(uint32_t *count, double *mass, uint32_t *memory)
{
    const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    double        *masses = (double *)(memory + DRAW_SCAN), before = 0;
    uint32_t      *counts = memory + DRAW_SCAN + 32, n = 0;

#pragma unroll 1
    for (int d = 1; d < 32; d *= 2) {
        uint32_t c = __shfl_up_sync(~0u, *count, d);
        double   m = __shfl_up_sync(~0u, *mass, d);

        if ((int)lane >= d)
            *count += c, *mass += m;
    }
    block_sync();
    if (lane == 31)
        counts[warp] = *count, masses[warp] = *mass;
    block_sync();
#pragma unroll 1
    for (uint32_t w = 0; w < warp; w++)
        n += counts[w], before += masses[w];
    *count = __shfl_up_sync(~0u, *count, 1);
    *mass = __shfl_up_sync(~0u, *mass, 1);
    *count = n + (lane > 0 ? *count : 0);
    *mass = before + (lane > 0 ? *mass : 0.0);
}

/* ---- the histogram of a digit -------------------------------------------------------------------
 * Three words a bin: how many weights, and their mantissas in two halves, whose sums fit 32 bits.
 */

__device__ __forceinline__ uint32_t mantissa_of(uint32_t bits)
{
    return (bits & 0x7FFFFFu) | (bits >= 1u << 23 ? 1u << 23 : 0u);
}

/* What a mantissa of 1 is worth in weights of this bin of the first digit. */
__device__ __forceinline__ double unit_of(uint32_t first_digit)
{
    int exponent = max((int)(first_digit >> 4), 1) - 150;

    return __hiloint2double((1023 + exponent) << 20, 0);
}

/* By whole warps. Where all that count fall into one bin, as with a high temperature, one lane adds
 * for all. */
__device__ __forceinline__ void count_weight(uint32_t *bins, bool counts, uint32_t bin,
                                             uint32_t mantissa)
{
    const uint32_t who = __ballot_sync(~0u, counts);
    const int      leader = __ffs((int)who) - 1;
    const uint32_t first = __shfl_sync(~0u, bin, max(leader, 0));
    uint32_t       n = 1, low = counts ? mantissa & 4095 : 0, high = counts ? mantissa >> 12 : 0;

    if (who == 0)
        return;
    if (__all_sync(~0u, !counts || bin == first)) {
        n = (uint32_t)__popc(who);
        low = __reduce_add_sync(~0u, low);
        high = __reduce_add_sync(~0u, high);
        counts = (int)(threadIdx.x & 31) == leader;
    }
    if (!counts)
        return;
    atomicAdd(bins + bin, n);
    atomicAdd(bins + CU_DRAW_BINS + bin, low);
    atomicAdd(bins + 2 * CU_DRAW_BINS + bin, high);
}

__device__ __forceinline__ void clear_bins(uint32_t *bins)
{
    block_sync();
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < 3 * CU_DRAW_BINS; i += CU_THREADS)
        bins[i] = 0;
    block_sync();
}

/* As all blocks have counted it. */
__device__ __forceinline__ void first_digit(const cu_draw &d, uint32_t *bins)
{
    block_sync();
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < 3 * CU_DRAW_BINS; i += CU_THREADS)
        bins[i] = __ldcg(d.histogram + i);
    block_sync();
}

/* Vectors base, base + CU_THREADS, … of the weights, zeros past the last. */
__device__ __forceinline__ void load_weights(const cu_draw &d, uint32_t base, uint4 w[DRAW_AHEAD])
{
#pragma unroll
    for (int e = 0; e < DRAW_AHEAD; e++)
        w[e] = base + e * CU_THREADS < (d.n_tokens + 3) / 4
                   ? __ldcg((const uint4 *)d.weights + base + e * CU_THREADS)
                   : make_uint4(0, 0, 0, 0);
}

/* Of the second or third digit, of weights that begin with `prefix`. */
__device__ __forceinline__ void count_digit(const cu_draw &d, uint32_t prefix, uint32_t shift,
                                            uint32_t n_bins, uint32_t *bins)
{
    const uint32_t n = (d.n_tokens + 3) / 4, above = shift == 8 ? 19 : 8;

    clear_bins(bins);
#pragma unroll 1
    for (uint32_t base = 0; base < n; base += DRAW_AHEAD * CU_THREADS) {
        uint4 w[DRAW_AHEAD];

        load_weights(d, base + threadIdx.x, w);
#pragma unroll
        for (int e = 0; e < DRAW_AHEAD; e++) {
            const uint32_t bits[4] = { w[e].x, w[e].y, w[e].z, w[e].w };
            bool           any = false;

#pragma unroll
            for (int k = 0; k < 4; k++)
                any = any || (bits[k] != 0 && bits[k] >> above == prefix);
            if (!__any_sync(~0u, any))
                continue;
#pragma unroll 1
            for (int k = 0; k < 4; k++) {
                uint32_t b = k == 0 ? bits[0] : k == 1 ? bits[1] : k == 2 ? bits[2] : bits[3];

                count_weight(bins, b != 0 && b >> above == prefix, (b >> shift) & (n_bins - 1),
                             mantissa_of(b));
            }
        }
    }
    block_sync();
}

/* ---- searches by rank ---------------------------------------------------------------------------
 */

enum draw_goal {
    DRAW_COUNT, /* the rank that is the k-th */
    DRAW_MASS,  /* the first at which the sum reaches the goal */
    DRAW_PAST,  /* … passes it */
    DRAW_BITS   /* all weights down to these bits */
};

/* A rank: behind `count` heavier weights, `mass` in all, the ties-th of n_ties with these bits. */
struct draw_rank {
    uint32_t bits, count, ties, n_ties;
    double   mass;
};

/* The weight of a bin. */
__device__ __forceinline__ double mass_of(const uint32_t *bins, uint32_t bin, uint32_t first_digit)
{
    const double sum =
        (double)bins[2 * CU_DRAW_BINS + bin] * 4096 + (double)bins[CU_DRAW_BINS + bin];

    return sum * unit_of(first_digit);
}

__device__ __forceinline__ double mass_through(const draw_rank &r)
{
    return r.mass + (double)r.ties * (double)__uint_as_float(r.bits);
}

__device__ __forceinline__ bool reaches(draw_goal how, uint32_t k, double goal, uint32_t count,
                                        double mass)
{
    return how == DRAW_COUNT ? count >= k : how == DRAW_MASS ? mass >= goal : mass > goal;
}

/* The bin in which the goal is reached, from the heaviest on, or else the last that is not empty;
 * of DRAW_BITS bin k. Adds to the rank what lies in front of the bin; returns the bin. */
__device__ __forceinline__ uint32_t find_bin(draw_goal how, uint32_t k, double goal,
                                             uint32_t n_bins, int first, draw_rank *r,
                                             uint32_t *memory)
{
    const uint32_t each = (n_bins + CU_THREADS - 1) / CU_THREADS, begin = threadIdx.x * each;
    uint32_t      *found = memory + DRAW_FOUND, count = 0, n = 0, last = 0, at = ~0u;
    double         mass = 0, before = 0;

    block_sync();
    if (threadIdx.x == 0)
        found[0] = ~0u, found[1] = 0;
#pragma unroll 1
    for (int walk = 0; walk < 3; walk++) {
        double   m = before;
        uint32_t c = n;

#pragma unroll 1
        for (uint32_t i = begin; i < begin + each && i < n_bins; i++) {
            const uint32_t bin = n_bins - 1 - i, here = memory[bin];
            const double   more = mass_of(memory, bin, first < 0 ? bin : (uint32_t)first);

            if (walk == 0) {
                count += here, mass += more;
                last = here != 0 ? i + 1 : last;
                continue;
            }
            if (walk == 2 && i == at) {
                found[2] = c, found[3] = here;
                *(double *)(found + 4) = m;
            }
            if (walk == 1 && at == ~0u &&
                (how == DRAW_BITS
                     ? bin == k
                     : !reaches(how, k, goal, c, m) && reaches(how, k, goal, c + here, m + more)))
                at = i;
            c += here, m += more;
        }
        if (walk == 0) {
            draw_scan(&count, &mass, memory);
            n = r->count + count;
            before = r->mass + mass;
            if (last != 0)
                atomicMax(found + 1, last);
        } else if (walk == 1) {
            if (at != ~0u)
                atomicMin(found, at);
            block_sync();
            at = found[0] != ~0u ? found[0] : found[1] - 1;
        }
    }
    block_sync();
    r->count = found[2];
    r->n_ties = found[3];
    r->mass = *(const double *)(found + 4);
    return n_bins - 1 - at;
}

/* Ends with every thread knowing the rank. */
__device__ __noinline__ draw_rank find_rank(const cu_draw &d, draw_goal how, uint32_t k,
                                            double goal, uint32_t *memory)
{
    draw_rank r = { 0, 0, 0, 0, 0.0 };
    uint32_t  first = 0;

#pragma unroll 1
    for (int level = 0; level < 3; level++) {
        const uint32_t shift = level == 0 ? 19 : level == 1 ? 8 : 0;
        const uint32_t n_bins = level < 2 ? CU_DRAW_BINS : 256;
        uint32_t       bin;

        if (level == 0)
            first_digit(d, memory);
        else
            count_digit(d, r.bits, shift, n_bins, memory);
        bin = find_bin(how, how == DRAW_BITS ? k >> shift & (n_bins - 1) : k, goal, n_bins,
                       level == 0 ? -1 : (int)first, &r, memory);
        first = level == 0 ? bin : first;
        r.bits = r.bits * n_bins + bin;
    }
    r.ties = r.n_ties;
    if (how == DRAW_COUNT) {
        r.ties = k - r.count;
    } else if (how != DRAW_BITS) {
        double w = (double)__uint_as_float(r.bits), j = floor((goal - r.mass) / w);

        r.ties = j < 1 ? 1 : j < (double)r.n_ties ? (uint32_t)j : r.n_ties;
        while (r.ties < r.n_ties && !reaches(how, 0, goal, 0, mass_through(r)))
            r.ties++;
    }
    r.ties = max(min(r.ties, r.n_ties), how == DRAW_BITS ? 0u : 1u);
    return r;
}

/* The place behind all ranks. */
__device__ __forceinline__ draw_rank behind_all(const cu_draw &d, uint32_t *memory)
{
    const uint32_t each = (CU_DRAW_BINS + CU_THREADS - 1) / CU_THREADS;
    uint32_t      *found = memory + DRAW_FOUND, count = 0, n = 0;
    double         mass = 0, sum = 0;

    first_digit(d, memory);
#pragma unroll 1
    for (uint32_t i = threadIdx.x * each; i < min((threadIdx.x + 1) * each, CU_DRAW_BINS); i++) {
        n += memory[CU_DRAW_BINS - 1 - i];
        sum += mass_of(memory, CU_DRAW_BINS - 1 - i, CU_DRAW_BINS - 1 - i);
    }
    count = n, mass = sum;
    draw_scan(&count, &mass, memory);
    if (threadIdx.x == CU_THREADS - 1) {
        found[0] = count + n;
        *(double *)(found + 4) = mass + sum;
    }
    block_sync();
    return { 0, found[0], 0, 0, *(const double *)(found + 4) };
}

/* The token at a rank. */
__device__ __forceinline__ uint32_t token_at(const cu_draw &d, const draw_rank &r, uint32_t *memory)
{
    const uint32_t each = (d.n_tokens + CU_THREADS - 1) / CU_THREADS, begin = threadIdx.x * each;
    const uint32_t end = min(begin + each, d.n_tokens);
    uint32_t      *found = memory + DRAW_FOUND, count = 0, n;
    double         none = 0;

    if (r.n_ties == 1) {
#pragma unroll 4
        for (uint32_t i = threadIdx.x; i < (d.n_tokens + 3) / 4; i += CU_THREADS) {
            uint4 w = __ldcg((const uint4 *)d.weights + i);

            if (w.x == r.bits || w.y == r.bits || w.z == r.bits || w.w == r.bits)
                found[0] = 4 * i + (w.x == r.bits ? 0 : w.y == r.bits ? 1 : w.z == r.bits ? 2 : 3);
        }
        block_sync();
        return found[0];
    }
#pragma unroll 1
    for (uint32_t i = begin; i < end; i++)
        count += __float_as_uint(__ldcg(d.weights + i)) == r.bits;
    n = count;
    draw_scan(&count, &none, memory);
    if (count < r.ties && r.ties <= count + n)
#pragma unroll 1
        for (uint32_t i = begin; i < end; i++)
            if (__float_as_uint(__ldcg(d.weights + i)) == r.bits && ++count == r.ties)
                found[0] = i;
    block_sync();
    return found[0];
}

__device__ __forceinline__ bool is_earlier(const draw_rank &a, const draw_rank &b)
{
    return a.bits > b.bits || (a.bits == b.bits && a.ties < b.ties);
}

} // namespace

#endif
