/* cuda_ring.cuh: the stream of code bits of one block: a ring of pages in shared memory, filled by
 * the loader's warp, emptied by the warps that multiply. Both ends meet at two mbarriers for each
 * page: full (the copy engine has written it) and empty (every warp has taken its tile). */
#ifndef UPG_BACKEND_CUDA_CUDA_RING_CUH
#define UPG_BACKEND_CUDA_CUDA_RING_CUH

#include "backend/cuda/cuda_math.cuh"

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

__device__ __forceinline__ void barrier_arrive(uint32_t b)
{
    asm volatile("{ .reg .b64 t; mbarrier.arrive.shared::cta.b64 t, [%0]; }" ::"r"(b) : "memory");
}

__device__ __forceinline__ void barrier_wait(uint32_t b, uint32_t parity)
{
    uint32_t done = 0;

    while (!done) {
#if __CUDA_ARCH__ >= 900
        asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; "
                     "selp.u32 %0, 1, 0, p; }"
                     : "=r"(done)
                     : "r"(b), "r"(parity)
                     : "memory");
#else
        asm volatile("{ .reg .pred p; mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2; "
                     "selp.u32 %0, 1, 0, p; }"
                     : "=r"(done)
                     : "r"(b), "r"(parity)
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

/* Where the loader stands: the next page, and the oldest of those that may still be on their way.
 */
struct request {
    uint32_t slot, parity, oldest, oldest_parity, n_in_flight;
};

__device__ __forceinline__ request first_request()
{
    return { 0, 1, 0, 0, 0 };
}

/* Asks for the next page. No more than `most` are on their way at once: what exceeds bandwidth
 * times latency only stands in line, in front of what the blocks tell each other. */
__device__ __forceinline__ void request_page(const ring *r, request *at, uint32_t most,
                                             const uint8_t *from, uint32_t bytes)
{
    barrier_wait(address_of(&r->empty[at->slot]), at->parity);
    for (; at->n_in_flight >= most; at->n_in_flight--) {
        barrier_wait(address_of(&r->full[at->oldest]), at->oldest_parity);
        if (++at->oldest == r->n_pages)
            at->oldest = 0, at->oldest_parity ^= 1;
    }
    load_page(r, at->slot, from, bytes);
    at->n_in_flight++;
    if (++at->slot == r->n_pages)
        at->slot = 0, at->parity ^= 1;
}

/* The loader's warp: the block's tape, once for each token, page by page; *most of them at once. */
__device__ __forceinline__ void stream_tape(const cu_token_args *a, const ring *r,
                                            const volatile uint32_t *most)
{
    uint32_t       cta = blockIdx.x, begin = a->tape_begin[cta], n = a->tape_end[cta] - begin;
    const uint8_t *tape = a->tape.bytes + ((uint64_t)a->tape.base[cta] + begin) * CU_TILE_BYTES;
    uint32_t       n_pages = (n + PAGE_TILES - 1) / PAGE_TILES;
    request        at = first_request();

    for (uint32_t token = 0; token < a->n_tokens; token++)
        for (uint32_t page = 0; page < n_pages; page++)
            request_page(r, &at, *most, tape + (uint64_t)page * PAGE_BYTES,
                         min(n - page * PAGE_TILES, (uint32_t)PAGE_TILES) * CU_TILE_BYTES);
}

/* ---- product ----------------------------------------------------------------------------------
 */

/* Where a block stands in its stream: slot of the ring, tile in the page. */
struct cursor {
    uint32_t slot, parity, tile;
    uint32_t phase; /* of the mbarrier of neighbours */
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

__device__ __forceinline__ uint32_t shared_word(uint32_t address)
{
    uint32_t x;

    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(x) : "r"(address));
    return x;
}

__device__ __forceinline__ uint4 shared_vector(uint32_t address)
{
    uint4 x;

    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                 : "r"(address)
                 : "memory");
    return x;
}

/* Where things lie in shared memory, for multiply. */
struct product_memory {
    uint32_t full, empty, data, n_pages, planes;
};

/* Tiles of this block in a product, and those of this warp: some of the block's last row tile, then
 * n from (row_tile, k) on, row tiles counted from the block's first. */
struct warp_share {
    uint32_t n_block, n_last, last_tile, n, row_tile, k;
};

__device__ __forceinline__ warp_share share_of_warp(uint32_t n_units, uint32_t n_k, uint32_t n_ctas)
{
    const uint32_t warp = threadIdx.x >> 5;
    cu_share       s = share_of(n_units, n_k, blockIdx.x, n_ctas);
    uint32_t       unit = first_of_warp(s, warp), last = last_of_warp(s, warp);

    return { s.n, last, s.n / n_k - 1, dealt_to(s.n, warp) - last, unit / n_k, unit % n_k };
}

/* Adds a warp's sums to the block's. */
__device__ __forceinline__ void add_sums(int c[4], uint32_t u, uint32_t row_tile, int minus)
{
    const uint32_t lane = threadIdx.x & 31;
    int            low, high;

    take_planes(c, &low, &high);
    if ((lane & 3) < 2)
        asm volatile("red.shared.add.s32 [%0], %1;" ::"r"(
                         u + 4 * (row_tile * CU_TILE_ROWS + (lane >> 2) + 8 * (lane & 1))),
                     "r"(2 * (lane & 1 ? high : low) - minus)
                     : "memory");
}

/* What neighbours tell each other: where the block leaves its last 16 sums, where it empties older
 * ones, and where this thread finds one of those in front; NULL where there is nothing to do.
 * `done` is an mbarrier of all warps. u is an integer of either sign, never the smallest: written
 * with its sign bit turned over, it is never EMPTY. */
struct tail_exchange {
    uint32_t       *now, *stale;
    const uint32_t *from;
    uint32_t        done;
};

#define CU_TURN_SIGN 0x80000000u

/* Called by each warp when it has added its part to the block's last 16 sums, in shared memory at
 * `tail`: who finds them complete leaves them. Several warps may. */
__device__ __forceinline__ void leave_tail(const tail_exchange &to, uint32_t tail, uint32_t phase)
{
    const uint32_t lane = threadIdx.x & 31;
    uint32_t       complete;

    __syncwarp();
    if (lane == 0)
        barrier_arrive(to.done);
    __syncwarp();
    asm volatile("{ .reg .pred p; mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2; "
                 "selp.u32 %0, 1, 0, p; }"
                 : "=r"(complete)
                 : "r"(to.done), "r"(phase)
                 : "memory");
    if (complete && lane < CU_TILE_ROWS) {
        publish(to.now + lane, shared_word(tail + 4 * lane) ^ CU_TURN_SIGN);
        publish(to.stale + lane, CU_EMPTY);
    }
}

enum { TAIL_ROUNDS = 4 }; /* from the end at which the sums in front are looked for */

/* The block's rows of u = (2B − 1)·q, added to u [row tiles][16] in shared memory; in front of them
 * the neighbour's 16. The last row tile is done first. Returns the cursor behind the block's tiles.
 * A function of its own, so that its loop keeps everything in registers whatever surrounds the
 * call. */
__device__ __noinline__ cursor multiply(warp_share s, uint32_t n_k, int sum_q, uint32_t u,
                                        product_memory m, cursor at, tail_exchange tail)
{
    const uint32_t warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const uint32_t n = s.n_last + s.n, n_last = s.n_last;
    uint32_t       row_tile = n_last ? s.last_tile : s.row_tile, k = n_last ? warp : s.k;
    uint32_t       front = CU_EMPTY;
    int            minus = k == 0 ? sum_q : 0; /* Σq is taken off once for a row */
    int            c[4] = { 0, 0, 0, 0 };
    cursor         mine = advanced(at, warp, m.n_pages);

    if (n_last == 0 && s.n_block != 0 && tail.now != NULL)
        leave_tail(tail, u + 4 * CU_TILE_ROWS * s.last_tile, at.phase);
#pragma unroll 1
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t plane = m.planes + 4 * (k * CU_PLANE_WORDS + lane);
        const uint32_t b0 = shared_word(plane), b1 = shared_word(plane + 128);
        uint4          bits;

        barrier_wait(m.full + 8 * mine.slot, mine.parity);
        bits =
            shared_vector(m.data + mine.slot * PAGE_BYTES + mine.tile * CU_TILE_BYTES + lane * 16);
        mma_b1(c, bits, b0, b1);
        __syncwarp();
        if (lane == 0)
            barrier_arrive(m.empty + 8 * mine.slot);
        if (++mine.slot == m.n_pages) /* a round is a page long */
            mine.slot = 0, mine.parity ^= 1;
        if (i + TAIL_ROUNDS == n && tail.from != NULL)
            front = look_at_word(tail.from);
        if (i + 1 < n_last) {
            k += CU_WARPS;
            continue;
        }
        if (i + 1 == n_last) {
            add_sums(c, u, row_tile, minus);
            if (tail.now != NULL)
                leave_tail(tail, u + 4 * CU_TILE_ROWS * row_tile, at.phase);
            row_tile = s.row_tile;
            k = s.k;
            minus = k == 0 ? sum_q : 0;
            continue;
        }
        if (++k == n_k || i + 1 == n) {
            add_sums(c, u, row_tile, minus);
            minus = sum_q;
            k = 0;
            row_tile++;
        }
    }
    if (tail.from != NULL) {
        while (front == CU_EMPTY)
            front = look_at_word(tail.from);
        asm volatile("st.shared.u32 [%0], %1;" ::"r"(u - 4 * CU_TILE_ROWS + 4 * lane),
                     "r"(front ^ CU_TURN_SIGN)
                     : "memory");
    }
    at.phase ^= s.n_block != 0;
    return advanced(at, s.n_block, m.n_pages);
}

__device__ __forceinline__ product_memory memory_of(const ring &r, const uint32_t *planes)
{
    return { address_of(r.full), address_of(r.empty), address_of(r.data), r.n_pages,
             address_of(planes) };
}

/* The next stream begins with a new page: gives back what the last page lacks. */
__device__ __forceinline__ cursor end_of_stream(const ring *r, cursor at)
{
    if (at.tile == 0)
        return at;
    if (threadIdx.x / 32 >= at.tile && (threadIdx.x & 31) == 0)
        barrier_arrive(address_of(&r->empty[at.slot]));
    return advanced(at, PAGE_TILES - at.tile, r->n_pages);
}

} // namespace

#endif
