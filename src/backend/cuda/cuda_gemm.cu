/* cuda_gemm.cu: many rows times a decoded matrix (cuda_prompt.h) on tensor cores: by warp groups on
 * Hopper (cuda_gemm_hopper.cuh), by warps elsewhere. */
#include "backend/cuda/cuda_gemm_hopper.cuh"

/* ---- products by warps -------------------------------------------------------------------------
 * A block computes 128 batch rows × TILE_N outputs over a ring of two stages filled by cp.async. */

namespace
{

enum { GEMM_THREADS = 256, STAGES = 2 };

__host__ __device__ constexpr uint32_t stage_bytes(uint32_t tile_n)
{
    return (TILE_M + tile_n) * CU_LINE_BYTES;
}

__device__ __forceinline__ void copy_16(uint32_t to, const void *from)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}

/* Byte offset of a 16-byte chunk (0 … 7) of a row in a stage's tile. */
__device__ __forceinline__ uint32_t chunk_at(uint32_t row, uint32_t chunk)
{
    return row * CU_LINE_BYTES + ((chunk ^ (row & 7)) << 4);
}

/* One step of x's and w's tiles; groups past the end are taken from the last one. */
template <int TILE_N>
__device__ __forceinline__ void load_stage(uint32_t stage, const gemm_args *a, uint32_t m0,
                                           uint32_t n0, uint32_t k)
{
    if (k < a->n_steps) {
#pragma unroll
        for (int i = 0; i < (TILE_M + TILE_N) * 8 / GEMM_THREADS; i++) {
            const uint32_t at = threadIdx.x + i * GEMM_THREADS, group = at / 64;
            const bool     of_x = i < TILE_M * 8 / GEMM_THREADS;
            const uint32_t last = (of_x ? a->x_groups : a->w_groups) - 1;
            const uint32_t from =
                min(of_x ? m0 / 8 + group : n0 / 8 + group - TILE_M / CU_GROUP_ROWS, last);

            copy_16(stage + 16 * at, (of_x ? a->x : a->w) +
                                         ((uint64_t)k * (last + 1) + from) * CU_GROUP_BYTES +
                                         16 * (at % 64));
        }
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
}

__device__ __forceinline__ void load_matrices(uint32_t r[4], uint32_t at)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at));
}

__device__ __forceinline__ void mma_line(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void mma_line(int c[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
                 "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <int TILE_N, typename T>
__global__ void __launch_bounds__(GEMM_THREADS, 1)
    warps_kernel(const __grid_constant__ gemm_args args)
{
    extern __shared__ __align__(1024) uint8_t memory[];
    const gemm_args                          *a = &args;
    uint32_t base = shared_address(memory), warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    uint32_t m0 = blockIdx.x * TILE_M, n0 = blockIdx.y * TILE_N;
    uint32_t wm = (warp & 1) * 64, wn = (warp >> 1) * (TILE_N / 4);
    T        c[4][TILE_N / 32][4];

#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < TILE_N / 32; j++)
            c[i][j][0] = c[i][j][1] = c[i][j][2] = c[i][j][3] = 0;
    load_stage<TILE_N>(base, a, m0, n0, 0);
    for (uint32_t k = 0; k < a->n_steps; k++) {
        uint32_t stage = base + k % STAGES * stage_bytes(TILE_N);

        asm volatile("cp.async.wait_group 0;" ::: "memory");
        __syncthreads();
        load_stage<TILE_N>(base + (k + 1) % STAGES * stage_bytes(TILE_N), a, m0, n0, k + 1);
#pragma unroll
        for (int kk = 0; kk < CU_LINE_BYTES / 32; kk++) {
            uint32_t x[4][4], w[TILE_N / 64][4];

#pragma unroll
            for (int i = 0; i < 4; i++)
                load_matrices(x[i],
                              stage + chunk_at(wm + 16 * i + (lane & 15), 2 * kk + (lane >> 4)));
#pragma unroll
            for (int j = 0; j < TILE_N / 64; j++)
                load_matrices(w[j], stage + TILE_M_BYTES +
                                        chunk_at(wn + 16 * j + (lane & 7) + (lane >> 4) * 8,
                                                 2 * kk + (lane >> 3 & 1)));
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < TILE_N / 32; j++)
                    mma_line(c[i][j], x[i], w[j >> 1][(j & 1) * 2], w[j >> 1][(j & 1) * 2 + 1]);
        }
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
        write_sums<TILE_N / 32>(a, c[i], m0 + wm + 16 * i + (lane >> 2), n0 + wn);
}

/* ---- launches ----------------------------------------------------------------------------------
 */

template <int TILE_N, typename T> cudaError_t launch_warps(gemm_args *a, cudaStream_t stream)
{
    int         bytes = STAGES * (int)stage_bytes(TILE_N);
    cudaError_t e = cudaFuncSetAttribute((const void *)warps_kernel<TILE_N, T>,
                                         cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);

    if (e != cudaSuccess)
        return e;
    warps_kernel<TILE_N, T><<<dim3(a->m_tiles, a->n_tiles), GEMM_THREADS, bytes, stream>>>(*a);
    return cudaGetLastError();
}

template <int TILE_N, typename T>
cudaError_t launch_hopper(const gemm_args *a, uint32_t cluster, uint32_t n_sms, cudaStream_t stream)
{
    uint32_t tiles = (a->m_tiles + cluster - 1) / cluster * a->n_tiles, most = n_sms / cluster;
    int      bytes = (int)(hopper_stages(TILE_N) * hopper_stage(TILE_N)) + 1024;
    cudaLaunchAttribute attribute = { .id = cudaLaunchAttributeClusterDimension };
    cudaLaunchConfig_t  config = {};
    cudaError_t         e = cudaFuncSetAttribute((const void *)hopper_kernel<TILE_N, T>,
                                                 cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);

    if (e != cudaSuccess)
        return e;
    attribute.val.clusterDim = { cluster, 1, 1 };
    config.gridDim = dim3((tiles < most ? tiles : most) * cluster);
    config.blockDim = dim3(HOPPER_THREADS);
    config.dynamicSmemBytes = (size_t)bytes;
    config.stream = stream;
    config.attrs = &attribute;
    config.numAttrs = 1;
    return cudaLaunchKernelEx(&config, hopper_kernel<TILE_N, T>, *a);
}

/* Whether this device's code has the form for warp groups. */
cudaError_t has_warp_groups(bool *has)
{
    cudaFuncAttributes attributes;
    cudaError_t        e =
        cudaFuncGetAttributes(&attributes, (const void *)hopper_kernel<CU_WIDEST_TILE, int>);

    *has = e == cudaSuccess && attributes.sharedSizeBytes > 0;
    return e;
}

/* Outputs that the clusters take one after the other, with what a tile costs beside its products.
 */
uint32_t outputs_in_turn(const gemm_args *a, uint32_t n_out, uint32_t tile_n, uint32_t cluster,
                         uint32_t n_sms)
{
    enum { BESIDE = 24 };
    uint32_t tiles = (a->m_tiles + cluster - 1) / cluster * ((n_out + tile_n - 1) / tile_n);
    uint32_t most = n_sms / cluster;

    return (tiles + most - 1) / most * (tile_n + BESIDE);
}

template <typename T>
cudaError_t run_hopper(gemm_args *a, uint32_t n_decoded, uint32_t n_sms, cudaStream_t stream)
{
    static const uint32_t widths[] = { 256, 224, 192, 160, 128, 64 };
    uint32_t              cluster = a->m_tiles > 1 ? 2 : 1, best = 0, least = UINT32_MAX;

    for (uint32_t i = 0; i < 6; i++) {
        uint32_t cost = outputs_in_turn(a, n_decoded, widths[i], cluster, n_sms);

        if (cost < least) {
            least = cost;
            best = i;
        }
    }
    a->n_tiles = (n_decoded + widths[best] - 1) / widths[best];
    return best == 0   ? launch_hopper<256, T>(a, cluster, n_sms, stream)
           : best == 1 ? launch_hopper<224, T>(a, cluster, n_sms, stream)
           : best == 2 ? launch_hopper<192, T>(a, cluster, n_sms, stream)
           : best == 3 ? launch_hopper<160, T>(a, cluster, n_sms, stream)
           : best == 4 ? launch_hopper<128, T>(a, cluster, n_sms, stream)
                       : launch_hopper<64, T>(a, cluster, n_sms, stream);
}

template <typename T>
cudaError_t run_warps(gemm_args *a, uint32_t n_decoded, uint32_t n_sms, cudaStream_t stream)
{
    bool narrow =
        outputs_in_turn(a, n_decoded, 128, 1, n_sms) < outputs_in_turn(a, n_decoded, 256, 1, n_sms);

    a->n_tiles = (n_decoded + (narrow ? 127 : 255)) / (narrow ? 128 : 256);
    return narrow ? launch_warps<128, T>(a, stream) : launch_warps<256, T>(a, stream);
}

} // namespace

extern "C" int cu_launch_gemm(const cu_product *p, const cu_decoded *w, const cu_prepared *in,
                              uint32_t n, float *out, uint32_t out_stride, cu_result result,
                              cu_stream stream)
{
    const uint32_t n_decoded = w->n_groups * CU_GROUP_ROWS;
    gemm_args      a = { .x = in->tiles,
                         .w = w->tiles,
                         .factors = (const float2 *)w->factors,
                         .scales = in->scales,
                         .out = out,
                         .x_groups = (n + CU_GROUP_ROWS - 1) / CU_GROUP_ROWS,
                         .w_groups = w->n_groups,
                         .n_steps = w->n_steps,
                         .n = n,
                         .n_out = result == CU_SWIGLU ? p->row0[1] : p->n_rows,
                         .out_stride = out_stride,
                         .m_tiles = (n + TILE_M - 1) / TILE_M,
                         .result = (uint32_t)result };
    int            n_sms = 1, device = 0;
    bool           groups = false;
    cudaError_t    e = cudaGetDevice(&device);

    if (e == cudaSuccess)
        e = cudaDeviceGetAttribute(&n_sms, cudaDevAttrMultiProcessorCount, device);
    if (e == cudaSuccess)
        e = has_warp_groups(&groups);
    if (e != cudaSuccess)
        return e;
    if (groups)
        return w->form == CU_BYTES ? run_hopper<int>(&a, n_decoded, (uint32_t)n_sms, stream)
                                   : run_hopper<float>(&a, n_decoded, (uint32_t)n_sms, stream);
    return w->form == CU_BYTES ? run_warps<int>(&a, n_decoded, (uint32_t)n_sms, stream)
                               : run_warps<float>(&a, n_decoded, (uint32_t)n_sms, stream);
}
