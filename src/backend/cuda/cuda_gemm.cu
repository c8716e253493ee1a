/* cuda_gemm.cu: many rows times a decoded matrix on fp16 tensor cores, with exact sums.
 *
 * Codes q (|q| ≤ 127) and values V (|V| ≤ 2048) are integers that fp16 holds exactly, their
 * products and sums integers that fp32 holds exactly below 2^24, so the result has the bits of the
 * integer product wherever no partial sum passes 2^24; for a column count n sums grow as √n ·
 * rms(V) · rms(q), about 2^21 at 17920 inputs. Past it a sum is rounded to 24 bits, far below what
 * int8 rounding of the input costs.
 *
 * A block computes 128 batch rows × 256 outputs, or 192 where that leaves fewer multiprocessors
 * idle, over a ring of 4 stages of 64 inputs filled by cp.async. Rows of 128 bytes; 16-byte chunks
 * are exchanged by row % 8, so that ldmatrix reads without bank conflicts. */
#include "backend/cuda/cuda_math.cuh"

namespace
{

enum {
    TILE_M = 128,
    TILE_K = 64,
#if __CUDA_ARCH__ == 900 || __CUDA_ARCH__ == 1000
    STAGES = 4,
#else
    STAGES = 2, /* the others have about 100 KiB of shared memory */
#endif
    GEMM_THREADS = 256
};

__host__ __device__ constexpr uint32_t stage_bytes(uint32_t tile_n)
{
    return (TILE_M + tile_n) * TILE_K * 2;
}

__device__ __forceinline__ uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

__device__ __forceinline__ void copy_16(uint32_t to, const void *from)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}

/* Byte offset of a 16-byte chunk (0 … 7) of a row in a stage's tile. */
__device__ __forceinline__ uint32_t chunk_at(uint32_t row, uint32_t chunk)
{
    return row * 128 + ((chunk ^ (row & 7)) << 4);
}

/* x: fp16 [n][x_stride], w: fp16 [rows][w_stride], from column k0 on. */
template <int TILE_N>
__device__ __forceinline__ void
load_stage(uint32_t stage, const uint16_t *x, uint32_t x_stride, uint32_t m0, uint32_t n,
           const uint16_t *w, uint32_t w_stride, uint32_t n0, uint32_t n_rows, uint32_t k0)
{
#pragma unroll
    for (int i = 0; i < (TILE_M + TILE_N) * 8 / GEMM_THREADS; i++) {
        uint32_t        at = threadIdx.x + i * GEMM_THREADS, row = at >> 3, chunk = at & 7;
        const uint16_t *from;

        if (i < TILE_M * 8 / GEMM_THREADS) {
            from = x + (uint64_t)min(m0 + row, n - 1) * x_stride;
            copy_16(stage + chunk_at(row, chunk), from + k0 + chunk * 8);
        } else {
            row -= TILE_M;
            from = w + (uint64_t)min(n0 + row, n_rows - 1) * w_stride;
            copy_16(stage + TILE_M * 128 + chunk_at(row, chunk), from + k0 + chunk * 8);
        }
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
}

__device__ __forceinline__ void store_pair(const cu_product *p, const cu_band *b, uint32_t row,
                                           float value, float s_x, float *to, bool add)
{
    float y = __double2float_rn(
        __dmul_rn((double)value, coded_factor(b->scales[row - b->row0], b->gain, s_x)));

    *to = add ? *to + y : y;
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/* ---- Hopper: products by warp groups, operands read from shared memory by the tensor cores ------
 */

/* A tile of rows of 128 bytes with exchanged chunks, as the tensor cores address it: 8 rows lie
 * 1024 bytes from the next 8. */
__device__ __forceinline__ uint64_t operand(uint32_t shared)
{
    return (uint64_t)((shared & 0x3FFFF) >> 4) | (uint64_t)1 << 16 | (uint64_t)(1024 >> 4) << 32 |
           (uint64_t)1 << 62;
}

#define CU_FOUR(x) "+f"(x[0]), "+f"(x[1]), "+f"(x[2]), "+f"(x[3])

/* c[64 rows of a warp group][256 or 192] += a · bᵀ over 16 inputs; thread's part: c[j][0 … 3] as of
 * a product of 16 × 8. */
__device__ __forceinline__ void mma_group(float (&c)[32][4], uint64_t a, uint64_t b)
{
    asm volatile("wgmma.mma_async.sync.aligned.m64n256k16.f32.f16.f16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
                 "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
                 "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
                 "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, "
                 "%110, %111, "
                 "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, "
                 "%125, %126, %127"
                 "}, %128, %129, 1, 1, 1, 0, 0;"
                 : CU_FOUR(c[0]), CU_FOUR(c[1]), CU_FOUR(c[2]), CU_FOUR(c[3]), CU_FOUR(c[4]),
                   CU_FOUR(c[5]), CU_FOUR(c[6]), CU_FOUR(c[7]), CU_FOUR(c[8]), CU_FOUR(c[9]),
                   CU_FOUR(c[10]), CU_FOUR(c[11]), CU_FOUR(c[12]), CU_FOUR(c[13]), CU_FOUR(c[14]),
                   CU_FOUR(c[15]), CU_FOUR(c[16]), CU_FOUR(c[17]), CU_FOUR(c[18]), CU_FOUR(c[19]),
                   CU_FOUR(c[20]), CU_FOUR(c[21]), CU_FOUR(c[22]), CU_FOUR(c[23]), CU_FOUR(c[24]),
                   CU_FOUR(c[25]), CU_FOUR(c[26]), CU_FOUR(c[27]), CU_FOUR(c[28]), CU_FOUR(c[29]),
                   CU_FOUR(c[30]), CU_FOUR(c[31])
                 : "l"(a), "l"(b));
}

__device__ __forceinline__ void mma_group(float (&c)[24][4], uint64_t a, uint64_t b)
{
    asm volatile("wgmma.mma_async.sync.aligned.m64n192k16.f32.f16.f16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
                 "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
                 "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
                 "}, %96, %97, 1, 1, 1, 0, 0;"
                 : CU_FOUR(c[0]), CU_FOUR(c[1]), CU_FOUR(c[2]), CU_FOUR(c[3]), CU_FOUR(c[4]),
                   CU_FOUR(c[5]), CU_FOUR(c[6]), CU_FOUR(c[7]), CU_FOUR(c[8]), CU_FOUR(c[9]),
                   CU_FOUR(c[10]), CU_FOUR(c[11]), CU_FOUR(c[12]), CU_FOUR(c[13]), CU_FOUR(c[14]),
                   CU_FOUR(c[15]), CU_FOUR(c[16]), CU_FOUR(c[17]), CU_FOUR(c[18]), CU_FOUR(c[19]),
                   CU_FOUR(c[20]), CU_FOUR(c[21]), CU_FOUR(c[22]), CU_FOUR(c[23])
                 : "l"(a), "l"(b));
}

#undef CU_FOUR

template <int TILE_N>
__global__ void __launch_bounds__(GEMM_THREADS, 1)
    gemm_kernel(cu_product p, const uint16_t *w, uint32_t w_stride, const uint16_t *x,
                uint32_t x_stride, const float *scales, uint32_t n, float *out, uint32_t out_stride,
                bool add)
{
    extern __shared__ __align__(1024) uint8_t memory[];
    uint32_t base = shared_address(memory), warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    uint32_t m0 = blockIdx.x * TILE_M, n0 = blockIdx.y * TILE_N, steps = w_stride / TILE_K;
    constexpr uint32_t STAGE_BYTES = stage_bytes(TILE_N);
    uint32_t           group = warp >> 2;
    float              c[TILE_N / 8][4];

#pragma unroll
    for (int j = 0; j < TILE_N / 8; j++)
        c[j][0] = c[j][1] = c[j][2] = c[j][3] = 0.0f;
    for (uint32_t s = 0; s < STAGES - 2; s++) {
        if (s < steps)
            load_stage<TILE_N>(base + s * STAGE_BYTES, x, x_stride, m0, n, w, w_stride, n0,
                               p.n_rows, s * TILE_K);
        else
            asm volatile("cp.async.commit_group;" ::: "memory");
    }
    for (uint32_t k = 0; k < steps; k++) {
        uint32_t stage = base + k % STAGES * STAGE_BYTES, next = k + STAGES - 2;

        asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 3) : "memory");
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        __syncthreads();
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (int kk = 0; kk < TILE_K / 16; kk++)
            mma_group(c, operand(stage + group * 64 * 128) + 2 * kk,
                      operand(stage + TILE_M * 128) + 2 * kk);
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        /* The products of two steps ago are done in every warp group, so their stage is free. */
        if (next < steps)
            load_stage<TILE_N>(base + next % STAGES * STAGE_BYTES, x, x_stride, m0, n, w, w_stride,
                               n0, p.n_rows, next * TILE_K);
        else
            asm volatile("cp.async.commit_group;" ::: "memory");
        asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
    }
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
    for (int j = 0; j < TILE_N / 8; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            uint32_t       row = n0 + 8 * j + 2 * (lane & 3) + e;
            const cu_band *b = p.bands;

            if (row >= p.n_rows)
                continue;
            while (row >= b->row0 + b->n_rows)
                b++;
#pragma unroll
            for (int h = 0; h < 2; h++) {
                uint32_t m = m0 + 16 * warp + (lane >> 2) + 8 * h;

                if (m < n)
                    store_pair(&p, b, row, c[j][2 * h + e], scales[m],
                               out + (uint64_t)m * out_stride + row, add);
            }
        }
}

#else

/* ---- before Hopper, and after: products by warps ------------------------------------------------
 */

__device__ __forceinline__ void load_matrices(uint32_t r[4], uint32_t at)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at));
}

__device__ __forceinline__ void mma_f16(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <int TILE_N>
__global__ void __launch_bounds__(GEMM_THREADS, 1)
    gemm_kernel(cu_product p, const uint16_t *w, uint32_t w_stride, const uint16_t *x,
                uint32_t x_stride, const float *scales, uint32_t n, float *out, uint32_t out_stride,
                bool add)
{
    extern __shared__ __align__(1024) uint8_t memory[];
    uint32_t base = shared_address(memory), warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    uint32_t m0 = blockIdx.x * TILE_M, n0 = blockIdx.y * TILE_N, steps = w_stride / TILE_K;
    constexpr uint32_t STAGE_BYTES = stage_bytes(TILE_N);
    uint32_t wm = (warp & 1) * 64, wn = (warp >> 1) * (TILE_N / 4);
    float c[4][TILE_N / 32][4];

#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < TILE_N / 32; j++)
            c[i][j][0] = c[i][j][1] = c[i][j][2] = c[i][j][3] = 0.0f;
    for (uint32_t s = 0; s < STAGES - 1; s++) {
        if (s < steps)
            load_stage<TILE_N>(base + s * STAGE_BYTES, x, x_stride, m0, n, w, w_stride, n0,
                               p.n_rows, s * TILE_K);
        else
            asm volatile("cp.async.commit_group;" ::: "memory");
    }
    for (uint32_t k = 0; k < steps; k++) {
        uint32_t stage = base + k % STAGES * STAGE_BYTES, next = k + STAGES - 1;

        asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2) : "memory");
        __syncthreads();
        if (next < steps)
            load_stage<TILE_N>(base + next % STAGES * STAGE_BYTES, x, x_stride, m0, n, w, w_stride,
                               n0, p.n_rows, next * TILE_K);
        else
            asm volatile("cp.async.commit_group;" ::: "memory");
#pragma unroll
        for (int kk = 0; kk < TILE_K / 16; kk++) {
            uint32_t a[4][4], b[TILE_N / 64][4];

#pragma unroll
            for (int i = 0; i < 4; i++)
                load_matrices(a[i],
                              stage + chunk_at(wm + 16 * i + (lane & 15), 2 * kk + (lane >> 4)));
#pragma unroll
            for (int j = 0; j < TILE_N / 64; j++)
                load_matrices(b[j], stage + TILE_M * 128 +
                                        chunk_at(wn + 16 * j + (lane & 7) + (lane >> 4) * 8,
                                                 2 * kk + (lane >> 3 & 1)));
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < TILE_N / 32; j++)
                    mma_f16(c[i][j], a[i], b[j >> 1][(j & 1) * 2], b[j >> 1][(j & 1) * 2 + 1]);
        }
    }
#pragma unroll
    for (int j = 0; j < TILE_N / 32; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            uint32_t row = n0 + wn + 8 * j + 2 * (lane & 3) + e;
            const cu_band *b = p.bands;

            if (row >= p.n_rows)
                continue;
            while (row >= b->row0 + b->n_rows)
                b++;
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    uint32_t m = m0 + wm + 16 * i + (lane >> 2) + 8 * h;

                    if (m < n)
                        store_pair(&p, b, row, c[i][j][2 * h + e], scales[m],
                                   out + (uint64_t)m * out_stride + row, add);
                }
        }
}

#endif

} // namespace

template <int TILE_N>
static cudaError_t launch_tiles(const cu_product *p, const uint16_t *w, uint32_t w_stride,
                                const cu_prepared *in, uint32_t row0, uint32_t n, float *out,
                                uint32_t out_stride, bool add, int shared_limit, cu_stream stream)
{
    dim3        grid((n + TILE_M - 1) / TILE_M, (p->n_rows + TILE_N - 1) / TILE_N);
    int         bytes = (int)stage_bytes(TILE_N);
    cudaError_t e;

    bytes *= shared_limit >= (int)(4 * stage_bytes(256)) ? 4 : 2;
    e = cudaFuncSetAttribute((const void *)gemm_kernel<TILE_N>,
                             cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (e != cudaSuccess)
        return e;
    gemm_kernel<TILE_N><<<grid, GEMM_THREADS, bytes, stream>>>(
        *p, w, w_stride, in->halves + (size_t)row0 * in->stride, in->stride, in->scales + row0, n,
        out, out_stride, add);
    return cudaGetLastError();
}

/* Outputs that the multiprocessors take one after the other, when each has a tile at a time. */
static uint32_t outputs_in_turn(uint32_t n, uint32_t n_rows, uint32_t tile_n, uint32_t n_sms)
{
    uint32_t tiles = (n + TILE_M - 1) / TILE_M * ((n_rows + tile_n - 1) / tile_n);

    return (tiles + n_sms - 1) / n_sms * tile_n;
}

extern "C" int cu_launch_gemm(const cu_product *p, const uint16_t *w, uint32_t w_stride,
                              const cu_prepared *in, uint32_t row0, uint32_t n, float *out,
                              uint32_t out_stride, bool add, cu_stream stream)
{
    int         limit = 0, n_sms = 1, device = 0;
    cudaError_t e = cudaGetDevice(&device);

    if (e == cudaSuccess)
        e = cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    if (e == cudaSuccess)
        e = cudaDeviceGetAttribute(&n_sms, cudaDevAttrMultiProcessorCount, device);
    if (e != cudaSuccess)
        return e;
    return outputs_in_turn(n, p->n_rows, 192, (uint32_t)n_sms) <
                   outputs_in_turn(n, p->n_rows, 256, (uint32_t)n_sms)
               ? launch_tiles<192>(p, w, w_stride, in, row0, n, out, out_stride, add, limit, stream)
               : launch_tiles<256>(p, w, w_stride, in, row0, n, out, out_stride, add, limit,
                                   stream);
}
