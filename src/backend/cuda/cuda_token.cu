/* cuda_token.cu: a whole token (or many) in one launch: every block runs the same list of steps.
 *
 * One block per SM: 15 warps compute, one more warp loads. A block's code bits for the whole token
 * are one contiguous tape; the loader streams it into a ring of pages of 7.5 KiB in shared memory
 * and waits for nothing but free pages: weights do not depend on activations, so the stream goes on
 * while the blocks meet at a barrier or prepare the next input.
 *
 *     loader    tape ──► ring page ──full──► warps          (mbarriers)
 *     product   x' ──► int8 ──► bit planes; bits ──► u by integer additions in L2
 *     between   few blocks: u ──► row results ──► x' of the next product, one rotation block each
 *
 * A product's input x' is made once, by as many blocks as it has rotation blocks (5 for Phi-4's
 * width); every block then rounds all of it to int8 by itself. Norms commute with the rotation up
 * to a factor, which goes into the scale. Invariants:
 *   1. What another block wrote in this launch is read past the first-level cache (__ldcg).
 *   2. u of a product is cleared two products ahead; the buffers take turns.
 *   3. The number of barriers of a launch depends on its steps alone.
 *   4. The code of all steps stays below what an SM's instruction cache holds: between two uses of
 *      an instruction lies a whole layer. Hence one copy of each part, in line, loops not unrolled
 *      without need. */
#include "backend/cuda/cuda_items.cuh"

namespace
{

/* ---- products -----------------------------------------------------------------------------------
 */

enum { AHEAD = 5, CHUNK = AHEAD * CU_THREADS }; /* words of x' that a block holds at a time */

/* A thread's words of a chunk of n, once all are there; returns their largest magnitude, as bits:
 * what is no number is larger than all that are. */
__device__ __forceinline__ uint32_t take_chunk(const uint4 *from, uint32_t n, uint4 x[AHEAD])
{
    uint32_t top, most;

    do {
        top = most = 0;
#pragma unroll
        for (int e = 0; e < AHEAD; e++)
            x[e] = threadIdx.x + e * CU_THREADS < n ? look_at(from + threadIdx.x + e * CU_THREADS)
                                                    : make_uint4(0, 0, 0, 0);
#pragma unroll
        for (int e = 0; e < AHEAD; e++) {
            const uint32_t low = max(x[e].x, x[e].y), high = max(x[e].z, x[e].w);

            most = max(most, max(low, high));
            top = max(top, max(max(x[e].x << 1, x[e].y << 1), max(x[e].z << 1, x[e].w << 1)));
        }
    } while (most == CU_EMPTY);
    return top >> 1;
}

/* Word w of the codes; returns sum + Σq of it. */
__device__ __forceinline__ int round_word(uint32_t *codes, uint32_t w, uint4 x, float inverse,
                                          int sum)
{
    const float v[4] = { __uint_as_float(x.x), __uint_as_float(x.y), __uint_as_float(x.z),
                         __uint_as_float(x.w) };
    uint32_t    code = pack_codes(v, inverse);

    codes[code_at(w)] = code;
    return __dp4a((int)code, 0x01010101, sum);
}

/* Bit planes of x', rounded to int8; returns Σq. x' is looked for from the moment on in which its
 * makers are about to finish. */
__device__ __forceinline__ int product_input(const cu_token_args &a, uint32_t index,
                                             const cu_record &record, const block_memory &m,
                                             warp_share *share, long long *stamp)
{
    const cu_step &s = record.step;
    const uint32_t n_sums = s.width >> s.log_block << 4;
    const uint32_t n = (s.width + CU_TILE_COLUMNS - 1) / CU_TILE_COLUMNS * CU_TILE_WORDS;
    const uint4   *from = (const uint4 *)s.rotated;
    uint32_t      *codes = (uint32_t *)m.staged, top = 0, chunk;
    float          max, squares = 0.0f, scale, inverse;
    uint4          x[AHEAD];
    int            sum = 0;

    if (threadIdx.x == 0)
        *m.sum = 0;
    *share = share_of_warp(record.product.n_units, record.product.n_ktiles, a.tape.n_ctas);
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < n_sums; i += CU_THREADS)
        if ((i & 15) < CU_WARPS)
            squares += wait_for(s.sums + i);
    block_sync();
#pragma unroll 1
    for (chunk = 0; chunk < n; chunk += CHUNK)
        top = ::max(top, take_chunk(from + chunk, n - chunk, x));
    max = top < 0x7F800000u ? __uint_as_float(top) : INFINITY;
    reduce_block(&max, &squares, m.slots);
    scale = int8_scale(max, &inverse);
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        if (!is_number(max) || (s.normed && !is_number(squares)))
            mark_bad(a, index);
        if (s.normed) /* not in x' yet */
            scale *= __frsqrt_rn(squares / (float)s.width + a.norm_eps);
        *s.scale_out = scale;
    }
    mark_time(stamp, 1);
#pragma unroll 1
    do { /* the last chunk is at hand */
        chunk -= CHUNK;
#pragma unroll
        for (int e = 0; e < AHEAD; e++) {
            uint32_t w = chunk + threadIdx.x + e * CU_THREADS;

            if (w < n)
                sum = round_word(codes, w, x[e], inverse, sum);
        }
        if (chunk > 0)
            (void)take_chunk(from + chunk - CHUNK, CHUNK, x);
    } while (chunk > 0);
    sum = __reduce_add_sync(~0u, sum);
    if ((threadIdx.x & 31) == 0)
        atomicAdd(m.sum, sum);
    block_sync();
    mark_time(stamp, 2);
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < n / 16; i += CU_THREADS)
        make_planes(codes, i >> 2, i & 3, m.planes);
    block_sync();
    return *m.sum;
}

/* u of the next product, x' of the one before. */
__device__ __forceinline__ void clear_buffers(const cu_step &s)
{
    const uint32_t n = (s.stale_width + CU_TILE_COLUMNS - 1) / CU_TILE_COLUMNS * CU_TILE_WORDS;

#pragma unroll 1
    for (uint32_t i = blockIdx.x * CU_THREADS + threadIdx.x; i < s.n_clear / 4;
         i += gridDim.x * CU_THREADS)
        ((int4 *)s.u_clear)[i] = make_int4(0, 0, 0, 0);
#pragma unroll 1
    for (uint32_t i = blockIdx.x * CU_THREADS + threadIdx.x; i < n + s.stale_sums / 4;
         i += gridDim.x * CU_THREADS) {
        uint32_t first = i / CU_TILE_WORDS * CU_TILE_COLUMNS + input_of(i % CU_TILE_WORDS, 0), w[4];

#pragma unroll
        for (int k = 0; k < 4; k++) /* what lies past the width stays zero */
            w[k] = i >= n || first + 8 * k < s.stale_width ? CU_EMPTY : 0u;
        ((uint4 *)s.stale)[i] = make_uint4(w[0], w[1], w[2], w[3]);
    }
}

/* Once a token: what depends on its position alone. */
__device__ __forceinline__ void find_place(const cu_token_args &a, const block_memory &m)
{
    uint32_t     half = a.kv.rotary_dims / 2, position = __ldcg(&a.state->position);
    uint32_t     begin, end, first, n;
    float       *angles = m.angles;
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
        m.place->pages[threadIdx.x] = a.pages[first + threadIdx.x];
    if (threadIdx.x == 0) {
        m.place->position = position;
        m.place->first_page = first;
        m.place->n_pages = n;
        m.place->newest = a.pages[position / CU_PAGE_TOKENS];
    }
    block_sync();
}

/* ---- the interpreter ----------------------------------------------------------------------------
 */

enum { RECORD_VECTORS = sizeof(cu_record) / 16, PIECE_VECTORS = sizeof(cu_piece) / 16 };

static_assert(sizeof(cu_record) % 64 == 0 && (int)RECORD_VECTORS <= (int)CU_THREADS &&
                  PIECES * PIECE_VECTORS <= CU_THREADS,
              "a thread copies 16 bytes of each at most");

/* Which entry of a step's table of pieces an item has. */
__device__ __forceinline__ const uint4 *pieces_of(const cu_token_args &a, const cu_step &s,
                                                  uint32_t item)
{
    uint32_t entry = s.kind == CU_STEP_ATTENTION ? item / a.n_splits : item;

    return (const uint4 *)(s.pieces + (uint64_t)entry * s.n_passes * s.n_pieces);
}

/* Blocks that take part in a step. */
__device__ __forceinline__ uint32_t workers(const cu_step &s)
{
    return s.kind == CU_STEP_PRODUCT ? gridDim.x : min(s.n_items, gridDim.x);
}

/* Steps whose results are read word by word as they appear need no barrier. */
__device__ __forceinline__ bool meets(const cu_step &s)
{
    return s.kind >= CU_STEP_PRODUCT;
}

/* Waits for the blocks that took part in the step, if it meets. Meanwhile the pieces of the block's
 * first item in the next step are fetched. */
__device__ __forceinline__ void grid_barrier(const cu_token_args &a, bool waits, bool arrives,
                                             uint32_t target, const cu_step &next,
                                             const block_memory &m)
{
    uint32_t n;
    uint4    piece;

    block_sync();
    if (!waits) /* a product comes next, which has no pieces */
        return;
    n = next.n_passes * next.n_pieces * PIECE_VECTORS;
    if (arrives && threadIdx.x == 0)
        asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(a.barrier) : "memory");
    if (blockIdx.x < next.n_items && threadIdx.x < n)
        piece = __ldg(pieces_of(a, next, blockIdx.x) + threadIdx.x);
    if (threadIdx.x == 0) {
        uint32_t seen;

        do
            asm volatile("ld.acquire.gpu.global.u32 %0, [%1];"
                         : "=r"(seen)
                         : "l"(a.barrier)
                         : "memory");
        while ((int32_t)(seen - target) < 0);
    }
    if (blockIdx.x < next.n_items && threadIdx.x < n)
        ((uint4 *)m.pieces)[threadIdx.x] = piece;
    block_sync();
}

template <int TYPE, int DIMS, int HEADS>
__device__ __forceinline__ void run_items(const cu_token_args &a, uint32_t index, uint32_t token,
                                          const cu_step &s, const block_memory &m, long long *stamp)
{
    const uint32_t n = s.n_passes * s.n_pieces * PIECE_VECTORS;

    if (s.kind == CU_STEP_EMBED || (s.kind == CU_STEP_ATTENTION && a.end_step == a.first_step + 1))
        find_place(a, m); /* once a token; a launch of one step has no other chance */
#pragma unroll 1
    for (uint32_t item = blockIdx.x; item < s.n_items; item += gridDim.x) {
        float before[EACH], factor[EACH];

        if (item != blockIdx.x) {
            block_sync();
            if (threadIdx.x < n)
                ((uint4 *)m.pieces)[threadIdx.x] = __ldg(pieces_of(a, s, item) + threadIdx.x);
            block_sync();
        }
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            uint32_t i = threadIdx.x + e * CU_THREADS, j = (item << s.log_block) + i;

            before[e] = factor[e] = 0.0f;
            if (s.factor == NULL || i >= 1u << s.log_block)
                continue;
            factor[e] = __ldg(s.factor + j);
            if (s.kind == CU_STEP_NORM)
                before[e] = __ldcg(s.residual_in + j);
        }
        if (s.n_pieces != 0) {
            float s_x = __ldcg(s.scale_in);

#pragma unroll 1
            for (uint32_t pass = 0; pass < s.n_passes; pass++)
                row_results(m.pieces + pass * s.n_pieces, s.n_pieces, s.u_in, s_x, m);
        }
        mark_time(stamp, 1);
        if (s.kind == CU_STEP_ATTENTION)
            attention<TYPE, DIMS, HEADS>(a, index, s.layer, item, m);
        else if (s.kind == CU_STEP_LOGITS || s.kind == CU_STEP_SAMPLE)
            best(a, index, s, item, token, m);
        else
            rotation_block(a, s, item, before, factor, m);
    }
}

/* Each step's record is fetched while the step before runs. */
template <int TYPE, int DIMS, int HEADS>
__device__ __forceinline__ void compute(const cu_token_args &a, const ring &r,
                                        const block_memory &m)
{
    const uint32_t n_steps = a.end_step - a.first_step, n = n_steps * a.n_tokens;
    const bool     traces =
        a.trace != NULL && threadIdx.x == 0 && (blockIdx.x == 0 || blockIdx.x == gridDim.x / 2);
    cursor   at = { 0, 0, 0 };
    uint32_t target = a.barrier_base;

    if (threadIdx.x < RECORD_VECTORS)
        ((uint4 *)m.records)[threadIdx.x] =
            __ldg((const uint4 *)(a.records + a.first_step) + threadIdx.x);
    block_sync();
    if (blockIdx.x < m.records->step.n_items &&
        threadIdx.x < m.records->step.n_passes * m.records->step.n_pieces * PIECE_VECTORS)
        ((uint4 *)m.pieces)[threadIdx.x] =
            __ldg(pieces_of(a, m.records->step, blockIdx.x) + threadIdx.x);
    block_sync();
#pragma unroll 1
    for (uint32_t i = 0, place = 0, token = 0; i < n; i++) {
        const cu_record &record = m.records[i & 1];
        const cu_step   &s = record.step;
        uint32_t         following = place + 1 == n_steps ? 0 : place + 1;
        long long       *stamp = traces && token == 0
                                     ? a.trace + 6 * place + (blockIdx.x != 0 ? (uint64_t)6 * n_steps : 0)
                                     : NULL;
        uint4            next;

        if (i + 1 < n && threadIdx.x < RECORD_VECTORS)
            next = __ldg((const uint4 *)(a.records + a.first_step + following) + threadIdx.x);
        mark_time(stamp, 0);
        if (s.kind == CU_STEP_PRODUCT) {
            warp_share share;
            int        sum;

            clear_buffers(s);
            sum = product_input(a, a.first_step + place, record, m, &share, stamp);
            mark_time(stamp, 3);
            at = multiply(share, record.product.n_ktiles, sum, s.u, memory_of(r, m.planes), at);
        } else {
            run_items<TYPE, DIMS, HEADS>(a, a.first_step + place, token, s, m, stamp);
        }
        mark_time(stamp, 4);
        if (following == 0)
            at = end_of_stream(&r, at);
        if (i + 1 == n)
            break;
        if (threadIdx.x < RECORD_VECTORS)
            ((uint4 *)(m.records + (~i & 1)))[threadIdx.x] = next;
        if (meets(s))
            target += workers(s);
        grid_barrier(a, meets(s), blockIdx.x < workers(s), target, m.records[~i & 1].step, m);
        place = following;
        token += place == 0;
    }
}

template <int TYPE, int DIMS, int HEADS>
__global__ void __launch_bounds__(CU_THREADS + 32, 1)
    token_kernel(const __grid_constant__ cu_token_args a)
{
    extern __shared__ __align__(1024) uint8_t memory[];
    __shared__ uint64_t                       full[MAX_PAGES], empty[MAX_PAGES];
    __shared__ float                          slots[64];
    __shared__ int                            sum;
    __shared__ __align__(16) cu_record records[2];
    __shared__ __align__(16) cu_piece pieces[PIECES];
    __shared__ token_place            place;
    ring                              r = { full, empty, memory, a.n_pages_ring };
    block_memory                      m;

    m.planes = (uint32_t *)(memory + a.n_pages_ring * PAGE_BYTES);
    m.staged = (int32_t *)(m.planes + a.max_ktiles * CU_PLANE_WORDS);
    m.x = (float *)(m.staged + a.staged_words);
    m.y = m.x + X_WORDS;
    m.angles = m.y + a.y_words;
    m.slots = slots;
    m.sum = &sum;
    m.records = records;
    m.pieces = pieces;
    m.place = &place;
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
        stream_tape(&a, &r);
        return;
    }
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
    compute<TYPE, DIMS, HEADS>(a, r, m);
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
    uint32_t *planes = (uint32_t *)(memory + a.n_pages_ring * PAGE_BYTES);
    cursor    at = { 0, 0, 0 };
    request   next = first_request();

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
        cu_share          s = share_of(p->n_units, blockIdx.x, a.tape.n_ctas);

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
                          a.bare_u, memory_of(r, planes), at);
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
    return 4 * (a->max_ktiles * CU_PLANE_WORDS + a->staged_words + X_WORDS + a->y_words +
                a->kv.rotary_dims);
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
