/* cuda_prompt.h: products of many rows as tensor-core tiles, shared by C and CUDA.
 *
 * Both operands of such a product lie in tiles: 8 rows × 128 bytes in 1024 bytes, the image that
 * the tensor cores want in shared memory, so that tiles are copied there as they stand. A line is
 * a row's 128 inputs as bytes or 64 as fp16; line r holds its 16-byte chunk c at c ^ r. Tiles are
 * ordered [step of a line][group of 8 rows]: those of neighbouring rows in one step are one piece
 * of memory. Within a line lane i of a warp owns word i; it holds inputs i, 32 + i (, 64 + i,
 * 96 + i) of the step. The width is padded with zeros in x to whole tiles of 256 inputs.
 *
 * CU_HALVES: codes q (|q| ≤ 127) and values V (|V| ≤ 2048) are integers that fp16 holds exactly,
 * their products and sums integers that fp32 holds exactly below 2^24, so the result has the bits
 * of the integer product wherever no partial sum passes 2^24; past it a sum is rounded to 24 bits,
 * far below what int8 rounding of the input costs.
 * CU_BYTES: values rounded to 8 bits as kernels/quantised.h defines it, exact sums in int32. */
#ifndef UPG_BACKEND_CUDA_CUDA_PROMPT_H
#define UPG_BACKEND_CUDA_CUDA_PROMPT_H

#include "backend/cuda/cuda_shared.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    CU_LINE_BYTES = 128,
    CU_GROUP_ROWS = 8,
    CU_GROUP_BYTES = CU_GROUP_ROWS * CU_LINE_BYTES,
    CU_WIDEST_TILE = 256 /* outputs that a block computes at most */
};

/* A decoded matrix. `paired`: the op's first two matrices, of equal height, alternate by groups of
 * 8 rows. */
typedef struct cu_decoded {
    uint8_t *tiles;
    float   *factors; /* of every row as it lies in the tiles: s_r · g as a sum of two */
    uint32_t n_groups, n_steps;
    uint32_t form; /* CU_BYTES or CU_HALVES */
    uint32_t paired;
} cu_decoded;

typedef enum cu_result {
    CU_STORE,
    CU_ADD,
    CU_SWIGLU /* of a paired matrix: silu(first)·second */
} cu_result;

static inline uint32_t cu_decoded_groups(uint32_t n_rows, uint32_t paired)
{
    return paired ? (n_rows / 2 + CU_GROUP_ROWS - 1) / CU_GROUP_ROWS * 2
                  : (n_rows + CU_GROUP_ROWS - 1) / CU_GROUP_ROWS;
}

static inline size_t cu_factor_bytes(uint32_t n_groups)
{
    return ((size_t)n_groups * CU_GROUP_ROWS + CU_WIDEST_TILE) * 2 * sizeof(float);
}

/* stride: inputs padded to whole tiles of 256. */
static inline size_t cu_decoded_bytes(uint32_t n_groups, uint32_t stride, uint32_t form)
{
    return (size_t)n_groups * CU_GROUP_ROWS * stride * (form == CU_BYTES ? 1 : 2) +
           cu_factor_bytes(n_groups);
}

int cu_launch_decode(const cu_product *host_product, cu_tape tape, const cu_decoded *to,
                     cu_stream stream);
/* out[row of n][output] from a prepared input of n rows. */
int cu_launch_gemm(const cu_product *host_product, const cu_decoded *w, const cu_prepared *in,
                   uint32_t n, float *out, uint32_t out_stride, cu_result result, cu_stream stream);

/* As cu_launch_norm, or cu_launch_prepare where norm is NULL, for many rows and blocks of 128 …
 * 1024; *done = false for other shapes. */
int cu_launch_prompt_rows(const float *x, uint32_t x_stride, const float *norm, float eps,
                          const cu_prepared *to, uint32_t n_rows, uint32_t *bad, bool *done,
                          cu_stream stream);
/* Attention of many rows; heads of 64 or 128, fp16 or int8 pages. */
int cu_launch_prompt_attention(const float *q, uint32_t q_stride, const cu_row *rows,
                               uint32_t n_rows, uint8_t *const *pages, cu_kv kv, uint32_t layer,
                               float *out, uint32_t out_stride, cu_stream stream);

#ifdef __cplusplus
}
#endif
#endif
