/* cuda_attend.cuh: online softmax over a range of keys for the query heads of one KV head, by one
 * block of 15 warps.
 *
 * A warp reads two keys at a time, half a warp for each: 16 lanes · DIMS dimensions. Every warp
 * keeps an online softmax of its own (Milakov and Gimelshein, 2018); they are merged at the end in
 * shared memory. Keys and values may come from other blocks of the launch: read past the
 * first-level cache. */
#ifndef UPG_BACKEND_CUDA_CUDA_ATTEND_CUH
#define UPG_BACKEND_CUDA_CUDA_ATTEND_CUH

#include "backend/cuda/cuda_math.cuh"

enum { CU_PAGE_TOKENS = 64, KV_F16 = 0, KV_F32 = 1, KV_I8 = 2 };

/* TENSOR + DIMS: attention on tensor cores, for heads of 16 · DIMS dimensions. */
enum { TENSOR = 100 };

static __device__ __forceinline__ uint64_t kv_part(cu_kv kv, uint32_t layer, uint32_t head,
                                                   uint32_t v)
{
    return kv.part_bytes * (2 * ((uint64_t)layer * kv.n_kv_heads + head) + v);
}

/* DIMS elements at an index, as f32; the whole vector when `full`, else those below head_dim. */
template <int TYPE, int DIMS>
static __device__ __forceinline__ void kv_load(const uint8_t *part, uint32_t token, uint32_t dim,
                                               uint32_t head_dim, float x[DIMS])
{
    uint32_t at = token * head_dim + dim;

    if (DIMS % 4 == 0 && head_dim == 16 * DIMS) {
        if (TYPE == KV_F32) {
#pragma unroll
            for (int i = 0; i < DIMS; i += 4) {
                float4 v = __ldcg((const float4 *)((const float *)part + at + i));

                x[i] = v.x, x[i + 1] = v.y, x[i + 2] = v.z, x[i + 3] = v.w;
            }
        } else if (TYPE == KV_F16 && DIMS % 8 == 0) {
#pragma unroll
            for (int i = 0; i < DIMS; i += 8) {
                uint4          v = __ldcg((const uint4 *)((const uint16_t *)part + at + i));
                const __half2 *h = (const __half2 *)&v;

#pragma unroll
                for (int k = 0; k < 4; k++) {
                    float2 f = __half22float2(h[k]);

                    x[i + 2 * k] = f.x, x[i + 2 * k + 1] = f.y;
                }
            }
        } else if (TYPE == KV_F16) {
#pragma unroll
            for (int i = 0; i < DIMS; i += 4) {
                uint2          v = __ldcg((const uint2 *)((const uint16_t *)part + at + i));
                const __half2 *h = (const __half2 *)&v;

#pragma unroll
                for (int k = 0; k < 2; k++) {
                    float2 f = __half22float2(h[k]);

                    x[i + 2 * k] = f.x, x[i + 2 * k + 1] = f.y;
                }
            }
        } else {
            float scale = __ldcg((const float *)(part + CU_PAGE_TOKENS * head_dim) + token);

            if (DIMS % 8 == 0) {
#pragma unroll
                for (int i = 0; i < DIMS; i += 8) {
                    uint2 v = __ldcg((const uint2 *)(part + at + i));

#pragma unroll
                    for (int k = 0; k < 4; k++) {
                        x[i + k] = scale * (float)(int8_t)(v.x >> 8 * k);
                        x[i + 4 + k] = scale * (float)(int8_t)(v.y >> 8 * k);
                    }
                }
            } else {
#pragma unroll
                for (int i = 0; i < DIMS; i += 4) {
                    uint32_t v = __ldcg((const uint32_t *)(part + at + i));

#pragma unroll
                    for (int k = 0; k < 4; k++)
                        x[i + k] = scale * (float)(int8_t)(v >> 8 * k);
                }
            }
        }
        return;
    }
#pragma unroll
    for (int i = 0; i < DIMS; i++) {
        x[i] = 0.0f;
        if (dim + i >= head_dim)
            continue;
        if (TYPE == KV_F32)
            x[i] = __ldcg((const float *)part + at + i);
        else if (TYPE == KV_F16)
            x[i] = __half2float(__ushort_as_half(__ldcg((const uint16_t *)part + at + i)));
        else
            x[i] = __ldcg((const float *)(part + CU_PAGE_TOKENS * head_dim) + token) *
                   (float)(int8_t)__ldcg((const uint8_t *)part + at + i);
    }
}

/* Words of scratch. */
template <int DIMS, int HEADS> static __host__ __device__ constexpr uint32_t attend_words()
{
    return CU_WARPS * HEADS * (16 * DIMS + 2);
}

/* Merges what the first n_warps warps left in scratch: [warp][HEADS][16 · DIMS values, max, sum].
 * Calls f(head, dimension, values, max, sum). */
template <int DIMS, int HEADS, typename F>
static __device__ __forceinline__ void merge_warps(const float *scratch, int n_warps,
                                                   uint32_t n_heads, uint32_t head_dim, F f)
{
    block_sync();
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < n_heads * head_dim; i += CU_THREADS) {
        uint32_t     h = i / head_dim, d = i % head_dim;
        const float *from = scratch + h * (16 * DIMS + 2);
        float        max = -INFINITY, a = 0.0f, s = 0.0f;

#pragma unroll 4
        for (int w = 0; w < n_warps; w++)
            max = fmaxf(max, from[w * HEADS * (16 * DIMS + 2) + 16 * DIMS]);
#pragma unroll 4
        for (int w = 0; w < n_warps && max > -INFINITY; w++, from += HEADS * (16 * DIMS + 2)) {
            float factor = expf(from[16 * DIMS] - max);

            a = fmaf(from[d], factor, a);
            s = fmaf(from[16 * DIMS + 1], factor, s);
        }
        f(h, d, a, max, s);
    }
    block_sync();
}

/* ---- on tensor cores ---------------------------------------------------------------------------
 * A warp takes 8 keys at a time, lane 4·g + t key g. Scores: rows 0 … 3 of the 16 × 8 product are
 * the queries of four heads in fp16, rows 4 … 7 what that rounding left; their sum is good to 22
 * bits. Which dimension stands where is free as long as queries and keys agree, so keys are used as
 * they are loaded, 16 bytes a lane. Values: the transposed product, 16 dimensions × (4 heads, 4
 * rests), the value tiles turned over in registers. */

static __device__ __forceinline__ uint32_t turned(uint32_t x)
{
    uint32_t y;

    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
    return y;
}

static __device__ __forceinline__ void mma_scores(float c[4], uint32_t a0, uint32_t a2, uint32_t b0,
                                                  uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0,%1,%2,%3},{%4,%5,%6,%5},{%7,%8},{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a0), "r"(0u), "r"(a2), "r"(b0), "r"(b1));
}

static __device__ __forceinline__ void mma_values(float c[4], uint32_t a0, uint32_t a1, uint32_t b)
{
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
                 "{%0,%1,%2,%3},{%4,%5},{%6},{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a0), "r"(a1), "r"(b));
}

static __device__ __forceinline__ uint32_t halves_of(float x, float y)
{
    __half2 h = __floats2half2_rn(x, y);

    return *(const uint32_t *)&h;
}

/* What fp16 leaves of x and y. */
static __device__ __forceinline__ uint32_t rests_of(float x, float y)
{
    float2 h = __half22float2(__floats2half2_rn(x, y));

    return halves_of(x - h.x, y - h.y);
}

/* Four bytes as two pairs of fp16: 0x6400 | b is 1024 + b. */
static __device__ __forceinline__ void halves_of_bytes(uint32_t bytes, uint32_t *low,
                                                       uint32_t *high)
{
    const __half2 offset = __float2half2_rn(1152.0f);
    uint32_t      x = bytes ^ 0x80808080u;
    uint32_t      a = __byte_perm(x, 0x64646464u, 0x4140), b = __byte_perm(x, 0x64646464u, 0x4342);
    __half2 p = __hsub2(*(const __half2 *)&a, offset), q = __hsub2(*(const __half2 *)&b, offset);

    *low = *(const uint32_t *)&p;
    *high = *(const uint32_t *)&q;
}

/* 8 dimensions of a key or value as fp16 pairs. */
template <int TYPE, bool FRESH>
static __device__ __forceinline__ void load_halves(const uint8_t *part, uint32_t element,
                                                   uint32_t x[4])
{
    if (TYPE == KV_F16) {
        const uint4 *at = (const uint4 *)((const uint16_t *)part + element);
        uint4        v = FRESH ? __ldcg(at) : *at;

        x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
    } else {
        const uint2 *at = (const uint2 *)(part + element);
        uint2        v = FRESH ? __ldcg(at) : *at;

        x[0] = v.x, x[2] = v.y; /* turned into halves when they are used */
    }
}

template <int TYPE> static __device__ __forceinline__ void ready(uint32_t x[4])
{
    if (TYPE == KV_I8) {
        halves_of_bytes(x[2], &x[2], &x[3]);
        halves_of_bytes(x[0], &x[0], &x[1]);
    }
}

/* int8 weights p·scale are kept in fp16 by this factor larger than they are. */
#define CU_VALUE_UNIT 256.0f

/* What a warp has seen of its keys: products of 16 dimensions × 8 columns, and for the head g % 4
 * the largest score and, in four lanes, parts of the sum. */
template <int DIMS> struct attention_state {
    float acc[DIMS / 2][2][4], top, sum;
};

/* Keys and values of a group of 8 on their way from memory. */
template <int TYPE, int DIMS> struct key_group {
    enum { CHUNKS = DIMS / 2 };
    uint32_t k[CHUNKS][4], v[CHUNKS][4];
    float2   k_scale, v_scale;
};

/* Lane 4·g + t: key g of the group from `key` on, and the scales of keys 2·t and 2·t + 1. */
template <int TYPE, int DIMS, bool FRESH>
static __device__ __forceinline__ void load_group(uint8_t *const *pages, uint64_t k_part,
                                                  uint64_t v_part, uint32_t key,
                                                  key_group<TYPE, DIMS> *to)
{
    enum { CHUNKS = DIMS / 2, HEAD = 16 * DIMS };
    const uint32_t lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const uint8_t *page = pages[key / CU_PAGE_TOKENS];
    const uint32_t token = key % CU_PAGE_TOKENS, at = (token + g) * HEAD + 8 * t;

#pragma unroll
    for (int c = 0; c < CHUNKS; c++)
        load_halves<TYPE, FRESH>(page + k_part, at + 32 * c, to->k[c]);
#pragma unroll
    for (int c = 0; c < CHUNKS; c++)
        load_halves<TYPE, FRESH>(page + v_part, at + 32 * c, to->v[c]);
    if (TYPE == KV_I8) {
        to->k_scale =
            __ldcg((const float2 *)(page + k_part + CU_PAGE_TOKENS * HEAD) + token / 2 + t);
        to->v_scale =
            __ldcg((const float2 *)(page + v_part + CU_PAGE_TOKENS * HEAD) + token / 2 + t);
    } else {
        to->k_scale = to->v_scale = make_float2(1.0f, 1.0f);
    }
}

/* Groups of 8 keys that a warp asks the second-level cache for ahead of their use. */
template <int TYPE> static __host__ __device__ constexpr uint32_t groups_ahead()
{
    return TYPE == KV_I8 ? 2 : 1;
}

/* Asks for the lines of a group of 8 keys and values, so that the second-level cache has them. */
template <int TYPE, int DIMS>
static __device__ __forceinline__ void expect_group(uint8_t *const *pages, uint64_t k_part,
                                                    uint64_t v_part, uint32_t key)
{
    enum { KEY_BYTES = 16 * DIMS * (TYPE == KV_I8 ? 1 : 2), LINE = 128 };
    const uint32_t lane = threadIdx.x & 31, at = (lane & 15) * LINE;
    const uint8_t *page = pages[key / CU_PAGE_TOKENS];

    if (at < 8 * KEY_BYTES)
        asm volatile("prefetch.global.L2 [%0];" ::"l"(page + (lane < 16 ? k_part : v_part) +
                                                      key % CU_PAGE_TOKENS * KEY_BYTES + at));
}

/* One warp: keys [begin, end), 8 from key0 on, then `stride` further. FRESH: other blocks of this
 * launch may have written them. */
template <int TYPE, int DIMS, bool FRESH>
static __device__ __forceinline__ void
attend_keys(const float *q, uint32_t n_heads, uint8_t *const *pages, cu_kv kv, uint32_t layer,
            uint32_t kv_head, uint32_t begin, uint32_t end, uint32_t key0, uint32_t stride,
            attention_state<DIMS> *state)
{
    enum {
        CHUNKS = DIMS / 2,
        HEAD = 16 * DIMS,
        AHEAD = TYPE == KV_I8 && FRESH /* a group ahead in registers, where they suffice */
    };
    const uint32_t lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const uint64_t k_part = kv_part(kv, layer, kv_head, 0), v_part = kv_part(kv, layer, kv_head, 1);
    const float    scale = __fdiv_rn(1.0f, __fsqrt_rn((float)HEAD));
    uint32_t       query[CHUNKS][2][2];
    float          top = -INFINITY, sum = 0.0f;
    key_group<TYPE, DIMS> group;
    float(&acc)[CHUNKS][2][4] = state->acc;

#pragma unroll
    for (int c = 0; c < CHUNKS; c++)
#pragma unroll
        for (int p = 0; p < 2; p++)
#pragma unroll
            for (int r = 0; r < 2; r++) {
                const float *at = q + (g & 3) * HEAD + 32 * c + 8 * t + 4 * p + 2 * r;
                float        x = 0.0f, y = 0.0f;

                if ((g & 3) < n_heads)
                    x = at[0] * scale, y = at[1] * scale;
                query[c][p][r] = g < 4 ? halves_of(x, y) : rests_of(x, y);
                acc[c][p][2 * r] = acc[c][p][2 * r + 1] = 0.0f;
            }
    if (AHEAD && key0 < end)
        load_group<TYPE, DIMS, FRESH>(pages, k_part, v_part, key0, &group);
#pragma unroll 1
    for (; key0 < end; key0 += stride) {
        uint32_t              weight, first = key0 + 2 * t;
        bool                  one = first >= begin && first < end;
        bool                  two = first + 1 >= begin && first + 1 < end;
        bool                  mine = key0 + g >= begin && key0 + g < end;
        float                 s[4] = { 0.0f, 0.0f, 0.0f, 0.0f }, max, p0, p1, factor;
        key_group<TYPE, DIMS> now;

        if (AHEAD) {
            now = group;
            if (key0 + stride < end)
                load_group<TYPE, DIMS, FRESH>(pages, k_part, v_part, key0 + stride, &group);
        } else {
            load_group<TYPE, DIMS, FRESH>(pages, k_part, v_part, key0, &now);
        }
        if (FRESH && key0 + groups_ahead<TYPE>() * stride < end)
            expect_group<TYPE, DIMS>(pages, k_part, v_part, key0 + groups_ahead<TYPE>() * stride);
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) {
            ready<TYPE>(now.k[c]);
#pragma unroll
            for (int p = 0; p < 2; p++)
                mma_scores(s, query[c][p][0], query[c][p][1], now.k[c][2 * p], now.k[c][2 * p + 1]);
        }
        s[0] += __shfl_xor_sync(~0u, s[0], 16);
        s[1] += __shfl_xor_sync(~0u, s[1], 16);
        s[0] = one ? s[0] * now.k_scale.x : -INFINITY;
        s[1] = two ? s[1] * now.k_scale.y : -INFINITY;
        max = fmaxf(s[0], s[1]);
        max = fmaxf(max, __shfl_xor_sync(~0u, max, 1));
        max = fmaxf(top, fmaxf(max, __shfl_xor_sync(~0u, max, 2)));
        factor = max == -INFINITY ? 1.0f : expf(top - max);
        p0 = one ? expf(s[0] - max) : 0.0f;
        p1 = two ? expf(s[1] - max) : 0.0f;
        sum = sum * factor + p0 + p1;
        if (__any_sync(~0u, max != top)) {
            float f0 = __shfl_sync(~0u, factor, (8 * t) & 12);
            float f1 = __shfl_sync(~0u, factor, (8 * t + 4) & 12);

#pragma unroll
            for (int c = 0; c < CHUNKS; c++)
#pragma unroll
                for (int p = 0; p < 2; p++) {
                    acc[c][p][0] *= f0, acc[c][p][1] *= f1;
                    acc[c][p][2] *= f0, acc[c][p][3] *= f1;
                }
        }
        top = max;
        if (TYPE == KV_I8) {
            p0 = one ? p0 * (now.v_scale.x * CU_VALUE_UNIT) : 0.0f;
            p1 = two ? p1 * (now.v_scale.y * CU_VALUE_UNIT) : 0.0f;
        }
        weight = g < 4 ? halves_of(p0, p1) : rests_of(p0, p1);
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) {
            ready<TYPE>(now.v[c]);
#pragma unroll
            for (int p = 0; p < 2; p++) {
                uint32_t a0 = turned(mine ? now.v[c][2 * p] : 0u);
                uint32_t a1 = turned(mine ? now.v[c][2 * p + 1] : 0u);

                mma_values(acc[c][p], a0, a1, weight);
            }
        }
    }
    state->top = top;
    state->sum = sum + __shfl_xor_sync(~0u, sum, 1);
    state->sum += __shfl_xor_sync(~0u, state->sum, 2);
}

/* Calls f(head, dimension, value) for the values of a warp, not divided by their sum. */
template <int TYPE, int DIMS, typename F>
static __device__ __forceinline__ void each_value(const attention_state<DIMS> *state, F f)
{
    const uint32_t lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;

#pragma unroll
    for (int c = 0; c < DIMS / 2; c++)
#pragma unroll
        for (int p = 0; p < 2; p++)
#pragma unroll
            for (int r = 0; r < 4; r++) {
                float    x = state->acc[c][p][r] + __shfl_xor_sync(~0u, state->acc[c][p][r], 2);
                uint32_t head = 2 * t + (r & 1);
                uint32_t dim = 32 * c + 8 * (g >> 1) + 4 * p + (g & 1) + 2 * (r >> 1);

                if (TYPE == KV_I8)
                    x *= 1.0f / CU_VALUE_UNIT;
                if (head < 4)
                    f(head, dim, x);
            }
}

/* Warps that have keys when each takes 8 at a time. */
static __device__ __forceinline__ int warps_of(uint32_t begin, uint32_t end)
{
    uint32_t n = (end - (begin & ~7u) + 7) / 8;

    return begin >= end ? 0 : (int)min(n, (uint32_t)CU_WARPS);
}

template <int TYPE, int DIMS>
static __device__ __noinline__ void
attend_tensor(const float *q, uint32_t n_heads, uint8_t *const *pages, cu_kv kv, uint32_t layer,
              uint32_t kv_head, uint32_t begin, uint32_t end, float *scratch)
{
    enum { HEAD = 16 * DIMS };
    const uint32_t        warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    attention_state<DIMS> state;

    if ((int)warp >= warps_of(begin, end))
        return;
    attend_keys<TYPE, DIMS, true>(q, n_heads, pages, kv, layer, kv_head, begin, end,
                                  (begin & ~7u) + 8 * warp, 8 * CU_WARPS, &state);
    each_value<TYPE, DIMS>(&state, [&](uint32_t head, uint32_t dim, float x) {
        scratch[(warp * 4 + head) * (HEAD + 2) + dim] = x;
    });
    if (lane < 16 && (lane & 3) == 0) {
        scratch[(warp * 4 + lane / 4) * (HEAD + 2) + HEAD] = state.top;
        scratch[(warp * 4 + lane / 4) * (HEAD + 2) + HEAD + 1] = state.sum;
    }
}

/* ---- any type and size ------------------------------------------------------------------------
 */

template <int TYPE, int DIMS, int HEADS>
static __device__ __noinline__ void
attend_scalar(const float *q, uint32_t n_heads, uint8_t *const *pages, cu_kv kv, uint32_t layer,
              uint32_t kv_head, uint32_t begin, uint32_t end, float *scratch)
{
    enum { BATCH = DIMS > 8 ? 1 : 2 }; /* pairs of keys whose loads are in flight together */
    const uint32_t warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const uint32_t half = lane >> 4, dim = (lane & 15) * DIMS, head_dim = kv.head_dim;
    const uint64_t k_part = kv_part(kv, layer, kv_head, 0), v_part = kv_part(kv, layer, kv_head, 1);
    const float    scale = __fdiv_rn(1.0f, __fsqrt_rn((float)head_dim));
    float          mine[HEADS][DIMS], acc[HEADS][DIMS], top[HEADS], sum[HEADS];

#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        top[h] = -INFINITY;
        sum[h] = 0.0f;
#pragma unroll
        for (int i = 0; i < DIMS; i++) {
            mine[h][i] =
                h < n_heads && dim + i < head_dim ? q[h * head_dim + dim + i] * scale : 0.0f;
            acc[h][i] = 0.0f;
        }
    }
    for (uint32_t key0 = begin + 2 * BATCH * warp; key0 < end; key0 += 2 * BATCH * CU_WARPS) {
        float k[BATCH][DIMS], v[BATCH][DIMS], score[BATCH][HEADS];

#pragma unroll
        for (int b = 0; b < BATCH; b++) {
            uint32_t       key = min(key0 + 2 * b + half, end - 1);
            const uint8_t *page = pages[key / CU_PAGE_TOKENS];

            kv_load<TYPE, DIMS>(page + k_part, key % CU_PAGE_TOKENS, dim, head_dim, k[b]);
            kv_load<TYPE, DIMS>(page + v_part, key % CU_PAGE_TOKENS, dim, head_dim, v[b]);
        }
#pragma unroll
        for (int b = 0; b < BATCH; b++)
#pragma unroll
            for (int h = 0; h < HEADS; h++) {
                float s = 0.0f;

#pragma unroll
                for (int i = 0; i < DIMS; i++)
                    s = fmaf(mine[h][i], k[b][i], s);
                s += __shfl_xor_sync(~0u, s, 8);
                s += __shfl_xor_sync(~0u, s, 4);
                s += __shfl_xor_sync(~0u, s, 2);
                s += __shfl_xor_sync(~0u, s, 1);
                score[b][h] = key0 + 2 * b + half < end ? s : -INFINITY;
            }
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            float max = top[h], factor;

#pragma unroll
            for (int b = 0; b < BATCH; b++)
                max = fmaxf(max, score[b][h]);
            if (max == -INFINITY)
                continue;
            factor = expf(top[h] - max);
            top[h] = max;
            sum[h] *= factor;
#pragma unroll
            for (int i = 0; i < DIMS; i++)
                acc[h][i] *= factor;
#pragma unroll
            for (int b = 0; b < BATCH; b++) {
                float p = expf(score[b][h] - max);

                sum[h] += p;
#pragma unroll
                for (int i = 0; i < DIMS; i++)
                    acc[h][i] = fmaf(p, v[b][i], acc[h][i]);
            }
        }
    }
    /* Each half warp has seen other keys: merge the halves, then the warps. */
    block_sync();
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        float  max = fmaxf(top[h], __shfl_xor_sync(~0u, top[h], 16));
        float  factor = max == -INFINITY ? 0.0f : expf(top[h] - max), s;
        float *out = scratch + (warp * HEADS + h) * (16 * DIMS + 2);

        s = sum[h] * factor;
        s += __shfl_xor_sync(~0u, s, 16);
#pragma unroll
        for (int i = 0; i < DIMS; i++) {
            float a = acc[h][i] * factor;

            a += __shfl_xor_sync(~0u, a, 16);
            if (half == 0)
                out[dim + i] = a;
        }
        if (lane == 0) {
            out[16 * DIMS] = max;
            out[16 * DIMS + 1] = s;
        }
    }
}

/* Keys [begin, end) of one sequence. q f32 [HEADS][head_dim] in shared memory, n_heads ≤ HEADS of
 * them; scratch as above. Calls f as merge_warps does. Begins after a barrier at which nobody used
 * scratch any more. */
template <int TYPE, int DIMS, int HEADS, typename F>
static __device__ __forceinline__ void
attend_for(const float *q, uint32_t n_heads, uint8_t *const *pages, cu_kv kv, uint32_t layer,
           uint32_t kv_head, uint32_t begin, uint32_t end, float *scratch, F f)
{
    enum { EACH = DIMS > TENSOR ? DIMS - TENSOR : DIMS };

    if constexpr (DIMS > TENSOR)
        attend_tensor<TYPE, EACH>(q, n_heads, pages, kv, layer, kv_head, begin, end, scratch);
    else
        attend_scalar<TYPE, EACH, HEADS>(q, n_heads, pages, kv, layer, kv_head, begin, end,
                                         scratch);
    merge_warps<EACH, HEADS>(scratch, DIMS > TENSOR ? warps_of(begin, end) : (int)CU_WARPS, n_heads,
                             kv.head_dim, f);
}

/* partial: f32 [n_heads][head_dim] at a stride of partial_stride; softmax: {max, sum} at a stride
 * of 2 · softmax_stride. */
template <int TYPE, int DIMS, int HEADS>
static __device__ __forceinline__ void
attend(const float *q, uint32_t n_heads, uint8_t *const *pages, cu_kv kv, uint32_t layer,
       uint32_t kv_head, uint32_t begin, uint32_t end, float *scratch, float *partial,
       uint32_t partial_stride, float *softmax, uint32_t softmax_stride)
{
    attend_for<TYPE, DIMS, HEADS>(q, n_heads, pages, kv, layer, kv_head, begin, end, scratch,
                                  [&](uint32_t h, uint32_t d, float a, float max, float s) {
                                      partial[(uint64_t)h * partial_stride + d] = a;
                                      if (d == 0) {
                                          softmax[2 * h * softmax_stride] = max;
                                          softmax[2 * h * softmax_stride + 1] = s;
                                      }
                                  });
}

/* Element (head, d) of the mixed values: merges the splits. */
static __device__ __forceinline__ float merge_splits(const float *partial, const float *softmax,
                                                     uint32_t n_splits, uint32_t head,
                                                     uint32_t head_dim, uint32_t d)
{
    const float *ml = softmax + 2 * (uint64_t)head * n_splits;
    const float *from = partial + (uint64_t)head * n_splits * head_dim + d;
    float        max = -INFINITY, a = 0.0f, s = 0.0f;

    for (uint32_t i = 0; i < n_splits; i++)
        max = fmaxf(max, __ldcg(ml + 2 * i));
    for (uint32_t i = 0; i < n_splits; i++) {
        float m = __ldcg(ml + 2 * i);

        if (m > -INFINITY) {
            float factor = expf(m - max);

            a = fmaf(__ldcg(from + (uint64_t)i * head_dim), factor, a);
            s = fmaf(__ldcg(ml + 2 * i + 1), factor, s);
        }
    }
    return __fdiv_rn(a, s);
}

/* Keys of a query and of one of its splits, in whole groups of 8. */
static __device__ __forceinline__ void split_range(uint32_t position, uint32_t window,
                                                   uint32_t n_splits, uint32_t split,
                                                   uint32_t *begin, uint32_t *end)
{
    uint32_t low = window != 0 && position + 1 > window ? position + 1 - window : 0;
    uint32_t each = ((position + 1 - low + n_splits - 1) / n_splits + 7) & ~7u;

    *begin = min(low + split * each, position + 1);
    *end = min(*begin + each, position + 1);
}

/* Stores one head's key or value, elements d = lane, lane + 32, … of x, by one warp. */
static __device__ __forceinline__ bool kv_store(cu_kv kv, uint8_t *part, uint32_t token,
                                                const float *x)
{
    uint32_t lane = threadIdx.x & 31;
    bool     good = true;
    float    max = 0.0f, inverse;

    for (uint32_t d = lane; d < kv.head_dim; d += 32) {
        if (kv.type == KV_F32) {
            ((float *)part)[token * kv.head_dim + d] = x[d];
        } else if (kv.type == KV_F16) {
            __half h = __float2half_rn(x[d]);

            ((__half *)part)[token * kv.head_dim + d] = h;
            good = good && (__half_as_ushort(h) & 0x7FFF) < 0x7C00;
        }
        good = good && is_number(x[d]);
        max = fmaxf(max, fabsf(x[d]));
    }
    if (kv.type == KV_I8) {
        float scale;

        for (int o = 16; o > 0; o >>= 1)
            max = fmaxf(max, __shfl_xor_sync(~0u, max, o));
        scale = int8_scale(max, &inverse);
        if (lane == 0)
            ((float *)(part + CU_PAGE_TOKENS * kv.head_dim))[token] = scale;
        for (uint32_t d = lane; d < kv.head_dim; d += 32)
            ((int8_t *)part)[token * kv.head_dim + d] = (int8_t)__float2int_rn(x[d] * inverse);
    }
    return good;
}

/* cos and sin of pair i at a position, angle in fp64. */
static __device__ __forceinline__ void rope_angle(uint32_t position, float frequency, float scaling,
                                                  float *cosine, float *sine)
{
    double s, c;

    sincos((double)position * (double)frequency, &s, &c);
    *cosine = (float)(c * (double)scaling);
    *sine = (float)(s * (double)scaling);
}

#endif
