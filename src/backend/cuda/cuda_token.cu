/* cuda_token.cu: a whole token (or many) in one launch: every block runs the same list of steps.
 *
 * One block per SM: 15 warps compute, one more warp loads. A block's code bits for the whole token
 * are one contiguous tape; the loader streams it into a ring of pages of 7.5 KiB in shared memory
 * and waits for nothing but free pages: weights do not depend on activations, so the stream goes on
 * while the blocks wait for each other or prepare the next input.
 *
 *     loader    tape ──► ring page ──full──► warps          (mbarriers)
 *     product   vector ──► norm, rotation, int8, bit planes; bits ──► the block's u ──► its rows
 *     items     attention, silu(gate)·up: few blocks, from vector to vector
 *
 * Each block owns whole row tiles of every product, so u never leaves its shared memory but for the
 * last 16 words, which the codes of the next block's first rows reach back to. Blocks exchange
 * vectors of fp32 words, each of which says by itself whether it is there (cuda_math.cuh): there is
 * no barrier. Every block rotates and rounds a product's whole input by itself, which is cheaper
 * than to wait for one that does; only silu(gate)·up, 3.5 times as wide, is rotated by as many
 * blocks as it has rotation blocks. Norms commute with the rotation up to a factor, which goes into
 * the scale. Invariants:
 *   1. What another block wrote in this launch is read past the first-level cache.
 *   2. A vector has CU_SETS copies. Who writes one, empties the one of two turns before. A token
 *      has a generation for each layer, and one for the head with what follows it. In each of
 *      them every block arrives once (`arrives`), behind its last reads of the generation before;
 *      and once, ahead of its first writes, it checks that all have arrived in the generation
 *      before (`checks`). So all have read what is emptied, and see it empty before they look
 *      again.
 *   3. The code of all steps stays below what an SM's instruction cache holds: between two uses of
 *      an instruction lies a whole layer. Hence one copy of each part, loops not unrolled without
 *      need. */
#include "backend/cuda/cuda_items.cuh"

namespace
{

enum { TAIL = 16 }; /* sums in front of a block's own */

/* ---- input of a product -------------------------------------------------------------------------
 */

/* Looks again at the 16 bytes if x says that they were not all there. */
__device__ __forceinline__ void look_again(uint4 *x, const uint4 *from)
{
    asm volatile("{ .reg .pred p; setp.ne.u32 p, %5, 0; "
                 "@p ld.relaxed.gpu.global.v4.u32 {%0,%1,%2,%3}, [%4]; }"
                 : "+r"(x->x), "+r"(x->y), "+r"(x->z), "+r"(x->w)
                 : "l"(from), "r"((uint32_t)!is_there(*x))
                 : "memory");
}

enum { EACH = 3, CHUNK = EACH * CU_THREADS }; /* vectors of 16 bytes at a time */

/* A thread's vectors i, i + CU_THREADS, … of n, once all are there. */
__device__ __forceinline__ void take_vectors(const uint4 *from, uint32_t i, uint32_t n,
                                             uint4 x[EACH])
{
    bool all;

#pragma unroll
    for (int e = 0; e < EACH; e++) {
        uint32_t w = i + e * CU_THREADS < n ? CU_EMPTY : 0u;

        x[e] = make_uint4(w, w, w, w);
    }
    do {
        all = true;
#pragma unroll
        for (int e = 0; e < EACH; e++)
            look_again(&x[e], from + i + e * CU_THREADS);
#pragma unroll
        for (int e = 0; e < EACH; e++)
            all = all && is_there(x[e]);
    } while (!all);
}

/* What the first CU_THREADS rows of the block need of memory, on its way. */
struct row_needs {
    uint16_t scale;
    float    residual;
};

__device__ __forceinline__ uint32_t rows_of(const cu_piece *pieces, uint32_t n_pieces)
{
    uint32_t n = 0;

#pragma unroll 1
    for (uint32_t p = 0; p < n_pieces; p++)
        n += pieces[p].n_rows;
    return n;
}

__device__ __forceinline__ row_needs need_row(const cu_step &s, const cu_piece *p, uint32_t r,
                                              uint32_t turn)
{
    row_needs x = { 0, 0.0f };

#pragma unroll 1
    while (r >= p->local0 + p->n_rows)
        p++;
    x.scale = __ldg(p->scales + r - p->local0);
    if (s.rows_to == CU_ROWS_ADD)
        x.residual = __uint_as_float(__ldcg(set_of(s.residual, turn, 0) + p->out0 + r - p->local0));
    return x;
}

__device__ __forceinline__ void keep_row(float *y, uint32_t r, uint32_t n, row_needs x, bool adds)
{
    y[r] = __half2float(__ushort_as_half(x.scale));
    if (adds)
        y[n + r] = x.residual;
}

/* The whole vector, times its factors, rotated, to int8; returns this thread's part of Σq. */
__device__ __forceinline__ int rotated_input(const cu_token_args &a, const cu_step &s,
                                             uint32_t index, uint32_t n_words, uint32_t turn,
                                             uint32_t *codes)
{
    const uint4   *from = (const uint4 *)set_of(s.in, turn, 0);
    const uint32_t n = s.width / 4;
    float         *x = (float *)staged_of(a), squares = 0.0f, max, scale, inverse;
    uint32_t       top = 0;
    int            sum = 0;

#pragma unroll 1
    for (uint32_t first = threadIdx.x; first < n; first += CHUNK) {
        uint4  v[EACH];
        float4 f[EACH];

#pragma unroll
        for (int e = 0; e < EACH; e++)
            f[e] = __ldg((const float4 *)s.factor + min(first + e * CU_THREADS, n - 1));
        take_vectors(from, first, n, v);
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            uint32_t i = first + e * CU_THREADS;
            float4   w = make_float4(__uint_as_float(v[e].x), __uint_as_float(v[e].y),
                                     __uint_as_float(v[e].z), __uint_as_float(v[e].w));

            if (i >= n)
                break;
            squares = fmaf(w.x, w.x, fmaf(w.y, w.y, fmaf(w.z, w.z, fmaf(w.w, w.w, squares))));
            store_four(x, i,
                       first_distances(
                           make_float4(w.x * f[e].x, w.y * f[e].y, w.z * f[e].z, w.w * f[e].w)));
        }
    }
    mark_time(a, 1);
#pragma unroll 1
    for (uint32_t j = s.width + threadIdx.x; j < 4 * n_words; j += CU_THREADS)
        x[pad(j)] = 0.0f;
    later_distances(x, s.width, s.log_block);
#pragma unroll 3
    for (uint32_t w = threadIdx.x; w < n_words; w += CU_THREADS)
        top = ::max(top, magnitude(word_of(x, w)));
    reduce_block(&top, &squares);
    max = top < 0x7F800000u ? __uint_as_float(top) : INFINITY;
    scale = int8_scale(max, &inverse);
    if (threadIdx.x == 0) {
        if (blockIdx.x == 0 && (!is_number(max) || (s.normed && !is_number(squares))))
            mark_bad(a, index);
        if (s.normed) /* not in x' yet */
            scale *= __frsqrt_rn(squares / (float)s.width + a.norm_eps);
        own.scale = scale;
    }
#pragma unroll 3
    for (uint32_t w = threadIdx.x; w < n_words; w += CU_THREADS) {
        uint32_t code = codes_of(word_of(x, w), inverse);

        codes[code_at(w)] = code;
        sum = __dp4a((int)code, 0x01010101, sum);
    }
    return sum;
}

/* The same of codes that others have made. */
__device__ __forceinline__ int rounded_input(const cu_token_args &a, const cu_step &s,
                                             uint32_t n_words, uint32_t turn, uint32_t *codes)
{
    const uint4 *from = (const uint4 *)set_of(s.in, turn, 0);
    int          sum = 0;

#pragma unroll 1
    for (uint32_t first = threadIdx.x; first < n_words / 4; first += CHUNK) {
        uint4 v[EACH];

        take_vectors(from, first, n_words / 4, v);
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            uint32_t i = first + e * CU_THREADS;
            uint4    c =
                make_uint4(lowered(v[e].x), lowered(v[e].y), lowered(v[e].z), lowered(v[e].w));

            if (i >= n_words / 4)
                break;
            *(uint4 *)(codes + code_at(4 * i)) = c;
            sum = __dp4a((int)c.x, 0x01010101, __dp4a((int)c.y, 0x01010101, sum));
            sum = __dp4a((int)c.z, 0x01010101, __dp4a((int)c.w, 0x01010101, sum));
        }
    }
    mark_time(a, 1);
    if (threadIdx.x == 0) {
        const uint32_t items = (s.width + (1u << s.log_item) - 1) >> s.log_item;
        const uint32_t top = wait_for(set_of(s.maxima, turn, 0) + items);
        float          inverse;

        own.scale = int8_scale(top < 0x7F800000u ? __uint_as_float(top) : INFINITY, &inverse);
    }
    return sum;
}

/* Bit planes of the input in int8; returns Σq. The block's u is cleared. */
__device__ __forceinline__ int product_input(const cu_token_args &a, uint32_t index, uint32_t turn,
                                             const cu_record &record, const cu_piece *pieces,
                                             uint32_t n_u)
{
    const cu_step &s = record.step;
    const uint32_t n = record.product.n_ktiles * CU_TILE_WORDS;
    const uint32_t n_rows = rows_of(pieces, a.n_pieces);
    uint32_t      *codes = (uint32_t *)staged_of(a) + s.codes_at;
    row_needs      needs = { 0, 0.0f };
    int            sum;

    if (threadIdx.x == 0)
        own.sum = 0;
    if (threadIdx.x < n_rows)
        needs = need_row(s, pieces, threadIdx.x, turn);
    if (threadIdx.x == 0 && s.checks) {
        uint32_t target = gridDim.x * (turn * (a.n_layers + 1) + s.generation - 1), seen;

        do
            asm volatile("ld.acquire.gpu.global.u32 %0, [%1];"
                         : "=r"(seen)
                         : "l"(a.arrivals)
                         : "memory");
        while ((int32_t)(seen - target) < 0);
    }
    sum = s.rounded ? rounded_input(a, s, n, turn, codes)
                    : rotated_input(a, s, index, n, turn, codes);
    if (threadIdx.x < n_rows)
        keep_row(y_of(a), threadIdx.x, n_rows, needs, s.rows_to == CU_ROWS_ADD);
#pragma unroll 1
    for (uint32_t r = threadIdx.x + CU_THREADS; r < n_rows; r += CU_THREADS)
        keep_row(y_of(a), r, n_rows, need_row(s, pieces, r, turn), s.rows_to == CU_ROWS_ADD);
    sum = __reduce_add_sync(~0u, sum);
    block_sync();
    if ((threadIdx.x & 31) == 0)
        atomicAdd(&own.sum, sum);
    mark_time(a, 2);
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < n / 16; i += CU_THREADS)
        make_planes(codes, i >> 2, i & 3, planes_of(a));
#pragma unroll 1
    for (uint32_t i = CU_THREADS - 1 - threadIdx.x; i < n_u; i += CU_THREADS)
        staged_of(a)[i] = 0;
    block_sync();
    if (threadIdx.x == 0 && s.arrives)
        asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(a.arrivals) : "memory");
    return own.sum;
}

/* ---- rows of a product --------------------------------------------------------------------------
 * y_r = (Σ_i p_i·u[newest(r) − i]) · (s_r·g·s_x), the sum exact, rounded to fp32 once. */

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

/* Row r of a piece, from the block's u. */
__device__ __forceinline__ float row_result(const cu_piece &p, uint32_t r, const int32_t *u,
                                            float scale, float s_x)
{
    const int32_t *at = u + p.newest0 + (r + 1) / 2 * p.ka + r / 2 * p.kb;
    double         sum;

    if (p.narrow) {
        int s = 0;

#pragma unroll
        for (int i = 0; i < 12; i += 4) {
            int4 t = *(const int4 *)(p.taps + i);

            s += t.x * at[-i] + t.y * at[-i - 1] + t.z * at[-i - 2] + t.w * at[-i - 3];
        }
        sum = wide(s);
    } else {
        int64_t s = 0;

#pragma unroll 1
        for (uint32_t i = 0; i < p.length; i++)
            s += (int64_t)p.taps[i] * at[-(int)i];
        sum = (double)s;
    }
    return __double2float_rn(
        __dmul_rn(sum, __dmul_rn(__dmul_rn(wide(scale), wide(p.gain)), wide(s_x))));
}

/* All tiles are done. */
__device__ __forceinline__ void product_rows(const cu_token_args &a, uint32_t index, uint32_t turn,
                                             const cu_step &s, const cu_piece *pieces)
{
    const outlet   out = outlet_of(s.out, turn);
    const float    s_x = own.scale, *kept = y_of(a);
    const int32_t *u = staged_of(a);
    const uint32_t n = rows_of(pieces, a.n_pieces);
    int32_t        token = INT32_MAX;
    float          value = -INFINITY;
    bool           good = true;

#pragma unroll 1
    for (uint32_t r = threadIdx.x; r < n; r += CU_THREADS) {
        const cu_piece *p = pieces;
        float           y;
        uint32_t        row;

#pragma unroll 1
        while (r >= p->local0 + p->n_rows)
            p++;
        row = p->out0 + r - p->local0;
        y = row_result(*p, r - p->local0, u, kept[r], s_x);
        if (s.rows_to == CU_ROWS_BEST) {
            a.logits[row] = y;
            good = good && is_number(y);
            better(&value, &token, y, (int32_t)row);
            continue;
        }
        if (s.rows_to == CU_ROWS_ADD)
            y += kept[n + r];
        put(out, row, y);
    }
    if (s.rows_to != CU_ROWS_BEST)
        return;
    if (!good)
        mark_bad(a, index);
    best_of_block(&value, &token);
    if (threadIdx.x == 0) {
        put(out, 2 * blockIdx.x, value);
        put_bits(out, 2 * blockIdx.x + 1, (uint32_t)token);
    }
}

/* Once a token: what depends on its position alone. */
__device__ __forceinline__ void find_place(const cu_token_args &a, uint32_t token_index)
{
    uint32_t     half = a.kv.rotary_dims / 2, position = own.place.launch_position + token_index;
    uint32_t     begin, end, first, n;
    float       *angles = angles_of(a);
    bool         far = __ldcg(&a.state->long_rope) != 0 && a.long_inv_freq != NULL;
    const float *frequency = far ? a.long_inv_freq : a.inv_freq;

#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < half; i += CU_THREADS)
        rope_angle(position, frequency[i], a.attention_scaling, angles + i, angles + half + i);
    split_range(position, a.kv.window, a.n_splits, blockIdx.x % a.n_splits, &begin, &end);
    first = begin / CU_PAGE_TOKENS;
    n = begin < end ? (end - 1) / CU_PAGE_TOKENS + 1 - first : 0;
    n = n <= CU_OWN_PAGES ? n : 0;
    if (threadIdx.x < n)
        own.place.pages[threadIdx.x] = a.pages[first + threadIdx.x];
    if (threadIdx.x == 0) {
        own.place.position = position;
        own.place.first_page = first;
        own.place.n_pages = n;
        own.place.newest = a.pages[position / CU_PAGE_TOKENS];
    }
    block_sync();
}

/* ---- the interpreter ----------------------------------------------------------------------------
 */

enum { RECORD_VECTORS = sizeof(cu_record) / 16, PIECE_VECTORS = sizeof(cu_piece) / 16 };

static_assert(sizeof(cu_record) % 64 == 0 && (int)RECORD_VECTORS <= 256 &&
                  (int)CU_MAX_PIECES * (int)PIECE_VECTORS <= (int)CU_THREADS - 256,
              "a thread copies 16 bytes of either at most");

__device__ __forceinline__ void copy_async(void *shared, const void *global)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address_of(shared)), "l"(global)
                 : "memory");
}

/* Pieces of the block in a product. */
__device__ __forceinline__ void fetch_pieces(const cu_token_args &a, const cu_step &s, uint32_t i)
{
    const uint32_t t = threadIdx.x - 256;

    if (s.kind == CU_STEP_PRODUCT && threadIdx.x >= 256 && t < a.n_pieces * PIECE_VECTORS)
        copy_async((uint4 *)own.pieces[i % 2] + t,
                   (const uint4 *)(a.pieces +
                                   ((uint64_t)s.product * gridDim.x + blockIdx.x) * a.n_pieces) +
                       t);
}

__device__ __forceinline__ void fetch_record(const cu_token_args &a, uint32_t place, uint32_t i)
{
    if (threadIdx.x < RECORD_VECTORS)
        copy_async((uint4 *)(own.records + i % RECORDS) + threadIdx.x,
                   (const uint4 *)(a.records + a.first_step + place) + threadIdx.x);
}

__device__ __forceinline__ void commit_ahead()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

__device__ __forceinline__ void wait_ahead()
{
    asm volatile("cp.async.wait_group 0;" ::: "memory");
    block_sync();
}

__device__ __forceinline__ void begin_trace(const cu_token_args &a, const step_mark &k)
{
    const uint32_t n_steps = a.end_step - a.first_step;

    own.stamp = k.token == 0 ? a.trace + 6 * (k.place + blockIdx.x * n_steps) : NULL;
}

/* Step i + 2 of the launch, and the pieces of step i + 1, on their way into shared memory. */
__device__ __forceinline__ void fetch_ahead(const cu_token_args &a, uint32_t i)
{
    const uint32_t  n_steps = a.end_step - a.first_step, n = n_steps * a.n_tokens;
    const step_mark k = own.marks[i % RECORDS];

    if (i + 2 < n)
        fetch_record(a, (k.place + 2) % n_steps, i + 2);
    if (i + 1 < n)
        fetch_pieces(a, own.records[(i + 1) % RECORDS].step, i + 1);
    commit_ahead();
    if (threadIdx.x == 0) {
        step_mark *next = own.marks + (i + 1) % RECORDS;
        const bool last = k.place + 1 == n_steps;

        next->place = last ? 0 : k.place + 1;
        next->token = k.token + last;
        next->turn = k.turn + last;
        if (a.trace != NULL)
            begin_trace(a, k);
    }
}

/* The first two steps. */
__device__ __forceinline__ void fetch_first(const cu_token_args &a)
{
    const uint32_t n_steps = a.end_step - a.first_step;

    if (threadIdx.x == 0) {
        own.place.launch_position = __ldcg(&a.state->position);
        own.marks[0] = { 0, 0, __ldcg(a.arrivals + CU_TOKENS_DONE), { 0, 0, 0, 0 } };
    }
    fetch_record(a, 0, 0);
    if (n_steps * a.n_tokens > 1)
        fetch_record(a, 1 % n_steps, 1);
    commit_ahead();
    wait_ahead();
    fetch_pieces(a, own.records->step, 0);
    commit_ahead();
    wait_ahead();
}

template <int TYPE, int DIMS, int HEADS>
__device__ __forceinline__ void run_items(const cu_token_args &a, uint32_t i)
{
    const cu_step &s = own.records[i % RECORDS].step;
    const uint32_t index = a.first_step + own.marks[i % RECORDS].place;
    const uint32_t token = own.marks[i % RECORDS].token, turn = own.marks[i % RECORDS].turn;

    if (s.kind == CU_STEP_EMBED || (s.kind == CU_STEP_ATTENTION && a.end_step == a.first_step + 1))
        find_place(a, token); /* once a token; a launch of one step has no other chance */
    if (s.kind == CU_STEP_SAMPLE && a.draw.on) {
        draw(a, s, token, turn);
        return;
    }
#pragma unroll 1
    for (uint32_t item = blockIdx.x; item < s.n_items; item += gridDim.x) {
        if (item != blockIdx.x)
            block_sync();
        if (s.kind == CU_STEP_ATTENTION)
            attention<TYPE, DIMS, HEADS>(a, s, index, item, turn);
        else if (s.kind == CU_STEP_SWIGLU)
            swiglu(a, s, index, item, turn);
        else if (s.kind == CU_STEP_EMBED)
            embed(a, s, item, token, turn);
        else
            sample(a, s, token, turn);
    }
}

__device__ __forceinline__ tail_exchange tail_of(const cu_step &s, uint32_t tail_from,
                                                 uint32_t turn)
{
    const outlet o = outlet_of(s.tails, turn);

    return { o.now + TAIL * blockIdx.x, o.stale + TAIL * blockIdx.x,
             tail_from != ~0u && threadIdx.x < TAIL ? o.now + TAIL * tail_from + threadIdx.x : NULL,
             address_of(&own.tail_done) };
}

/* Returns the cursor behind the block's tiles. */
__device__ __forceinline__ cursor run_product(const cu_token_args &a, const ring &r, uint32_t i)
{
    const cu_record &record = own.records[i % RECORDS];
    const cu_piece  *pieces = own.pieces[i % 2];
    const uint32_t   index = a.first_step + own.marks[i % RECORDS].place;
    const uint32_t   n_k = record.product.n_ktiles;
    warp_share       share;
    uint32_t         n_u;
    int              sum;
    tail_exchange    tail;
    cursor           at;

    n_u =
        TAIL + share_of(record.product.n_units, n_k, blockIdx.x, gridDim.x).n / n_k * CU_TILE_ROWS;
    sum = product_input(a, index, own.marks[i % RECORDS].turn, record, pieces, n_u);
    mark_time(a, 3);
    share = share_of_warp(record.product.n_units, n_k, gridDim.x);
    tail = tail_of(record.step, pieces[0].tail_from, own.marks[i % RECORDS].turn);
    if (share.n_block == 0 && threadIdx.x < TAIL) /* in other layers it may have had some */
        publish(tail.stale + threadIdx.x, CU_EMPTY);
    if (threadIdx.x == 0)
        own.n_in_flight = a.n_in_flight;
    at = multiply(share, n_k, sum, address_of(staged_of(a) + TAIL), memory_of(r, planes_of(a)),
                  own.marks[i % RECORDS].at, tail);
    block_sync();
    if (threadIdx.x == 0)
        own.n_in_flight = a.n_calm;
    mark_time(a, 4);
    product_rows(a, index, own.marks[i % RECORDS].turn, record.step, pieces);
    return at;
}

template <int TYPE, int DIMS, int HEADS>
__device__ __forceinline__ void compute(const cu_token_args &a, const ring &r)
{
    fetch_first(a);
#pragma unroll 1
    for (uint32_t i = 0; i < (a.end_step - a.first_step) * a.n_tokens; i++) {
        cursor at;

        fetch_ahead(a, i);
        mark_time(a, 0);
        if (own.records[i % RECORDS].step.kind == CU_STEP_PRODUCT) {
            at = run_product(a, r, i);
        } else {
            run_items<TYPE, DIMS, HEADS>(a, i);
            at = own.marks[i % RECORDS].at;
        }
        if (own.marks[i % RECORDS].place + 1 == a.end_step - a.first_step)
            at = end_of_stream(&r, at);
        mark_time(a, 5);
        if (threadIdx.x == 0)
            own.marks[(i + 1) % RECORDS].at = at;
        wait_ahead();
    }
}

template <int TYPE, int DIMS, int HEADS>
__global__ void __launch_bounds__(CU_THREADS + 32, 1)
    token_kernel(const __grid_constant__ cu_token_args a)
{
    __shared__ uint64_t full[MAX_PAGES], empty[MAX_PAGES];
    ring                r = { full, empty, cu_token_memory, a.n_pages_ring };

    if (threadIdx.x == 0)
        for (uint32_t i = 0; i < a.n_pages_ring; i++) {
#if __CUDA_ARCH__ >= 900
            barrier_init(&full[i], 1);
#else
            barrier_init(&full[i], 32);
#endif
            barrier_init(&empty[i], PAGE_TILES);
        }
    if (threadIdx.x == 0) {
        barrier_init(&own.tail_done, CU_WARPS);
        own.n_in_flight = a.n_in_flight;
    }
    fence_barriers();
    __syncthreads();
    if (threadIdx.x >= CU_THREADS) {
        stream_tape(&a, &r, &own.n_in_flight);
        return;
    }
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
    compute<TYPE, DIMS, HEADS>(a, r);
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
    __shared__ uint64_t full[MAX_PAGES], empty[MAX_PAGES];
    ring                r = { full, empty, cu_token_memory, a.n_pages_ring };
    uint32_t           *planes = planes_of(a);
    cursor              at = { 0, 0, 0, 0 };
    request             next = first_request();

    if (threadIdx.x == 0)
        for (uint32_t i = 0; i < a.n_pages_ring; i++) {
#if __CUDA_ARCH__ >= 900
            barrier_init(&full[i], 1);
#else
            barrier_init(&full[i], 32);
#endif
            barrier_init(&empty[i], PAGE_TILES);
        }
    for (uint32_t i = threadIdx.x; i < a.max_ktiles * CU_PLANE_WORDS; i += CU_THREADS + 32)
        planes[i] = 0x9E3779B9u * (i + 1);
    fence_barriers();
    __syncthreads();
    for (uint32_t i = 0; i < n * times; i++) {
        const cu_product *p = products[i % n];
        cu_share          s = share_of(p->n_units, p->n_ktiles, blockIdx.x, a.tape.n_ctas);

        if (threadIdx.x >= CU_THREADS) {
            const uint8_t *tape =
                a.tape.bytes +
                ((uint64_t)a.tape.base[blockIdx.x] + p->offset[blockIdx.x]) * CU_TILE_BYTES;

            for (uint32_t page = 0; page * PAGE_TILES < s.n; page++)
                request_page(&r, &next, a.n_in_flight, tape + (uint64_t)page * PAGE_BYTES,
                             min(s.n - page * PAGE_TILES, (uint32_t)PAGE_TILES) * CU_TILE_BYTES);
            continue;
        }
        if (MULTIPLY) {
            at = multiply(share_of_warp(p->n_units, p->n_ktiles, a.tape.n_ctas), p->n_ktiles, 1,
                          address_of(staged_of(a)), memory_of(r, planes), at,
                          { NULL, NULL, NULL, 0 });
        } else {
            uint32_t warp = threadIdx.x >> 5;
            cursor   mine = at;

#pragma unroll 1
            for (uint32_t k = warp; k < s.n; k += CU_WARPS) {
                barrier_wait(address_of(&full[mine.slot]), mine.parity);
                __syncwarp();
                if ((threadIdx.x & 31) == 0)
                    barrier_arrive(address_of(&empty[mine.slot]));
                if (++mine.slot == r.n_pages)
                    mine.slot = 0, mine.parity ^= 1;
            }
            at = advanced(at, s.n, r.n_pages);
        }
        at = end_of_stream(&r, at);
    }
}

typedef void (*token_function)(cu_token_args);

static_assert(attend_words<8, 4>() <= CU_STAGED_WORDS && attend_words<32, 1>() <= CU_STAGED_WORDS &&
                  attend_words<8, 2>() <= CU_STAGED_WORDS,
              "what the host plans with");

template <int TYPE> token_function variant_of(uint32_t head_dim)
{
    constexpr int HALF = TYPE == KV_F32 ? KV_F16 : TYPE; /* f32 pages take the general form */

    if (TYPE != KV_F32 && head_dim == 128)
        return token_kernel<HALF, TENSOR + 8, 4>;
    if (TYPE != KV_F32 && head_dim == 64)
        return token_kernel<HALF, TENSOR + 4, 4>;
    if (head_dim <= 128)
        return token_kernel<TYPE, 8, 2>;
    return token_kernel<TYPE, 32, 1>;
}

token_function find_variant(const cu_token_args *a)
{
    return a->kv.type == KV_F16   ? variant_of<KV_F16>(a->kv.head_dim)
           : a->kv.type == KV_F32 ? variant_of<KV_F32>(a->kv.head_dim)
                                  : variant_of<KV_I8>(a->kv.head_dim);
}

uint32_t shared_besides_ring(const cu_token_args *a)
{
    return 4 * (a->max_ktiles * CU_PLANE_WORDS + a->staged_words + a->y_words + a->kv.rotary_dims);
}

/* Where things lie in shared memory behind the ring. */
void lay_shared(cu_token_args *a)
{
    a->planes_at = a->n_pages_ring * PAGE_BYTES;
    a->staged_at = a->planes_at + 4 * a->max_ktiles * CU_PLANE_WORDS;
    a->y_at = a->staged_at + 4 * a->staged_words;
    a->angles_at = a->y_at + 4 * a->y_words;
}

} // namespace

extern "C" int cu_token_prepare(const cu_token_args *a, uint32_t shared_limit,
                                uint32_t *n_pages_ring)
{
    cudaFuncAttributes attributes;
    cudaError_t        e;
    uint32_t           besides = shared_besides_ring(a), n;

    *n_pages_ring = 0;
    e = cudaFuncGetAttributes(&attributes, (const void *)find_variant(a));
    if (e != cudaSuccess)
        return e;
    besides += (uint32_t)attributes.sharedSizeBytes;
    if (besides + 2 * PAGE_BYTES > shared_limit)
        return cudaSuccess;
    n = (shared_limit - besides) / PAGE_BYTES;
    *n_pages_ring = n < MAX_PAGES ? n : MAX_PAGES;
    return cudaFuncSetAttribute((const void *)find_variant(a),
                                cudaFuncAttributeMaxDynamicSharedMemorySize,
                                (int)(*n_pages_ring * PAGE_BYTES + shared_besides_ring(a)));
}

extern "C" int cu_launch_token(const cu_token_args *a, bool cooperative, bool dependent,
                               cu_stream stream)
{
    cudaLaunchAttribute attribute[1];
    cudaLaunchConfig_t  config = {};
    token_function      run = find_variant(a);
    cu_token_args       copy = *a;

    lay_shared(&copy);
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
    uint32_t      bytes = a->n_pages_ring * PAGE_BYTES + shared_besides_ring(a);
    cu_token_args copy = *a;
    const void   *run =
        multiplies ? (const void *)bare_kernel<true> : (const void *)bare_kernel<false>;
    cudaError_t e =
        cudaFuncSetAttribute(run, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    dim3 grid(a->tape.n_ctas), block(CU_THREADS + 32);

    lay_shared(&copy);
    if (e != cudaSuccess)
        return e;
    if (multiplies)
        bare_kernel<true><<<grid, block, bytes, stream>>>(copy, products, n, times);
    else
        bare_kernel<false><<<grid, block, bytes, stream>>>(copy, products, n, times);
    return cudaGetLastError();
}
