/* cuda_fir.cuh: row results from u: y_r = (Σ_i p_i·u[newest(r) − i]) · (s_r·g·s_x), the sum exact,
 * rounded to fp32 once (kernels/quantised.h).
 *
 * u is staged through shared memory in chunks; the loads of a chunk run while the one before is
 * summed. u comes from other blocks of the same launch, so it is read past the first-level cache.
 */
#ifndef UPG_BACKEND_CUDA_CUDA_FIR_CUH
#define UPG_BACKEND_CUDA_CUDA_FIR_CUH

#include "backend/cuda/cuda_math.cuh"

enum {
    FIR_WORDS = 6144,                         /* of u staged at once */
    FIR_VECTORS = FIR_WORDS / 4 / CU_THREADS, /* 16-byte loads of a thread for a chunk */
    FIR_MARGIN = 16,                          /* words in front that taps of value 0 may touch */
    FIR_SHARED = FIR_MARGIN + FIR_WORDS
};

typedef struct fir_chunk {
    const cu_band *band;
    uint32_t       row0, n_rows;          /* in the band; n_rows = 0: no more */
    uint32_t       first_word, n_vectors; /* of u */
    uint32_t       newest0;               /* place of row0's newest bit among the staged words */
} fir_chunk;

/* The chunk that begins at output `row`, of those below `end`. */
static __device__ __forceinline__ fir_chunk fir_chunk_at(const cu_product *p, uint32_t row,
                                                         uint32_t end)
{
    fir_chunk      c = { p->bands, 0, 0, 0, 0, 0 };
    const cu_band *b = p->bands;
    uint32_t       low, rows;

    if (row >= end)
        return c;
    while (row >= b->row0 + b->n_rows)
        b++;
    c.band = b;
    c.row0 = row - b->row0;
    rows = min(end - b->row0, b->n_rows) - c.row0;
    c.n_rows = min(rows, (uint32_t)(FIR_WORDS - 32) / b->k1);
    low = newest_bit(b, c.row0) + 1 - b->length;
    c.first_word = (b->u0 + low) & ~3u;
    c.newest0 = b->u0 + newest_bit(b, c.row0) - c.first_word;
    c.n_vectors = (b->u0 + newest_bit(b, c.row0 + c.n_rows - 1) - c.first_word) / 4 + 1;
    return c;
}

static __device__ __forceinline__ void fir_load(const fir_chunk *c, const int32_t *u,
                                                int4 v[FIR_VECTORS])
{
#pragma unroll
    for (int i = 0; i < FIR_VECTORS; i++) {
        uint32_t at = threadIdx.x + i * CU_THREADS;

        if (at < c->n_vectors)
            v[i] = __ldcg((const int4 *)(u + c->first_word) + at);
    }
}

/* Calls f(row, y) for the outputs [row, end) of a product; `staged` i32 [FIR_SHARED], 16-byte
 * aligned. Ends with a barrier. */
template <typename F>
static __device__ __forceinline__ void fir_rows(const cu_product *p, const int32_t *u, float s_x,
                                                uint32_t row, uint32_t end, int32_t *staged, F f)
{
    int4      v[FIR_VECTORS];
    fir_chunk c = fir_chunk_at(p, row, end);
    int32_t  *words = staged + FIR_MARGIN;

    if (c.n_rows != 0)
        fir_load(&c, u, v);
    while (c.n_rows != 0) {
        fir_chunk next = fir_chunk_at(p, row + c.n_rows, end);
        int       taps[12];
        uint32_t  before = bits_before(c.band->k0, c.band->k1, c.row0 + 1);

        block_sync();
#pragma unroll
        for (int i = 0; i < FIR_VECTORS; i++) {
            uint32_t at = threadIdx.x + i * CU_THREADS;

            if (at < c.n_vectors)
                ((int4 *)words)[at] = v[i];
        }
        if (next.n_rows != 0)
            fir_load(&next, u, v);
#pragma unroll
        for (int i = 0; i < 12; i++)
            taps[i] = c.band->taps[i];
        block_sync();
        for (uint32_t r = threadIdx.x; r < c.n_rows; r += CU_THREADS) {
            int at =
                (int)(c.newest0 + bits_before(c.band->k0, c.band->k1, c.row0 + r + 1) - before);
            double  factor = coded_factor(c.band->scales[c.row0 + r], c.band->gain, s_x);
            int64_t sum;

            if (!c.band->wide && c.band->length <= 12) {
                int narrow = 0;

#pragma unroll
                for (int i = 0; i < 12; i++)
                    narrow += taps[i] * words[at - i];
                sum = narrow;
            } else {
                sum = 0;
                for (int i = 0; i < c.band->length; i++)
                    sum += (int64_t)c.band->taps[i] * words[at - i];
            }
            f(row + r, __double2float_rn(__dmul_rn((double)sum, factor)));
        }
        row += c.n_rows;
        c = next;
    }
    block_sync();
}

#endif
