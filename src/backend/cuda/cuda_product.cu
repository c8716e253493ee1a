/* cuda_product.cu: products of a batch: coded ones on the stored bits (up to 8 rows), their FIR,
 * dense ones, and the plain read that speeds are compared with.
 */
#include "backend/cuda/cuda_fir.cuh"

namespace
{

/* ---- u = (2B − 1)·q for up to 8 rows -----------------------------------------------------------
 * One block owns what one block of the token kernel owns; it streams its part of the tape through
 * registers, DEPTH tiles of 512 bytes in flight for each warp. The 8 columns of the tensor-core
 * product are rows of the batch. */
__global__ void __launch_bounds__(CU_THREADS)
    bits_kernel(cu_product p, cu_tape tape, const uint32_t *codes, uint32_t code_stride,
                const int32_t *sums, uint32_t n_batch, int32_t *u)
{
    enum { DEPTH = 4 };
    extern __shared__ __align__(16) uint32_t shared_codes[];
    const uint32_t warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const uint32_t words = p.n_ktiles * CU_TILE_WORDS;
    const cu_share s = share_of(p.n_units, p.n_ktiles, blockIdx.x, tape.n_ctas);
    const uint32_t n_last = last_of_warp(s, warp), n = dealt_to(s.n, warp);
    const uint32_t unit = s.begin + first_of_warp(s, warp);
    uint32_t       row_tile = (n_last ? s.begin + s.n - 1 : unit) / p.n_ktiles; /* last one first */
    uint32_t       k = n_last ? warp : unit % p.n_ktiles;
    uint32_t       at = (uint32_t)__cvta_generic_to_shared(shared_codes) + 4 * (g * words + 16 * t);
    bool           begins = k == 0, mine = g < n_batch;
    const uint4   *from = (const uint4 *)tape.bytes +
                        ((uint64_t)tape.base[blockIdx.x] + p.offset[blockIdx.x] + warp) * 32 + lane;
    int   c[8][4], minus[2];
    uint4 x[4];

    for (uint32_t i = threadIdx.x; i < n_batch * words; i += CU_THREADS)
        shared_codes[i] = codes[(uint64_t)(i / words) * code_stride + i % words];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 8; i++)
        c[i][0] = c[i][1] = c[i][2] = c[i][3] = 0;
#pragma unroll
    for (int i = 0; i < 4; i++)
        x[i] = make_uint4(0, 0, 0, 0);
    minus[0] = 2 * t < n_batch ? sums[2 * t] : 0;
    minus[1] = 2 * t + 1 < n_batch ? sums[2 * t + 1] : 0;
    for (uint32_t i = 0; i < n; i += DEPTH) {
        uint4 bits[DEPTH];

#pragma unroll
        for (int d = 0; d < DEPTH; d++)
            if (i + d < n)
                bits[d] = __ldcs(from + (uint64_t)(i + d) * CU_WARPS * 32);
#pragma unroll
        for (int d = 0; d < DEPTH; d++) {
            if (i + d >= n)
                break;
            load_codes(x, at + 4 * CU_TILE_WORDS * k, mine);
            multiply_tile(c, bits[d], x);
            if (i + d + 1 < n_last) {
                k += CU_WARPS;
                continue;
            }
            if (i + d + 1 != n_last && ++k != p.n_ktiles && i + d + 1 != n)
                continue;
#pragma unroll
            for (int r = 0; r < 4; r++) {
                int      sum = 2 * take_sum(c, r) - (begins ? minus[r & 1] : 0);
                uint32_t row = 2 * t + (r & 1);

                if (row < n_batch)
                    atomicAdd(u + (uint64_t)row * p.n_u + row_tile * CU_TILE_ROWS + g +
                                  8 * (r >> 1),
                              sum);
            }
            if (i + d + 1 == n_last) {
                row_tile = unit / p.n_ktiles;
                k = unit % p.n_ktiles;
                begins = k == 0;
            } else {
                begins = true;
                k = 0;
                row_tile++;
            }
        }
    }
}

__global__ void __launch_bounds__(CU_THREADS)
    fir_kernel(cu_product p, const int32_t *u, const float *scales, float *out, uint32_t out_stride,
               bool add)
{
    __shared__ __align__(16) int32_t staged[FIR_SHARED];
    uint32_t begin = (uint32_t)((uint64_t)p.n_rows * blockIdx.x / gridDim.x);
    uint32_t end = (uint32_t)((uint64_t)p.n_rows * (blockIdx.x + 1) / gridDim.x);
    float   *to = out + (uint64_t)blockIdx.y * out_stride;

    fir_rows(p.bands, u + (uint64_t)blockIdx.y * p.n_u, scales[blockIdx.y], begin, end, staged,
             [&](uint32_t row, float y) { to[row] = add ? to[row] + y : y; });
}

/* ---- dense ------------------------------------------------------------------------------------
 */

__device__ __forceinline__ float dense_at(const void *w, int dtype, uint64_t at)
{
    if (dtype == 0)
        return ((const float *)w)[at];
    if (dtype == 1)
        return __half2float(((const __half *)w)[at]);
    return __uint_as_float((uint32_t)((const uint16_t *)w)[at] << 16);
}

/* A warp for each matrix row; up to 8 rows of the batch at once. */
__global__ void __launch_bounds__(256)
    dense_kernel(const void *w, int dtype, uint32_t n_rows, uint32_t n_cols, const float *x,
                 uint32_t x_stride, uint32_t n, float *out, uint32_t out_stride, bool add)
{
    uint32_t row = blockIdx.x * 8 + (threadIdx.x >> 5), lane = threadIdx.x & 31;
    float    sum[8] = { 0 };

    x += (uint64_t)blockIdx.y * 8 * x_stride;
    out += (uint64_t)blockIdx.y * 8 * out_stride;
    n = min(n - blockIdx.y * 8, 8u);
    if (row >= n_rows)
        return;
    for (uint32_t j = lane; j < n_cols; j += 32) {
        float v = dense_at(w, dtype, (uint64_t)row * n_cols + j);

#pragma unroll
        for (int t = 0; t < 8; t++)
            if (t < n)
                sum[t] = fmaf(v, x[(uint64_t)t * x_stride + j], sum[t]);
    }
#pragma unroll
    for (int t = 0; t < 8; t++) {
        for (int d = 16; d > 0; d >>= 1)
            sum[t] += __shfl_xor_sync(~0u, sum[t], d);
        if (lane == 0 && t < n) {
            float *to = out + (uint64_t)t * out_stride + row;

            *to = add ? *to + sum[t] : sum[t];
        }
    }
}

__global__ void __launch_bounds__(512) read_kernel(const uint4 *from, uint64_t n, uint32_t *out)
{
    uint64_t per = (n + gridDim.x - 1) / gridDim.x, begin = per * blockIdx.x;
    uint64_t end = begin + per < n ? begin + per : n, i = begin + threadIdx.x;
    uint32_t sum = 0;

    for (; i + 7 * 512 < end; i += 8 * 512) {
        uint4 v[8];

#pragma unroll
        for (int k = 0; k < 8; k++)
            v[k] = __ldcs(from + i + k * 512);
#pragma unroll
        for (int k = 0; k < 8; k++)
            sum ^= v[k].x ^ v[k].y ^ v[k].z ^ v[k].w;
    }
    for (; i < end; i += 512)
        sum ^= __ldcs(from + i).x;
    if (sum == 0x12345678u)
        *out = sum;
}

} // namespace

extern "C" int cu_launch_bits(const cu_product *p, cu_tape tape, const cu_prepared *in,
                              uint32_t row0, uint32_t n, uint32_t shared_limit, int32_t *u,
                              cu_stream stream)
{
    size_t      row_bytes = (size_t)p->n_ktiles * CU_TILE_COLUMNS, stride = in->stride / 4;
    uint32_t    most = (uint32_t)(shared_limit / row_bytes);
    cudaError_t e = cudaMemsetAsync(u, 0, (size_t)n * p->n_u * sizeof *u, stream);

    most = most < CU_FEW_ROWS ? most : CU_FEW_ROWS;
    for (uint32_t at = 0, few; e == cudaSuccess && at < n; at += few) {
        few = n - at < most ? n - at : most;
        e = cudaFuncSetAttribute((const void *)bits_kernel,
                                 cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 (int)(few * row_bytes));
        if (e != cudaSuccess)
            break;
        bits_kernel<<<tape.n_ctas, CU_THREADS, few * row_bytes, stream>>>(
            *p, tape, in->codes + (row0 + at) * stride, (uint32_t)stride, in->sums + row0 + at, few,
            u + (size_t)at * p->n_u);
        e = cudaGetLastError();
    }
    return e;
}

extern "C" int cu_launch_fir(const cu_product *p, const int32_t *u, const float *scales, uint32_t n,
                             float *out, uint32_t out_stride, bool add, cu_stream stream)
{
    uint32_t blocks = (p->n_rows + 1023) / 1024;

    fir_kernel<<<dim3(blocks, n), CU_THREADS, 0, stream>>>(*p, u, scales, out, out_stride, add);
    return cudaGetLastError();
}

extern "C" int cu_launch_dense(const void *w, int dtype, uint32_t n_rows, uint32_t n_cols,
                               const float *x, uint32_t x_stride, uint32_t n, float *out,
                               uint32_t out_stride, bool add, cu_stream stream)
{
    dense_kernel<<<dim3((n_rows + 7) / 8, (n + 7) / 8), 256, 0, stream>>>(
        w, dtype, n_rows, n_cols, x, x_stride, n, out, out_stride, add);
    return cudaGetLastError();
}

extern "C" int cu_launch_read(const void *bytes, uint64_t n_bytes, uint32_t *out, uint32_t n_ctas,
                              cu_stream stream)
{
    read_kernel<<<n_ctas, 512, 0, stream>>>((const uint4 *)bytes, n_bytes / 16, out);
    return cudaGetLastError();
}
