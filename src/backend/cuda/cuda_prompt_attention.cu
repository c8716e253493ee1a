/* cuda_prompt_attention.cu: attention of many rows: a block takes 16 rows and four query heads of a
 * KV head, one for each warp, and passes the keys page by page through shared memory, the next page
 * on its way meanwhile. Every row keeps an online softmax (Milakov and Gimelshein, 2018).
 *
 * Queries are multiplied as fp16 and what that leaves, so scores are good to 22 bits; weights of
 * values are fp16. int8 pages are turned into fp16 on the way in; scales of keys go to the scores,
 * scales of values to the weights. */
#include "backend/cuda/cuda_attend.cuh"
#include "backend/cuda/cuda_prompt.h"

namespace
{

enum { HEADS = 4, ROWS = 16, THREADS = 32 * HEADS };

#define LOG2_E 1.4426950408889634f

template <int HEAD> struct page_memory {
    __half k[CU_PAGE_TOKENS * HEAD], v[CU_PAGE_TOKENS * HEAD];
    float  k_scale[CU_PAGE_TOKENS], v_scale[CU_PAGE_TOKENS];
};

/* Rows of one sequence among the block's: [begin, end) of batch rows, and the keys they need. */
typedef struct row_run {
    uint32_t begin, end, first_key, end_key, pages;
} row_run;

__device__ __forceinline__ uint32_t shared_at(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* Byte offset of a 16-byte chunk of a token's vector: exchanged so that ldmatrix has no conflicts.
 */
template <int HEAD> __device__ __forceinline__ uint32_t chunk_at(uint32_t token, uint32_t chunk)
{
    return token * HEAD * 2 + ((chunk ^ (token & 7)) << 4);
}

/* Zeros from token n on: what lies there may be no number. */
template <int TYPE, int HEAD>
__device__ __forceinline__ void load_part(const uint8_t *part, uint32_t n, __half *to,
                                          float *scales)
{
    enum { CHUNKS = HEAD / 8 };

#pragma unroll
    for (int i = 0; i < CU_PAGE_TOKENS * CHUNKS / THREADS; i++) {
        const uint32_t at = threadIdx.x + i * THREADS, token = at / CHUNKS, chunk = at % CHUNKS;
        const uint32_t place = shared_at(to) + chunk_at<HEAD>(token, chunk);

        if (TYPE == KV_F16) {
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(place),
                         "l"(part + 16 * at), "r"(token < n ? 16u : 0u)
                         : "memory");
        } else {
            uint2 bytes = __ldg((const uint2 *)(part + 8 * at));
            uint4 h;

            halves_of_bytes(bytes.x, &h.x, &h.y);
            halves_of_bytes(bytes.y, &h.z, &h.w);
            asm volatile("st.shared.v4.b32 [%0], {%1,%2,%3,%4};" ::"r"(place), "r"(h.x), "r"(h.y),
                         "r"(h.z), "r"(h.w)
                         : "memory");
        }
    }
    if (TYPE == KV_I8 && threadIdx.x < CU_PAGE_TOKENS)
        scales[threadIdx.x] =
            threadIdx.x < n ? ((const float *)(part + CU_PAGE_TOKENS * HEAD))[threadIdx.x] : 0.0f;
}

template <int TYPE, int HEAD>
__device__ __forceinline__ void load_page(const uint8_t *page, uint32_t n, uint64_t k_part,
                                          uint64_t v_part, page_memory<HEAD> *to)
{
    load_part<TYPE, HEAD>(page + k_part, n, to->k, to->k_scale);
    load_part<TYPE, HEAD>(page + v_part, n, to->v, to->v_scale);
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <bool TURNED> __device__ __forceinline__ void load_matrices(uint32_t r[4], uint32_t at)
{
    if (TURNED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(at)
                     : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(at)
                     : "memory");
}

__device__ __forceinline__ void mma_f16(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* What a warp holds of its 16 rows: element [0] of pairs is row lane / 4, [1] is 8 further. */
template <int HEAD> struct row_state {
    uint32_t query[HEAD / 16][2][4]; /* fp16, and the rest */
    float    acc[HEAD / 8][4], top[2], sum[2];
    uint32_t first[2], end[2]; /* keys of the rows; none for rows of another sequence */
};

template <int HEAD>
__device__ __forceinline__ void load_queries(const float *q, uint32_t q_stride, bool there,
                                             uint32_t row, uint32_t n_rows, row_state<HEAD> *s)
{
    const uint32_t g = (threadIdx.x & 31) >> 2, t = threadIdx.x & 3;
    const float    scale = __fdiv_rn(1.0f, __fsqrt_rn((float)HEAD));

#pragma unroll
    for (int k = 0; k < HEAD / 16; k++)
#pragma unroll
        for (int r = 0; r < 4; r++) {
            const uint32_t i = row + g + 8 * (r & 1);
            float2         x = make_float2(0.0f, 0.0f);

            if (there && i < n_rows)
                x = *(const float2 *)(q + (uint64_t)i * q_stride + 16 * k + 2 * t + 8 * (r >> 1));
            s->query[k][0][r] = halves_of(x.x * scale, x.y * scale);
            s->query[k][1][r] = rests_of(x.x * scale, x.y * scale);
        }
}

/* Scores of the page's keys, times log2 e; −∞ where a row does not see the key. */
template <int TYPE, int HEAD>
__device__ __forceinline__ void score_page(const row_state<HEAD> *s, const page_memory<HEAD> *page,
                                           uint32_t key0, float (&score)[8][4])
{
    const uint32_t lane = threadIdx.x & 31, t = lane & 3;

#pragma unroll
    for (int j = 0; j < 8; j++)
        score[j][0] = score[j][1] = score[j][2] = score[j][3] = 0.0f;
#pragma unroll
    for (int k = 0; k < HEAD / 16; k++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            uint32_t b[4];

            load_matrices<false>(b, shared_at(page->k) +
                                        chunk_at<HEAD>(16 * j + (lane & 7) + (lane >> 4) * 8,
                                                       2 * k + (lane >> 3 & 1)));
#pragma unroll
            for (int p = 0; p < 2; p++) {
                mma_f16(score[2 * j], s->query[k][p], b[0], b[1]);
                mma_f16(score[2 * j + 1], s->query[k][p], b[2], b[3]);
            }
        }
#pragma unroll
    for (int j = 0; j < 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const uint32_t key = 8 * j + 2 * t + (e & 1), r = e >> 1;
            float          x = score[j][e] * LOG2_E;

            if (TYPE == KV_I8)
                x *= page->k_scale[key];
            score[j][e] = key0 + key >= s->first[r] && key0 + key < s->end[r] ? x : -INFINITY;
        }
}

/* Scores become weights; what was summed before is scaled to the new largest score. */
template <int HEAD> __device__ __forceinline__ void weigh(row_state<HEAD> *s, float (&score)[8][4])
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float top = s->top[r], factor, sum = 0.0f, base;

#pragma unroll
        for (int j = 0; j < 8; j++)
            top = fmaxf(top, fmaxf(score[j][2 * r], score[j][2 * r + 1]));
        top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
        top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
        base = top == -INFINITY ? 0.0f : top;
        factor = exp2f(s->top[r] - base);
        s->top[r] = top;
#pragma unroll
        for (int j = 0; j < 8; j++)
#pragma unroll
            for (int e = 2 * r; e < 2 * r + 2; e++) {
                score[j][e] = exp2f(score[j][e] - base);
                sum += score[j][e];
            }
        s->sum[r] = s->sum[r] * factor + sum;
#pragma unroll
        for (int d = 0; d < HEAD / 8; d++) {
            s->acc[d][2 * r] *= factor;
            s->acc[d][2 * r + 1] *= factor;
        }
    }
}

template <int TYPE, int HEAD>
__device__ __forceinline__ void add_values(row_state<HEAD> *s, const page_memory<HEAD> *page,
                                           const float (&weight)[8][4])
{
    const uint32_t lane = threadIdx.x & 31, t = lane & 3;

#pragma unroll
    for (int k = 0; k < 4; k++) {
        uint32_t a[4];

#pragma unroll
        for (int r = 0; r < 4; r++) {
            const int j = 2 * k + (r >> 1), e = 2 * (r & 1);
            float     x = weight[j][e], y = weight[j][e + 1];

            if (TYPE == KV_I8) {
                x *= page->v_scale[8 * j + 2 * t] * CU_VALUE_UNIT;
                y *= page->v_scale[8 * j + 2 * t + 1] * CU_VALUE_UNIT;
            }
            a[r] = halves_of(x, y);
        }
#pragma unroll
        for (int d = 0; d < HEAD / 16; d++) {
            uint32_t b[4];

            load_matrices<true>(b, shared_at(page->v) +
                                       chunk_at<HEAD>(16 * k + (lane & 15), 2 * d + (lane >> 4)));
            mma_f16(s->acc[2 * d], a, b[0], b[1]);
            mma_f16(s->acc[2 * d + 1], a, b[2], b[3]);
        }
    }
}

/* Rows of the sequence of row i, up to `limit`. */
__device__ __forceinline__ row_run run_at(const cu_row *rows, uint32_t i, uint32_t limit,
                                          uint32_t window)
{
    row_run  run = { i, i, 0, 0, rows[i].pages };
    uint32_t end;

    split_range(rows[i].position, window, 1, 0, &run.first_key, &end);
    while (run.end < limit && rows[run.end].pages == run.pages)
        run.end++;
    run.end_key = rows[run.end - 1].position + 1;
    return run;
}

/* The warp's rows see the keys of a run. */
template <int TYPE, int HEAD>
__device__ __forceinline__ void attend_run(const row_run *run, uint8_t *const *pages,
                                           uint64_t k_part, uint64_t v_part,
                                           page_memory<HEAD> *memory, row_state<HEAD> *s)
{
    const uint32_t first = run->first_key / CU_PAGE_TOKENS;
    const uint32_t last = (run->end_key - 1) / CU_PAGE_TOKENS;

    load_page<TYPE, HEAD>(pages[run->pages + first], run->end_key - first * CU_PAGE_TOKENS, k_part,
                          v_part, &memory[first & 1]);
    for (uint32_t i = first; i <= last; i++) {
        const page_memory<HEAD> *page = &memory[i & 1];
        float                    score[8][4];

        if (i < last) {
            load_page<TYPE, HEAD>(pages[run->pages + i + 1],
                                  run->end_key - (i + 1) * CU_PAGE_TOKENS, k_part, v_part,
                                  &memory[(i + 1) & 1]);
            asm volatile("cp.async.wait_group 1;" ::: "memory");
        } else {
            asm volatile("cp.async.wait_group 0;" ::: "memory");
        }
        __syncthreads();
        score_page<TYPE, HEAD>(s, page, i * CU_PAGE_TOKENS, score);
        weigh<HEAD>(s, score);
        add_values<TYPE, HEAD>(s, page, score);
        __syncthreads(); /* the page may be overwritten */
    }
}

template <int TYPE, int HEAD>
__global__ void __launch_bounds__(THREADS)
    attention_kernel(const float *q, uint32_t q_stride, const cu_row *rows, uint32_t n_rows,
                     uint8_t *const *pages, cu_kv kv, uint32_t layer, float *out,
                     uint32_t out_stride)
{
    extern __shared__ __align__(16) uint8_t bytes[];
    page_memory<HEAD>                      *memory = (page_memory<HEAD> *)bytes;
    const uint32_t  shared = kv.n_heads / kv.n_kv_heads, quads = (shared + HEADS - 1) / HEADS;
    const uint32_t  kv_head = blockIdx.x / quads, lane = threadIdx.x & 31, g = lane >> 2;
    const uint32_t  head = blockIdx.x % quads * HEADS + (threadIdx.x >> 5), t = lane & 3;
    const uint32_t  row0 = (gridDim.y - 1 - blockIdx.y) * ROWS, limit = min(row0 + ROWS, n_rows);
    const uint64_t  column = (uint64_t)(kv_head * shared + head) * HEAD;
    const bool      there = head < shared;
    row_state<HEAD> s;

    load_queries<HEAD>(q + column, q_stride, there, row0, n_rows, &s);
#pragma unroll
    for (int d = 0; d < HEAD / 8; d++)
        s.acc[d][0] = s.acc[d][1] = s.acc[d][2] = s.acc[d][3] = 0.0f;
    s.top[0] = s.top[1] = -INFINITY;
    s.sum[0] = s.sum[1] = 0.0f;
    for (uint32_t i = row0; i < limit;) {
        row_run run = run_at(rows, i, limit, kv.window);

#pragma unroll
        for (int r = 0; r < 2; r++) {
            const uint32_t row = row0 + g + 8 * r;

            s.first[r] = s.end[r] = 0;
            if (row >= run.begin && row < run.end)
                split_range(rows[row].position, kv.window, 1, 0, &s.first[r], &s.end[r]);
        }
        attend_run<TYPE, HEAD>(&run, pages, kv_part(kv, layer, kv_head, 0),
                               kv_part(kv, layer, kv_head, 1), memory, &s);
        i = run.end;
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const uint32_t row = row0 + g + 8 * r;
        float         *to = out + (uint64_t)row * out_stride + column + 2 * t, factor;

        s.sum[r] += __shfl_xor_sync(~0u, s.sum[r], 1);
        s.sum[r] += __shfl_xor_sync(~0u, s.sum[r], 2);
        factor = (TYPE == KV_I8 ? 1.0f / CU_VALUE_UNIT : 1.0f) / s.sum[r];
        if (!there || row >= limit)
            continue;
#pragma unroll
        for (int d = 0; d < HEAD / 8; d++)
            *(float2 *)(to + 8 * d) =
                make_float2(s.acc[d][2 * r] * factor, s.acc[d][2 * r + 1] * factor);
    }
}

typedef void (*attention_function)(const float *, uint32_t, const cu_row *, uint32_t,
                                   uint8_t *const *, cu_kv, uint32_t, float *, uint32_t);

} // namespace

extern "C" int cu_launch_prompt_attention(const float *q, uint32_t q_stride, const cu_row *rows,
                                          uint32_t n_rows, uint8_t *const *pages, cu_kv kv,
                                          uint32_t layer, float *out, uint32_t out_stride,
                                          cu_stream stream)
{
    const uint32_t     quads = (kv.n_heads / kv.n_kv_heads + HEADS - 1) / HEADS;
    const bool         wide = kv.head_dim == 128, halves = kv.type == KV_F16;
    const size_t       bytes = 2 * (wide ? sizeof(page_memory<128>) : sizeof(page_memory<64>));
    attention_function kernel =
        wide     ? halves ? attention_kernel<KV_F16, 128> : attention_kernel<KV_I8, 128>
            : halves ? attention_kernel<KV_F16, 64>
                 : attention_kernel<KV_I8, 64>;
    cudaError_t e = cudaFuncSetAttribute((const void *)kernel,
                                         cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);

    if (e != cudaSuccess)
        return e;
    kernel<<<dim3(kv.n_kv_heads * quads, (n_rows + ROWS - 1) / ROWS), THREADS, bytes, stream>>>(
        q, q_stride, rows, n_rows, pages, kv, layer, out, out_stride);
    return cudaGetLastError();
}
