/* cuda_fir.cuh: row results from u: y_r = (Σ_i p_i·u[newest(r) − i]) · (s_r·g·s_x), the sum exact,
 * rounded to fp32 once (kernels/quantised.h).
 *
 * u is staged through shared memory in chunks; the loads of a chunk run while the one before is
 * summed. u comes from other blocks of the same launch, so it is read past the first-level cache.
 * Conversions to fp64 have a quarter of an SM's slowest unit to themselves; they are done in
 * integers instead, where that is exact. */
#ifndef UPG_BACKEND_CUDA_CUDA_FIR_CUH
#define UPG_BACKEND_CUDA_CUDA_FIR_CUH

#include "backend/cuda/cuda_math.cuh"

enum {
    FIR_WORDS = 5760,                         /* of u staged at once */
    FIR_VECTORS = FIR_WORDS / 4 / CU_THREADS, /* 16-byte loads of a thread for a chunk */
    FIR_EACH = 4,                             /* rows of a thread in a chunk */
    FIR_MARGIN = 16,                          /* words in front that taps of value 0 may touch */
    FIR_SHARED = FIR_MARGIN + FIR_WORDS
};

typedef struct fir_chunk {
    const cu_band *band;
    uint32_t       row0, n_rows;          /* in the band; n_rows = 0: no more */
    uint32_t       first_word, n_vectors; /* of u */
    uint32_t       newest0;               /* place of row0's newest bit among the staged words */
} fir_chunk;

/* What a thread loads ahead for a chunk. */
typedef struct fir_ahead {
    int4     u[FIR_VECTORS];
    uint16_t scales[FIR_EACH];
} fir_ahead;

/* The chunk that begins at output `row`, of those below `end`. */
static __device__ __forceinline__ fir_chunk fir_chunk_at(const cu_band *b, uint32_t row,
                                                         uint32_t end)
{
    fir_chunk c = { b, 0, 0, 0, 0, 0 };
    uint32_t  low, rows;

    if (row >= end)
        return c;
    while (row >= b->row0 + b->n_rows)
        b++;
    c.band = b;
    c.row0 = row - b->row0;
    rows = min(end - b->row0, b->n_rows) - c.row0;
    rows = min(rows, (uint32_t)(FIR_WORDS - 32) / b->k1);
    c.n_rows = min(rows, (uint32_t)(FIR_EACH * CU_THREADS));
    low = newest_bit(b, c.row0) + 1 - b->length;
    c.first_word = (b->u0 + low) & ~3u;
    c.newest0 = b->u0 + newest_bit(b, c.row0) - c.first_word;
    c.n_vectors = (b->u0 + newest_bit(b, c.row0 + c.n_rows - 1) - c.first_word) / 4 + 1;
    return c;
}

static __device__ __forceinline__ void fir_load(const fir_chunk *c, const int32_t *u, fir_ahead *to)
{
#pragma unroll
    for (int i = 0; i < FIR_VECTORS; i++) {
        uint32_t at = threadIdx.x + i * CU_THREADS;

        if (at < c->n_vectors)
            to->u[i] = __ldcg((const int4 *)(u + c->first_word) + at);
    }
#pragma unroll
    for (int i = 0; i < FIR_EACH; i++) {
        uint32_t r = threadIdx.x + i * CU_THREADS;

        if (r < c->n_rows)
            to->scales[i] = __ldg(c->band->scales + c->row0 + r);
    }
}

/* Exact, for zero and every normal f32. */
static __device__ __forceinline__ double wide(float x)
{
    uint32_t b = __float_as_uint(x), low = b & 0x7FFFFFFFu;

    return low == 0 ? 0.0
                    : __hiloint2double((int)((b & 0x80000000u) | ((low >> 3) + (896u << 20))),
                                       (int)(low << 29));
}

static __device__ __forceinline__ double wide(int x)
{
    return __dsub_rn(__hiloint2double(0x43300000, x ^ (int)0x80000000),
                     __hiloint2double(0x43300000, (int)0x80000000));
}

/* Calls f(row, y) for the outputs [row, end) of a product with these bands; `staged` i32
 * [FIR_SHARED], 16-byte aligned. Ends with a barrier. */
template <typename F>
static __device__ __forceinline__ void fir_rows(const cu_band *bands, const int32_t *u, float s_x,
                                                uint32_t row, uint32_t end, int32_t *staged, F f)
{
    fir_ahead    ahead;
    fir_chunk    c = fir_chunk_at(bands, row, end);
    int32_t     *words = staged + FIR_MARGIN;
    const double wide_s_x = (double)s_x;

    if (c.n_rows != 0)
        fir_load(&c, u, &ahead);
    while (c.n_rows != 0) {
        fir_chunk    next = fir_chunk_at(bands, row + c.n_rows, end);
        const double gain = (double)c.band->gain;
        const bool   narrow = !c.band->wide && c.band->length <= 12;
        uint16_t     scales[FIR_EACH];
        int          taps[12];
        uint32_t     k0 = c.band->k0, k1 = c.band->k1, before = bits_before(k0, k1, c.row0 + 1);

        block_sync();
#pragma unroll
        for (int i = 0; i < FIR_VECTORS; i++) {
            uint32_t at = threadIdx.x + i * CU_THREADS;

            if (at < c.n_vectors)
                ((int4 *)words)[at] = ahead.u[i];
        }
#pragma unroll
        for (int i = 0; i < FIR_EACH; i++)
            scales[i] = ahead.scales[i];
        if (next.n_rows != 0)
            fir_load(&next, u, &ahead);
#pragma unroll
        for (int i = 0; i < 12; i++)
            taps[i] = c.band->taps[i];
        block_sync();
#pragma unroll
        for (int e = 0; e < FIR_EACH; e++) {
            uint32_t r = threadIdx.x + e * CU_THREADS;
            double   sum, factor;

            if (r >= c.n_rows)
                break;
            const int32_t *at = words + c.newest0 + bits_before(k0, k1, c.row0 + r + 1) - before;

            if (narrow) {
                int s = 0;

#pragma unroll
                for (int i = 0; i < 12; i++)
                    s += taps[i] * at[-i];
                sum = wide(s);
            } else { /* rare: taps of other makers, widths past 16 thousand at high rates */
                int64_t s = 0;

#pragma unroll 1
                for (int i = 0; i < c.band->length; i++)
                    s += (int64_t)c.band->taps[i] * at[-i];
                sum = (double)s;
            }
            factor = __dmul_rn(__dmul_rn(wide(__half2float(__ushort_as_half(scales[e]))), gain),
                               wide_s_x);
            f(row + r, __double2float_rn(__dmul_rn(sum, factor)));
            asm volatile("" ::: "memory"); /* one row's words in registers at a time */
        }
        row += c.n_rows;
        c = next;
    }
    block_sync();
}

#endif
