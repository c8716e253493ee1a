/* cpu_backend.h: what the files of backend/cpu share: the executor's state, the plan of each op and
 * the steps from which the ops are made.
 *
 * An op is one parallel region (two where a step needs the whole result of the one before), with a
 * short serial part for single rows. Invariants:
 *   1. The result of a row depends neither on the number of threads nor on the other rows of the
 *      batch: integer sums are exact, and every fp32 sum has an order of its own that no tiling
 *      changes.
 *   2. Everything is allocated by create; running allocates nothing and takes no lock.
 *   3. A worker writes to its own scratch and to places that no other item writes to. */
#ifndef UPG_BACKEND_CPU_CPU_BACKEND_H
#define UPG_BACKEND_CPU_CPU_BACKEND_H

#include <stdatomic.h>

#include "backend/backend.h"
#include "base/pool.h"
#include "base/topology.h"
#include "kernels/kernels.h"

enum {
    CPU_FEW_ROWS = 8,   /* rows for which the stored bits are read once */
    CPU_BITS_ROWS = 32, /* up to so many rows the stored bits are faster than decoding: on Zen 4
                         * at 3 bits and one thread 1015 tok/s against 909, at 64 rows 1026
                         * against 1052; at 2 bits later, at 4 bits and with AVX2 earlier */
    CPU_TILE_ROWS = 64, /* matrix rows of one item of decoded work */
    CPU_TILE_COLUMNS = 2048, /* columns decoded at once: a tile of i16 takes 256 KiB, L2 */
    CPU_FAST_COLUMNS = 2560, /* of bytes, at most CPU_TILE_COLUMNS of i16 */
    CPU_QUERIES = 8,         /* rows of one sequence that pass over a KV page together */
    CPU_SPLIT_TOKENS = 256   /* keys whose softmax is computed on its own and then merged */
};

/* A part of a matrix that one item computes. */
typedef struct cpu_piece {
    const upg_matrix *matrix;
    const upg_band   *band;       /* NULL: dense */
    uint32_t          which;      /* index of the matrix in the op */
    uint32_t          begin, end; /* bits: blocks of the band; tiles: rows of band or matrix */
    /* bits: the rows whose windows lie in these blocks; the windows of [gap, row0) begin in the
     * piece before */
    uint32_t gap, row0, row1;
    size_t   u_offset; /* bits: where the band's u begins */
} cpu_piece;

/* How the matrices of one op are divided, for few rows and for many. */
typedef struct cpu_plan {
    uint32_t   n_bits, n_tiles;
    cpu_piece *bits, *tiles;
    uint32_t *shares; /* [threads + 1]: thread t begins with bits shares[t] … shares[t + 1] − 1 */
    atomic_uint *sides; /* [n_bits]: how many of a gap's two pieces are done; counts on for ever */
} cpu_plan;

/* What is left of a thread's share: it takes from the front, idle threads from the back. */
typedef struct cpu_share {
    _Alignas(64) atomic_uint_fast64_t left; /* begin << 32 | end */
} cpu_share;

/* A slot of the program for max_rows rows. */
typedef struct cpu_slot {
    float       *values; /* f32 [max_rows][stride]; when rotated NULL, or what was kept plain */
    int8_t      *codes;  /* i8 [max_rows][stride], zero from the width to the next multiple of 32 */
    float       *scales; /* f32 [max_rows], of codes */
    const float *signs;  /* f32 [width], of the rotation */
    size_t       stride;
} cpu_slot;

/* Softmax over a part of the keys, for one query head. */
typedef struct cpu_softmax {
    float max, sum; /* −infinity and 0 when it has seen no key */
} cpu_softmax;

/* One for each thread; 64-byte aligned parts. n_queries = CPU_QUERIES · heads that share a KV head
 */
typedef struct cpu_worker {
    uint8_t *memory; /* all of it, touched by its thread first */
    size_t   memory_bytes;
    uint8_t *prepared; /* few rows: what bitdot reads, [CPU_FEW_ROWS][prepared_stride] */
    uint64_t product;  /* the one it was prepared for */
    float    factor[CPU_FEW_ROWS]; /* lut8: what u is to be multiplied by */
    int16_t *decoded; /* [CPU_TILE_ROWS][CPU_TILE_COLUMNS + 32], or one row of the embedding */
    int32_t *sums;    /* [max_rows][CPU_TILE_ROWS] */
    int64_t *totals;  /* the same, for rows whose sums can pass int32; or NULL */
    float   *result;  /* [max_rows][CPU_TILE_ROWS], or one run of rows */
    /* Of one KV head, or of all of them one after the other. */
    float       *query;         /* [n_kv_heads][n_queries][head_dim] */
    float       *score;         /* [n_queries][64] */
    float       *part;          /* as query */
    cpu_softmax *softmax;       /* [n_kv_heads][n_queries] */
    float       *total;         /* [n_queries][head_dim] */
    cpu_softmax *total_softmax; /* [n_queries] */
} cpu_worker;

/* Rows first … first + n − 1 of a batch: one sequence, consecutive positions. */
typedef struct cpu_group {
    uint32_t first, n;
} cpu_group;

typedef struct cpu_backend {
    const upg_program *program;
    upg_kernels        kernels;
    upg_pool          *pool;
    uint32_t           threads, max_rows;
    bool               bits_only;   /* never decode: the single-row path for every batch */
    bool               lut8;        /* few rows by tables of 8 bits */
    bool               fast;        /* the running batch takes weights of 8 bits */
    cpu_plan          *plans;       /* [n_ops] */
    cpu_slot          *slots;       /* [n_slots] */
    uint8_t           *arena;       /* of the slots */
    const float       *embed_signs; /* f32 [hidden]: of a coded embedding, or NULL */
    cpu_worker        *workers;     /* [threads] */
    /* Results of an op's matrices before its epilogue. */
    float     *scratch[2]; /* f32 [max_rows][scratch_stride] */
    size_t     scratch_stride;
    float    **outputs[3]; /* [max_rows]: where each matrix of the running op stores a row */
    cpu_share *shares;     /* [threads], of the running op */
    /* Few rows: the results of bitdot. */
    int32_t *u;          /* [CPU_FEW_ROWS][u_stride] */
    uint64_t n_products; /* numbers the regions, so that a worker knows what it has prepared */
    size_t   prepared_stride, u_stride;
    int16_t *wide; /* many rows: codes as i16 [max_rows][wide_stride] */
    size_t   wide_stride;
    int32_t *code_sums;     /* many rows, fast: −128·Σ codes, [max_rows] */
    float   *cosine, *sine; /* f32 [max_rows][rotary_dims / 2] of the batch's positions */
    /* Attention. */
    cpu_group        *groups; /* [max_rows] */
    uint32_t          n_groups, max_splits;
    float            *split_values;  /* [CPU_FEW_ROWS][n_heads][max_splits][head_dim] */
    cpu_softmax      *split_softmax; /* [CPU_FEW_ROWS][n_heads][max_splits] */
    atomic_bool       bad; /* a value was no number; relaxed: read after the region's barrier */
    uint64_t          memory;
    char              description[64];
    struct cpu_block *blocks;   /* private to cpu_backend.c: all allocations */
    upg_topology     *topology; /* NULL: one memory, or threads are left to the system */
} cpu_backend;

/* ---- cpu_memory.c: create ------------------------------------------------------------------- */

/** Zeroed memory that lives as long as the backend, 64-byte aligned; NULL = E_NOMEM. */
void *upg_cpu_alloc(cpu_backend *b, size_t n, size_t size, upg_error *err);
/** Frees all of it. */
void upg_cpu_free_all(cpu_backend *b);
/** Slots, scratch and workers. Errors: E_NOMEM. */
upg_status upg_cpu_allocate(cpu_backend *b, upg_error *err);

/* ---- cpu_plan.c ----------------------------------------------------------------------------- */

/** Divides the matrices of every op. Errors: E_NOMEM. */
upg_status upg_cpu_plan(cpu_backend *b, upg_error *err);

/* ---- cpu_prepare.c: inputs of products --------------------------------------------------------
 */

/** Stores x f32 [width] as row `row` of a prepared slot; x is overwritten. */
void upg_cpu_prepare_row(cpu_backend *b, uint16_t slot, uint32_t row, float *x);

/* ---- cpu_shares.c ---------------------------------------------------------------------------- */

/** Gives a thread the items begin … end − 1 of the next region. */
void upg_cpu_give(cpu_backend *b, uint32_t thread, uint32_t begin, uint32_t end);
/** Takes an item of share `own`, or of another's; false when none is left. */
bool upg_cpu_take(cpu_backend *b, uint32_t own, uint32_t *item);
/** As upg_pool_run, with equal shares. */
void upg_cpu_run_shares(cpu_backend *b, uint32_t                                        n_items,
                        void (*run)(void *context, size_t item, uint32_t worker), void *context);

/* ---- cpu_product.c, cpu_tiles.c ---------------------------------------------------------------
 */

/** Matrices of an op times rows row0 … row0 + n − 1 of its input; b->outputs[w][i] receives row i
 * of matrix w, which is added to what is there when `add`. */
void upg_cpu_product(cpu_backend *b, const upg_op *op, uint32_t row0, uint32_t n, bool add);
/** The same by tiles: dense matrices, or coded ones decoded to i16. */
void upg_cpu_product_tiles(cpu_backend *b, const upg_op *op, uint32_t row0, uint32_t n, bool add);

/* ---- cpu_attention.c, cpu_kv.c ------------------------------------------------------------------
 */

/** Softmax-weighted values of all heads for the batch: q in slot `q`, out in scratch[0]. */
void upg_cpu_attention(cpu_backend *b, const upg_batch *batch, uint32_t layer, uint16_t q);
/** Finds the runs of rows that attend together. */
void upg_cpu_find_groups(cpu_backend *b, const upg_batch *batch);
/** Appends one head's key or value (v = 0, 1) f32 [head_dim] at a position; what fp16 cannot hold
 * sets b->bad. */
void upg_cpu_kv_store(cpu_backend *b, const upg_kv_layout *layout, const upg_kv_view *kv,
                      uint32_t position, uint32_t layer, uint32_t head, uint32_t v, const float *x);
/** f32 [64]: the scales of an int8 page part's tokens. */
const float *upg_cpu_kv_scales(const upg_kv_layout *layout, const uint8_t *part);

/* ---- cpu_ops.c ----------------------------------------------------------------------------------
 */

/** Whether it can run ops of this code. */
bool upg_cpu_runs_op(upg_opcode code);
/** Runs one op for the batch. */
void upg_cpu_run_op(cpu_backend *b, const upg_op *op, const upg_batch *batch);

#endif
