/* cuda_items.cuh: what few blocks make between two products of a token, an item each: the token's
 * row of the embedding, attention, silu(gate)·up, the best token. Used by cuda_token.cu alone,
 * where the whole is explained. */
#ifndef UPG_BACKEND_CUDA_CUDA_ITEMS_CUH
#define UPG_BACKEND_CUDA_CUDA_ITEMS_CUH

#include "backend/cuda/cuda_attend.cuh"
#include "backend/cuda/cuda_draw.cuh"
#include "backend/cuda/cuda_ring.cuh"

extern __shared__ __align__(1024) uint8_t cu_token_memory[];

namespace
{

enum { RECORDS = 4 }; /* steps at hand: this one, the next two, one to spare */

/* The token at hand, looked up once: its position, and the pages of the keys that the block's item
 * of every layer's attention reads, where they are few enough. */
struct token_place {
    uint32_t launch_position; /* of the launch's first token */
    uint32_t position, first_page, n_pages;
    uint8_t *newest; /* page of the position itself */
    uint8_t *pages[CU_OWN_PAGES];
};

/* Where the block stands with a step: its place in the launch, its token in the launch and since
 * creation, the tiles in front of it. */
struct step_mark {
    uint32_t place, token, turn;
    cursor   at;
};

/* What a block knows, beside the ring and what depends on the model's shape. Everything has a fixed
 * address: pointers in registers would push others out of them. */
struct block_state {
    cu_record   records[RECORDS];
    cu_piece    pieces[2][CU_MAX_PIECES]; /* of a product, of the next */
    step_mark   marks[RECORDS];
    token_place place;
    float       slots[64], scale;
    int         sum;
    uint64_t    tail_done;   /* mbarrier: warps that are done with the block's last row tile */
    uint32_t    n_in_flight; /* pages that may be on their way */
    long long  *stamp;       /* where the first thread notes its clocks; NULL: nowhere */
};

__shared__ __align__(64) block_state own;

__device__ __forceinline__ uint32_t *planes_of(const cu_token_args &a) /* [max_ktiles][…] */
{
    return (uint32_t *)(cu_token_memory + a.planes_at);
}

/* [staged_words]: vectors, codes, sums; what attention's warps leave */
__device__ __forceinline__ int32_t *staged_of(const cu_token_args &a)
{
    return (int32_t *)(cu_token_memory + a.staged_at);
}

/* [y_words]: a KV head's q, k, v; a product's scales, then old residual */
__device__ __forceinline__ float *y_of(const cu_token_args &a)
{
    return (float *)(cu_token_memory + a.y_at);
}

__device__ __forceinline__ float *angles_of(const cu_token_args &a) /* cosines, sines */
{
    return (float *)(cu_token_memory + a.angles_at);
}

__device__ __forceinline__ void mark_bad(const cu_token_args &a, uint32_t step)
{
    atomicCAS(&a.state->bad, 0u, step + 1);
}

/* Notes the clock, where one is kept. */
__device__ __forceinline__ void mark_time(const cu_token_args &a, int which)
{
    if (a.trace != NULL && threadIdx.x == 0 && own.stamp != NULL)
        own.stamp[which] = clock64();
}

/* ---- exchange -----------------------------------------------------------------------------------
 */

/* Where a vector lies in the given token, or `later` turns later. */
__device__ __forceinline__ uint32_t *set_of(const cu_vector &v, uint32_t token, uint32_t later)
{
    return (uint32_t *)v.words + (token * v.turns + v.turn + later) % CU_SETS * v.stride;
}

/* Where words are written, and where they are emptied, two turns after they were read. */
struct outlet {
    uint32_t *now, *stale;
};

__device__ __forceinline__ outlet outlet_of(const cu_vector &v, uint32_t token)
{
    return { set_of(v, token, 0), set_of(v, token, 2) };
}

__device__ __forceinline__ void put_bits(outlet o, uint32_t i, uint32_t x)
{
    publish(o.now + i, x);
    publish(o.stale + i, CU_EMPTY);
}

__device__ __forceinline__ void put(outlet o, uint32_t i, float x)
{
    put_bits(o, i, __float_as_uint(x));
}

__device__ __forceinline__ float get(const uint32_t *from)
{
    return __uint_as_float(wait_for(from));
}

/* Largest value and sum over the block; both in every thread. In the order of the warps. */
__device__ __forceinline__ void reduce_block(uint32_t *max, float *sum)
{
    uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5;

    *max = __reduce_max_sync(~0u, *max);
#pragma unroll
    for (int d = 16; d > 0; d >>= 1)
        *sum += __shfl_xor_sync(~0u, *sum, d);
    if (lane == 0)
        own.slots[warp] = __uint_as_float(*max), own.slots[16 + warp] = *sum;
    block_sync();
    *max = __reduce_max_sync(~0u, lane < CU_WARPS ? __float_as_uint(own.slots[lane]) : 0u);
    *sum = lane < CU_WARPS ? own.slots[16 + lane] : 0.0f;
#pragma unroll
    for (int d = 8; d > 0; d >>= 1)
        *sum += __shfl_xor_sync(~0u, *sum, d);
    *sum = __shfl_sync(~0u, *sum, 0);
}

/* ---- embedding ----------------------------------------------------------------------------------
 */

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

/* EMBED: a block of the residual. */
__device__ __forceinline__ void embed(const cu_token_args &a, const cu_step &s, uint32_t item,
                                      uint32_t token_index, uint32_t turn)
{
    const uint32_t n = 1u << s.log_block, first = item << s.log_block;
    const outlet   out = outlet_of(s.out, turn);
    float         *x = (float *)staged_of(a);
    uint32_t       token =
        token_index == 0 ? (uint32_t)__ldcg(&a.state->token) : wait_for(set_of(s.in, turn, 0));

    token = min(token, a.embedding.n_rows - 1); /* where no logit was a number */
    embed_block(a.embedding, token, first, s.log_block, x);
    if (a.embedding.bands != NULL) /* turned back */
        hadamard(x, n, s.log_block);
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < n; i += CU_THREADS)
        put(out, first + i,
            x[pad(i)] * (a.embedding.bands != NULL ? a.embedding.signs[first + i] : 1.0f));
}

/* ---- feed-forward -------------------------------------------------------------------------------
 */

__device__ __forceinline__ float silu(float x)
{
    return __fdividef(x, 1.0f + __expf(-x));
}

/* Four words here and four there, once all are there. */
__device__ __forceinline__ void take_both(const uint32_t *one, const uint32_t *two, float4 *x,
                                          float4 *y)
{
    uint4 v, w;

    do {
        v = look_at((const uint4 *)one);
        w = look_at((const uint4 *)two);
    } while (!is_there(v) || !is_there(w));
    *x = make_float4(__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z),
                     __uint_as_float(v.w));
    *y = make_float4(__uint_as_float(w.x), __uint_as_float(w.y), __uint_as_float(w.z),
                     __uint_as_float(w.w));
}

/* The first two distances, for four elements side by side. */
__device__ __forceinline__ float4 first_distances(float4 x)
{
    float4 y = make_float4(x.x + x.y, x.x - x.y, x.z + x.w, x.z - x.w);

    return make_float4(y.x + y.z, y.y + y.w, y.x - y.z, y.y - y.w);
}

/* Elements 4·i … of a padded vector. */
__device__ __forceinline__ void store_four(float *x, uint32_t i, float4 v)
{
    x += pad(4 * i);
    x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
}

/* Distances from 4 on of n elements in blocks of 2^log_block ≥ 4. */
__device__ __forceinline__ void later_distances(float *x, uint32_t n, uint32_t log_block)
{
    block_sync();
    if (log_block > 2) {
        hadamard_from(x, n, log_block, 2);
        return;
    }
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < n; i += CU_THREADS)
        x[pad(i)] *= 0.5f;
    block_sync();
}

/* Word w of a vector in shared memory, in the order of products. */
__device__ __forceinline__ float4 word_of(const float *x, uint32_t w)
{
    const uint32_t j = w / CU_TILE_WORDS * CU_TILE_COLUMNS + input_of(w % CU_TILE_WORDS, 0);

    return make_float4(x[pad(j)], x[pad(j + 8)], x[pad(j + 16)], x[pad(j + 24)]);
}

/* Largest magnitude of four, as bits: what is no number is larger than all that are. */
__device__ __forceinline__ uint32_t magnitude(float4 x)
{
    return max(max(__float_as_uint(x.x) << 1, __float_as_uint(x.y) << 1),
               max(__float_as_uint(x.z) << 1, __float_as_uint(x.w) << 1)) >>
           1;
}

__device__ __forceinline__ uint32_t codes_of(float4 x, float inverse)
{
    const float v[4] = { x.x, x.y, x.z, x.w };

    return pack_codes(v, inverse);
}

/* Codes are at least −127, so four of them written 127 higher are never EMPTY. */
__device__ __forceinline__ uint32_t raised(uint32_t codes)
{
    return (codes ^ 0x80808080u) - 0x01010101u;
}

__device__ __forceinline__ uint32_t lowered(uint32_t word)
{
    return (word + 0x01010101u) ^ 0x80808080u;
}

/* SWIGLU: silu(gate)·up, rotated, in int8, in the order of products. Items tell each other their
 * largest magnitudes first; the first item tells all blocks the largest of these. */
__device__ __forceinline__ void swiglu(const cu_token_args &a, const cu_step &s, uint32_t index,
                                       uint32_t item, uint32_t turn)
{
    const uint32_t  first = item << s.log_item, n = min(1u << s.log_item, s.width - first);
    const uint32_t *from = set_of(s.in, turn, 0) + first;
    const outlet    out = outlet_of(s.out, turn), maxima = outlet_of(s.maxima, turn);
    float          *x = (float *)staged_of(a), none = 0.0f, max, inverse;
    uint32_t        top = 0;

#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < 1u << s.log_item >> 2; i += CU_THREADS) {
        float4 gate, up, sign, v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);

        if (4 * i < n) {
            sign = __ldg((const float4 *)(s.factor + first) + i);
            take_both(from + 4 * i, from + s.up0 + 4 * i, &gate, &up);
            v = make_float4(silu(gate.x) * up.x * sign.x, silu(gate.y) * up.y * sign.y,
                            silu(gate.z) * up.z * sign.z, silu(gate.w) * up.w * sign.w);
        }
        store_four(x, i, first_distances(v));
    }
    mark_time(a, 1);
    later_distances(x, n, s.log_block);
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < n; i += CU_THREADS)
        top = ::max(top, __float_as_uint(x[pad(i)]) & 0x7FFFFFFFu);
    reduce_block(&top, &none);
    mark_time(a, 2);
    if (threadIdx.x == 0)
        put_bits(maxima, item, top);
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < s.n_items; i += CU_THREADS)
        top = ::max(top, wait_for(maxima.now + i));
    block_sync(); /* slots */
    reduce_block(&top, &none);
    if (item == 0 && threadIdx.x == 0) {
        put_bits(maxima, s.n_items, top);
        if (top >= 0x7F800000u)
            mark_bad(a, index);
    }
    mark_time(a, 3);
    max = top < 0x7F800000u ? __uint_as_float(top) : INFINITY;
    (void)int8_scale(max, &inverse);
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < 1u << s.log_item >> 2; i += CU_THREADS) {
        uint32_t j = first + i / 8 * 32 + i % 8, w = place_of(j) / 4; /* j, j + 8, j + 16, j + 24 */

        j -= first;
        put_bits(
            out, w,
            raised(codes_of(make_float4(x[pad(j)], x[pad(j + 8)], x[pad(j + 16)], x[pad(j + 24)]),
                            inverse)));
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

/* Splits that have keys: they come first. */
__device__ __forceinline__ uint32_t active_splits(const cu_token_args &a, uint32_t position)
{
    uint32_t begin, end, n = position + 1;

    split_range(position, a.kv.window, a.n_splits, 0, &begin, &end);
    return (n - begin + (end - begin) - 1) / (end - begin);
}

/* The shares of n splits for a head, by one warp, n ≤ 64. */
__device__ __forceinline__ void split_weights(const uint32_t *ml, uint32_t n, float *weights)
{
    const uint32_t lane = threadIdx.x & 31;
    float          max[2] = { -INFINITY, -INFINITY }, sum[2] = { 0.0f, 0.0f }, top, all;

#pragma unroll
    for (int i = 0; i < 2; i++)
        if (lane + 32 * i < n)
            max[i] = get(ml + 2 * (lane + 32 * i)), sum[i] = get(ml + 2 * (lane + 32 * i) + 1);
    top = fmaxf(max[0], max[1]);
#pragma unroll
    for (int d = 16; d > 0; d >>= 1)
        top = fmaxf(top, __shfl_xor_sync(~0u, top, d));
#pragma unroll
    for (int i = 0; i < 2; i++)
        max[i] = lane + 32 * i < n ? expf(max[i] - top) : 0.0f;
    all = max[0] * sum[0] + max[1] * sum[1];
#pragma unroll
    for (int d = 16; d > 0; d >>= 1)
        all += __shfl_xor_sync(~0u, all, d);
#pragma unroll
    for (int i = 0; i < 2; i++)
        if (lane + 32 * i < n)
            weights[lane + 32 * i] = __fdiv_rn(max[i], all);
}

/* The item's share of its KV head's result, from all splits that have keys. */
__device__ __forceinline__ void merge(const cu_token_args &a, const cu_step &s, uint32_t head,
                                      uint32_t split, uint32_t n_active, uint32_t turn)
{
    const uint32_t  hd = a.kv.head_dim, shared = a.kv.n_heads / a.kv.n_kv_heads, n = shared * hd;
    const uint32_t  begin = n * split / a.n_splits, count = n * (split + 1) / a.n_splits - begin;
    const uint32_t  head0 = head * shared;
    const outlet    out = outlet_of(s.out, turn);
    const uint32_t *partial = set_of(s.partial, turn, 0) + head0 * a.n_splits * hd;
    const uint32_t *softmax = set_of(s.softmax, turn, 0) + 2 * head0 * a.n_splits;
    float          *weights = (float *)staged_of(a), *parts = weights + shared * n_active;

#pragma unroll 1
    for (uint32_t h = threadIdx.x >> 5; h < shared; h += CU_WARPS)
        split_weights(softmax + 2 * h * a.n_splits, n_active, weights + h * n_active);
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < count * n_active; i += CU_THREADS) {
        uint32_t j = begin + i % count, k = i / count;

        parts[i] = get(partial + (j / hd * a.n_splits + k) * hd + j % hd);
    }
    block_sync();
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < count; i += CU_THREADS) {
        uint32_t     j = begin + i;
        const float *w = weights + j / hd * n_active;
        float        x = 0.0f;

#pragma unroll 4
        for (uint32_t k = 0; k < n_active; k++)
            x = fmaf(parts[k * count + i], w[k], x);
        put(out, head0 * hd + j, x);
    }
}

/* Empties what the item wrote of partial results two turns ago. */
__device__ __forceinline__ void empty_partial(const cu_token_args &a, const cu_step &s,
                                              uint32_t head0, uint32_t shared, uint32_t split,
                                              uint32_t turn)
{
    const uint32_t hd = a.kv.head_dim;
    uint32_t      *partial = set_of(s.partial, turn, 2), *softmax = set_of(s.softmax, turn, 2);

#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < shared * hd; i += CU_THREADS)
        publish(partial + ((head0 + i / hd) * a.n_splits + split) * hd + i % hd, CU_EMPTY);
    if (threadIdx.x < 2 * shared)
        publish(softmax + 2 * ((head0 + threadIdx.x / 2) * a.n_splits + split) + threadIdx.x % 2,
                CU_EMPTY);
}

/* Asks for the first keys of each warp while their queries are not there yet. */
template <int TYPE, int DIMS>
__device__ __forceinline__ void expect_keys(uint8_t *const *pages, cu_kv kv, uint32_t layer,
                                            uint32_t head, uint32_t begin, uint32_t end)
{
    const uint64_t k_part = kv_part(kv, layer, head, 0), v_part = kv_part(kv, layer, head, 1);
    uint32_t       key = (begin & ~7u) + 8 * (threadIdx.x >> 5);

#pragma unroll 1
    for (uint32_t i = 0; i < groups_ahead<TYPE>() && key < end; i++, key += 8 * CU_WARPS)
        expect_group<TYPE, DIMS>(pages, k_part, v_part, key);
}

/* One KV head and one part of the keys. The block whose part holds the token's own position appends
 * key and value first. With a single part its result is the head's; else each item writes its part
 * and then merges a share of all parts. */
template <int TYPE, int DIMS, int HEADS>
__device__ __forceinline__ void attention(const cu_token_args &a, const cu_step &s, uint32_t index,
                                          uint32_t item, uint32_t turn)
{
    const uint32_t  hd = a.kv.head_dim, shared = a.kv.n_heads / a.kv.n_kv_heads;
    const uint32_t  position = own.place.position, head = item / a.n_splits;
    const uint32_t  split = item % a.n_splits, n_active = active_splits(a, position);
    uint8_t *const  page = own.place.newest;
    const bool      known = item == blockIdx.x && own.place.n_pages != 0;
    uint8_t *const *pages = known ? own.place.pages - own.place.first_page : a.pages;
    const uint32_t *from = set_of(s.in, turn, 0);
    const outlet    out = outlet_of(s.out, turn);
    uint32_t       *partial = set_of(s.partial, turn, 0), *softmax = set_of(s.softmax, turn, 0);
    uint32_t        begin, end;
    float          *y = y_of(a), *k = y + shared * hd;

    split_range(position, a.kv.window, a.n_splits, split, &begin, &end);
    if constexpr (DIMS > TENSOR)
        expect_keys<TYPE, DIMS - TENSOR>(pages, a.kv, s.layer, head, begin, end);
    if (split < n_active) {
#pragma unroll 1
        for (uint32_t i = 4 * threadIdx.x; i < (shared + 2) * hd; i += 4 * CU_THREADS) {
            uint32_t at = head * shared * hd + i;
            uint4    v;

            if (i >= shared * hd) /* heads of keys, then of values, stand behind all queries */
                at = (a.kv.n_heads + head) * hd + i - shared * hd +
                     (i < (shared + 1) * hd ? 0 : (a.kv.n_kv_heads - 1) * hd);
            do
                v = look_at((const uint4 *)(from + at));
            while (!is_there(v));
            *(uint4 *)(y + i) = v;
        }
        block_sync();
        mark_time(a, 1);
        turn_heads(a, angles_of(a), y, shared + 1);
        if (end == position + 1) {
            uint32_t warp = threadIdx.x >> 5;

            if (warp < 2 && !kv_store(a.kv, page + kv_part(a.kv, s.layer, head, warp),
                                      position % CU_PAGE_TOKENS, k + warp * hd))
                mark_bad(a, index);
            __threadfence_block();
            block_sync();
        }
        mark_time(a, 2);
#pragma unroll 1
        for (uint32_t h0 = 0; h0 < shared; h0 += HEADS)
            attend_for<TYPE, DIMS, HEADS>(
                y + h0 * hd, min(shared - h0, (uint32_t)HEADS), pages, a.kv, s.layer, head, begin,
                end, (float *)staged_of(a),
                [&](uint32_t h, uint32_t d, float values, float max, float sum) {
                    uint32_t at = head * shared + h0 + h;

                    if (n_active == 1) {
                        put(out, at * hd + d, __fdiv_rn(values, sum));
                        return;
                    }
                    at = at * a.n_splits + split;
                    publish(partial + at * hd + d, __float_as_uint(values));
                    if (d == 0) {
                        publish(softmax + 2 * at, __float_as_uint(max));
                        publish(softmax + 2 * at + 1, __float_as_uint(sum));
                    }
                });
    }
    mark_time(a, 3);
    empty_partial(a, s, head * shared, shared, split, turn);
    if (n_active > 1)
        merge(a, s, head, split, n_active, turn);
}

/* ---- the best token -----------------------------------------------------------------------------
 */

__device__ __forceinline__ void better(float *value, int32_t *token, float v, int32_t t)
{
    if (v > *value || (v == *value && t < *token)) {
        *value = v;
        *token = t;
    }
}

/* The best of all threads, in thread 0. */
__device__ __forceinline__ void best_of_block(float *value, int32_t *token)
{
    float   *values = own.slots;
    int32_t *tokens = (int32_t *)(own.slots + 32);

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

/* By one thread: the token goes to the host and to the next turn, of which `next` is the input. The
 * last of a launch leaves the state for the next launch. */
__device__ __forceinline__ void hand_on(const cu_token_args &a, const cu_step &s,
                                        uint32_t token_index, uint32_t turn, int32_t token,
                                        uint32_t next)
{
    put_bits(outlet_of(s.out, turn), 0, next);
    a.tokens_out[token_index] = token;
    if (token_index + 1 == a.n_tokens) {
        a.state->token = (int32_t)next;
        a.state->position = own.place.launch_position + a.n_tokens;
        a.arrivals[CU_TOKENS_DONE] = turn + 1;
    }
}

/* SAMPLE, all blocks: a token drawn as a.draw says; block 0 hands it on. */
__device__ __forceinline__ void draw(const cu_token_args &a, const cu_step &s, uint32_t token_index,
                                     uint32_t turn)
{
    uint32_t token = draw_token(a.draw, a.logits, token_index, (uint32_t *)staged_of(a));

    if (blockIdx.x == 0 && threadIdx.x == 0)
        hand_on(a, s, token_index, turn, (int32_t)token, token == CU_NO_TOKEN ? 0 : token);
}

/* SAMPLE, block 0: the best of all blocks' best. */
__device__ __forceinline__ void sample(const cu_token_args &a, const cu_step &s,
                                       uint32_t token_index, uint32_t turn)
{
    const uint32_t *from = set_of(s.in, turn, 0);
    float           value = -INFINITY;
    int32_t         token = INT32_MAX;

#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < gridDim.x; i += CU_THREADS)
        better(&value, &token, get(from + 2 * i), (int32_t)wait_for(from + 2 * i + 1));
    best_of_block(&value, &token);
    if (threadIdx.x == 0)
        hand_on(a, s, token_index, turn, token, (uint32_t)token);
}

} // namespace

#endif
