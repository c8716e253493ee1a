/* cuda_items.cuh: what lies between two products of a token, made by few blocks, an item each: rows
 * of u to results, rotation blocks of the next input, parts of attention, logits, the best token.
 * Used by cuda_token.cu alone, where the whole is explained. */
#ifndef UPG_BACKEND_CUDA_CUDA_ITEMS_CUH
#define UPG_BACKEND_CUDA_CUDA_ITEMS_CUH

#include "backend/cuda/cuda_attend.cuh"
#include "backend/cuda/cuda_ring.cuh"

namespace
{

enum {
    EACH = 3, /* rows of a thread in a pass, elements of a thread in a rotation block */
    X_WORDS = 1024 + 64 + 16,
    PIECES = 32
};

static_assert(EACH * CU_THREADS >= 1024, "a rotation block");
static_assert(EACH * CU_THREADS == (int)CU_PASS_ROWS && PIECES == (int)CU_MAX_PIECES,
              "what the host plans with");

/* The token at hand, looked up once: its position, and the pages of the keys that the block's item
 * of every layer's attention reads, where they are few enough. */
struct token_place {
    uint32_t position, first_page, n_pages;
    uint8_t *newest; /* page of the position itself */
    uint8_t *pages[CU_OWN_PAGES];
};

/* Shared memory beside the ring. */
struct block_memory {
    uint32_t    *planes; /* [max_ktiles][CU_PLANE_WORDS] */
    int32_t     *staged; /* [staged_words]: u of a pass; codes; what attention's warps leave */
    float       *x;      /* [X_WORDS], padded */
    float       *y;      /* [max_rows of an item] */
    float       *angles; /* [rotary]: cosines, sines of the token's position */
    float       *slots;  /* [64] */
    int         *sum;
    cu_record   *records; /* [2] */
    cu_piece    *pieces;  /* [PIECES] of the item at hand */
    token_place *place;
};

__device__ __forceinline__ void mark_bad(const cu_token_args &a, uint32_t step)
{
    atomicCAS(&a.state->bad, 0u, step + 1);
}

/* Notes the clock, where one is kept. */
__device__ __forceinline__ void mark_time(long long *stamp, int which)
{
    if (stamp != NULL)
        stamp[which] = clock64();
}

/* ---- row results from u -------------------------------------------------------------------------
 * y_r = (Σ_i p_i·u[newest(r) − i]) · (s_r·g·s_x), the sum exact, rounded to fp32 once. A pass takes
 * up to 1440 rows in a few pieces, each of one band; its u goes through shared memory. */

__device__ __forceinline__ double wide(float x) /* exact, for zero and every normal f32 */
{
    uint32_t b = __float_as_uint(x), low = b & 0x7FFFFFFFu;

    return low == 0 ? 0.0
                    : __hiloint2double((int)((b & 0x80000000u) | ((low >> 3) + (896u << 20))),
                                       (int)(low << 29));
}

__device__ __forceinline__ double wide(int x)
{
    return __dsub_rn(__hiloint2double(0x43300000, x ^ (int)0x80000000),
                     __hiloint2double(0x43300000, (int)0x80000000));
}

__device__ __forceinline__ void copy_async(void *shared, const void *global)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address_of(shared)), "l"(global)
                 : "memory");
}

/* One pass. Ends with a barrier. */
__device__ __forceinline__ void row_results(const cu_piece *pieces, uint32_t n_pieces,
                                            const int32_t *u, float s_x, const block_memory &m)
{
    const cu_piece *piece[EACH];
    uint32_t        row[EACH], begin = pieces[0].out0;
    uint16_t        scale[EACH];

#pragma unroll 1
    for (uint32_t p = 0; p < n_pieces; p++)
#pragma unroll 1
        for (uint32_t v = threadIdx.x; v < pieces[p].n_vectors; v += CU_THREADS)
            copy_async(m.staged + pieces[p].staged + 4 * v, u + pieces[p].first_word + 4 * v);
    asm volatile("cp.async.commit_group;" ::: "memory");
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        uint32_t p = 0, r = threadIdx.x + e * CU_THREADS;

#pragma unroll 1
        while (p + 1 < n_pieces && begin + r >= pieces[p + 1].out0)
            p++;
        piece[e] = pieces + p;
        r -= piece[e]->out0 - begin;
        row[e] = r < piece[e]->n_rows ? r : ~0u;
        if (row[e] != ~0u)
            scale[e] = __ldg(piece[e]->scales + r);
    }
    asm volatile("cp.async.wait_group 0;" ::: "memory");
    block_sync();
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        const cu_piece *p = piece[e];
        uint32_t        r = row[e];
        double          sum, factor;

        if (r == ~0u)
            continue;
        const int32_t *at = m.staged + p->newest0 + (r + 1) / 2 * p->ka + r / 2 * p->kb;

        if (p->narrow) {
            int s = 0;

#pragma unroll
            for (int i = 0; i < 12; i += 4) {
                int4 t = *(const int4 *)(p->taps + i);

                s += t.x * at[-i] + t.y * at[-i - 1] + t.z * at[-i - 2] + t.w * at[-i - 3];
            }
            sum = wide(s);
        } else {
            int64_t s = 0;

#pragma unroll 1
            for (uint32_t i = 0; i < p->length; i++)
                s += (int64_t)p->taps[i] * at[-(int)i];
            sum = (double)s;
        }
        factor = __dmul_rn(__dmul_rn(wide(__half2float(__ushort_as_half(scale[e]))), wide(p->gain)),
                           wide(s_x));
        m.y[p->out0 + r] = __double2float_rn(__dmul_rn(sum, factor));
    }
    block_sync();
}

/* ---- rotation blocks ----------------------------------------------------------------------------
 */

/* Four distances at once while there are four, for all threads that have a group. */
template <int BITS>
__device__ __forceinline__ void distances(float *x, uint32_t n, uint32_t log_d, float scale)
{
    uint32_t g = threadIdx.x, base = ((g >> log_d) << (log_d + BITS)) + (g & ((1u << log_d) - 1));
    float    v[1 << BITS];

    if (g < n >> BITS) { /* n ≤ 1024: 512 groups of 2 at most, 480 threads: see below */
#pragma unroll
        for (int i = 0; i < 1 << BITS; i++)
            v[i] = x[pad(base + ((uint32_t)i << log_d))];
#pragma unroll
        for (int half = 1; half < 1 << BITS; half *= 2)
#pragma unroll
            for (int i = 0; i < 1 << BITS; i++)
                if ((i & half) == 0) {
                    float p = v[i], q = v[i + half];

                    v[i] = p + q;
                    v[i + half] = p - q;
                }
#pragma unroll
        for (int i = 0; i < 1 << BITS; i++)
            x[pad(base + ((uint32_t)i << log_d))] = v[i] * scale;
    }
    block_sync();
}

/* The blockwise transform of one block of n = 2^log_n ≤ 1024 elements, as codec/rotation.c orders
 * it. Distances are taken 16, 8 or 4 elements at a time; a single last one joins the two before it.
 */
/* Ahead of the last distances, each warp publishes the sum of squares that it holds: readers then
 * begin to look for the block itself. */
__device__ __forceinline__ void transform(float *x, uint32_t log_n, float *sums, float squares)
{
    float    scale = __fdiv_rn(1.0f, __fsqrt_rn((float)(1u << log_n)));
    uint32_t n = 1u << log_n, log_d = 0;

#pragma unroll 1
    while (log_d < log_n) {
        uint32_t left = log_n - log_d, take = left >= 4 && left != 5 ? 4 : left >= 3 ? 3 : left;
        float    last = left == take ? scale : 1.0f;

        if (left == take && sums != NULL && (threadIdx.x & 31) == 0)
            publish(sums + (threadIdx.x >> 5), squares);
        if (take == 4)
            distances<4>(x, n, log_d, last);
        else if (take == 3)
            distances<3>(x, n, log_d, last);
        else if (take == 2)
            distances<2>(x, n, log_d, last);
        else
            distances<1>(x, n, log_d, last);
        log_d += take;
    }
    if (log_n == 0) {
        if (sums != NULL && (threadIdx.x & 31) == 0)
            publish(sums + (threadIdx.x >> 5), squares);
        block_sync();
    }
}

/* Largest value and sum over the block; both in every thread. In the order of the warps. */
__device__ __forceinline__ void reduce_block(float *max, float *sum, float *slots)
{
    uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5;

#pragma unroll
    for (int d = 16; d > 0; d >>= 1) {
        *max = fmaxf(*max, __shfl_xor_sync(~0u, *max, d));
        *sum += __shfl_xor_sync(~0u, *sum, d);
    }
    if (lane == 0)
        slots[warp] = *max, slots[16 + warp] = *sum;
    block_sync();
    *max = lane < CU_WARPS ? slots[lane] : 0.0f;
    *sum = lane < CU_WARPS ? slots[16 + lane] : 0.0f;
#pragma unroll
    for (int d = 8; d > 0; d >>= 1) {
        *max = fmaxf(*max, __shfl_xor_sync(~0u, *max, d));
        *sum += __shfl_xor_sync(~0u, *sum, d);
    }
    *max = __shfl_sync(~0u, *max, 0);
    *sum = __shfl_sync(~0u, *sum, 0);
    block_sync();
}

/* One block of the token's row of the embedding into x: of a coded one in its rotated basis. */
__device__ __forceinline__ void embed_block(const cu_embedding &e, uint32_t token, uint32_t first,
                                            uint32_t log_n, float *x)
{
    const uint32_t n = 1u << log_n;

    if (e.bands == NULL) {
#pragma unroll 1
        for (uint32_t i = threadIdx.x; i < n; i += CU_THREADS) {
            uint64_t at = (uint64_t)token * e.n_cols + first + i;

            x[pad(i)] = e.dtype == 0 ? ((const float *)e.dense)[at]
                        : e.dtype == 1
                            ? __half2float(((const __half *)e.dense)[at])
                            : __uint_as_float((uint32_t)((const uint16_t *)e.dense)[at] << 16);
        }
        block_sync();
        return;
    }
    const cu_band  *b = e.bands;
    uint32_t        band = 0, newest;
    const uint32_t *bits;
    float           factor;

#pragma unroll 1
    while (token >= b->row0 + b->n_rows)
        b++, band++;
    bits = e.bits[band];
    newest = newest_bit(b, token - b->row0);
    factor = __fmul_rn(__half2float(__ushort_as_half(b->scales[token - b->row0])), b->gain);
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < n; i += CU_THREADS) {
        uint32_t j = first + i;
        int      value = 0;

#pragma unroll 1
        for (uint32_t t = 0; t < b->length; t++) {
            uint32_t row = newest - t, block = row / 64, left = b->n_binary - block * 64;
            uint32_t rows = left >= 64 ? 64 : (left + 15) / 16 * 16;
            uint64_t at = (uint64_t)block * 64 * e.n_groups + (uint64_t)(j / 32) * rows + row % 64;

            value += bits[at] >> j % 32 & 1 ? b->taps[t] : -b->taps[t];
        }
        x[pad(i)] = factor * (float)value;
    }
    block_sync();
}

/* A thread's elements of the attention's result from `first` on; weights f32 [heads][n_splits] from
 * the head of `first` on, below 0 for splits without keys, which are the same for all heads. */
__device__ __forceinline__ void mix_splits(const cu_token_args &a, uint32_t first, uint32_t n,
                                           const float *weights, float x[EACH])
{
    const uint32_t hd = a.kv.head_dim, head0 = first / hd;
    const float   *from[EACH], *w[EACH];

#pragma unroll
    for (int e = 0; e < EACH; e++) {
        uint32_t j = first + min(threadIdx.x + e * CU_THREADS, n - 1), head = j / hd;

        w[e] = weights + (head - head0) * a.n_splits;
        from[e] = a.partial + (uint64_t)head * a.n_splits * hd + j % hd;
        x[e] = 0.0f;
    }
#pragma unroll 2
    for (uint32_t k = 0; k < a.n_splits; k++) {
        if (weights[k] < 0.0f)
            continue;
#pragma unroll
        for (int e = 0; e < EACH; e++)
            x[e] = fmaf(__ldcg(from[e] + k * hd), w[e][k], x[e]);
    }
}

/* The shares of the splits for the heads of a block. */
__device__ __forceinline__ void split_weights(const cu_token_args &a, uint32_t head0,
                                              uint32_t heads, float *weights)
{
    uint32_t lane = threadIdx.x & 31;

#pragma unroll 1
    for (uint32_t h = threadIdx.x >> 5; h < heads; h += CU_WARPS) {
        const float2 *ml = (const float2 *)a.softmax + (uint64_t)(head0 + h) * a.n_splits;
        float2        one = make_float2(-INFINITY, 0.0f), two = one;
        float         max, sum;

        if (lane < a.n_splits)
            one = __ldcg(ml + lane);
        if (lane + 32 < a.n_splits)
            two = __ldcg(ml + lane + 32);
        max = fmaxf(one.x, two.x);
        for (int d = 16; d > 0; d >>= 1)
            max = fmaxf(max, __shfl_xor_sync(~0u, max, d));
        one.x = one.y != 0.0f ? expf(one.x - max) : 0.0f;
        two.x = two.y != 0.0f ? expf(two.x - max) : 0.0f;
        sum = one.x * one.y + two.x * two.y;
        for (int d = 16; d > 0; d >>= 1)
            sum += __shfl_xor_sync(~0u, sum, d);
        if (lane < a.n_splits)
            weights[h * a.n_splits + lane] = one.y != 0.0f ? __fdiv_rn(one.x, sum) : -1.0f;
        if (lane + 32 < a.n_splits)
            weights[h * a.n_splits + lane + 32] = two.y != 0.0f ? __fdiv_rn(two.x, sum) : -1.0f;
    }
    block_sync();
}

__device__ __forceinline__ float silu(float x)
{
    return __fdividef(x, 1.0f + __expf(-x));
}

/* EMBED, NORM, MERGE, SWIGLU: block `item` of x'. y holds what the step reads of u. */
__device__ __forceinline__ void rotation_block(const cu_token_args &a, const cu_step &s,
                                               uint32_t item, const float before[EACH],
                                               const float factor[EACH], const block_memory &m)
{
    const uint32_t n = 1u << s.log_block, first = item << s.log_block;
    float          squares = 0.0f, merged[EACH];

    if (s.kind == CU_STEP_EMBED)
        embed_block(a.embedding, (uint32_t)__ldcg(&a.state->token), first, s.log_block, m.x);
    else if (s.kind == CU_STEP_MERGE)
        split_weights(a, first / a.kv.head_dim,
                      (first + n - 1) / a.kv.head_dim + 1 - first / a.kv.head_dim,
                      (float *)m.staged);
    if (s.kind == CU_STEP_MERGE)
        mix_splits(a, first, n, (const float *)m.staged, merged);
        /* A coded embedding is turned back first. */
#pragma unroll 1
    for (int turn = s.kind == CU_STEP_EMBED && a.embedding.bands != NULL ? 0 : 1; turn < 2;
         turn++) {
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            uint32_t i = threadIdx.x + e * CU_THREADS;
            float    x;

            if (i >= n || turn == 0)
                break;
            if (s.kind == CU_STEP_SWIGLU) {
                x = silu(m.y[i]) * m.y[n + i];
            } else if (s.kind == CU_STEP_MERGE) {
                x = merged[e];
            } else {
                x = before[e];
                x += s.kind == CU_STEP_NORM ? m.y[i]
                     : a.embedding.bands    ? m.x[pad(i)] * a.embedding.signs[first + i]
                                            : m.x[pad(i)];
                s.residual_out[first + i] = x;
                squares = fmaf(x, x, squares);
            }
            m.x[pad(i)] = x * factor[e];
        }
        block_sync();
#pragma unroll
        for (int d = 16; d > 0; d >>= 1)
            squares += __shfl_xor_sync(~0u, squares, d);
        transform(m.x, s.log_block, turn == 1 ? s.sums + 16 * item : NULL, squares);
    }
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        uint32_t i = threadIdx.x + e * CU_THREADS;

        if (i >= n)
            break;
        publish(s.rotated + place_of(first + i), m.x[pad(i)]);
    }
}

/* ---- attention ----------------------------------------------------------------------------------
 */

/* Turns n_heads heads side by side. */
__device__ __forceinline__ void turn_heads(const cu_token_args &a, const float *angles, float *x,
                                           uint32_t n_heads)
{
    const uint32_t half = a.kv.rotary_dims / 2;

#pragma unroll 1
    for (uint32_t h = threadIdx.x >> 5; h < n_heads; h += CU_WARPS) {
        float *head = x + h * a.kv.head_dim;

#pragma unroll 1
        for (uint32_t i = threadIdx.x & 31; i < half; i += 32) {
            float c = angles[i], s = angles[half + i], p = head[i], q = head[half + i];

            head[i] = p * c - q * s;
            head[half + i] = q * c + p * s;
        }
    }
    block_sync();
}

/* One KV head and one part of the keys. y: the head's queries, its key, its value. The block whose
 * part holds the token's own position appends key and value first. */
template <int TYPE, int DIMS, int HEADS>
__device__ __forceinline__ void attention(const cu_token_args &a, uint32_t index, uint32_t layer,
                                          uint32_t item, const block_memory &m)
{
    const uint32_t  hd = a.kv.head_dim, shared = a.kv.n_heads / a.kv.n_kv_heads;
    const uint32_t  position = m.place->position, head = item / a.n_splits;
    const uint32_t  split = item % a.n_splits;
    uint8_t *const  page = m.place->newest;
    const bool      known = item == blockIdx.x && m.place->n_pages != 0;
    uint8_t *const *pages = known ? m.place->pages - m.place->first_page : a.pages;
    uint32_t        begin, end;
    float          *k = m.y + shared * hd;

    split_range(position, a.kv.window, a.n_splits, split, &begin, &end);
    if (begin >= end) {
        if (threadIdx.x < shared)
            *(float2 *)(a.softmax + 2 * ((uint64_t)(head * shared + threadIdx.x) * a.n_splits +
                                         split)) = make_float2(-INFINITY, 0.0f);
        return;
    }
    turn_heads(a, m.angles, m.y, shared + 1);
    if (end == position + 1) {
        uint32_t warp = threadIdx.x >> 5;

        if (warp < 2 && !kv_store(a.kv, page + kv_part(a.kv, layer, head, warp),
                                  position % CU_PAGE_TOKENS, k + warp * hd))
            mark_bad(a, index);
        __threadfence_block();
        block_sync();
    }
#pragma unroll 1
    for (uint32_t h = 0; h < shared; h += HEADS) {
        uint64_t at = (uint64_t)(head * shared + h) * a.n_splits + split;

        attend<TYPE, DIMS, HEADS>(m.y + h * hd, min(shared - h, (uint32_t)HEADS), pages, a.kv,
                                  layer, head, begin, end, (float *)m.staged, a.partial + at * hd,
                                  a.n_splits * hd, a.softmax + 2 * at, a.n_splits);
    }
}

/* ---- logits, sampling ---------------------------------------------------------------------------
 */

__device__ __forceinline__ void better(float *value, int32_t *token, float v, int32_t t)
{
    if (v > *value || (v == *value && t < *token)) {
        *value = v;
        *token = t;
    }
}

/* The best of all threads, in thread 0. */
__device__ __forceinline__ void best_of_block(float *value, int32_t *token, const block_memory &m)
{
    float   *values = m.slots;
    int32_t *tokens = (int32_t *)(m.slots + 32);

#pragma unroll 1
    for (int d = 16; d > 0; d >>= 1)
        better(value, token, __shfl_xor_sync(~0u, *value, d), __shfl_xor_sync(~0u, *token, d));
    if ((threadIdx.x & 31) == 0) {
        values[threadIdx.x >> 5] = *value;
        tokens[threadIdx.x >> 5] = *token;
    }
    block_sync();
#pragma unroll 1
    for (int w = 0; w < CU_WARPS && threadIdx.x == 0; w++)
        better(value, token, values[w], tokens[w]);
    block_sync();
}

/* Rows of y are logits of item · CU_LOGIT_ITEM …; or, to sample, the best of all items is looked
 * for. */
__device__ __forceinline__ void best(const cu_token_args &a, uint32_t index, const cu_step &s,
                                     uint32_t item, uint32_t token_index, const block_memory &m)
{
    const bool     samples = s.kind == CU_STEP_SAMPLE;
    const uint32_t first = samples ? 0 : item * CU_LOGIT_ITEM;
    const uint32_t n = samples ? s.width : min(s.width - first, (uint32_t)CU_LOGIT_ITEM);
    float          value = -INFINITY;
    int32_t        token = INT32_MAX;
    bool           good = true;

#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < n; i += CU_THREADS) {
        float v = samples ? __ldcg(a.best_value + i) : m.y[i];

        if (!samples)
            a.logits[first + i] = v;
        good = good && is_number(v);
        better(&value, &token, v, samples ? __ldcg(a.best_token + i) : (int32_t)(first + i));
    }
    if (!good)
        mark_bad(a, index);
    best_of_block(&value, &token, m);
    if (threadIdx.x != 0)
        return;
    if (samples) {
        a.tokens_out[token_index] = token;
        a.state->token = token;
        a.state->position = __ldcg(&a.state->position) + 1;
    } else {
        a.best_value[item] = value;
        a.best_token[item] = token;
    }
}

} // namespace

#endif
