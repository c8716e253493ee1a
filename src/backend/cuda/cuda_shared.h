/* cuda_shared.h: what the host side (C) and the kernels (CUDA) of the cuda backend share.
 *
 * How a coded matrix lies in device memory. Tiles of 16 binary rows × 256 inputs are stored in the
 * order in which one tensor-core instruction wants them (512 bytes: lane · 16 + word · 4). The
 * matrices of an op and their bands stand one below the other; each band begins a new row tile. The
 * op's row tiles are numbered through; of T row tiles block (CTA) c of n owns
 *
 *     [T·c/n, T·(c+1)/n)
 *
 * and stores them in its own contiguous tape, all ops one after the other, in the order in which a
 * token reads them. Within an op a block reads its tape front to back, each of 15
 * warps one tile of every round of 15; which is which is told in cuda_math.cuh. A row tile that
 * several warps share is summed by integer additions: exact in any order. */
#ifndef UPG_BACKEND_CUDA_CUDA_SHARED_H
#define UPG_BACKEND_CUDA_CUDA_SHARED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    CU_WARPS = 15, /* that compute; with the one that loads they leave 128 registers to each */
    CU_THREADS = 32 * CU_WARPS,
    CU_TILE_ROWS = 16,
    CU_TILE_COLUMNS = 256,
    CU_TILE_BYTES = 512,
    CU_TILE_WORDS = 64,     /* u32 of one tile's inputs, as bytes in the order of cuda_math.cuh */
    CU_CODE_WORDS = 80,     /* the same in shared memory: 4 words more behind every 16 */
    CU_PLANE_WORDS = 68,    /* bit planes of a tile's inputs in shared memory, 4 words more too */
    CU_OWN_PAGES = 32,      /* of KV that a block looks up once a token */
    CU_STAGED_WORDS = 7808, /* that attention's warps leave at most */
    CU_MAX_PIECES = 8,      /* bands of one op that a block has rows of */
    CU_SETS = 4,            /* copies of each exchanged vector, which take turns */
    CU_MAX_TAPS = 16,
    CU_FEW_ROWS = 8,    /* up to so many rows multiply with the stored bits */
    CU_SUM_LIMIT = 2048 /* Σ|p| up to here: values are exact in fp16 */
};

/* A band of an op's matrices. */
typedef struct cu_band {
    uint32_t        row0, n_rows; /* outputs: the rows of the op's matrices one after the other */
    uint32_t        n_binary;
    uint32_t        u0; /* where its u begins; a multiple of 16 */
    uint8_t         k0, k1, length;
    uint8_t         wide; /* its sums may pass int32 */
    float           gain;
    int16_t         taps[CU_MAX_TAPS];
    const uint16_t *scales; /* device, fp16 [n_rows] */
} cu_band;

/* The matrices of one op as one product. Everything in device memory. */
typedef struct cu_product {
    const cu_band  *bands;
    const uint32_t *offset; /* [n_ctas]: tiles in front of this op's in the tape of a block */
    uint32_t        n_bands, n_rows, n_cols;
    uint32_t        n_u;      /* 16 · row tiles */
    uint32_t        n_ktiles; /* tiles for a row: inputs / 256 rounded up */
    uint32_t        n_units;
    uint32_t        exact_f16;  /* all values fit fp16 exactly */
    uint32_t        max_length; /* of the bands' codes */
    uint32_t        row0[3];    /* where each matrix begins */
} cu_product;

/* All tapes. */
typedef struct cu_tape {
    const uint8_t  *bytes;
    const uint32_t *base; /* [n_ctas + 1]: first tile of a block's tape */
    uint32_t        n_ctas;
} cu_tape;

/* Where the raw bits of a band lie while an op is repacked. */
typedef struct cu_source {
    const uint32_t *bits; /* as in codec/coded_matrix.h */
    uint32_t        n_binary, n_groups, tile0, n_tiles;
} cu_source;

/* KV pages as the kernels see them: kv_layout.h. */
typedef struct cu_kv {
    int32_t  type; /* upg_kv_type: 0 fp16, 1 fp32, 2 int8 */
    uint32_t n_kv_heads, head_dim, n_heads, rotary_dims, window;
    uint64_t part_bytes;
} cu_kv;

/* One row of a batch on the device. */
typedef struct cu_row {
    int32_t  token;
    uint32_t position;
    uint32_t pages;  /* index of the sequence's first page in the page table */
    uint32_t logits; /* 1 + index of the row's logits, 0 = none wanted */
    uint32_t long_rope;
} cu_row;

typedef enum cu_form {
    CU_CODES = 1, /* as bytes in the order of products on the stored bits */
    CU_BYTES = 2, /* in tiles: one of these two at a time */
    CU_HALVES = 4
} cu_form;

/* A prepared input, for a batch. */
typedef struct cu_prepared {
    float       *values; /* plain: f32 [rows][stride] */
    uint32_t    *codes;  /* rotated: q as bytes, u32 [rows][stride / 4], in the order of products */
    uint8_t     *tiles;  /* q in tiles of cuda_prompt.h, bytes or fp16 */
    float       *scales; /* [rows] */
    int32_t     *sums;   /* [rows]: Σ q */
    const float *signs;  /* [width] */
    uint32_t     width, stride, log_block, rotated;
    uint32_t     forms; /* wanted of codes and tiles: cu_form, or-ed */
} cu_prepared;

/* A lookup table in original layout: the embedding, coded or dense. */
typedef struct cu_embedding {
    const cu_band         *bands; /* row0 … of the table; NULL when dense */
    const uint32_t *const *bits;  /* [n_bands] */
    uint32_t               n_bands, n_rows, n_cols, n_groups, log_block;
    const float           *signs;
    const void            *dense;
    int32_t                dtype; /* 0 f32, 1 f16, 2 bf16 */
} cu_embedding;

/* Outliers of a matrix (codec/outliers.h), in device memory. */
typedef struct cu_outliers {
    uint32_t        n_rows, n_sparse, n_columns;
    float           scale;
    const uint32_t *row_begin, *columns, *column;
    const int8_t   *values, *column_values;
    const float    *column_scales;
} cu_outliers;

/* ---- steps of a token (cuda_token.cu) -------------------------------------------------------- */

typedef enum cu_step_kind {
    CU_STEP_EMBED,     /* items: rotation blocks of the token's row */
    CU_STEP_PRODUCT,   /* all blocks: input to int8, times the matrices, their rows to fp32 */
    CU_STEP_ATTENTION, /* items: parts of the keys of a KV head */
    CU_STEP_SWIGLU,    /* items: whole rotation blocks, 32 inputs at least, of silu(gate)·up */
    CU_STEP_SAMPLE     /* one item: the best token of all blocks' best */
} cu_step_kind;

/* What a product does with its rows. */
typedef enum cu_rows_to {
    CU_ROWS_OUT, /* into the vector `out` */
    CU_ROWS_ADD, /* added to the residual, into `out` */
    CU_ROWS_BEST /* logits; the block's best into `out` */
} cu_rows_to;

/* A vector that blocks exchange, CU_SETS times over: in token t (of all since creation) it has turn
 * t·turns + turn, and lies in set turn % CU_SETS. */
typedef struct cu_vector {
    float   *words;
    uint32_t stride; /* words from set to set */
    uint32_t turns, turn, unused;
} cu_vector;

/* Rows of one band that a block owns. */
typedef struct __attribute__((aligned(16))) cu_piece {
    const uint16_t *scales;         /* of the first row */
    uint32_t        newest0;        /* where the first row's newest u is in the block's sums */
    uint32_t        out0, n_rows;   /* outputs */
    uint32_t        local0;         /* rows of the block in front */
    uint32_t        ka, kb;         /* new bits of the second row, the third, the fourth like … */
    uint32_t        length, narrow; /* narrow: 12 taps at most, sums in int32 */
    uint32_t        tail_from;      /* first piece: whose last sums the block needs; ~0: nobody's */
    float           gain;
    int32_t         taps[CU_MAX_TAPS];
} cu_piece;

typedef struct cu_step {
    int32_t      kind;
    uint32_t     layer;
    uint32_t     width, log_block; /* of the vector that is, or is to be, rotated */
    uint32_t     n_items;          /* 0: all blocks */
    uint32_t     product;          /* PRODUCT: its number */
    uint32_t     rows_to;
    uint32_t     normed;     /* PRODUCT: the input is the residual: norm, then rotation */
    uint32_t     rounded;    /* PRODUCT: the input is int8 already: see swiglu in cuda_items.cuh */
    uint32_t     codes_at;   /* PRODUCT: words of `staged` in front of the codes */
    uint32_t     generation; /* of the token's; see cuda_token.cu */
    uint32_t     checks, arrives;
    uint32_t     log_item, up0; /* SWIGLU: inputs of an item; where up's rows begin */
    const float *factor;        /* norm weights times signs, or signs */
    cu_vector    in, out;
    cu_vector    residual;         /* ADD: the one before */
    cu_vector    maxima;           /* SWIGLU: each item's largest magnitude, then that of all */
    cu_vector    tails;            /* PRODUCT: [n_ctas][16] last sums of each block */
    cu_vector    partial, softmax; /* ATTENTION: [heads][splits][head_dim], [heads][splits][2] */
} cu_step;

/* A step with its product at hand: blocks fetch it two steps ahead. */
typedef struct __attribute__((aligned(64))) cu_record {
    cu_step    step;
    cu_product product;
} cu_record;

/* What changes from launch to launch; written by the host, token and position by the kernel too. */
typedef struct cu_token_state {
    int32_t  token;
    uint32_t position;
    uint32_t long_rope;
    uint32_t bad; /* 1 + index of the first step that met a value that is no number */
} cu_token_state;

/* ---- drawing a token (cuda_draw.cuh) --------------------------------------------------------- */

enum {
    CU_DRAW_BINS = 2048,
    CU_DRAW_MEETINGS = 3 /* of all blocks, for each token */
};

#define CU_IN_TEXT  0x80000000u /* of a mark: the token stands in the text */
#define CU_NO_TOKEN 0xFFFFFFFFu

/* What a block finds in its share of the vocabulary. */
typedef struct cu_draw_share {
    double   sum;  /* of weights that may be drawn, in the order of ids */
    float    best; /* value, with biases and penalties */
    uint32_t token;
    float    top, exp_sum; /* of all logits as they are: largest, Σ exp(logit − top) */
} cu_draw_share;

/* Settings as the sampler's (runtime/sampler.h) and where the kernel keeps things. */
typedef struct cu_draw {
    uint32_t       on;     /* 0: the best of all logits */
    uint32_t       ranked; /* top-k or top-p */
    uint32_t       n_tokens, n_logits, top_k;
    float          inverse; /* of the temperature; 0: the best value */
    float          top_p, min_p;
    float          repetition, presence, frequency;
    uint64_t       seed, place; /* of the launch's first drawn token in the stream */
    const float   *bias;        /* NULL, or [n_logits] */
    uint32_t      *marks;       /* NULL, or [n_logits]: CU_IN_TEXT, and how often it was drawn */
    float         *weights;     /* [n_logits], up to a multiple of 4 */
    cu_draw_share *shares;      /* [n_ctas] */
    uint32_t      *histogram, *counter;
    float         *logprobs; /* NULL, or [n_tokens of the launch] */
} cu_draw;

typedef struct cu_token_args {
    const cu_record *records;
    const cu_piece  *pieces; /* [products][n_ctas][n_pieces] */
    uint32_t         first_step, end_step, n_tokens, n_pages_ring;
    uint32_t n_in_flight, n_calm; /* pages that may be on their way: amid tiles; between products */
    uint32_t n_pieces, n_layers, n_splits;
    cu_tape  tape;
    const uint32_t *tape_begin, *tape_end; /* [n_ctas]: tiles of these steps in each tape */
    cu_token_state *state;
    uint8_t *const *pages;
    cu_kv           kv;
    cu_embedding    embedding;
    const float    *inv_freq, *long_inv_freq;
    float           attention_scaling, norm_eps;
    float          *logits;
    int32_t        *tokens_out; /* [n_tokens] */
    cu_draw         draw;
    uint32_t       *arrivals; /* since creation; CU_TOKENS_DONE behind it: tokens since then */
    long long      *trace;    /* NULL, or clocks [n_ctas][steps][6]: see cuda_tools.h */
    uint32_t        max_ktiles, staged_words, y_words;     /* sizes of parts of shared memory */
    uint32_t        planes_at, staged_at, y_at, angles_at; /* set at the launch: bytes */
} cu_token_args;

enum { CU_TOKENS_DONE = 64 }; /* words from arrivals to the number of tokens */

/* ---- launches; all return a cudaError_t as int --------------------------------------------- */

typedef struct CUstream_st *cu_stream;

int cu_launch_repack(const cu_product *host_product, const cu_source *sources, uint32_t n_sources,
                     cu_tape tape, uint8_t *bytes, cu_stream stream);
int cu_launch_embed(const cu_embedding *table, const cu_row *rows, uint32_t n_rows, float *out,
                    uint32_t stride, uint32_t *bad, cu_stream stream);
int cu_launch_norm(const float *x, uint32_t x_stride, const float *weight, float eps,
                   const cu_prepared *to, uint32_t n_rows, uint32_t *bad, cu_stream stream);
/* Prepares x f32 [rows][stride] (overwritten). */
int cu_launch_prepare(float *x, uint32_t x_stride, const cu_prepared *to, uint32_t n_rows,
                      uint32_t *bad, cu_stream stream);
/* u i32 [n][n_u], zeroed here; n ≤ 8. */
int cu_launch_bits(const cu_product *host_product, cu_tape tape, const cu_prepared *in,
                   uint32_t row0, uint32_t n, uint32_t shared_limit, int32_t *u, cu_stream stream);
/* out[row][…] (+)= FIR of u */
int cu_launch_fir(const cu_product *host_product, const int32_t *u, const float *scales, uint32_t n,
                  float *out, uint32_t out_stride, bool add, cu_stream stream);
int cu_launch_dense(const void *w, int dtype, uint32_t n_rows, uint32_t n_cols, const float *x,
                    uint32_t x_stride, uint32_t n, float *out, uint32_t out_stride, bool add,
                    cu_stream stream);
/* q, k, v side by side in x f32 [rows][stride]; turns q and k, appends k and v. */
int cu_launch_rope(float *x, uint32_t stride, const cu_row *rows, uint32_t n_rows,
                   uint8_t *const *pages, cu_kv kv, uint32_t layer, const float *inv_freq,
                   const float *long_inv_freq, float scaling, uint32_t *bad, cu_stream stream);
int cu_launch_attention(const float *q, uint32_t q_stride, const cu_row *rows, uint32_t n_rows,
                        uint8_t *const *pages, cu_kv kv, uint32_t layer, uint32_t n_splits,
                        float *partial, float *softmax, cu_stream stream);
int cu_launch_merge(const float *partial, const float *softmax, cu_kv kv, uint32_t n_splits,
                    uint32_t n_rows, float *out, uint32_t out_stride, cu_stream stream);
/* Prepares silu(gate)·up, gate and up side by side in each row. */
int cu_launch_swiglu(const float *gate_up, uint32_t stride, const cu_prepared *to, uint32_t n_rows,
                     uint32_t *bad, cu_stream stream);
/* out[m][r] += e_r(x[m]): cuda_outliers.cu. */
int cu_launch_outliers(const cu_outliers *o, const float *x, uint32_t x_stride, uint32_t n,
                       float *out, uint32_t out_stride, cu_stream stream);
int cu_launch_embed_outliers(const cu_outliers *o, const cu_row *rows, uint32_t n, float *out,
                             uint32_t stride, cu_stream stream);
/* Inputs as they are ahead of rotation and rounding. */
int cu_launch_plain_norm(const float *x, uint32_t x_stride, const float *weight, float eps,
                         uint32_t width, uint32_t n, float *out, uint32_t out_stride,
                         cu_stream stream);
int cu_launch_plain_swiglu(const float *gate_up, uint32_t stride, uint32_t width, uint32_t n,
                           float *out, uint32_t out_stride, cu_stream stream);
int cu_launch_check(const float *x, uint64_t n, uint32_t *bad, cu_stream stream);

/* ring = pages of 7.5 KiB that fit; 0 when the shapes do not fit this device. */
int cu_token_prepare(const cu_token_args *args, uint32_t shared_limit, uint32_t *n_pages_ring);
int cu_launch_token(const cu_token_args *args, bool cooperative, bool dependent, cu_stream stream);
/* The products (addresses of cu_product, all in device memory) `times` times in one launch, bare.
 */
int cu_launch_bare(const cu_token_args *args, const cu_product *const *products, uint32_t n,
                   uint32_t times, bool multiplies, cu_stream stream);
int cu_launch_read(const void *bytes, uint64_t n_bytes, uint32_t *out, uint32_t n_ctas,
                   cu_stream stream);

#ifdef __cplusplus
}
#endif
#endif
