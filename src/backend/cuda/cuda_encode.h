/* cuda_encode.h: what the host side (C) and the kernels (CUDA) of the encoder share.
 *
 * One block codes one column: the trellis runs down the rows, its states lie over the threads. With
 * error feedback a column waits for the one to its right, but only row by row: the int16 search
 * settles its rows some hundred behind its front (kernels/viterbi_fast.c), and a row's target
 * depends on that row's errors alone. So the columns of a unit run one behind the other, as many at
 * once as the front is long, and no bit depends on how many there are. */
#ifndef UPG_BACKEND_CUDA_CUDA_ENCODE_H
#define UPG_BACKEND_CUDA_CUDA_ENCODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    CU_ENCODE_THREADS = 256,
    CU_ENCODE_ROWS = 256,     /* targets that a block prepares at once */
    CU_ENCODE_COLUMNS = 128,  /* of a feedback block, as in compress/feedback.c */
    CU_ENCODE_STAGE = 16384,  /* bytes of choices staged for the way back; two of them */
    CU_ENCODE_MAX_OLDEST = 32 /* 2^k */
};

/* The search that a column takes; the next one where it cannot hold the targets. */
typedef enum cu_search { CU_SEARCH_USUAL, CU_SEARCH_WIDE, CU_SEARCH_EXACT, CU_SEARCHES } cu_search;

/* One kind of row, kernels/viterbi_steps.h. */
typedef struct cu_fast_row {
    int32_t        k_now, k_next, split, repeat, n_oldest, n_middle, top, lanes;
    int32_t        pitch_log2; /* log2 of the states that share their oldest bits */
    int16_t        oldest[CU_ENCODE_MAX_OLDEST], slope[4], square[4];
    const int16_t *middle; /* device, [n_middle] */
} cu_fast_row;

typedef struct cu_fast_form {
    cu_fast_row rows[2];
    double      coarse, value_range, furthest, hopeless;
    int32_t     base, offset_limit, ring_rows, depth;
    bool        usable; /* has states enough, and the unit rows enough */
} cu_fast_form;

typedef struct cu_trellis {
    int32_t        length, k0, k1, states; /* states: the most of a row, 2^(L − k0) */
    float          gain;
    const int16_t *table;  /* device, [1 << length] */
    const float   *values; /* device, [1 << length] */
    cu_fast_form   forms[CU_SEARCH_EXACT];
} cu_trellis;

/* A unit: rows of one code. Arrays are the device's. */
typedef struct cu_encode_unit {
    const cu_trellis *trellis;
    int32_t           n_rows, first; /* columns before `first` are done */
    const float      *targets;       /* f32 [columns][n_rows] */
    const float      *row_weights;   /* NULL, or f32 [n_rows]: then only the exact search */
    uint16_t         *windows;       /* u16 [columns][n_rows] */
    int32_t          *search;        /* [columns]: cu_search */
    /* with feedback: the columns of one block, the last one first; what is by columns above and
     * here lies in their order, search and progress in that of the work */
    const float *originals; /* f32 [columns][n_rows] */
    float       *decoded;   /* f32 [columns][n_rows] */
    float       *errors;    /* f32 [columns][n_rows] */
    const float *row_scale; /* f32 [n_rows] */
    int32_t     *progress;  /* [columns]: rows whose errors are there */
    int32_t     *failed;    /* the least column that must start again in its next search */
} cu_encode_unit;

/* A launch. Scratch is for each block. */
typedef struct cu_encode_args {
    const cu_encode_unit *units;
    const float          *lower; /* NULL: no feedback; else L at the block's [begin][begin] */
    uint64_t              lower_stride;
    int32_t               n_units, n_columns, first; /* of the units' firsts the least */
    uint32_t             *ticket;                    /* 0 before the launch */
    uint8_t              *choices;                   /* u8 [blocks][choice_bytes] */
    float                *scaled;                    /* f32 [blocks][max_rows] */
    uint64_t              choice_bytes, max_rows;
    uint32_t              metric_bytes; /* of shared memory */
    uint32_t              stage_bytes;  /* of one stage */
} cu_encode_args;

typedef struct CUstream_st *cu_encode_stream;

/** Shared memory for these arguments, and the blocks that one multiprocessor holds with it. */
int cu_encode_occupancy(const cu_encode_args *args, int *blocks_per_sm);
int cu_launch_encode(const cu_encode_args *args, uint32_t n_blocks, cu_encode_stream stream);
/** Code bits of groups of 32 columns, [group][n_rows] windows each, those at `group0` first.
 * n_binary: stored binary rows; bits were zero. */
int cu_launch_pack(const cu_trellis *trellis, const uint16_t *windows, uint32_t n_rows,
                   uint32_t n_binary, uint32_t matrix_cols, uint32_t first_column,
                   uint32_t n_columns, uint32_t *bits, cu_encode_stream stream);
/** to[c][r] = from[r][c]: f32 [rows][cols] into [cols][rows]. */
int cu_launch_transpose(const float *from, uint32_t rows, uint32_t cols, float *to,
                        cu_encode_stream stream);

#ifdef __cplusplus
}
#endif
#endif
