/* cuda_tiles.cuh: rounding a row of a batch into the tiles of cuda_prompt.h. */
#ifndef UPG_BACKEND_CUDA_CUDA_TILES_CUH
#define UPG_BACKEND_CUDA_CUDA_TILES_CUH

#include "backend/cuda/cuda_math.cuh"
#include "backend/cuda/cuda_prompt.h"

/* u32 of a row. */
static __device__ __forceinline__ uint32_t words_of_tiles(const cu_prepared *to)
{
    return to->stride / (to->forms & CU_BYTES ? 4 : 2);
}

/* Word w of a row, of as many rows as there are blocks; value_of(j): input j before rounding. */
template <typename F>
static __device__ __forceinline__ void put_tile_word(const cu_prepared *to, uint32_t row,
                                                     uint32_t w, float inverse, F value_of)
{
    const uint32_t n_groups = (gridDim.x + CU_GROUP_ROWS - 1) / CU_GROUP_ROWS, lane = w & 31;
    const uint32_t line = row % CU_GROUP_ROWS, n = to->width;
    uint8_t       *group =
        to->tiles + ((uint64_t)(w / 32) * n_groups + row / CU_GROUP_ROWS) * CU_GROUP_BYTES;
    uint32_t word;

    if (to->forms & CU_BYTES) {
        const uint32_t j = w / 32 * 128 + lane;
        float          v[4];

#pragma unroll
        for (uint32_t i = 0; i < 4; i++)
            v[i] = j + 32 * i < n ? value_of(j + 32 * i) : 0.0f;
        word = pack_codes(v, inverse);
    } else {
        const uint32_t j = w / 32 * 64 + lane;
        float          one = j < n ? value_of(j) : 0.0f;
        float          two = j + 32 < n ? value_of(j + 32) : 0.0f;
        __half2        pair =
            __floats2half2_rn(rintf(__fmul_rn(one, inverse)), rintf(__fmul_rn(two, inverse)));

        word = *(const uint32_t *)&pair;
    }
    *(uint32_t *)(group + line * CU_LINE_BYTES + (4 * lane ^ line << 4)) = word;
}

#endif
