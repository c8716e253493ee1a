/* cuda_gemm_hopper.cuh: products by warp groups, operands read from shared memory by the tensor
 * cores (sm_90a alone).
 *
 * One block to a multiprocessor stays for all its tiles of 128 rows × TILE_N outputs. One thread of
 * its first warp group keeps a ring of stages filled by bulk copies, also across tiles; the two
 * other warp groups multiply, 64 rows each. Blocks of a cluster have the same outputs and
 * neighbouring rows: each brings its part of the matrix's tile to all of them at once, since the
 * second-level cache could not feed every block alone. */
#ifndef UPG_BACKEND_CUDA_CUDA_GEMM_HOPPER_CUH
#define UPG_BACKEND_CUDA_CUDA_GEMM_HOPPER_CUH

#include "backend/cuda/cuda_gemm.cuh"

namespace
{

enum { HOPPER_THREADS = 384, RING_BYTES = 220 << 10, MAX_STAGES = 7 };

__host__ __device__ constexpr uint32_t hopper_stage(uint32_t tile_n)
{
    return TILE_M_BYTES + tile_n * CU_LINE_BYTES;
}

__host__ __device__ constexpr uint32_t hopper_stages(uint32_t tile_n)
{
    return RING_BYTES / hopper_stage(tile_n) < MAX_STAGES ? RING_BYTES / hopper_stage(tile_n)
                                                          : MAX_STAGES;
}

} // namespace

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

#include "backend/cuda/cuda_wgmma.cuh"

namespace
{

/* Tiles as the tensor cores address them: 8 lines lie 1024 bytes from the next 8. */
__device__ __forceinline__ uint64_t operand(uint32_t shared)
{
    return (uint64_t)((shared & 0x3FFFF) >> 4) | (uint64_t)1 << 16 |
           (uint64_t)(CU_GROUP_BYTES >> 4) << 32 | (uint64_t)1 << 62;
}

/* ---- barriers in shared memory ---------------------------------------------------------------
 */

__device__ __forceinline__ void barrier_init(uint32_t at, uint32_t arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(at), "r"(arrivals) : "memory");
}

__device__ __forceinline__ void barrier_expect(uint32_t at, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(bytes)
                 : "memory");
}

__device__ __forceinline__ void barrier_wait(uint32_t at, uint32_t parity)
{
    uint32_t done;

    do
        asm volatile("{ .reg .pred p; "
                     "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; "
                     "selp.u32 %0, 1, 0, p; }"
                     : "=r"(done)
                     : "r"(at), "r"(parity)
                     : "memory");
    while (!done);
}

/* At the same barrier of block `rank` of the cluster. Tells that tiles have been read, no more: an
 * arrival that releases writes to the cluster waits for the whole memory. */
__device__ __forceinline__ void barrier_arrive(uint32_t at, uint32_t rank)
{
    asm volatile("{ .reg .b32 there; mapa.shared::cluster.u32 there, %0, %1; "
                 "mbarrier.arrive.shared::cluster.b64 _, [there]; }" ::"r"(at),
                 "r"(rank)
                 : "memory");
}

__device__ __forceinline__ void cluster_sync()
{
    asm volatile("barrier.cluster.arrive.release.aligned;\n"
                 "barrier.cluster.wait.acquire.aligned;" ::
                     : "memory");
}

__device__ __forceinline__ void bulk_copy(uint32_t to, const void *from, uint32_t bytes,
                                          uint32_t barrier)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1], %2, [%3];" ::"r"(to),
                 "l"(from), "r"(bytes), "r"(barrier)
                 : "memory");
}

/* To the same place, and barrier, in the first n_blocks blocks of the cluster. */
__device__ __forceinline__ void bulk_copy_all(uint32_t to, const void *from, uint32_t bytes,
                                              uint32_t barrier, uint32_t n_blocks)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".multicast::cluster [%0], [%1], %2, [%3], %4;" ::"r"(to),
                 "l"(from), "r"(bytes), "r"(barrier), "h"((uint16_t)((1u << n_blocks) - 1))
                 : "memory");
}

/* ---- the ring ----------------------------------------------------------------------------------
 */

typedef struct gemm_ring {
    uint32_t data, full, empty; /* in shared memory; barriers of a stage are 8 bytes apart */
    uint32_t rank, n_blocks;    /* in the cluster */
    uint32_t cluster, n_clusters;
    uint32_t n_pairs, n_all; /* tiles of rows of a cluster; tiles of a cluster */
} gemm_ring;

/* Which stage is next, and how often the ring has come round. */
typedef struct gemm_turn {
    uint32_t stage, round;
} gemm_turn;

template <int STAGES> __device__ __forceinline__ void next_turn(gemm_turn *t)
{
    if (++t->stage == STAGES) {
        t->stage = 0;
        t->round ^= 1;
    }
}

template <int TILE_N>
__device__ __forceinline__ void fill_ring(const gemm_args *a, const gemm_ring *ring)
{
    enum { STAGES = (int)hopper_stages(TILE_N), GROUPS = TILE_N / CU_GROUP_ROWS };
    const uint32_t part = GROUPS / ring->n_blocks;
    gemm_turn      turn = { 0, 0 };

    for (uint32_t tile = ring->cluster; tile < ring->n_all; tile += ring->n_clusters) {
        const uint32_t m = tile % ring->n_pairs * ring->n_blocks + ring->rank;
        const uint32_t n = tile / ring->n_pairs, m0 = m * (TILE_M / CU_GROUP_ROWS), n0 = n * GROUPS;
        const uint32_t m_groups =
            m0 < a->x_groups ? min(a->x_groups - m0, (uint32_t)(TILE_M / CU_GROUP_ROWS)) : 0;
        const uint32_t n_groups = min(a->w_groups - n0, (uint32_t)GROUPS);
        const uint32_t skip = ring->rank * part;
        const uint32_t mine = skip < n_groups ? min(n_groups - skip, part) : 0;
        const uint8_t *x = a->x + (uint64_t)m0 * CU_GROUP_BYTES;
        const uint8_t *w = a->w + (uint64_t)(n0 + skip) * CU_GROUP_BYTES;

        for (uint32_t k = 0; k < a->n_steps; k++) {
            const uint32_t to = ring->data + turn.stage * hopper_stage(TILE_N);
            const uint32_t full = ring->full + 8 * turn.stage;

            barrier_wait(ring->empty + 8 * turn.stage, turn.round ^ 1);
            barrier_expect(full, (m_groups + n_groups) * CU_GROUP_BYTES);
            if (m_groups > 0)
                bulk_copy(to, x, m_groups * CU_GROUP_BYTES, full);
            if (mine > 0 && ring->n_blocks == 1)
                bulk_copy(to + TILE_M_BYTES, w, mine * CU_GROUP_BYTES, full);
            else if (mine > 0)
                bulk_copy_all(to + TILE_M_BYTES + skip * CU_GROUP_BYTES, w, mine * CU_GROUP_BYTES,
                              full, ring->n_blocks);
            x += (uint64_t)a->x_groups * CU_GROUP_BYTES;
            w += (uint64_t)a->w_groups * CU_GROUP_BYTES;
            next_turn<STAGES>(&turn);
        }
    }
}

/* T: int for bytes, float for fp16. */
template <int TILE_N, typename T>
__device__ __forceinline__ void multiply(const gemm_args *a, const gemm_ring *ring)
{
    enum { STAGES = (int)hopper_stages(TILE_N) };
    const uint32_t group = threadIdx.x / 128 - 1, thread = threadIdx.x % 128;
    gemm_turn      turn = { 0, 0 };
    T              c[TILE_N / 8][4];

    for (uint32_t tile = ring->cluster; tile < ring->n_all; tile += ring->n_clusters) {
        const uint32_t m = tile % ring->n_pairs * ring->n_blocks + ring->rank;
        uint32_t       last = 0;

        for (uint32_t k = 0; k < a->n_steps; k++) {
            const uint32_t stage = ring->data + turn.stage * hopper_stage(TILE_N);

            barrier_wait(ring->full + 8 * turn.stage, turn.round);
            asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
            for (int i = 0; i < CU_LINE_BYTES / 32; i++)
                mma_group(c, operand(stage + group * 64 * CU_LINE_BYTES) + 2 * i,
                          operand(stage + TILE_M_BYTES) + 2 * i, k + i);
            asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
            /* The step before is done: its stage is free. */
            asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
            if (k > 0 && thread % 32 < ring->n_blocks)
                barrier_arrive(ring->empty + 8 * last, thread % 32);
            last = turn.stage;
            next_turn<STAGES>(&turn);
        }
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
        if (thread % 32 < ring->n_blocks)
            barrier_arrive(ring->empty + 8 * last, thread % 32);
        write_sums<TILE_N / 8>(a, c, m * TILE_M + 64 * group + thread / 32 * 16 + thread % 32 / 4,
                               tile / ring->n_pairs * TILE_N);
    }
}

} // namespace

#endif

namespace
{

/* Its static shared memory says whether the device's code was compiled for sm_90a. */
template <int TILE_N, typename T>
__global__ void __launch_bounds__(HOPPER_THREADS, 1)
    hopper_kernel(const __grid_constant__ gemm_args a)
{
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    enum { STAGES = (int)hopper_stages(TILE_N) };
    __shared__ uint64_t full[STAGES], empty[STAGES];
    extern __shared__ __align__(1024) uint8_t memory[];
    gemm_ring ring = { .data = shared_address(memory) + 1023 & ~1023u,
                       .full = shared_address(full),
                       .empty = shared_address(empty) };

    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(ring.rank));
    asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(ring.n_blocks));
    ring.cluster = blockIdx.x / ring.n_blocks;
    ring.n_clusters = gridDim.x / ring.n_blocks;
    ring.n_pairs = (a.m_tiles + ring.n_blocks - 1) / ring.n_blocks;
    ring.n_all = ring.n_pairs * a.n_tiles;
    if (threadIdx.x == 0) {
        for (int s = 0; s < STAGES; s++) {
            barrier_init(ring.full + 8 * s, 1);
            barrier_init(ring.empty + 8 * s, 8 * ring.n_blocks); /* warps that multiply */
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    cluster_sync();
    if (threadIdx.x < 128) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 56;");
        if (threadIdx.x == 0)
            fill_ring<TILE_N>(&a, &ring);
        __syncwarp();
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 224;");
        multiply<TILE_N, T>(&a, &ring);
    }
    cluster_sync(); /* nobody leaves while others copy to it */
#else
    (void)a;
#endif
}

} // namespace

#endif
