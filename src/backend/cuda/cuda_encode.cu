/* cuda_encode.cu: columns through the trellis, alone or one behind the other with error feedback.
 *
 * Blocks take columns by ticket, in the order in which they wait for each other, so a column that
 * is waited for is always at work. A column that its search cannot hold (kernels/viterbi_fast.c)
 * takes the next search. Errors that it has handed on by then were wrong: the columns behind it are
 * dropped, the launch ends, and the host starts another one at that column. */
#include "backend/cuda/cuda_column.cuh"

namespace
{

/* ---- int16 ------------------------------------------------------------------------------------
 */

__device__ __forceinline__ int16_t *fast_metrics(const column_work *w, int turn)
{
    return (int16_t *)(w->metrics + turn * (w->args->metric_bytes / 2));
}

__device__ void fast_start(const column_work *w, int r, bool free_start, int only)
{
    const cu_fast_row *row = &w->shared->rows[r % 2];
    int16_t           *metric = fast_metrics(w, r % 2);
    int                n_states = 1 << (w->trellis->length - row->k_now);

    for (int n = threadIdx.x; n < n_states; n += CU_ENCODE_THREADS)
        metric[metric_at(n, row->pitch_log2)] =
            (int16_t)(free_start || n == only ? w->form->base : SHRT_MAX);
    __syncthreads();
}

/* Units of the targets of rows [begin, end) into shared memory. False: one of them is too far. */
__device__ bool fast_units(const column_work *w, int begin, int end)
{
    const cu_fast_form *f = w->form;
    bool                held = true;

    for (int r = begin + (int)threadIdx.x; r < end; r += CU_ENCODE_THREADS) {
        double target = (double)w->scaled[r], d = fabs(target) - f->value_range;
        double fine = __dmul_rn(4 * f->coarse, d);

        held = held && fabs(target) <= f->furthest;
        w->shared->coarse[r - begin] = __double2int_rn(__dmul_rn(target, f->coarse));
        w->shared->outside[r - begin] =
            d > 0 ? __double2int_rn(__dmul_rn(__dmul_rn(fine, fine), 1.0 / 32768)) : 0;
    }
    return __syncthreads_and(held);
}

/* Runs rows [begin, end), whose units are in shared memory. Returns the least metric. */
__device__ int fast_forward(const column_work *w, int begin, int end, int least)
{
    shared_state       *s = w->shared;
    const cu_fast_form *f = w->form;
    const int           ring = f->ring_rows, states = w->trellis->states;

    for (int r = begin; r < end; r++) {
        const cu_fast_row *row = &s->rows[r % 2];
        int                excess = least - f->base + s->outside[r - begin], mine;

        mine =
            any_fast_step(row, s->rows[(r + 1) % 2].pitch_log2, s->coarse[r - begin],
                          f->offset_limit, clamp_int(excess, -7, SHRT_MAX), fast_metrics(w, r % 2),
                          fast_metrics(w, (r + 1) % 2), w->choices + (size_t)(r % ring) * states);
        mine = __reduce_min_sync(0xFFFFFFFFu, mine);
        if (threadIdx.x % 32 == 0)
            s->least[r % 2][threadIdx.x / 32] = mine;
        __syncthreads();
        least = s->least[r % 2][0];
#pragma unroll
        for (int i = 1; i < WARPS; i++)
            least = min(least, s->least[r % 2][i]);
    }
    return least;
}

/* The first state with the least metric before row r. */
__device__ int fast_best(const column_work *w, int r, int least)
{
    const cu_fast_row *row = &w->shared->rows[r % 2];
    const int16_t     *metric = fast_metrics(w, r % 2);
    int                n_states = 1 << (w->trellis->length - row->k_now), best = INT_MAX;

    if (threadIdx.x == 0)
        w->shared->best = INT_MAX;
    __syncthreads();
    for (int n = threadIdx.x; n < n_states && best == INT_MAX; n += CU_ENCODE_THREADS)
        if (metric[metric_at(n, row->pitch_log2)] == least)
            best = n;
    if (best != INT_MAX)
        atomicMin(&w->shared->best, best);
    __syncthreads();
    return w->shared->best;
}

/* As settle() of kernels/viterbi_fast.c. */
__device__ int fast_settle(column_work *w, int settled, int keep, int end, int least)
{
    const int ring = w->form->ring_rows;
    int       last, state = way_back(w, settled, keep, end, ring, fast_best(w, end, least));

    if (settled == 0)
        return least;
    last = w->windows[settled - 1] &
           ((1 << (w->trellis->length - w->shared->rows[settled % 2].k_now)) - 1);
    if (state == last)
        return least;
    fast_start(w, settled, false, last);
    least = w->form->base;
    for (int r = settled; r < end; r += CU_ENCODE_ROWS) {
        int stop = min(end, r + (int)CU_ENCODE_ROWS);

        (void)fast_units(w, r, stop);
        least = fast_forward(w, r, stop, least);
    }
    (void)way_back(w, settled, keep, end, ring, fast_best(w, end, least));
    return least;
}

/* As was_seeing() of kernels/viterbi_fast.c. */
__device__ bool fast_seeing(const column_work *w, int begin, int end)
{
    bool seeing = true;

    for (int r = begin + (int)threadIdx.x; r < end; r += CU_ENCODE_THREADS) {
        double target = (double)w->scaled[r],
               value = (double)__ldg(w->trellis->table + w->windows[r]);
        double miss = target - __dmul_rn((double)w->trellis->gain, value);
        double d = fmax(fabs(target) - w->form->value_range, 0.0);

        seeing = seeing && __dmul_rn(miss, miss) - __dmul_rn(d, d) < w->form->hopeless;
    }
    return __syncthreads_and(seeing);
}

enum result { CODED, NOT_HELD, DROPPED };

/* *handed: rows handed on. */
__device__ result fast_column(column_work *w, int *handed)
{
    const int n_rows = w->unit->n_rows, ring = w->form->ring_rows;
    int       settled = 0, r = 0, least = w->form->base;

    for (int i = threadIdx.x; i < (int)(sizeof w->shared->rows / 4); i += CU_ENCODE_THREADS)
        ((int *)w->shared->rows)[i] = ((const int *)w->form->rows)[i];
    __syncthreads();
    fast_start(w, 0, true, 0);
    while (r < n_rows) {
        int end = min(n_rows, settled + ring - 1), keep;

        while (r < end) {
            int stop = more_targets(w, r, end);

            if (stop < 0)
                return DROPPED;
            if (!fast_units(w, r, stop))
                return NOT_HELD;
            least = fast_forward(w, r, stop, least);
            r = stop;
        }
        keep = r < n_rows ? r - w->form->depth : n_rows;
        least = fast_settle(w, settled, keep, r, least);
        if (!fast_seeing(w, settled, keep))
            return NOT_HELD;
        settle_rows(w, settled, keep);
        settled = keep;
        *handed = keep;
    }
    return CODED;
}

/* ---- float32 ----------------------------------------------------------------------------------
 */

/* The least of n metrics. */
__device__ float least_of(const column_work *w, const float *metric, int n)
{
    float least = metric[0];

    for (int i = threadIdx.x; i < n; i += CU_ENCODE_THREADS)
        least = fminf(least, metric[i]);
    for (int bit = 16; bit > 0; bit /= 2)
        least = fminf(least, __shfl_xor_sync(0xFFFFFFFFu, least, bit));
    if (threadIdx.x % 32 == 0)
        w->shared->least_float[threadIdx.x / 32] = least;
    __syncthreads();
    for (int i = 0; i < WARPS; i++)
        least = fminf(least, w->shared->least_float[i]);
    __syncthreads();
    return least;
}

__device__ void exact_rows(const column_work *w, int begin, int end)
{
    const cu_trellis *t = w->trellis;

    for (int r = begin; r < end; r++) {
        int    k_now = r % 2 == 0 ? t->k0 : t->k1, k_next = r % 2 == 0 ? t->k1 : t->k0;
        float *from = (float *)(w->metrics + (r % 2) * (w->args->metric_bytes / 2));
        float *to = (float *)(w->metrics + ((r + 1) % 2) * (w->args->metric_bytes / 2));
        float  weight = w->unit->row_weights != NULL ? w->unit->row_weights[r] : 1.0f;

        exact_step(t->length, k_now, k_next, from, t->values, w->scaled[r], weight, to,
                   w->choices + (size_t)r * t->states);
        __syncthreads();
        if (r % 16 == 15) { /* as ROWS_BETWEEN_RESETS of kernels/viterbi.c */
            int   n = 1 << (t->length - k_next);
            float least = least_of(w, to, n);

            for (int i = threadIdx.x; i < n; i += CU_ENCODE_THREADS)
                to[i] = __fsub_rn(to[i], least);
            __syncthreads();
        }
    }
}

__device__ result exact_column(column_work *w)
{
    const cu_trellis *t = w->trellis;
    const int         n_rows = w->unit->n_rows;
    float            *metric = (float *)w->metrics;
    int               n_states;

    for (int n = threadIdx.x; n < t->states; n += CU_ENCODE_THREADS)
        metric[n] = 0;
    __syncthreads();
    for (int r = 0; r < n_rows;) {
        int stop = more_targets(w, r, n_rows);

        if (stop < 0)
            return DROPPED;
        exact_rows(w, r, stop);
        r = stop;
    }
    metric = (float *)(w->metrics + (n_rows % 2) * (w->args->metric_bytes / 2));
    n_states = 1 << (t->length - (n_rows % 2 == 0 ? t->k0 : t->k1));
    {
        float least = least_of(w, metric, n_states);

        if (threadIdx.x == 0)
            w->shared->best = INT_MAX;
        __syncthreads();
        for (int n = threadIdx.x; n < n_states; n += CU_ENCODE_THREADS)
            if (metric[n] == least) {
                atomicMin(&w->shared->best, n);
                break;
            }
        __syncthreads();
    }
    (void)way_back(w, 0, n_rows, n_rows, n_rows, w->shared->best);
    settle_rows(w, 0, n_rows);
    return CODED;
}

/* ---- columns ----------------------------------------------------------------------------------
 */

__device__ int next_search(const cu_trellis *t, int search)
{
    do
        search++;
    while (search < CU_SEARCH_EXACT && !t->forms[search].usable);
    return search;
}

/* One column until it is coded, dropped, or has handed on what does not hold. */
__device__ void code_column(column_work *w)
{
    const cu_encode_unit *u = w->unit;
    int                   search = u->search[w->position];

    load_factors(w);
    for (;;) {
        int    handed = 0;
        result done;

        w->ready = 0;
        if (search < CU_SEARCH_EXACT)
            w->form = &w->trellis->forms[search];
        done = search < CU_SEARCH_EXACT ? fast_column(w, &handed) : exact_column(w);
        if (done != NOT_HELD)
            return;
        search = next_search(w->trellis, search);
        __syncthreads();
        if (threadIdx.x == 0)
            u->search[w->position] = search;
        if (w->args->lower != NULL && handed > 0) {
            if (threadIdx.x == 0)
                atomicMin(u->failed, w->position);
            return;
        }
    }
}

__global__ void __launch_bounds__(CU_ENCODE_THREADS) encode_kernel(const cu_encode_args args)
{
    extern __shared__ __align__(16) uint8_t dynamic[];
    __shared__ shared_state                 shared;
    column_work                             w;

    w.args = &args;
    w.shared = &shared;
    w.metrics = dynamic;
    w.stage = dynamic + args.metric_bytes;
    w.choices = args.choices + blockIdx.x * args.choice_bytes;
    w.scaled = args.scaled + blockIdx.x * args.max_rows;
    for (;;) {
        int item;

        __syncthreads();
        if (threadIdx.x == 0)
            shared.item = (int)atomicAdd(args.ticket, 1u);
        __syncthreads();
        item = shared.item;
        w.position = args.first + item / args.n_units;
        if (w.position >= args.n_columns)
            return;
        w.unit = args.units + item % args.n_units;
        w.trellis = w.unit->trellis;
        w.column = args.lower != NULL ? args.n_columns - 1 - w.position : w.position;
        w.windows = w.unit->windows + (size_t)w.column * w.unit->n_rows;
        if (w.position >= w.unit->first)
            code_column(&w);
    }
}

uint32_t dynamic_bytes(const cu_encode_args *args)
{
    return args->metric_bytes + 2 * args->stage_bytes;
}

} // namespace

int cu_encode_occupancy(const cu_encode_args *args, int *blocks_per_sm)
{
    cudaError_t e = cudaFuncSetAttribute(encode_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         (int)dynamic_bytes(args));

    *blocks_per_sm = 0;
    return e != cudaSuccess
               ? (int)e
               : (int)cudaOccupancyMaxActiveBlocksPerMultiprocessor(
                     blocks_per_sm, encode_kernel, CU_ENCODE_THREADS, dynamic_bytes(args));
}

int cu_launch_encode(const cu_encode_args *args, uint32_t n_blocks, cu_encode_stream stream)
{
    encode_kernel<<<n_blocks, CU_ENCODE_THREADS, dynamic_bytes(args), stream>>>(*args);
    return (int)cudaGetLastError();
}
