/* cuda_column.cuh: a column at work in its block: the order of columns, targets, the way back. */
#ifndef UPG_BACKEND_CUDA_CUDA_COLUMN_CUH
#define UPG_BACKEND_CUDA_CUDA_COLUMN_CUH

#include "backend/cuda/cuda_viterbi.cuh"

#include <cuda_runtime.h>

namespace
{

struct shared_state {
    cu_fast_row rows[2];
    int         coarse[CU_ENCODE_ROWS], outside[CU_ENCODE_ROWS]; /* of prepared rows */
    float       factor[CU_ENCODE_COLUMNS];                       /* L of later columns */
    int         least[2][WARPS];
    float       least_float[WARPS];
    int         item, dropped, seen, state, best;
    int         available;
};

/* A column at work. */
struct column_work {
    const cu_encode_args *args;
    const cu_encode_unit *unit;
    const cu_trellis     *trellis;
    const cu_fast_form   *form;
    shared_state         *shared;
    uint8_t              *metrics, *stage;
    uint8_t              *choices;          /* this block's */
    float                *scaled;           /* this block's, [n_rows] */
    uint16_t             *windows;          /* of this column */
    int                   position, column; /* in the order of work; of the arrays */
    int                   ready;            /* rows whose targets are in `scaled` */
};

/* ---- order ------------------------------------------------------------------------------------
 */

__device__ __forceinline__ int load_acquire(const int *at)
{
    int value;

    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(value) : "l"(at) : "memory");
    return value;
}

__device__ __forceinline__ void store_release(int *at, int value)
{
    asm volatile("st.release.gpu.global.s32 [%0], %1;" ::"l"(at), "r"(value) : "memory");
}

/* Waits for rows past `from` of the column in front; how many are there, or −1 when this column is
 * to be dropped. */
__device__ int wait_rows(const column_work *w, int from)
{
    const cu_encode_unit *u = w->unit;

    __syncthreads(); /* `available` was read */
    if (threadIdx.x == 0) {
        int n = u->n_rows;

        if (w->args->lower != NULL) {
            if (w->position > 0)
                for (;;) {
                    n = load_acquire(u->progress + w->position - 1);
                    if (n > from || load_acquire(u->failed) < w->position)
                        break;
                    __nanosleep(200);
                }
            if (load_acquire(u->failed) < w->position)
                n = -1;
        }
        w->shared->available = n;
    }
    __syncthreads();
    return w->shared->available;
}

/* Hands rows on; their errors were written by all threads. */
__device__ void publish(const column_work *w, int n_rows)
{
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0)
        store_release(w->unit->progress + w->position, n_rows);
}

/* ---- targets ----------------------------------------------------------------------------------
 */

/* Scaled targets of rows [begin, end) with the feedback of the columns before. */
__device__ void make_targets(const column_work *w, int begin, int end)
{
    const cu_encode_unit *u = w->unit;
    const size_t          n_rows = (size_t)u->n_rows;
    const int             last = w->args->n_columns - 1;

    for (int r = begin + (int)threadIdx.x; r < end; r += CU_ENCODE_THREADS) {
        float x = u->targets[(size_t)w->column * n_rows + r];

        if (w->args->lower != NULL) {
            float scale = u->row_scale[r];

#pragma unroll 8
            for (int p = w->position - 1; p >= 0; p--)
                x = __fadd_rn(x, __fmul_rn(w->shared->factor[p],
                                           __ldcg(u->errors + (last - p) * n_rows + r)));
            x = scale > 0 ? __fdiv_rn(x, scale) : 0;
        }
        w->scaled[r] = x;
    }
}

/* Makes targets up to row `end` at most, CU_ENCODE_ROWS after `begin` at most; returns where they
 * end, −1 when the column is dropped. */
__device__ int more_targets(column_work *w, int begin, int end)
{
    int stop = min(end, begin + (int)CU_ENCODE_ROWS);

    if (w->ready <= begin) {
        int there = wait_rows(w, w->ready);

        if (there < 0)
            return -1;
        there = min(min(there, w->ready + (int)CU_ENCODE_ROWS), w->unit->n_rows);
        make_targets(w, w->ready, there);
        w->ready = there;
        __syncthreads();
    }
    return min(stop, w->ready);
}

/* Column `position` of L: factors of the columns before it. */
__device__ void load_factors(const column_work *w)
{
    const cu_encode_args *a = w->args;
    const int             n = a->n_columns;

    for (int p = threadIdx.x; a->lower != NULL && p < w->position; p += CU_ENCODE_THREADS)
        w->shared->factor[p] =
            a->lower[(size_t)(n - 1 - p) * a->lower_stride + (n - 1 - w->position)];
    __syncthreads();
}

/* Decoded values and errors of rows [begin, end), whose windows are settled. */
__device__ void settle_rows(const column_work *w, int begin, int end)
{
    const cu_encode_unit *u = w->unit;
    const size_t          at = (size_t)w->column * u->n_rows;

    if (w->args->lower == NULL)
        return;
    for (int r = begin + (int)threadIdx.x; r < end; r += CU_ENCODE_THREADS) {
        float value = (float)__ldg(w->trellis->table + w->windows[r]);
        float decoded = __fmul_rn(u->row_scale[r], __fmul_rn(w->trellis->gain, value));

        u->decoded[at + r] = decoded;
        __stcg(u->errors + at + r, __fsub_rn(u->originals[at + r], decoded));
    }
    publish(w, end);
}

/* ---- the way back -----------------------------------------------------------------------------
 */

/* Choices of rows [begin, end) into a stage, by threads `first` and up. */
__device__ void load_stage(const column_work *w, int turn, int begin, int end, int ring, int first)
{
    const int row_bytes = w->trellis->states, per_row = row_bytes / 16;
    uint4    *to = (uint4 *)(w->stage + turn * w->args->stage_bytes);

    for (int i = (int)threadIdx.x - first; i < (end - begin) * per_row;
         i += CU_ENCODE_THREADS - first) {
        int         r = begin + i / per_row;
        const void *from = w->choices + (size_t)(r % ring) * row_bytes;

        to[i] = __ldcg((const uint4 *)from + i % per_row);
    }
}

/* Follows the choices of rows end − 1 … begin, which lie in a stage, and writes windows below
 * `keep`. */
__device__ int follow(const column_work *w, int turn, int begin, int keep, int end, int state)
{
    const cu_trellis *t = w->trellis;
    const uint8_t    *from = w->stage + turn * w->args->stage_bytes;

    for (int r = end; r-- > begin;) {
        int k_now = r % 2 == 0 ? t->k0 : t->k1, k_next = r % 2 == 0 ? t->k1 : t->k0;
        int window = from[(r - begin) * t->states + state] << (t->length - k_next) | state;

        if (r < keep)
            w->windows[r] = (uint16_t)window;
        state = window >> k_now;
    }
    return state;
}

/* Follows the best path from `state` after row end − 1 down to row begin: one warp follows one
 * stage while the others load the next. Row r's choices lie at r % ring. Returns the state before
 * row begin. */
__device__ int way_back(const column_work *w, int begin, int keep, int end, int ring, int state)
{
    const int per_stage = (int)w->args->stage_bytes / w->trellis->states;
    int       bottom = max(begin, end - per_stage);

    load_stage(w, 0, bottom, end, ring, 0);
    __syncthreads();
    for (int top = end, turn = 0; top > begin; turn ^= 1) {
        int next = max(begin, bottom - per_stage);

        if (threadIdx.x >= 32)
            load_stage(w, turn ^ 1, next, bottom, ring, 32);
        else if (threadIdx.x == 0)
            state = follow(w, turn, bottom, keep, top, state);
        top = bottom;
        bottom = next;
        __syncthreads();
    }
    if (threadIdx.x == 0)
        w->shared->state = state;
    __syncthreads();
    return w->shared->state;
}

} // namespace

#endif
