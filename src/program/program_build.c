/* program_build.c: from named weights to ops.
 *
 * Every value gets a slot of its own, but for those that an op updates in place, as GEMV_ADD the
 * residual stream; the scratch planner then lets slots share memory. How an input is prepared
 * follows from the matrices that read it. */
#include "program/program.h"

#include <assert.h>

#include "base/alloc.h"
#include "program/op_table.h"

enum {
    OPS_OUTSIDE = 3,   /* EMBED, the final NORM_PREPARE, LOGITS */
    OPS_PER_LAYER = 7, /* norm, qkv, attention, o, norm, gate/up, down */
    SLOTS_OUTSIDE = 2, /* the residual stream, the head's input */
    SLOTS_PER_LAYER = 5,
    PLAIN_OPS_OUTSIDE = 4,
    PLAIN_OPS_PER_LAYER = 21, /* 7 products and what stands between them */
    PLAIN_SLOTS_OUTSIDE = 3,
    PLAIN_SLOTS_PER_LAYER = 16
};

typedef struct builder {
    upg_program        program; /* first: what the caller gets */
    const upg_weights *weights;
    upg_op            *ops;
    upg_slot          *slots;
    size_t             max_ops, max_slots;
} builder;

static uint16_t add_slot(builder *b, upg_slot slot)
{
    assert(b->program.n_slots < b->max_slots);
    b->slots[b->program.n_slots] = slot;
    return (uint16_t)b->program.n_slots++;
}

static uint16_t add_f32_slot(builder *b, uint32_t width)
{
    return add_slot(b, (upg_slot) { .kind = UPG_SLOT_F32, .width = width });
}

static upg_status fail_preparation(const upg_matrix *a, const upg_matrix *b, upg_error *err)
{
    if (a->kind != b->kind)
        return upg_fail(err, UPG_E_UNSUPPORTED,
                        "%s is %s, but %s, which reads the same input, is %s: both must be of one "
                        "kind",
                        a->name, a->kind == UPG_MATRIX_CODED ? "coded" : "dense", b->name,
                        b->kind == UPG_MATRIX_CODED ? "coded" : "dense");
    return upg_fail(err, UPG_E_UNSUPPORTED,
                    "%s and %s read the same input, but rotate it differently (blocks of %u and "
                    "%u, seeds %#llx and %#llx)",
                    a->name, b->name, a->coded->rotation.block, b->coded->rotation.block,
                    (unsigned long long)a->coded->rotation.seed,
                    (unsigned long long)b->coded->rotation.seed);
}

/* A slot for what `n` matrices read, prepared as they all need it. */
static upg_status add_input_slot(builder *b, const upg_matrix *const *readers, uint32_t n,
                                 uint16_t *slot, upg_error *err)
{
    upg_prepared prepared = upg_prepared_for(readers[0]);

    for (uint32_t i = 1; i < n; i++) {
        upg_prepared other = upg_prepared_for(readers[i]);

        if (!upg_prepared_equal(&prepared, &other))
            return fail_preparation(readers[0], readers[i], err);
        prepared.keep_plain |= other.keep_plain;
    }
    *slot = add_slot(b, (upg_slot) { .kind = UPG_SLOT_PREPARED,
                                     .width = readers[0]->n_cols,
                                     .prepared = prepared });
    return UPG_OK;
}

static void add_op(builder *b, upg_op op)
{
    assert(b->program.n_ops < b->max_ops);
    b->ops[b->program.n_ops++] = op;
}

static upg_status add_attention(builder *b, uint16_t layer, uint16_t residual, upg_error *err)
{
    const upg_layer_weights *w = &b->weights->layers[layer];
    uint16_t                 x = 0, q, mixed = 0;
    upg_status               st;

    UPG_TRY(add_input_slot(b, (const upg_matrix *[]) { &w->q, &w->k, &w->v }, 3, &x, err));
    add_op(b, (upg_op) { UPG_OP_NORM_PREPARE, layer, x, residual, { 0 }, &w->attention_norm });
    q = add_f32_slot(b, w->q.n_rows);
    add_op(b, (upg_op) { UPG_OP_QKV_ROPE, layer, q, x, { &w->q, &w->k, &w->v }, NULL });
    UPG_TRY(add_input_slot(b, (const upg_matrix *[]) { &w->o }, 1, &mixed, err));
    add_op(b, (upg_op) { UPG_OP_ATTENTION, layer, mixed, q, { 0 }, NULL });
    add_op(b, (upg_op) { UPG_OP_GEMV_ADD, layer, residual, mixed, { &w->o }, NULL });
out:
    return st;
}

static upg_status add_ffn(builder *b, uint16_t layer, uint16_t residual, upg_error *err)
{
    const upg_layer_weights *w = &b->weights->layers[layer];
    uint16_t                 x = 0, product = 0;
    upg_status               st;

    UPG_TRY(add_input_slot(b, (const upg_matrix *[]) { &w->gate, &w->up }, 2, &x, err));
    add_op(b, (upg_op) { UPG_OP_NORM_PREPARE, layer, x, residual, { 0 }, &w->ffn_norm });
    UPG_TRY(add_input_slot(b, (const upg_matrix *[]) { &w->down }, 1, &product, err));
    add_op(b, (upg_op) { UPG_OP_GATE_UP, layer, product, x, { &w->gate, &w->up }, NULL });
    add_op(b, (upg_op) { UPG_OP_GEMV_ADD, layer, residual, product, { &w->down }, NULL });
out:
    return st;
}

/* ---- unfused --------------------------------------------------------------------------------- */

static uint16_t add_plain(builder *b, upg_opcode code, uint16_t layer, uint16_t in, uint32_t width)
{
    uint16_t out = add_f32_slot(b, width);

    add_op(b, (upg_op) { code, layer, out, in, { 0 }, NULL });
    return out;
}

/* In place: `out` is read and written. */
static void add_onto(builder *b, upg_opcode code, uint16_t layer, uint16_t out, uint16_t in)
{
    add_op(b, (upg_op) { code, layer, out, in, { 0 }, NULL });
}

static void add_append(builder *b, upg_opcode code, uint16_t layer, uint16_t in)
{
    add_op(b, (upg_op) { code, layer, UPG_NO_SLOT, in, { 0 }, NULL });
}

static uint16_t add_gemv(builder *b, uint16_t layer, uint16_t in, const upg_matrix *w)
{
    uint16_t out = add_f32_slot(b, w->n_rows);

    add_op(b, (upg_op) { UPG_OP_GEMV, layer, out, in, { w }, NULL });
    return out;
}

static upg_status add_prepare(builder *b, uint16_t layer, uint16_t in,
                              const upg_matrix *const *readers, uint32_t n, uint16_t *out,
                              upg_error *err)
{
    upg_status st = add_input_slot(b, readers, n, out, err);

    if (st == UPG_OK)
        add_op(b, (upg_op) { UPG_OP_PREPARE, layer, *out, in, { 0 }, NULL });
    return st;
}

/* NORM and PREPARE. */
static upg_status add_norm(builder *b, uint16_t layer, uint16_t in, const upg_vector *weights,
                           const upg_matrix *const *readers, uint32_t n, uint16_t *out,
                           upg_error *err)
{
    uint16_t x = add_f32_slot(b, weights->n);

    add_op(b, (upg_op) { UPG_OP_NORM, layer, x, in, { 0 }, weights });
    return add_prepare(b, layer, x, readers, n, out, err);
}

static upg_status add_plain_attention(builder *b, uint16_t layer, uint16_t residual, upg_error *err)
{
    const upg_layer_weights *w = &b->weights->layers[layer];
    uint16_t                 x = 0, q, k, v;
    upg_status               st;

    UPG_TRY(add_norm(b, layer, residual, &w->attention_norm,
                     (const upg_matrix *[]) { &w->q, &w->k, &w->v }, 3, &x, err));
    q = add_gemv(b, layer, x, &w->q);
    k = add_gemv(b, layer, x, &w->k);
    v = add_gemv(b, layer, x, &w->v);
    q = add_plain(b, UPG_OP_ROPE, layer, q, w->q.n_rows);
    k = add_plain(b, UPG_OP_ROPE, layer, k, w->k.n_rows);
    add_append(b, UPG_OP_APPEND_KEY, layer, k);
    add_append(b, UPG_OP_APPEND_VALUE, layer, v);
    q = add_plain(b, UPG_OP_ATTEND, layer, q, w->q.n_rows);
    UPG_TRY(add_prepare(b, layer, q, (const upg_matrix *[]) { &w->o }, 1, &x, err));
    add_onto(b, UPG_OP_ADD, layer, residual, add_gemv(b, layer, x, &w->o));
out:
    return st;
}

static upg_status add_plain_ffn(builder *b, uint16_t layer, uint16_t residual, upg_error *err)
{
    const upg_layer_weights *w = &b->weights->layers[layer];
    uint16_t                 x = 0, gate;
    upg_status               st;

    UPG_TRY(add_norm(b, layer, residual, &w->ffn_norm, (const upg_matrix *[]) { &w->gate, &w->up },
                     2, &x, err));
    gate = add_gemv(b, layer, x, &w->gate);
    add_onto(b, UPG_OP_SWIGLU, layer, gate, add_gemv(b, layer, x, &w->up));
    UPG_TRY(add_prepare(b, layer, gate, (const upg_matrix *[]) { &w->down }, 1, &x, err));
    add_onto(b, UPG_OP_ADD, layer, residual, add_gemv(b, layer, x, &w->down));
out:
    return st;
}

typedef upg_status layer_part(builder *b, uint16_t layer, uint16_t residual, upg_error *err);

/* The embedding and all layers; *residual is the slot of what the last one leaves. */
static upg_status add_layers(builder *b, layer_part *attention, layer_part *ffn, uint16_t *residual,
                             upg_error *err)
{
    const upg_weights *w = b->weights;
    upg_status         st = UPG_OK;

    *residual = add_f32_slot(b, w->config.hidden);
    add_op(b, (upg_op) { UPG_OP_EMBED, 0, *residual, UPG_NO_SLOT, { &w->embed }, NULL });
    for (uint16_t layer = 0; layer < w->config.n_layers; layer++) {
        UPG_TRY(attention(b, layer, *residual, err));
        UPG_TRY(ffn(b, layer, *residual, err));
    }
out:
    return st;
}

static upg_status add_plain_ops(builder *b, upg_error *err)
{
    const upg_weights *w = b->weights;
    uint16_t           n_layers = (uint16_t)w->config.n_layers, residual, x = 0;
    upg_status         st;

    UPG_TRY(add_layers(b, add_plain_attention, add_plain_ffn, &residual, err));
    UPG_TRY(add_norm(b, n_layers, residual, &w->final_norm, (const upg_matrix *[]) { &w->head }, 1,
                     &x, err));
    add_op(b, (upg_op) { UPG_OP_LOGITS, n_layers, UPG_NO_SLOT, x, { &w->head }, NULL });
out:
    return st;
}

/* ---- fused ----------------------------------------------------------------------------------- */

static upg_status add_ops(builder *b, upg_error *err)
{
    const upg_weights *w = b->weights;
    uint16_t           n_layers = (uint16_t)w->config.n_layers, residual, x = 0;
    upg_status         st;

    UPG_TRY(add_layers(b, add_attention, add_ffn, &residual, err));
    UPG_TRY(add_input_slot(b, (const upg_matrix *[]) { &w->head }, 1, &x, err));
    add_op(b, (upg_op) { UPG_OP_NORM_PREPARE, n_layers, x, residual, { 0 }, &w->final_norm });
    add_op(b, (upg_op) { UPG_OP_LOGITS, n_layers, UPG_NO_SLOT, x, { &w->head }, NULL });
out:
    return st;
}

static upg_status plan_scratch(builder *b, upg_error *err)
{
    uint32_t        n = b->program.n_slots;
    upg_live_range *ranges = upg_malloc(n, sizeof *ranges, err);
    uint32_t       *live = upg_malloc(n, sizeof *live, err);
    upg_status      st;

    UPG_TRY(ranges && live ? UPG_OK : UPG_E_NOMEM);
    upg_live_ranges(b->ops, b->program.n_ops, n, ranges);
    b->program.arena_bytes = upg_scratch_plan(ranges, n, b->slots, live);
out:
    upg_free(live);
    upg_free(ranges);
    return st;
}

static upg_status allocate(builder *b, bool fused, upg_error *err)
{
    size_t n_layers = b->weights->config.n_layers;
    size_t outside = fused ? SLOTS_OUTSIDE : PLAIN_SLOTS_OUTSIDE;
    size_t inside = fused ? SLOTS_PER_LAYER : PLAIN_SLOTS_PER_LAYER;
    size_t most = (UPG_NO_SLOT - outside) / inside;

    if (n_layers > most)
        return upg_fail(err, UPG_E_UNSUPPORTED, "the model has %zu layers, a program up to %zu",
                        n_layers, most);
    b->max_slots = outside + inside * n_layers;
    b->max_ops = fused ? OPS_OUTSIDE + OPS_PER_LAYER * n_layers
                       : PLAIN_OPS_OUTSIDE + PLAIN_OPS_PER_LAYER * n_layers;
    b->ops = upg_calloc(b->max_ops, sizeof *b->ops, err);
    b->slots = upg_calloc(b->max_slots, sizeof *b->slots, err);
    if (!b->ops || !b->slots)
        return UPG_E_NOMEM;
    b->program.ops = b->ops;
    b->program.slots = b->slots;
    return UPG_OK;
}

upg_status upg_program_build_as(upg_program_form form, const upg_weights *weights,
                                upg_program **program, upg_error *err)
{
    upg_status st;
    builder   *b = upg_calloc(1, sizeof *b, err);

    UPG_TRY(b ? UPG_OK : UPG_E_NOMEM);
    b->weights = b->program.weights = weights;
    UPG_TRY(allocate(b, form == UPG_PROGRAM_FUSED, err));
    UPG_TRY(form == UPG_PROGRAM_FUSED ? add_ops(b, err) : add_plain_ops(b, err));
    UPG_TRY(plan_scratch(b, err));
    UPG_TRY(upg_program_verify(&b->program, err));
out:
    if (st != UPG_OK) {
        upg_program_close(b ? &b->program : NULL);
        b = NULL;
    }
    *program = b ? &b->program : NULL;
    return st;
}

upg_status upg_program_build(const upg_weights *weights, upg_program **program, upg_error *err)
{
    return upg_program_build_as(UPG_PROGRAM_FUSED, weights, program, err);
}

void upg_program_close(upg_program *program)
{
    builder *b = (builder *)program; /* `program` is its first member */

    if (!b)
        return;
    upg_free(b->slots);
    upg_free(b->ops);
    upg_free(b);
}
