/* cuda_draw.cuh: a token drawn from the logits without the host: runtime/sampler.c's definition,
 * by all blocks of the token kernel.
 *
 *     logits ─► biases ─► penalties ─► the best of all │ ─► weights, and what they add up to │ ─►
 * draw each block a share of the ids          │     each block its share             │  block 0
 *
 * The draw needs no order of 100,352 weights. Tokens are ranked by weight, then by id; top-k, top-p
 * and min-p keep the first ranks, and the draw is the first rank at which the sum passes a random
 * share of what is kept. So each is a search for a rank, by digits of the weights' bits: 11, 11 and
 * 8. The first digit's histogram is counted by all blocks. Counts and mantissas add up as integers,
 * exact in any order, and only sums of bins are rounded: the same logits give the same token every
 * time. Against the host, which adds in fp64 one by one, the sums may differ in their last bits; a
 * draw that falls into such a gap (one in about 1e12) may differ. */
#ifndef UPG_BACKEND_CUDA_CUDA_DRAW_CUH
#define UPG_BACKEND_CUDA_CUDA_DRAW_CUH

#include "backend/cuda/cuda_rank.cuh"

namespace
{

/* All blocks meet: what each wrote before is seen by all behind. */
__device__ __forceinline__ void draw_meet(uint32_t *counter, uint32_t target)
{
    block_sync();
    if (threadIdx.x == 0) {
        uint32_t seen;

        asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
        do
            asm volatile("ld.acquire.gpu.global.u32 %0, [%1];"
                         : "=r"(seen)
                         : "l"(counter)
                         : "memory");
        while (seen < target);
    }
    block_sync();
}

/* ---- values and weights -------------------------------------------------------------------------
 */

/* Biases and penalties, each rounded as the host rounds it. */
__device__ __forceinline__ float draw_value(const cu_draw &d, uint32_t token, float v)
{
    uint32_t mark, drawn;

    if (d.bias != NULL)
        v = __fadd_rn(v, __ldg(d.bias + token));
    if (d.marks == NULL)
        return v;
    mark = __ldcg(d.marks + token);
    drawn = mark & ~CU_IN_TEXT;
    if ((mark & CU_IN_TEXT) != 0 && d.repetition != 1.0f)
        v = v > 0 ? __fdiv_rn(v, d.repetition) : __fmul_rn(v, d.repetition);
    if (drawn > 0)
        v = __fsub_rn(v, __fadd_rn(d.presence, __fmul_rn(d.frequency, (float)drawn)));
    return v;
}

/* exp(x), x ≤ 0, as kernels/x86/exp_avx512.h rounds it. */
__device__ __forceinline__ float draw_exp(float x)
{
    float n = rintf(__fmul_rn(x, 1.44269504f)), r, p;

    if (!(x >= -87.33f))
        return 0.0f;
    r = __fmaf_rn(-n, 0x1.62e4p-1f, x);
    r = __fmaf_rn(-n, 0x1.7f7d1cp-20f, r);
    p = __fmaf_rn(1.0f / 5040, r, 1.0f / 720);
    p = __fmaf_rn(p, r, 1.0f / 120);
    p = __fmaf_rn(p, r, 1.0f / 24);
    p = __fmaf_rn(p, r, 1.0f / 6);
    p = __fmaf_rn(p, r, 0.5f);
    p = __fmaf_rn(p, r, 1.0f);
    p = __fmaf_rn(p, r, 1.0f);
    return __fmul_rn(p, __uint_as_float((uint32_t)((int)n + 127) << 23));
}

__device__ __forceinline__ double draw_unit(uint64_t seed, uint64_t i) /* base/random.h */
{
    uint64_t z = seed + (i + 1) * 0x9E3779B97F4A7C15ull;

    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ z >> 27) * 0x94D049BB133111EBull;
    return (double)((z ^ z >> 31) >> 11) * 0x1p-53;
}

/* ---- in the order of ranks ----------------------------------------------------------------------
 */

/* The bin of the first digit behind which nothing is kept, as far as the first digit tells; *n: how
 * many weights come up to its end. */
__device__ __forceinline__ uint32_t last_bin(const cu_draw &d, double all, uint32_t *n,
                                             uint32_t *memory)
{
    uint32_t last = 0;

#pragma unroll 1
    for (int which = 0; which < 3; which++) {
        const uint32_t k = which == 0 ? d.top_k : __float_as_uint(d.min_p) >> 19;
        draw_rank      r = { 0, 0, 0, 0, 0.0 };
        uint32_t       bin;

        if (which == 0   ? d.top_k == 0 || d.top_k >= *n
            : which == 1 ? !(d.top_p > 0.0f && d.top_p < 1.0f)
                         : d.min_p <= 0.0f)
            continue;
        bin = find_bin(which == 0   ? DRAW_COUNT
                       : which == 1 ? DRAW_MASS
                                    : DRAW_BITS,
                       k, (double)d.top_p * all, CU_DRAW_BINS, -1, &r, memory);
        if (bin >= last) {
            last = bin;
            *n = r.count + r.n_ties;
        }
    }
    return last;
}

/* The weights of bins down to `last`, n of them, one for each thread, in the order of ranks. */
__device__ __forceinline__ void sort_heaviest(const cu_draw &d, uint32_t last, uint32_t n,
                                              uint32_t *bits, uint32_t *ids, uint32_t *memory)
{
    uint32_t *found = memory + DRAW_FOUND, *sorted = memory + 2 * CU_THREADS, rank = 0;

    block_sync();
    if (threadIdx.x == 0)
        found[0] = 0;
    block_sync();
#pragma unroll 1
    for (uint32_t base = threadIdx.x; base < (d.n_tokens + 3) / 4;
         base += DRAW_AHEAD * CU_THREADS) {
        uint4 w[DRAW_AHEAD];

        load_weights(d, base, w);
#pragma unroll
        for (int e = 0; e < DRAW_AHEAD; e++) {
            const uint32_t four[4] = { w[e].x, w[e].y, w[e].z, w[e].w };

            if (max(max(w[e].x, w[e].y), max(w[e].z, w[e].w)) >> 19 < max(last, 1u))
                continue;
#pragma unroll
            for (int k = 0; k < 4; k++)
                if (four[k] >> 19 >= last && four[k] != 0) {
                    uint32_t at = atomicAdd(found, 1u);

                    memory[at] = four[k];
                    memory[CU_THREADS + at] = 4 * (base + e * CU_THREADS) + k;
                }
        }
    }
    block_sync();
    *bits = threadIdx.x < n ? memory[threadIdx.x] : 0;
    *ids = threadIdx.x < n ? memory[CU_THREADS + threadIdx.x] : ~0u;
#pragma unroll 4
    for (uint32_t i = 0; i < n; i++)
        rank += memory[i] > *bits || (memory[i] == *bits && memory[CU_THREADS + i] < *ids);
    if (threadIdx.x < n)
        sorted[rank] = *bits, sorted[CU_THREADS + rank] = *ids;
    block_sync();
    *bits = threadIdx.x < n ? sorted[threadIdx.x] : 0;
    *ids = threadIdx.x < n ? sorted[CU_THREADS + threadIdx.x] : ~0u;
}

/* The same draw as draw_ranked's where at most a weight for each thread can be kept. sum: of what
 * top-k leaves, if that is more than n. */
__device__ __forceinline__ uint32_t draw_sorted(const cu_draw &d, double unit, double sum,
                                                uint32_t last, uint32_t n, uint32_t *memory)
{
    uint32_t *found = memory + DRAW_FOUND, bits, id, none = 0, k;
    double   *through = (double *)(memory + 4 * CU_THREADS), mass;
    float     w;

    sort_heaviest(d, last, n, &bits, &id, memory);
    w = __uint_as_float(bits);
    mass = (double)w;
    draw_scan(&none, &mass, memory);
    mass += (double)w;
    through[threadIdx.x] = mass;
    if (threadIdx.x == 0)
        found[0] = found[1] = n;
    block_sync();
    k = d.top_k > 0 && d.top_k < n ? d.top_k : n;
    if (d.top_k > 0 && d.top_k <= n)
        sum = through[k - 1];
    if (threadIdx.x < n && d.top_p > 0.0f && d.top_p < 1.0f && mass >= (double)d.top_p * sum)
        atomicMin(found, threadIdx.x + 1);
    if (threadIdx.x < n && w < d.min_p)
        atomicMin(found, threadIdx.x);
    block_sync();
    k = max(min(k, found[0]), 1u);
    if (threadIdx.x < n && mass > unit * through[k - 1])
        atomicMin(found + 1, threadIdx.x);
    block_sync();
    k = min(k - 1, found[1]);
    if (threadIdx.x == k)
        found[2] = id;
    block_sync();
    return found[2];
}

/* Top-k, top-p, min-p, and the draw among what they keep, in the order of ranks. */
__device__ __noinline__ uint32_t draw_ranked(const cu_draw &d, double unit, uint32_t *memory)
{
    draw_rank kept = behind_all(d, memory), r;
    uint32_t  n = kept.count, last = last_bin(d, kept.mass, &n, memory);
    double    sum;

    if (n <= CU_THREADS) {
        sum = kept.mass;
        if (d.top_k > n && d.top_k < kept.count)
            sum = mass_through(find_rank(d, DRAW_COUNT, d.top_k, 0, memory));
        return draw_sorted(d, unit, sum, last, n, memory);
    }
    if (d.top_k > 0 && d.top_k < kept.count)
        kept = find_rank(d, DRAW_COUNT, d.top_k, 0, memory);
    sum = mass_through(kept);
    if (d.top_p > 0.0f && d.top_p < 1.0f) {
        r = find_rank(d, DRAW_MASS, 0, (double)d.top_p * sum, memory);
        if (is_earlier(r, kept))
            kept = r;
        sum = mass_through(kept);
    }
    if (__uint_as_float(kept.bits) < d.min_p) { /* the best one's weight is 1 */
        r = find_rank(d, DRAW_BITS, __float_as_uint(d.min_p), 0, memory);
        if (r.ties == 0) /* the last weight above it */
            r = find_rank(d, DRAW_COUNT, r.count, 0, memory);
        kept = r;
        sum = mass_through(kept);
    }
    r = find_rank(d, DRAW_PAST, 0, unit * sum, memory);
    return token_at(d, is_earlier(kept, r) ? kept : r, memory);
}

/* ---- in the order of ids ------------------------------------------------------------------------
 */

/* First id of a block's share. */
__device__ __forceinline__ uint32_t share_begin(uint32_t n, uint32_t block)
{
    return (uint32_t)((uint64_t)n * block / gridDim.x);
}

__device__ __forceinline__ uint32_t draw_by_id(const cu_draw &d, double unit, uint32_t *memory)
{
    uint32_t *found = memory + DRAW_FOUND, begin, end, each, none = 0, at = ~0u, last = 0;
    double   *sums = (double *)memory, *left = (double *)(found + 4), sum = 0, goal;

    block_sync();
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < gridDim.x; i += CU_THREADS)
        sums[i] = __ldcg(&d.shares[i].sum);
    block_sync();
    if (threadIdx.x == 0) {
        uint32_t block = 0, filled = 0;
        double   passed = 0;

        for (uint32_t i = 0; i < gridDim.x; i++)
            sum += sums[i];
        goal = unit * sum;
        for (; block < gridDim.x; block++) {
            filled = sums[block] > 0 ? block : filled;
            if (passed + sums[block] > goal)
                break;
            passed += sums[block];
        }
        if (block == gridDim.x) { /* rounding left all below the goal: the last one */
            block = filled;
            passed -= sums[block];
        }
        found[0] = ~0u, found[1] = 0, found[2] = block;
        *left = goal - passed;
    }
    block_sync();
    goal = *left;
    end = share_begin(d.n_tokens, found[2] + 1);
    begin = share_begin(d.n_tokens, found[2]);
    each = (end - begin + CU_THREADS - 1) / CU_THREADS;
    begin = min(begin + threadIdx.x * each, end);
    end = min(begin + each, end);
    sum = 0;
#pragma unroll 1
    for (int walk = 0; walk < 2; walk++) {
#pragma unroll 1
        for (uint32_t i = begin; i < end; i++) {
            float w = __ldcg(d.weights + i);

            if (w <= 0.0f || w < d.min_p)
                continue;
            last = i + 1;
            sum += (double)w;
            if (walk == 1 && sum > goal && at == ~0u)
                at = i;
        }
        if (walk == 0)
            draw_scan(&none, &sum, memory);
    }
    if (at != ~0u)
        atomicMin(found, at);
    if (last != 0)
        atomicMax(found + 1, last);
    block_sync();
    return found[0] != ~0u ? found[0] : found[1] - 1;
}

/* ---- all together -------------------------------------------------------------------------------
 */

/* Values of a block's share, and its best one. */
__device__ __forceinline__ void weigh_up(const cu_draw &d, const float *logits, uint32_t *memory)
{
    const uint32_t begin = share_begin(d.n_tokens, blockIdx.x);
    const uint32_t end = share_begin(d.n_tokens, blockIdx.x + 1);
    float          value = -INFINITY, top = -INFINITY, sum = 0.0f;
    uint32_t       token = ~0u, none = 0;

#pragma unroll 2
    for (uint32_t t = begin + threadIdx.x; t < end; t += CU_THREADS) {
        float v = draw_value(d, t, __ldcg(logits + t));

        d.weights[t] = v;
        if (v > value || token == ~0u)
            value = v, token = t;
    }
    draw_best(&value, &token, memory);
    if (d.logprobs != NULL) { /* of all logits as they are */
        const uint32_t first = share_begin(d.n_logits, blockIdx.x);
        const uint32_t past = share_begin(d.n_logits, blockIdx.x + 1);

#pragma unroll 2
        for (uint32_t t = first + threadIdx.x; t < past; t += CU_THREADS)
            top = fmaxf(top, __ldcg(logits + t));
        draw_best(&top, &none, memory);
#pragma unroll 2
        for (uint32_t t = first + threadIdx.x; t < past; t += CU_THREADS)
            sum += expf(__ldcg(logits + t) - top);
#pragma unroll
        for (int k = 16; k > 0; k >>= 1)
            sum += __shfl_xor_sync(~0u, sum, k);
        block_sync();
        if ((threadIdx.x & 31) == 0)
            ((float *)memory)[threadIdx.x >> 5] = sum;
        block_sync();
    }
    if (threadIdx.x == 0) {
        cu_draw_share *share = d.shares + blockIdx.x;

        share->best = value;
        share->token = token;
        share->top = top;
        sum = 0.0f;
        for (int w = 0; w < CU_WARPS && d.logprobs != NULL; w++)
            sum += ((const float *)memory)[w];
        share->exp_sum = sum;
    }
}

/* Weights of a block's share, and what the draw needs of them. */
__device__ __forceinline__ void add_up(const cu_draw &d, float best, uint32_t *memory)
{
    const uint32_t begin = share_begin(d.n_tokens, blockIdx.x);
    const uint32_t end = share_begin(d.n_tokens, blockIdx.x + 1);
    uint32_t       none = 0;
    double         sum = 0;

    if (d.ranked)
        clear_bins(memory);
#pragma unroll 1
    for (uint32_t base = begin; base < end; base += CU_THREADS) {
        uint32_t t = base + threadIdx.x;
        float    v = t < end ? d.weights[t] : -INFINITY, w;

        v = __fmul_rn(__fsub_rn(v, best), d.inverse);
        w = draw_exp(v);
        if (t < end)
            d.weights[t] = w;
        if (d.ranked)
            count_weight(memory, w > 0.0f, __float_as_uint(w) >> 19,
                         mantissa_of(__float_as_uint(w)));
        else if (w >= d.min_p)
            sum += (double)w;
    }
    if (!d.ranked) {
        double all = sum;

        draw_scan(&none, &sum, memory);
        if (threadIdx.x == CU_THREADS - 1)
            d.shares[blockIdx.x].sum = sum + all;
        return;
    }
    block_sync();
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < 3 * CU_DRAW_BINS; i += CU_THREADS)
        if (memory[i] != 0)
            atomicAdd(d.histogram + i, memory[i]);
}

/* By one thread: the logarithm of the token's probability before all settings. */
__device__ __forceinline__ float log_probability(const cu_draw &d, float logit)
{
    float top = -INFINITY, sum = 0.0f;

    for (uint32_t i = 0; i < gridDim.x; i++)
        top = fmaxf(top, __ldcg(&d.shares[i].top));
    for (uint32_t i = 0; i < gridDim.x; i++)
        sum += __ldcg(&d.shares[i].exp_sum) * expf(__ldcg(&d.shares[i].top) - top);
    return logit - top - logf(sum);
}

/* By all blocks, when each has written its logits. The drawn token in block 0, CU_NO_TOKEN where
 * nothing may be drawn. memory: DRAW_WORDS of shared memory. */
__device__ __noinline__ uint32_t draw_token(const cu_draw &d, const float *logits,
                                            uint32_t token_index, uint32_t *memory)
{
    uint32_t target = gridDim.x * (token_index * CU_DRAW_MEETINGS + 1), token = ~0u;
    float    best = -INFINITY;

    draw_meet(d.counter, target);
    weigh_up(d, logits, memory);
    draw_meet(d.counter, target + gridDim.x);
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < gridDim.x; i += CU_THREADS) {
        float    v = __ldcg(&d.shares[i].best);
        uint32_t t = __ldcg(&d.shares[i].token);

        if (v > best || (v == best && t < token))
            best = v, token = t;
    }
    draw_best(&best, &token, memory);
    if (d.inverse != 0.0f && best > -INFINITY)
        add_up(d, best, memory);
    draw_meet(d.counter, target + 2 * gridDim.x);
    if (blockIdx.x != 0)
        return CU_NO_TOKEN;
    if (!(best > -INFINITY)) {
        token = CU_NO_TOKEN;
    } else if (d.inverse != 0.0f) {
        double unit = draw_unit(d.seed, d.place + token_index);

        token = d.ranked ? draw_ranked(d, unit, memory) : draw_by_id(d, unit, memory);
        block_sync();
#pragma unroll 1
        for (uint32_t i = threadIdx.x; d.ranked && i < 3 * CU_DRAW_BINS; i += CU_THREADS)
            d.histogram[i] = 0;
    }
    if (threadIdx.x == 0 && token != CU_NO_TOKEN) {
        if (d.marks != NULL)
            d.marks[token] = (__ldcg(d.marks + token) | CU_IN_TEXT) + 1;
        if (d.logprobs != NULL)
            d.logprobs[token_index] = log_probability(d, __ldcg(logits + token));
    }
    block_sync();
    return token;
}

} // namespace

#endif
