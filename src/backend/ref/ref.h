/* ref.h: inside the reference backend: its state and its pieces.
 *
 * Plain and slow on purpose. Values between ops are f32; every sum inside an op is carried in
 * double, which makes the oracle better than any order of fp32 additions. Coded matrices are
 * decoded row by row and multiplied; nothing here is shared with the fast kernels but the rotation,
 * which the format defines bit for bit. */
#ifndef UPG_BACKEND_REF_REF_H
#define UPG_BACKEND_REF_REF_H

#include "backend/backend.h"

/** Sees the result of an op, for tests: f32 [n_rows][width] at a stride of `stride` floats. Called
 * for ops that write an f32 slot (EMBED, QKV_ROPE, GEMV_ADD). */
typedef void (*upg_ref_observer)(void *context, const upg_op *op, const float *values,
                                 uint32_t n_rows, uint32_t width, size_t stride);

typedef struct upg_ref {
    const upg_program *program;
    upg_kv_layout      kv_shape; /* heads and layers; its type is a batch's own */
    uint32_t           max_rows, max_positions;
    bool               emulate_int8;
    uint8_t           *arena;   /* [max_rows · program->arena_bytes] */
    float             *temp[2]; /* f32 [max_rows][max_width]: results before they reach a slot */
    uint32_t           max_width;
    float            **outputs;       /* [max_rows]: where upg_ref_multiply writes a row's result */
    float             *signs;         /* f32 [max_width] */
    float             *row;           /* f32 [max_width]: a matrix row as stored */
    double            *row_wide;      /* f64 [max_width]: the same */
    int32_t           *row_values;    /* i32 [max_width]: a coded row's integers */
    float             *keys, *values; /* f32 [max_positions][head_dim] of one KV head */
    double            *scores;        /* f64 [max_positions] */
    double            *mixed;         /* f64 [head_dim] */
    double            *angles;        /* f64 [rotary_dims / 2][2]: cos, sin */
    uint64_t           bytes;
    upg_ref_observer   observer;
    void              *observer_context;
    char               description[64];
} upg_ref;

/** Makes `backend` (of the ref class) report to `observer`; NULL stops it. */
void upg_ref_observe(upg_backend *backend, upg_ref_observer observer, void *context);

/* ---- slots ---- */

/** Row `row` of a slot. */
void  *upg_ref_slot_row(const upg_ref *ref, uint16_t slot, uint32_t row);
float *upg_ref_temp_row(const upg_ref *ref, uint32_t which, uint32_t row);
/** Prepares x f32 [width] (overwritten) for the matrices that read the slot's row. */
void upg_ref_prepare(upg_ref *ref, uint16_t slot, uint32_t row, float *x);

/** ref->outputs[m][r] = Σ_j w[r][j]·p_m[j] for the rows m of the batch with outputs[m] not NULL. */
void upg_ref_multiply(upg_ref *ref, const upg_matrix *w, uint16_t input, uint32_t n_rows);

/** Looks for NaN and infinity. Errors: E_DATA naming op, layer, row and element. */
upg_status upg_ref_check_finite(const upg_op *op, uint32_t row, const float *x, uint32_t n,
                                upg_error *err);

/* ---- KV cache ---- */

/** Stores x f32 [head_dim] as K (v = 0) or V (v = 1) of one position; false when a value does not
 * fit the cache's type. */
bool upg_ref_kv_store(const upg_kv_layout *layout, const upg_kv_view *kv, uint32_t layer,
                      uint32_t head, uint32_t v, uint32_t position, const float *x);
/** Reads the same back into x. */
void upg_ref_kv_load(const upg_kv_layout *layout, const upg_kv_view *kv, uint32_t layer,
                     uint32_t head, uint32_t v, uint32_t position, float *x);

/* ---- ops ---- */

typedef upg_status (*upg_ref_op)(upg_ref *ref, const upg_op *op, const upg_batch *batch,
                                 upg_error *err);

upg_status upg_ref_embed(upg_ref *, const upg_op *, const upg_batch *, upg_error *);
upg_status upg_ref_norm_prepare(upg_ref *, const upg_op *, const upg_batch *, upg_error *);
upg_status upg_ref_qkv_rope(upg_ref *, const upg_op *, const upg_batch *, upg_error *);
upg_status upg_ref_attention(upg_ref *, const upg_op *, const upg_batch *, upg_error *);
upg_status upg_ref_gemv_add(upg_ref *, const upg_op *, const upg_batch *, upg_error *);
upg_status upg_ref_gate_up(upg_ref *, const upg_op *, const upg_batch *, upg_error *);
upg_status upg_ref_logits(upg_ref *, const upg_op *, const upg_batch *, upg_error *);
upg_status upg_ref_norm(upg_ref *, const upg_op *, const upg_batch *, upg_error *);
upg_status upg_ref_prepare_op(upg_ref *, const upg_op *, const upg_batch *, upg_error *);
upg_status upg_ref_gemv(upg_ref *, const upg_op *, const upg_batch *, upg_error *);
upg_status upg_ref_rope(upg_ref *, const upg_op *, const upg_batch *, upg_error *);
upg_status upg_ref_append(upg_ref *, const upg_op *, const upg_batch *, upg_error *);
upg_status upg_ref_attend(upg_ref *, const upg_op *, const upg_batch *, upg_error *);
upg_status upg_ref_add(upg_ref *, const upg_op *, const upg_batch *, upg_error *);
upg_status upg_ref_swiglu(upg_ref *, const upg_op *, const upg_batch *, upg_error *);

#endif
