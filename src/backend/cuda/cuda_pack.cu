/* cuda_pack.cu: windows into code bits, and matrices turned. */
#include <cuda_runtime.h>

#include "backend/cuda/cuda_encode.h"

namespace
{

/* A warp for each row of a group, a lane for each column: bits of one binary row are one ballot. */
__global__ void pack_kernel(const cu_trellis *t, const uint16_t *windows, uint32_t n_rows,
                            uint32_t n_binary, uint32_t n_groups, uint32_t first_column,
                            uint32_t n_columns, uint32_t *bits)
{
    uint32_t lane = threadIdx.x % 32, warps = blockDim.x / 32;
    uint32_t column = blockIdx.y * 32 + lane, group = first_column / 32 + blockIdx.y;

    for (uint32_t r = blockIdx.x * warps + threadIdx.x / 32; r < n_rows; r += gridDim.x * warps) {
        uint32_t window = column < n_columns ? windows[(size_t)column * n_rows + r] : 0;
        uint32_t newest = (uint32_t)(t->length - t->k0) + (r + 2) / 2 * (uint32_t)t->k0 +
                          (r + 1) / 2 * (uint32_t)t->k1 - 1;
        int n_new = r == 0 ? t->length : r % 2 == 0 ? t->k0 : t->k1;

        for (int i = 0; i < n_new; i++) {
            uint32_t word = __ballot_sync(0xFFFFFFFFu, window >> i & 1u), b = newest - (uint32_t)i;
            uint32_t block = b / 64, left = n_binary - block * 64;
            uint32_t rows = left >= 64 ? 64 : (left + 15) / 16 * 16;

            if (lane == 0)
                bits[(size_t)block * 64 * n_groups + (size_t)group * rows + b % 64] = word;
        }
    }
}

__global__ void transpose_kernel(const float *from, uint32_t rows, uint32_t cols, float *to)
{
    __shared__ float tile[32][33];
    uint32_t         c = blockIdx.x * 32 + threadIdx.x;

    for (uint32_t r0 = blockIdx.y * 32; r0 < rows; r0 += gridDim.y * 32) {
        __syncthreads();
        for (uint32_t i = threadIdx.y; i < 32; i += 8)
            if (r0 + i < rows && c < cols)
                tile[i][threadIdx.x] = from[(size_t)(r0 + i) * cols + c];
        __syncthreads();
        for (uint32_t i = threadIdx.y; i < 32; i += 8) {
            uint32_t column = blockIdx.x * 32 + i, r = r0 + threadIdx.x;

            if (r < rows && column < cols)
                to[(size_t)column * rows + r] = tile[threadIdx.x][i];
        }
    }
}

} // namespace

int cu_launch_pack(const cu_trellis *trellis, const uint16_t *windows, uint32_t n_rows,
                   uint32_t n_binary, uint32_t matrix_cols, uint32_t first_column,
                   uint32_t n_columns, uint32_t *bits, cu_encode_stream stream)
{
    dim3 grid((n_rows + 63) / 64, (n_columns + 31) / 32);

    pack_kernel<<<grid, 256, 0, stream>>>(trellis, windows, n_rows, n_binary,
                                          (matrix_cols + 31) / 32, first_column, n_columns, bits);
    return (int)cudaGetLastError();
}

int cu_launch_transpose(const float *from, uint32_t rows, uint32_t cols, float *to,
                        cu_encode_stream stream)
{
    dim3 grid((cols + 31) / 32, rows < 32 * 65535u ? (rows + 31) / 32 : 65535u);

    transpose_kernel<<<grid, dim3(32, 8), 0, stream>>>(from, rows, cols, to);
    return (int)cudaGetLastError();
}
