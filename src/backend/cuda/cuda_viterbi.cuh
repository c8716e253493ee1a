/* cuda_viterbi.cuh: one row of the encoder by one block, int16 and float32: the operations of
 * kernels/scalar/viterbi_scalar.c, so that every path is the host's, bit for bit.
 *
 * int16. A group of `lanes` neighbouring threads shares an h and divides the oldest bits a among
 * itself; each thread has the least cost of every l over its a, and shuffles leave it with 2^split
 * / lanes of the l. Cost and a travel as 32·cost + a, whose minimum is the least cost with the
 * least a. Metrics lie as [a][2^pitch_log2 + 8], so that threads with different a meet different
 * banks. */
#ifndef UPG_BACKEND_CUDA_CUDA_VITERBI_CUH
#define UPG_BACKEND_CUDA_CUDA_VITERBI_CUH

#include <limits.h>

#include "backend/cuda/cuda_encode.h"

namespace
{

enum { PAD = 8, WARPS = CU_ENCODE_THREADS / 32 };

__device__ __forceinline__ int clamp_int(int x, int low, int high)
{
    return min(max(x, low), high);
}

__device__ __forceinline__ int mulhrs(int a, int b)
{
    return (a * b + 0x4000) >> 15;
}

/* Where the metric of state n lies when states of 2^pitch_log2 share their oldest bits. */
__device__ __forceinline__ int metric_at(int n, int pitch_log2)
{
    return n + ((n >> pitch_log2) * PAD);
}

/* Keeps the half of V keys that bit `LANES / 2` of the lane names, with its partner's. */
template <int V, int LANES> struct halver {
    static __device__ __forceinline__ int run(int *key, int lane)
    {
        const int  bit = LANES / 2;
        const bool upper = (lane & bit) != 0;

#pragma unroll
        for (int i = 0; i < V / 2; i++) {
            int sent = upper ? key[i] : key[i + V / 2], kept = upper ? key[i + V / 2] : key[i];

            key[i] = min(kept, __shfl_xor_sync(0xFFFFFFFFu, sent, bit));
        }
        return (upper ? V / 2 : 0) + halver<V / 2, LANES / 2>::run(key, lane);
    }
};

template <int V> struct halver<V, 1> {
    static __device__ __forceinline__ int run(int *, int)
    {
        return 0;
    }
};

/* Returns the least metric that this thread wrote. */
template <int SPLIT, int LANES>
__device__ __forceinline__ int fast_step(const cu_fast_row *row, int next_pitch_log2, int offset,
                                         int offset_limit, int excess, const int16_t *metric,
                                         int16_t *next, uint8_t *choice)
{
    constexpr int V = 1 << SPLIT, PAIRS = V / 2, OWN = V / LANES;
    const int     lane = threadIdx.x % LANES, n_middle = row->n_middle, n_oldest = row->n_oldest;
    const int     repeat = row->repeat, top = row->top, pitch = (1 << row->pitch_log2) + PAD;
    int           slope[PAIRS], least = INT_MAX;

#pragma unroll
    for (int p = 0; p < PAIRS; p++)
        slope[p] = row->slope[p];
    for (int h = threadIdx.x / LANES; h < n_middle; h += CU_ENCODE_THREADS / LANES) {
        const int      middle = __ldg(row->middle + h);
        const int16_t *from = metric + (h >> repeat);
        int            key[V];

#pragma unroll
        for (int l = 0; l < V; l++)
            key[l] = INT_MAX;
        for (int a = lane; a < n_oldest; a += LANES) {
            int left = clamp_int(offset - row->oldest[a], -offset_limit, offset_limit);
            int miss = 4 * clamp_int(left - middle, -8191, 8191);
            int bracket = clamp_int(from[a * pitch] + (mulhrs(miss, miss) - excess), SHRT_MIN, top);
            int start = 32 * bracket + a;

#pragma unroll
            for (int p = 0; p < PAIRS; p++) {
                int m = 32 * mulhrs(miss, slope[p]);

                key[p] = min(key[p], start + m);
                key[V - 1 - p] = min(key[V - 1 - p], start - m);
            }
        }
        {
            int      first = halver<V, LANES>::run(key, lane), n = (h << SPLIT) + first;
            int16_t *to = next + metric_at(n, next_pitch_log2);

#pragma unroll
            for (int i = 0; i < OWN; i++) {
                int l = first + i, cost = (key[i] >> 5) + row->square[l < PAIRS ? l : V - 1 - l];

                to[i] = (int16_t)cost;
                choice[n + i] = (uint8_t)(key[i] & 31);
                least = min(least, cost);
            }
        }
    }
    return least;
}

__device__ __forceinline__ int any_fast_step(const cu_fast_row *row, int next_pitch_log2,
                                             int offset, int offset_limit, int excess,
                                             const int16_t *metric, int16_t *next, uint8_t *choice)
{
#define UPG_FAST_STEP(split, lanes)                                                                \
    case 16 * split + lanes:                                                                       \
        return fast_step<split, lanes>(row, next_pitch_log2, offset, offset_limit, excess, metric, \
                                       next, choice)
    switch (16 * row->split + row->lanes) {
        UPG_FAST_STEP(2, 1);
        UPG_FAST_STEP(2, 2);
        UPG_FAST_STEP(2, 4);
        UPG_FAST_STEP(3, 1);
        UPG_FAST_STEP(3, 2);
        UPG_FAST_STEP(3, 4);
        UPG_FAST_STEP(3, 8);
    }
#undef UPG_FAST_STEP
    return INT_MAX; /* not reached: the host takes no other shape */
}

/* float32: as upg_viterbi_exact_step_scalar. */
__device__ __forceinline__ void exact_step(int length, int k_now, int k_next, const float *metric,
                                           const float *values, float target, float weight,
                                           float *next, uint8_t *choice)
{
    const int n_states = 1 << (length - k_next), n_oldest = 1 << k_next;

    for (int n = threadIdx.x; n < n_states; n += CU_ENCODE_THREADS) {
        float best = 0;
        int   which = 0;

        for (int a = 0; a < n_oldest; a++) {
            int   window = a * n_states | n;
            float miss = __fsub_rn(target, __ldg(values + window));
            float cost =
                __fadd_rn(metric[window >> k_now], __fmul_rn(__fmul_rn(miss, miss), weight));

            if (a == 0 || cost < best) {
                best = cost;
                which = a;
            }
        }
        next[n] = best;
        choice[n] = (uint8_t)which;
    }
}

} // namespace

#endif
