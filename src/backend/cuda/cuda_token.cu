/* cuda_token.cu: a whole token (or many) in one launch: every block runs the same list of steps.
 *
 * One block per SM: 15 warps compute, one more warp loads. A block's code bits for the whole token
 * are one contiguous tape; the loader streams it into a ring of pages of 7.5 KiB in shared memory
 * and waits for nothing but free pages: weights do not depend on activations, so the stream goes on
 * while the blocks meet at a barrier or prepare the next input.
 *
 *     loader    tape ──► ring page ──full──► warps          (mbarriers)
 *     warps     bits ──► u by integer additions in L2 ──► grid barrier ──► next step's input
 *
 * Each block prepares the next input by itself, from u or from a rotated vector: repeating 5120
 * elements of work costs less than waiting for one block that does it. Invariants:
 *   1. What another block wrote in this launch is read past the first-level cache (__ldcg).
 *   2. u of a product is cleared two products ahead; three buffers take turns.
 *   3. The number of barriers of a launch depends on its steps alone. */
#include "backend/cuda/cuda_attend.cuh"
#include "backend/cuda/cuda_fir.cuh"

namespace
{

enum { PAGE_TILES = CU_WARPS, PAGE_BYTES = PAGE_TILES * CU_TILE_BYTES, MAX_PAGES = 27 };

struct ring {
    uint64_t *full, *empty; /* [n_pages] */
    uint8_t  *data;
    uint32_t  n_pages;
};

/* ---- mbarriers and copies ---------------------------------------------------------------------
 */

__device__ __forceinline__ uint32_t address_of(const void *shared)
{
    return (uint32_t)__cvta_generic_to_shared(shared);
}

__device__ __forceinline__ void barrier_init(uint64_t *b, uint32_t n)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address_of(b)), "r"(n));
}

__device__ __forceinline__ void barrier_arrive(uint64_t *b)
{
    asm volatile("{ .reg .b64 t; mbarrier.arrive.shared::cta.b64 t, [%0]; }" ::"r"(address_of(b))
                 : "memory");
}

__device__ __forceinline__ void barrier_wait(uint64_t *b, uint32_t parity)
{
    uint32_t done = 0;

    while (!done) {
#if __CUDA_ARCH__ >= 900
        asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; "
                     "selp.u32 %0, 1, 0, p; }"
                     : "=r"(done)
                     : "r"(address_of(b)), "r"(parity)
                     : "memory");
#else
        asm volatile("{ .reg .pred p; mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2; "
                     "selp.u32 %0, 1, 0, p; }"
                     : "=r"(done)
                     : "r"(address_of(b)), "r"(parity)
                     : "memory");
#endif
    }
}

/* Makes initialised barriers visible to the copy engine. */
__device__ __forceinline__ void fence_barriers()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

/* Loads one page; called by all lanes of the loader's warp. */
__device__ __forceinline__ void load_page(const ring *r, uint32_t slot, const uint8_t *from,
                                          uint32_t bytes)
{
    uint32_t lane = threadIdx.x & 31;

#if __CUDA_ARCH__ >= 900
    if (lane == 0) {
        asm volatile(
            "{ .reg .b64 t; mbarrier.arrive.expect_tx.shared::cta.b64 t, [%0], %1; }" ::"r"(
                address_of(&r->full[slot])),
            "r"(bytes)
            : "memory");
        asm volatile("{ .reg .b64 once; createpolicy.fractional.L2::evict_first.b64 once, 1.0; "
                     "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"
                     ".L2::cache_hint [%0], [%1], %2, [%3], once; }" ::"r"(
                         address_of(r->data + slot * PAGE_BYTES)),
                     "l"(from), "r"(bytes), "r"(address_of(&r->full[slot]))
                     : "memory");
    }
    __syncwarp();
#else
    for (uint32_t at = 16 * lane; at < bytes; at += 512)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                         address_of(r->data + slot * PAGE_BYTES + at)),
                     "l"(from + at)
                     : "memory");
    asm volatile(
        "cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(address_of(&r->full[slot]))
        : "memory");
#endif
}

/* The loader's warp: the block's tape, once for each token, page by page. */
__device__ __noinline__ void stream_tape(const cu_token_args *a, const ring *r)
{
    uint32_t       cta = blockIdx.x, begin = a->tape_begin[cta], n = a->tape_end[cta] - begin;
    const uint8_t *tape = a->tape.bytes + ((uint64_t)a->tape.base[cta] + begin) * CU_TILE_BYTES;
    uint32_t       n_pages = (n + PAGE_TILES - 1) / PAGE_TILES, slot = 0, parity = 1;

    for (uint32_t token = 0; token < a->n_tokens; token++)
        for (uint32_t page = 0; page < n_pages; page++) {
            barrier_wait(&r->empty[slot], parity);
            load_page(r, slot, tape + (uint64_t)page * PAGE_BYTES,
                      min(n - page * PAGE_TILES, (uint32_t)PAGE_TILES) * CU_TILE_BYTES);
            if (++slot == r->n_pages)
                slot = 0, parity ^= 1;
        }
}

/* ---- product ----------------------------------------------------------------------------------
 */

/* Where a block stands in its stream: pages of this launch, tile in the page. */
struct cursor {
    uint32_t slot, parity, tile;
};

__device__ __forceinline__ cursor advanced(cursor c, uint32_t tiles, uint32_t n_pages)
{
    c.tile += tiles;
    while (c.tile >= PAGE_TILES) {
        c.tile -= PAGE_TILES;
        if (++c.slot == n_pages)
            c.slot = 0, c.parity ^= 1;
    }
    return c;
}

/* The block's part of u += (2B − 1)·q. Returns the cursor behind its tiles. */
__device__ __noinline__ cursor multiply(const cu_product *p, uint32_t n_ctas,
                                           const uint32_t *planes, int sum_q, int32_t *u,
                                           const ring *shared_ring, cursor at)
{
    const ring ring_here = *shared_ring, *const r = &ring_here;
    const uint32_t warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    cu_share       s = share_of(p->n_units, blockIdx.x, n_ctas);
    uint32_t       n = rounds_of_warp(s, warp), unit = first_of_warp(s, warp);
    uint32_t       n_k = p->n_ktiles, row_tile = unit / n_k, k = unit % n_k;
    int            minus = k == 0 ? sum_q : 0; /* Σq is taken off once for a row */
    int            c[4] = { 0, 0, 0, 0 };
    cursor         mine = advanced(at, warp, r->n_pages);

    for (uint32_t i = 0; i < n; i++) {
        const uint32_t *b = planes + k * CU_TILE_WORDS + lane;
        const uint32_t  b0 = b[0], b1 = b[32];
        uint4           bits;

        barrier_wait(&r->full[mine.slot], mine.parity);
        bits = *(const uint4 *)(r->data + mine.slot * PAGE_BYTES + mine.tile * CU_TILE_BYTES +
                                lane * 16);
        mma_b1(c, bits, b0, b1);
        __syncwarp();
        if (lane == 0)
            barrier_arrive(&r->empty[mine.slot]);
        if (++mine.slot == r->n_pages) /* a round is a page long */
            mine.slot = 0, mine.parity ^= 1;
        if (++k == n_k || i + 1 == n) {
            int low, high;

            take_planes(c, &low, &high);
            if ((lane & 3) == 0) {
                int32_t *to = u + row_tile * CU_TILE_ROWS + (lane >> 2);

                atomicAdd(to, 2 * low - minus);
                atomicAdd(to + 8, 2 * high - minus);
            }
            minus = sum_q;
            k = 0;
            row_tile++;
        }
    }
    return advanced(at, s.n, r->n_pages);
}

/* The next stream begins with a new page: gives back what the last page lacks. */
__device__ __forceinline__ cursor end_of_stream(const ring *r, cursor at)
{
    if (at.tile == 0)
        return at;
    if (threadIdx.x / 32 >= at.tile && (threadIdx.x & 31) == 0)
        barrier_arrive(&r->empty[at.slot]);
    return advanced(at, PAGE_TILES - at.tile, r->n_pages);
}

/* ---- inputs -----------------------------------------------------------------------------------
 */

struct block_memory {
    float     *x;      /* padded vector, f32 */
    int32_t   *staged; /* [FIR_SHARED] */
    uint32_t  *planes; /* the input of the product */
    uint32_t  *codes;  /* before; shares memory with staged */
    double    *slots;  /* [32] */
    int       *sum;
    cu_record *records; /* [2]: the running step's and the next one's */
};

/* The input of the next product from x' : word(w) gives the four values of word w. Returns Σq. */
template <typename F>
__device__ __forceinline__ int quantise(uint32_t n_ktiles, float inverse, const block_memory *m,
                                        F word)
{
    int sum = 0;

    if (threadIdx.x == 0)
        *m->sum = 0;
    block_sync();
#pragma unroll 3
    for (uint32_t w = threadIdx.x; w < n_ktiles * CU_TILE_WORDS; w += CU_THREADS) {
        float    v[4];
        uint32_t codes;

        word(w, v);
        codes = pack_codes(v, inverse);
        m->codes[w] = codes;
        sum = __dp4a((int)codes, 0x01010101, sum);
    }
    for (int d = 16; d > 0; d >>= 1)
        sum += __shfl_xor_sync(~0u, sum, d);
    if ((threadIdx.x & 31) == 0)
        atomicAdd(m->sum, sum);
    block_sync();
    make_planes(m->codes, n_ktiles, m->planes);
    block_sync();
    return *m->sum;
}

__device__ void mark_bad(const cu_token_args *a, uint32_t step)
{
    atomicCAS(&a->state->bad, 0u, step + 1);
}

/* Largest magnitude of the padded vector x [n]. */
__device__ __noinline__ float largest(const float *x, uint32_t n, const block_memory *m)
{
    float max = 0.0f;

#pragma unroll 1
    for (uint32_t j = threadIdx.x; j < n; j += CU_THREADS)
        max = fmaxf(max, fabsf(x[pad(j)]));
    return block_max(max, (float *)m->slots);
}

/* One row of the embedding into x (padded), in the model's own basis. */
__device__ __noinline__ void embed_row(const cu_embedding *e, uint32_t token, float *x)
{
    if (e->bands == NULL) {
#pragma unroll 1
        for (uint32_t j = threadIdx.x; j < e->n_cols; j += CU_THREADS) {
            uint64_t at = (uint64_t)token * e->n_cols + j;

            x[pad(j)] = e->dtype == 0 ? ((const float *)e->dense)[at]
                        : e->dtype == 1
                            ? __half2float(((const __half *)e->dense)[at])
                            : __uint_as_float((uint32_t)((const uint16_t *)e->dense)[at] << 16);
        }
        block_sync();
        return;
    }
    {
        const cu_band  *b = e->bands;
        uint32_t        i = 0, newest;
        const uint32_t *bits;
        float           factor;

        while (token >= b->row0 + b->n_rows)
            b++, i++;
        bits = e->bits[i];
        newest = newest_bit(b, token - b->row0);
        factor = __fmul_rn(__half2float(__ushort_as_half(b->scales[token - b->row0])), b->gain);
#pragma unroll 1
        for (uint32_t j = threadIdx.x; j < e->n_cols; j += CU_THREADS) {
            int value = 0;

#pragma unroll 4
            for (int t = 0; t < b->length; t++) {
                uint32_t row = newest - t, block = row / 64;
                uint32_t left = b->n_binary - block * 64;
                uint32_t rows = left >= 64 ? 64 : (left + 15) / 16 * 16;
                uint64_t at =
                    (uint64_t)block * 64 * e->n_groups + (uint64_t)(j / 32) * rows + row % 64;

                value += bits[at] >> j % 32 & 1 ? b->taps[t] : -b->taps[t];
            }
            x[pad(j)] = factor * (float)value;
        }
        block_sync();
        hadamard(x, e->n_cols, e->log_block);
#pragma unroll 1
        for (uint32_t j = threadIdx.x; j < e->n_cols; j += CU_THREADS)
            x[pad(j)] *= e->signs[j];
        block_sync();
    }
}

/* Bands of the product that a step reads. */
__device__ __forceinline__ const cu_band *bands_of(const cu_record *r)
{
    return r->source.n_bands <= CU_RECORD_BANDS ? r->bands : r->source.bands;
}

/* EMBED and NORM: residual, norm, rotation; returns Σq. */
__device__ __noinline__ int input_from_residual(const cu_token_args *a, uint32_t index,
                                                const cu_record *r, const block_memory *memory)
{
    enum { EACH = 11 }; /* norm weights of a thread that are loaded ahead */
    const block_memory here = *memory, *const m = &here;
    const cu_step step = r->step, *const s = &step;
    const uint32_t n = s->width;
    float          inverse, scale, part = 0.0f, weight[EACH];
    double         squares;

#pragma unroll
    for (int i = 0; i < EACH; i++)
        if (threadIdx.x + i * CU_THREADS < n)
            weight[i] = __ldg(s->norm + threadIdx.x + i * CU_THREADS);
    if (s->kind == CU_STEP_EMBED) {
        embed_row(&a->embedding, (uint32_t)__ldcg(&a->state->token), m->x);
    } else {
#pragma unroll 4
        for (uint32_t j = threadIdx.x; j < n; j += CU_THREADS)
            m->x[pad(j)] = __ldcg(s->residual_in + j);
        fir_to(bands_of(r), s->u_in, __ldcg(s->scale_in), 0, n, m->staged, m->x, true);
    }
#pragma unroll 1
    for (uint32_t j = threadIdx.x; j < n; j += CU_THREADS) {
        float x = m->x[pad(j)];

        part = fmaf(x, x, part);
        if (blockIdx.x == 0)
            s->residual_out[j] = x;
    }
    squares = block_sum((double)part, m->slots);
    if (blockIdx.x == 0 && threadIdx.x == 0 && !is_number((float)squares))
        mark_bad(a, index);
    inverse = (float)(1.0 / sqrt(squares / n + (double)a->norm_eps));
#pragma unroll
    for (int i = 0; i < EACH; i++)
        if (threadIdx.x + i * CU_THREADS < n) {
            float *x = &m->x[pad(threadIdx.x + i * CU_THREADS)];

            *x = *x * inverse * weight[i];
        }
#pragma unroll 1
    for (uint32_t j = threadIdx.x + EACH * CU_THREADS; j < n; j += CU_THREADS)
        m->x[pad(j)] = m->x[pad(j)] * inverse * __ldg(s->norm + j);
    block_sync();
    hadamard(m->x, n, s->log_block);
    scale = int8_scale(largest(m->x, n, m), &inverse);
    if (blockIdx.x == 0) {
        if (threadIdx.x == 0)
            *s->scale_out = scale;
            /* a value that is no number has spread over its whole block */
#pragma unroll 1
        for (uint32_t j = threadIdx.x; j < n >> s->log_block; j += CU_THREADS)
            if (!is_number(m->x[pad(j << s->log_block)]))
                mark_bad(a, index);
    }
    return quantise(r->product.n_ktiles, inverse, m, [&](uint32_t w, float v[4]) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint32_t j = w / CU_TILE_WORDS * CU_TILE_COLUMNS + input_of(w % CU_TILE_WORDS, i);

            v[i] = j < n ? m->x[pad(j)] : 0.0f;
        }
    });
}

/* ROTATED: x' lies in global memory, with the largest magnitude of each block. */
__device__ __noinline__ int input_from_rotated(const cu_token_args *a, uint32_t index,
                                                  const cu_record *r, const block_memory *memory)
{
    const block_memory here = *memory, *const m = &here;
    const cu_step step = r->step, *const s = &step;
    uint32_t n_blocks = s->width >> s->log_block;
    float    max = 0.0f, scale, inverse;
    bool     good = true;

#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < n_blocks; i += CU_THREADS) {
        float b = __ldcg(s->block_max + i);

        good = good && is_number(b);
        max = fmaxf(max, b);
    }
    max = block_max(max, (float *)m->slots);
    scale = int8_scale(max, &inverse);
    if (blockIdx.x == 0) {
        if (!good)
            mark_bad(a, index);
        if (threadIdx.x == 0)
            *s->scale_out = scale;
    }
    return quantise(r->product.n_ktiles, inverse, m, [&](uint32_t w, float v[4]) {
        float4 x = __ldcg((const float4 *)s->rotated + w);

        v[0] = x.x, v[1] = x.y, v[2] = x.z, v[3] = x.w;
    });
}

/* ---- rotated vectors --------------------------------------------------------------------------
 */

/* One block of inputs in m->x, not rotated yet, becomes x'. After the transform a value that is no
 * number has spread over the whole block, so its first element tells. */
__device__ __noinline__ void rotate_block(const cu_step *s, uint32_t block, const block_memory *m)
{
    uint32_t n = 1u << s->log_block;
    float    max;

#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < n; i += CU_THREADS)
        m->x[pad(i)] *= s->signs[block * n + i];
    block_sync();
    hadamard(m->x, n, s->log_block);
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < n; i += CU_THREADS)
        s->rotated[place_of(block * n + i)] = m->x[pad(i)];
    max = largest(m->x, n, m);
    if (threadIdx.x == 0)
        s->block_max[block] = is_number(m->x[0]) ? max : INFINITY;
    block_sync();
}

/* Values of the heads of a rotation block. The weights of the splits come first, all at once. */
__device__ __noinline__ void merge(const cu_token_args *a, const cu_record *r,
                                      const block_memory *memory)
{
    const block_memory here = *memory, *const m = &here;
    const cu_step step = r->step, *const s = &step;
    const uint32_t n = 1u << s->log_block, hd = a->kv.head_dim, n_splits = a->n_splits;
    float         *weights = (float *)m->staged; /* [heads of the block][n_splits] */

#pragma unroll 1
    for (uint32_t block = blockIdx.x; block < s->width >> s->log_block; block += gridDim.x) {
        uint32_t head0 = block * n / hd, heads = (block * n + n - 1) / hd + 1 - head0;

#pragma unroll 1
        for (uint32_t h = threadIdx.x >> 5; h < heads; h += CU_WARPS) {
            const float2 *ml = (const float2 *)a->softmax + (uint64_t)(head0 + h) * n_splits;
            uint32_t      lane = threadIdx.x & 31;
            float2        one = make_float2(-INFINITY, 0.0f), two = one;
            float         max, sum;

            if (lane < n_splits)
                one = __ldcg(ml + lane);
            if (lane + 32 < n_splits)
                two = __ldcg(ml + lane + 32);
            max = fmaxf(one.x, two.x);
            for (int d = 16; d > 0; d >>= 1)
                max = fmaxf(max, __shfl_xor_sync(~0u, max, d));
            one.x = one.x > -INFINITY ? expf(one.x - max) : 0.0f;
            two.x = two.x > -INFINITY ? expf(two.x - max) : 0.0f;
            sum = one.x * one.y + two.x * two.y;
            for (int d = 16; d > 0; d >>= 1)
                sum += __shfl_xor_sync(~0u, sum, d);
            if (lane < n_splits)
                weights[h * n_splits + lane] = __fdiv_rn(one.x, sum);
            if (lane + 32 < n_splits)
                weights[h * n_splits + lane + 32] = __fdiv_rn(two.x, sum);
        }
        block_sync();
#pragma unroll 1
        for (uint32_t i = threadIdx.x; i < n; i += CU_THREADS) {
            uint32_t     j = block * n + i, head = j / hd;
            const float *w = weights + (head - head0) * n_splits;
            const float *from = a->partial + (uint64_t)head * n_splits * hd + j % hd;
            float        x = 0.0f;

#pragma unroll 8
            for (uint32_t k = 0; k < n_splits; k++)
                x = fmaf(__ldcg(from + (uint64_t)k * hd), w[k], x);
            m->x[pad(i)] = x;
        }
        block_sync();
        rotate_block(s, block, m);
    }
}

/* Where swiglu keeps a block of each input, behind the padded block of its product. */
enum { UPG_MAX_BLOCK = 1024, PAIR = UPG_MAX_BLOCK + UPG_MAX_BLOCK / 16 + 64 };

__device__ __forceinline__ float silu(float x)
{
    return x / (1.0f + expf(-x));
}

__device__ __noinline__ void swiglu(const cu_record *r, const block_memory *memory)
{
    const block_memory here = *memory, *const m = &here;
    const cu_step step = r->step, *const s = &step;
    uint32_t n = 1u << s->log_block;
    float    s_x = __ldcg(s->scale_in);

#pragma unroll 1
    for (uint32_t block = blockIdx.x; block < s->width >> s->log_block; block += gridDim.x) {
        float *gate = m->x + PAIR, *up = gate + UPG_MAX_BLOCK;

        fir_to(bands_of(r), s->u_in, s_x, block * n, n, m->staged, gate, false);
        fir_to(bands_of(r), s->u_in, s_x, r->source.row0[1] + block * n, n, m->staged, up, false);
#pragma unroll 1
        for (uint32_t i = threadIdx.x; i < n; i += CU_THREADS)
            m->x[pad(i)] = silu(gate[i]) * up[i];
        block_sync();
        rotate_block(s, block, m);
    }
}

/* ---- attention --------------------------------------------------------------------------------
 */

/* Turns n_heads heads side by side at x [n_heads][head_dim]. */
__device__ __noinline__ void turn_heads(const cu_token_args *a, float *x, uint32_t n_heads)
{
    uint32_t half = a->kv.rotary_dims / 2;

#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < n_heads * half; i += CU_THREADS) {
        float *head = x + i / half * a->kv.head_dim, c = __ldcg(a->angles + i % half);
        float  s = __ldcg(a->angles + half + i % half), p = head[i % half],
              q = head[half + i % half];

        head[i % half] = p * c - q * s;
        head[half + i % half] = q * c + p * s;
    }
    block_sync();
}

/* One KV head and one part of the keys for each item. The block whose part holds the token's own
 * position appends its key and value first. */
template <int TYPE, int DIMS, int HEADS>
__device__ __noinline__ void attention(const cu_token_args *a, uint32_t index, const cu_record *r,
                                       const block_memory *memory)
{
    const block_memory here = *memory, *const m = &here;
    const cu_step step = r->step, *const s = &step;
    const cu_kv    kv = a->kv;
    const uint32_t hd = kv.head_dim, shared = kv.n_heads / kv.n_kv_heads;
    const uint32_t position = __ldcg(&a->state->position);
    const float    s_x = __ldcg(s->scale_in);
    float         *q = m->x, *k = q + shared * hd, *v = k + hd, *scratch = v + hd;

#pragma unroll 1
    for (uint32_t item = blockIdx.x; item < kv.n_kv_heads * a->n_splits; item += gridDim.x) {
        uint32_t head = item / a->n_splits, split = item % a->n_splits, begin, end;
        uint32_t q_row = head * shared * hd;

        split_range(position, kv.window, a->n_splits, split, &begin, &end);
        if (begin < end) {
            fir_to(bands_of(r), s->u_in, s_x, q_row, shared * hd, m->staged, q, false);
            turn_heads(a, q, shared);
        }
        if (begin < end && end == position + 1) {
            uint32_t k_row = r->source.row0[1] + head * hd, v_row = r->source.row0[2] + head * hd;
            uint32_t token = position % CU_PAGE_TOKENS, warp = threadIdx.x >> 5;
            uint8_t *page = a->pages[position / CU_PAGE_TOKENS];

            fir_to(bands_of(r), s->u_in, s_x, k_row, hd, m->staged, k, false);
            fir_to(bands_of(r), s->u_in, s_x, v_row, hd, m->staged, v, false);
            turn_heads(a, k, 1);
            if (warp < 2 &&
                !kv_store(kv, page + kv_part(kv, s->layer, head, warp), token, warp ? v : k))
                mark_bad(a, index);
            __threadfence_block();
            block_sync();
        }
#pragma unroll 1
        for (uint32_t h = 0; h < shared; h += HEADS) {
            uint64_t at = (uint64_t)(head * shared + h) * a->n_splits + split;

            attend<TYPE, DIMS, HEADS>(q + h * hd, min(shared - h, (uint32_t)HEADS), a->pages, kv,
                                      s->layer, head, begin, end, scratch, a->partial + at * hd,
                                      a->n_splits * hd, a->softmax + 2 * at, a->n_splits);
        }
    }
}

/* ---- logits, sampling -------------------------------------------------------------------------
 */

__device__ __forceinline__ void better(float *value, int32_t *token, float v, int32_t t)
{
    if (v > *value || (v == *value && t < *token)) {
        *value = v;
        *token = t;
    }
}

/* The best of all threads, in thread 0. */
__device__ __noinline__ void best_of_block(float value, int32_t token, const block_memory *m,
                                           float *best, int32_t *at)
{
    float   *values = (float *)m->slots;
    int32_t *tokens = (int32_t *)(values + CU_WARPS);

    for (int d = 16; d > 0; d >>= 1)
        better(&value, &token, __shfl_xor_sync(~0u, value, d), __shfl_xor_sync(~0u, token, d));
    block_sync();
    if ((threadIdx.x & 31) == 0) {
        values[threadIdx.x >> 5] = value;
        tokens[threadIdx.x >> 5] = token;
    }
    block_sync();
#pragma unroll 1
    for (int w = 0; w < CU_WARPS; w++)
        better(&value, &token, values[w], tokens[w]);
    *best = value;
    *at = token;
    block_sync();
}

enum { LOGITS_EACH = 2048 };

__device__ __noinline__ void logits(const cu_token_args *a, uint32_t index, const cu_record *r,
                                    const block_memory *memory)
{
    const block_memory here = *memory, *const m = &here;
    const cu_step step = r->step, *const s = &step;
    float *const out = a->logits;
    uint32_t     n = r->source.n_rows;
    uint32_t     begin = (uint32_t)((uint64_t)n * blockIdx.x / gridDim.x);
    uint32_t     end = (uint32_t)((uint64_t)n * (blockIdx.x + 1) / gridDim.x);
    float        value = -INFINITY;
    int32_t      token = INT32_MAX;
    bool         good = true;

    for (uint32_t row = begin; row < end; row += LOGITS_EACH) {
        uint32_t few = min(end - row, (uint32_t)LOGITS_EACH);

        fir_to(bands_of(r), s->u_in, __ldcg(s->scale_in), row, few, m->staged, m->x, false);
#pragma unroll 1
#pragma unroll 1
        for (uint32_t i = threadIdx.x; i < few; i += CU_THREADS) {
            float y = m->x[i];

            out[row + i] = y;
            good = good && is_number(y);
            better(&value, &token, y, (int32_t)(row + i));
        }
        block_sync();
    }
    if (!good)
        mark_bad(a, index);
    best_of_block(value, token, m, &value, &token);
    if (threadIdx.x == 0) {
        a->best_value[blockIdx.x] = value;
        a->best_token[blockIdx.x] = token;
    }
}

__device__ __noinline__ void sample(const cu_token_args *a, uint32_t token_index,
                                    const block_memory *memory)
{
    const block_memory here = *memory, *const m = &here;
    float   value = -INFINITY;
    int32_t token = INT32_MAX;

    if (blockIdx.x != 0)
        return;
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < gridDim.x; i += CU_THREADS)
        better(&value, &token, __ldcg(a->best_value + i), __ldcg(a->best_token + i));
    best_of_block(value, token, m, &value, &token);
    if (threadIdx.x == 0) {
        a->tokens_out[token_index] = token;
        a->state->token = token;
        a->state->position = __ldcg(&a->state->position) + 1;
    }
}

/* ---- the interpreter --------------------------------------------------------------------------
 */

/* Begins and ends with a barrier of the block. */
__device__ void grid_barrier(uint32_t *counter, uint32_t target)
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
        while ((int32_t)(seen - target) < 0);
    }
    block_sync();
}

__device__ void clear_u(const cu_step *s)
{
    uint32_t n = s->n_clear / 4;

#pragma unroll 1
    for (uint32_t i = blockIdx.x * CU_THREADS + threadIdx.x; i < n; i += gridDim.x * CU_THREADS)
        ((int4 *)s->u_clear)[i] = make_int4(0, 0, 0, 0);
}

__device__ __noinline__ void find_angles(const cu_token_args *a)
{
    uint32_t     half = a->kv.rotary_dims / 2, i = threadIdx.x;
    bool         far = __ldcg(&a->state->long_rope) != 0 && a->long_inv_freq != NULL;
    const float *frequency = far ? a->long_inv_freq : a->inv_freq;

    for (; blockIdx.x == gridDim.x - 1 && i < half; i += CU_THREADS)
        rope_angle(__ldcg(&a->state->position), frequency[i], a->attention_scaling, a->angles + i,
                   a->angles + half + i);
}

enum { RECORD_VECTORS = sizeof(cu_record) / 16 };

static_assert(sizeof(cu_record) % 16 == 0 && (int)RECORD_VECTORS <= (int)CU_THREADS,
              "a thread copies 16 bytes of a record at most");

template <int TYPE, int DIMS, int HEADS>
__device__ void run_step(const cu_token_args *a, uint32_t index, uint32_t token, const cu_record *r,
                         const ring *pages, const block_memory *m, cursor *at)
{
    const cu_step *s = &r->step;
    int            sum;

    switch (s->kind) {
    case CU_STEP_EMBED:
        find_angles(a);
        /* fall through */
    case CU_STEP_NORM:
    case CU_STEP_ROTATED:
        clear_u(s);
        sum = s->kind == CU_STEP_ROTATED ? input_from_rotated(a, index, r, m)
                                         : input_from_residual(a, index, r, m);
        if (a->trace != NULL && threadIdx.x == 0 && token == 0 &&
            (blockIdx.x == 0 || blockIdx.x == gridDim.x / 2))
            a->trace[(blockIdx.x != 0) * 3 * (a->end_step - a->first_step) +
                     3 * (index - a->first_step) + 1] = clock64();
        *at = multiply(&r->product, a->tape.n_ctas, m->planes, sum, s->u, pages, *at);
        break;
    case CU_STEP_ATTENTION:
        attention<TYPE, DIMS, HEADS>(a, index, r, m);
        break;
    case CU_STEP_MERGE:
        merge(a, r, m);
        break;
    case CU_STEP_SWIGLU:
        swiglu(r, m);
        break;
    case CU_STEP_LOGITS:
        logits(a, index, r, m);
        break;
    case CU_STEP_SAMPLE:
        sample(a, token, m);
        break;
    }
}

/* Each step's record is fetched while the step before runs. */
template <int TYPE, int DIMS, int HEADS>
__device__ void compute(const cu_token_args *a, const ring *r, const block_memory *m)
{
    const uint32_t n_steps = a->end_step - a->first_step, n = n_steps * a->n_tokens;
    cursor         at = { 0, 0, 0 };
    uint4          next;
    bool           traces =
        a->trace != NULL && threadIdx.x == 0 && (blockIdx.x == 0 || blockIdx.x == gridDim.x / 2);
    long long *stamp = a->trace + (blockIdx.x != 0) * 3 * n_steps;

    if (threadIdx.x < RECORD_VECTORS)
        ((uint4 *)m->records)[threadIdx.x] =
            __ldg((const uint4 *)(a->records + a->first_step) + threadIdx.x);
    block_sync();
    for (uint32_t i = 0; i < n; i++) {
        if (i + 1 < n && threadIdx.x < RECORD_VECTORS)
            next = __ldg((const uint4 *)(a->records + a->first_step + (i + 1) % n_steps) +
                         threadIdx.x);
        if (traces && i < n_steps)
            stamp[3 * i] = stamp[3 * i + 1] = clock64();
        run_step<TYPE, DIMS, HEADS>(a, a->first_step + i % n_steps, i / n_steps,
                                    m->records + (i & 1), r, m, &at);
        if (traces && i < n_steps)
            stamp[3 * i + 2] = clock64();
        if ((i + 1) % n_steps == 0)
            at = end_of_stream(r, at);
        if (i + 1 == n)
            break;
        if (threadIdx.x < RECORD_VECTORS)
            ((uint4 *)(m->records + (~i & 1)))[threadIdx.x] = next;
        grid_barrier(a->barrier, a->barrier_base + (i + 1) * gridDim.x);
    }
}

__host__ __device__ inline uint32_t staged_words(const cu_token_args *a)
{
    uint32_t codes = a->max_ktiles * CU_TILE_WORDS;

    return codes > FIR_SHARED ? codes : FIR_SHARED;
}

__host__ __device__ inline uint32_t x_words(const cu_token_args *a, uint32_t attend)
{
    uint32_t shared = a->kv.n_heads / a->kv.n_kv_heads;
    uint32_t attention = (shared + 2) * a->kv.head_dim + attend;
    uint32_t x = padded(a->max_width);

    x = x > PAIR + 2 * UPG_MAX_BLOCK ? x : PAIR + 2 * UPG_MAX_BLOCK;
    return ((x > attention ? x : attention) + 3) & ~3u;
}

template <int TYPE, int DIMS, int HEADS>
__global__ void __launch_bounds__(CU_THREADS + 32, 1)
    token_kernel(const __grid_constant__ cu_token_args a)
{
    extern __shared__ __align__(1024) uint8_t memory[];
    __shared__ uint64_t                       full[MAX_PAGES], empty[MAX_PAGES];
    __shared__ double                         slots[32];
    __shared__ int                            sum;
    __shared__ __align__(16) cu_record records[2];
    __shared__ ring                    r;
    __shared__ block_memory            m;
    __shared__ cu_token_args           args;

    for (uint32_t i = threadIdx.x; i < sizeof args / 4; i += CU_THREADS + 32)
        ((uint32_t *)&args)[i] = ((const uint32_t *)&a)[i];
    if (threadIdx.x == 0) {
        r = { full, empty, memory, a.n_pages_ring };
        m.planes = (uint32_t *)(memory + a.n_pages_ring * PAGE_BYTES);
        m.staged = (int32_t *)(m.planes + a.max_ktiles * CU_TILE_WORDS);
        m.codes = (uint32_t *)m.staged;
        m.records = records;
        m.x = (float *)(m.staged + (a.max_ktiles * CU_TILE_WORDS > FIR_SHARED
                                        ? a.max_ktiles * CU_TILE_WORDS
                                        : (uint32_t)FIR_SHARED));
        m.slots = slots;
        m.sum = &sum;
    }
    if (threadIdx.x == 0)
        for (uint32_t i = 0; i < a.n_pages_ring; i++) {
#if __CUDA_ARCH__ >= 900
            barrier_init(&full[i], 1);
#else
            barrier_init(&full[i], 32);
#endif
            barrier_init(&empty[i], PAGE_TILES);
        }
    fence_barriers();
    __syncthreads();
    if (threadIdx.x >= CU_THREADS) {
        stream_tape(&args, &r);
        return;
    }
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
    compute<TYPE, DIMS, HEADS>(&args, &r, &m);
}

/* ---- products alone, for measurements ----------------------------------------------------------
 */

/* Streams the tapes of n products `times` times through the ring, with nothing in between: with
 * MULTIPLY as the token kernel does, else only freeing the pages. */
template <bool MULTIPLY>
__global__ void __launch_bounds__(CU_THREADS + 32, 1)
    bare_kernel(const __grid_constant__ cu_token_args a, const cu_product *const *products,
                uint32_t n, uint32_t times)
{
    extern __shared__ __align__(1024) uint8_t memory[];
    __shared__ uint64_t                       full[MAX_PAGES], empty[MAX_PAGES];
    ring                                      r = { full, empty, memory, a.n_pages_ring };
    uint32_t *codes = (uint32_t *)(memory + a.n_pages_ring * PAGE_BYTES), slot = 0, parity = 1;
    cursor    at = { 0, 0, 0 };

    if (threadIdx.x == 0)
        for (uint32_t i = 0; i < a.n_pages_ring; i++) {
#if __CUDA_ARCH__ >= 900
            barrier_init(&full[i], 1);
#else
            barrier_init(&full[i], 32);
#endif
            barrier_init(&empty[i], PAGE_TILES);
        }
    for (uint32_t i = threadIdx.x; i < a.max_ktiles * CU_TILE_WORDS; i += CU_THREADS + 32)
        codes[i] = 0x9E3779B9u * (i + 1);
    fence_barriers();
    __syncthreads();
    for (uint32_t i = 0; i < n * times; i++) {
        const cu_product *p = products[i % n];
        cu_share          s = share_of(p->n_units, blockIdx.x, a.tape.n_ctas);

        if (threadIdx.x >= CU_THREADS) {
            const uint8_t *tape =
                a.tape.bytes +
                ((uint64_t)a.tape.base[blockIdx.x] + p->offset[blockIdx.x]) * CU_TILE_BYTES;

            for (uint32_t page = 0; page * PAGE_TILES < s.n; page++) {
                barrier_wait(&empty[slot], parity);
                load_page(&r, slot, tape + (uint64_t)page * PAGE_BYTES,
                          min(s.n - page * PAGE_TILES, (uint32_t)PAGE_TILES) * CU_TILE_BYTES);
                if (++slot == r.n_pages)
                    slot = 0, parity ^= 1;
            }
            continue;
        }
        if (MULTIPLY) {
            at = multiply(p, a.tape.n_ctas, codes, 1, a.records[0].step.u, &r, at);
        } else {
            uint32_t warp = threadIdx.x >> 5;
            cursor   mine = at;

#pragma unroll 1
            for (uint32_t k = warp; k < s.n; k += CU_WARPS) {
                barrier_wait(&full[mine.slot], mine.parity);
                __syncwarp();
                if ((threadIdx.x & 31) == 0)
                    barrier_arrive(&empty[mine.slot]);
                if (++mine.slot == r.n_pages)
                    mine.slot = 0, mine.parity ^= 1;
            }
            at = advanced(at, s.n, r.n_pages);
        }
        at = end_of_stream(&r, at);
    }
}

typedef void (*token_function)(cu_token_args);

struct variant {
    token_function run;
    uint32_t       attend;
};

template <int TYPE> variant variant_of(uint32_t head_dim)
{
    constexpr int HALF = TYPE == KV_F32 ? KV_F16 : TYPE; /* f32 pages take the general form */

    if (TYPE != KV_F32 && head_dim == 128)
        return { token_kernel<HALF, TENSOR + 8, 4>, attend_words<8, 4>() };
    if (TYPE != KV_F32 && head_dim == 64)
        return { token_kernel<HALF, TENSOR + 4, 4>, attend_words<4, 4>() };
    if (head_dim <= 128)
        return { token_kernel<TYPE, 8, 2>, attend_words<8, 2>() };
    return { token_kernel<TYPE, 32, 1>, attend_words<32, 1>() };
}

variant find_variant(const cu_token_args *a)
{
    return a->kv.type == KV_F16   ? variant_of<KV_F16>(a->kv.head_dim)
           : a->kv.type == KV_F32 ? variant_of<KV_F32>(a->kv.head_dim)
                                  : variant_of<KV_I8>(a->kv.head_dim);
}

uint32_t shared_besides_ring(const cu_token_args *a)
{
    return 4 *
           (a->max_ktiles * CU_TILE_WORDS + staged_words(a) + x_words(a, find_variant(a).attend));
}

} // namespace

extern "C" int cu_token_prepare(const cu_token_args *a, uint32_t shared_limit,
                                uint32_t *n_pages_ring)
{
    cudaFuncAttributes attributes;
    cudaError_t        e;
    uint32_t           besides = shared_besides_ring(a), n;

    *n_pages_ring = 0;
    e = cudaFuncGetAttributes(&attributes, (const void *)find_variant(a).run);
    if (e != cudaSuccess)
        return e;
    besides += (uint32_t)attributes.sharedSizeBytes;
    if (besides + 2 * PAGE_BYTES > shared_limit)
        return cudaSuccess;
    n = (shared_limit - besides) / PAGE_BYTES;
    *n_pages_ring = n < MAX_PAGES ? n : MAX_PAGES;
    return cudaFuncSetAttribute((const void *)find_variant(a).run,
                                cudaFuncAttributeMaxDynamicSharedMemorySize,
                                (int)(*n_pages_ring * PAGE_BYTES + shared_besides_ring(a)));
}

extern "C" int cu_launch_token(const cu_token_args *a, bool cooperative, bool dependent,
                               cu_stream stream)
{
    cudaLaunchAttribute attribute[1];
    cudaLaunchConfig_t  config = {};
    token_function      run = find_variant(a).run;
    cu_token_args       copy = *a;

    config.gridDim = dim3(a->tape.n_ctas);
    config.blockDim = dim3(CU_THREADS + 32);
    config.dynamicSmemBytes = a->n_pages_ring * PAGE_BYTES + shared_besides_ring(a);
    config.stream = stream;
    config.attrs = attribute;
    if (cooperative) {
        attribute[0].id = cudaLaunchAttributeCooperative;
        attribute[0].val.cooperative = 1;
        config.numAttrs = 1;
    } else if (dependent) {
        attribute[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attribute[0].val.programmaticStreamSerializationAllowed = 1;
        config.numAttrs = 1;
    }
    return cudaLaunchKernelEx(&config, run, copy);
}

extern "C" int cu_launch_bare(const cu_token_args *a, const cu_product *const *products, uint32_t n,
                              uint32_t times, bool multiplies, cu_stream stream)
{
    uint32_t    bytes = a->n_pages_ring * PAGE_BYTES + shared_besides_ring(a);
    const void *run =
        multiplies ? (const void *)bare_kernel<true> : (const void *)bare_kernel<false>;
    cudaError_t e =
        cudaFuncSetAttribute(run, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    dim3 grid(a->tape.n_ctas), block(CU_THREADS + 32);

    if (e != cudaSuccess)
        return e;
    if (multiplies)
        bare_kernel<true><<<grid, block, bytes, stream>>>(*a, products, n, times);
    else
        bare_kernel<false><<<grid, block, bytes, stream>>>(*a, products, n, times);
    return cudaGetLastError();
}
