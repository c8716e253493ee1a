/* program_verify.c: refuses a program that a backend could not run safely or that is no model.
 *
 * One pass over the ops, driven by the operand strings of ops.def. Rules:
 *   1. An op has exactly the operands of its line: slots of the right kind, matrices, vector.
 *   2. Matrices are the model's own, of the role the op wants and of its layer, and have the shape
 *      that the config gives that role; slot widths agree with them.
 *   3. A prepared input is prepared as every matrix that reads it needs it.
 *   4. A slot is written before it is read, and read before it is written again or the program
 * ends: no value is lost. The same for the KV entries of a layer, which are written once.
 *   5. Slots lie in the arena at multiples of 64, are large enough, and don't overlap while alive.
 *   6. The program begins with EMBED, ends with LOGITS, and runs every layer. */
#include "program/program.h"

#include "base/alloc.h"
#include "model/architecture.h"
#include "program/op_table.h"

typedef enum slot_state { SLOT_EMPTY, SLOT_WRITTEN, SLOT_READ } slot_state;

typedef struct verifier {
    const upg_program *program;
    slot_state        *slots; /* [n_slots] */
    slot_state        *kv;    /* [n_layers][2]: keys, values */
    uint32_t           index; /* of the op at hand */
    const upg_op      *op;
    upg_op_signature   signature;
    upg_error         *err;
} verifier;

#define FAIL(v, ...) fail_op(v, upg_fail((v)->err, UPG_E_INTERNAL, __VA_ARGS__))

static upg_status fail_op(const verifier *v, upg_status st)
{
    upg_error_prefix(v->err, "op %u (%s, layer %u): ", v->index, upg_op_name(v->op->code),
                     v->op->layer);
    return st;
}

#define ROLE(name) (1u << UPG_ROLE_##name)
/* Roles that each matrix of an op may have. */
static const uint32_t roles_of[UPG_OP_COUNT][3] = {
    [UPG_OP_EMBED] = { ROLE(EMBED) },
    [UPG_OP_QKV_ROPE] = { ROLE(Q), ROLE(K), ROLE(V) },
    [UPG_OP_GEMV_ADD] = { ROLE(O) | ROLE(DOWN) },
    [UPG_OP_GATE_UP] = { ROLE(GATE), ROLE(UP) },
    [UPG_OP_LOGITS] = { ROLE(HEAD) },
    [UPG_OP_GEMV] = { ROLE(Q) | ROLE(K) | ROLE(V) | ROLE(O) | ROLE(GATE) | ROLE(UP) | ROLE(DOWN) },
};

static upg_status check_layer(const verifier *v)
{
    uint32_t n_layers = v->program->weights->config.n_layers;
    bool     outside = v->op->code == UPG_OP_EMBED || v->op->code == UPG_OP_LOGITS ||
                   v->op->v == &v->program->weights->final_norm;
    uint32_t outside_layer = v->op->code == UPG_OP_EMBED ? 0 : n_layers;

    if (v->op->code == UPG_OP_PREPARE && v->op->layer == n_layers)
        return UPG_OK; /* the head's input */
    if (outside ? v->op->layer != outside_layer : v->op->layer >= n_layers)
        return FAIL(v, "no such layer: the model has %u", n_layers);
    return UPG_OK;
}

/* Rules 1 and 2 for matrix i: which it is. */
static upg_status check_matrix(const verifier *v, uint32_t i)
{
    const upg_weights *weights = v->program->weights;
    const upg_matrix  *w = v->op->w[i];

    if (i >= v->signature.n_matrices)
        return w ? FAIL(v, "matrix %u where the op has %u", i, v->signature.n_matrices) : UPG_OK;
    if (!w)
        return FAIL(v, "matrix %u is missing", i);
    for (uint32_t role = 0; role < UPG_ROLE_COUNT; role++) {
        uint32_t n_rows, n_cols;

        if (!(roles_of[v->op->code][i] >> role & 1u) ||
            upg_weights_role_matrix(weights, (upg_role)role, v->op->layer) != w)
            continue;
        upg_role_shape(&weights->config, (upg_role)role, &n_rows, &n_cols);
        if (w->n_rows != n_rows || w->n_cols != n_cols)
            return FAIL(v, "matrix %u, %s, is [%u][%u], the config says [%u][%u]", i, w->name,
                        w->n_rows, w->n_cols, n_rows, n_cols);
        return UPG_OK;
    }
    return FAIL(v, "matrix %u is not one that this op of this layer may use", i);
}

/* A coded matrix must agree with its own description, a dense one have values. */
static upg_status check_matrix_content(const verifier *v, const upg_matrix *w)
{
    if (w->kind == UPG_MATRIX_DENSE)
        return w->dense ? UPG_OK : FAIL(v, "%s has no values", w->name);
    if (!w->coded)
        return FAIL(v, "%s has no code", w->name);
    if (w->coded->n_rows != w->n_rows || w->coded->n_cols != w->n_cols ||
        w->coded->rotation.width != w->n_cols)
        return FAIL(v, "%s is [%u][%u], its code [%u][%u] with a rotation of %u", w->name,
                    w->n_rows, w->n_cols, w->coded->n_rows, w->coded->n_cols,
                    w->coded->rotation.width);
    if (w->coded->outliers &&
        (w->coded->outliers->n_rows != w->n_rows || w->coded->outliers->n_cols != w->n_cols))
        return FAIL(v, "%s is [%u][%u], its outliers [%u][%u]", w->name, w->n_rows, w->n_cols,
                    w->coded->outliers->n_rows, w->coded->outliers->n_cols);
    return UPG_OK;
}

static upg_status check_vector(const verifier *v)
{
    const upg_weights *w = v->program->weights;
    const upg_vector  *vector = v->op->v;
    bool               known = vector == &w->final_norm;

    if (!v->signature.has_vector)
        return vector ? FAIL(v, "a vector where the op has none") : UPG_OK;
    if (!vector)
        return FAIL(v, "the vector is missing");
    if (!known && v->op->layer < w->config.n_layers)
        known = vector == &w->layers[v->op->layer].attention_norm ||
                vector == &w->layers[v->op->layer].ffn_norm;
    if (!known)
        return FAIL(v, "the vector is not one that this layer may use");
    if (vector->n != w->config.hidden || !vector->values)
        return FAIL(v, "%s has %u values, the config says %u", vector->name, vector->n,
                    w->config.hidden);
    return UPG_OK;
}

/* Rule 1 for a slot operand whose letter is a or p; other letters want no slot. */
static upg_status check_slot_kind(const verifier *v, uint16_t slot, char letter, const char *which)
{
    if (letter != 'a' && letter != 'p')
        return slot == UPG_NO_SLOT ? UPG_OK
                                   : FAIL(v, "slot %u as %s of an op that has none", slot, which);
    if (slot >= v->program->n_slots)
        return FAIL(v, "%s is slot %u of %u", which, slot, v->program->n_slots);
    if (v->program->slots[slot].kind != (letter == 'a' ? UPG_SLOT_F32 : UPG_SLOT_PREPARED))
        return FAIL(v, "%s, slot %u, is of the wrong kind", which, slot);
    return UPG_OK;
}

static upg_status expect_width(const verifier *v, uint16_t slot, uint32_t width, const char *which)
{
    uint32_t have = v->program->slots[slot].width;

    if (have != width)
        return FAIL(v, "%s, slot %u, has width %u, the op needs %u", which, slot, have, width);
    return UPG_OK;
}

/* What an op without matrices reads and writes, in elements. Those that take any width write as
 * many as they read. */
static uint32_t width_of_plain(const verifier *v)
{
    const upg_model_config *c = &v->program->weights->config;
    const upg_slot         *slots = v->program->slots;
    uint32_t                q = c->n_heads * c->head_dim, kv = c->n_kv_heads * c->head_dim;

    if (v->signature.has_vector)
        return c->hidden;
    switch (v->op->code) {
    case UPG_OP_PREPARE:
    case UPG_OP_ADD:
    case UPG_OP_SWIGLU:
        return slots[v->op->in].width;
    case UPG_OP_ROPE:
        return slots[v->op->in].width == kv ? kv : q;
    case UPG_OP_APPEND_KEY:
    case UPG_OP_APPEND_VALUE:
        return kv;
    default:
        return q;
    }
}

/* Rule 2 for the slots. Only what the matrices and the config say counts. */
static upg_status check_widths(const verifier *v)
{
    const upg_op *op = v->op;
    uint32_t      in, out;
    upg_status    st;

    if (op->code == UPG_OP_EMBED) {
        in = 0;
        out = op->w[0]->n_cols;
    } else if (v->signature.n_matrices) {
        in = op->w[0]->n_cols;
        out = op->w[0]->n_rows;
    } else {
        in = out = width_of_plain(v);
    }
    if (op->in != UPG_NO_SLOT)
        UPG_TRY(expect_width(v, op->in, in, "the input"));
    if (op->out != UPG_NO_SLOT)
        UPG_TRY(expect_width(v, op->out, out, "the output"));
    st = UPG_OK;
out:
    return st;
}

/* Rule 3. */
static upg_status check_preparation(const verifier *v)
{
    const upg_prepared *have;

    if (v->signature.in != 'p')
        return UPG_OK;
    have = &v->program->slots[v->op->in].prepared;
    for (uint32_t i = 0; i < v->signature.n_matrices; i++) {
        upg_prepared need = upg_prepared_for(v->op->w[i]);

        if (need.keep_plain && !have->keep_plain)
            return FAIL(v,
                        "the input, slot %u, lacks the plain vector that the outliers of %s read",
                        v->op->in, v->op->w[i]->name);
        if (!upg_prepared_equal(&need, have))
            return FAIL(v, "the input, slot %u, is not prepared as %s needs it", v->op->in,
                        v->op->w[i]->name);
    }
    return UPG_OK;
}

/* Rule 4. */
static upg_status read_slot(verifier *v, uint16_t slot)
{
    if (v->slots[slot] == SLOT_EMPTY)
        return FAIL(v, "slot %u is read before it is written", slot);
    v->slots[slot] = SLOT_READ;
    return UPG_OK;
}

static upg_status write_slot(verifier *v, uint16_t slot)
{
    if (v->slots[slot] == SLOT_WRITTEN)
        return FAIL(v, "slot %u is written again before its value was read", slot);
    v->slots[slot] = SLOT_WRITTEN;
    return UPG_OK;
}

static upg_status follow_kv(verifier *v)
{
    const bool  appends[2] = { v->signature.appends_k, v->signature.appends_v };
    slot_state *kv = v->kv + (size_t)2 * v->op->layer;

    for (int i = 0; i < 2 && v->signature.reads_kv; i++) {
        if (kv[i] == SLOT_EMPTY)
            return FAIL(v, "the KV cache is read before this layer appended to it");
        kv[i] = SLOT_READ;
    }
    for (int i = 0; i < 2; i++) {
        if (appends[i] && kv[i] != SLOT_EMPTY)
            return FAIL(v, "this layer appends to the KV cache a second time");
        if (appends[i])
            kv[i] = SLOT_WRITTEN;
    }
    return UPG_OK;
}

static upg_status follow_values(verifier *v)
{
    upg_status st;

    if (v->op->in != UPG_NO_SLOT)
        UPG_TRY(read_slot(v, v->op->in));
    if (v->signature.accumulates)
        UPG_TRY(read_slot(v, v->op->out));
    if (v->op->out != UPG_NO_SLOT) {
        if (v->op->out == v->op->in)
            return FAIL(v, "slot %u is both input and output", v->op->in);
        UPG_TRY(write_slot(v, v->op->out));
    }
    UPG_TRY(follow_kv(v));
out:
    return st;
}

static upg_status check_op(verifier *v)
{
    upg_status st;

    if ((unsigned)v->op->code >= UPG_OP_COUNT)
        return upg_fail(v->err, UPG_E_INTERNAL, "op %u has code %u of %d", v->index,
                        (unsigned)v->op->code, UPG_OP_COUNT);
    v->signature = upg_op_signature_of(v->op->code);
    UPG_TRY(check_layer(v));
    UPG_TRY(check_slot_kind(v, v->op->out, v->signature.out, "the output"));
    UPG_TRY(check_slot_kind(v, v->op->in, v->signature.in, "the input"));
    for (uint32_t i = 0; i < 3; i++) {
        UPG_TRY(check_matrix(v, i));
        if (v->op->w[i])
            UPG_TRY(check_matrix_content(v, v->op->w[i]));
    }
    UPG_TRY(check_vector(v));
    UPG_TRY(check_widths(v));
    UPG_TRY(check_preparation(v));
    UPG_TRY(follow_values(v));
out:
    return st;
}

static upg_status check_slot(const upg_program *p, uint32_t s, upg_error *err)
{
    const upg_slot *slot = &p->slots[s];

    if (slot->width == 0 || slot->offset % 64 || slot->bytes % 64 ||
        slot->bytes < upg_slot_bytes(slot))
        return upg_fail(err, UPG_E_INTERNAL,
                        "slot %u: width %u in %zu bytes at offset %zu; it needs %zu bytes, all in "
                        "multiples of 64",
                        s, slot->width, slot->bytes, slot->offset, upg_slot_bytes(slot));
    if (slot->offset > p->arena_bytes || slot->bytes > p->arena_bytes - slot->offset)
        return upg_fail(err, UPG_E_INTERNAL, "slot %u ends at byte %zu of an arena of %zu", s,
                        slot->offset + slot->bytes, p->arena_bytes);
    if (slot->kind == UPG_SLOT_PREPARED && slot->prepared.keep_plain && !slot->prepared.rotated)
        return upg_fail(err, UPG_E_INTERNAL, "slot %u: it is plain and keeps the plain vector", s);
    if (slot->kind == UPG_SLOT_PREPARED && slot->prepared.rotated &&
        slot->prepared.rotation.width != slot->width)
        return upg_fail(err, UPG_E_INTERNAL, "slot %u: width %u, its rotation %u", s, slot->width,
                        slot->prepared.rotation.width);
    return UPG_OK;
}

/* Rule 5. Slot numbers in the ops are valid by now. */
static upg_status check_memory(const upg_program *p, upg_error *err)
{
    upg_live_range *ranges = upg_malloc(p->n_slots, sizeof *ranges, err);
    upg_status      st;

    UPG_TRY(ranges ? UPG_OK : UPG_E_NOMEM);
    upg_live_ranges(p->ops, p->n_ops, p->n_slots, ranges);
    for (uint32_t a = 0; a < p->n_slots; a++) {
        UPG_TRY(check_slot(p, a, err));
        for (uint32_t b = 0; b < a; b++)
            if (ranges[a].first <= ranges[b].last && ranges[b].first <= ranges[a].last &&
                p->slots[a].offset < p->slots[b].offset + p->slots[b].bytes &&
                p->slots[b].offset < p->slots[a].offset + p->slots[a].bytes)
                UPG_TRY(
                    upg_fail(err, UPG_E_INTERNAL, "slots %u and %u overlap while both live", b, a));
    }
out:
    upg_free(ranges);
    return st;
}

/* Rule 6, and the end of rule 4. */
static upg_status check_whole(const verifier *v)
{
    const upg_program *p = v->program;

    if (p->n_ops == 0 || p->ops[0].code != UPG_OP_EMBED ||
        p->ops[p->n_ops - 1].code != UPG_OP_LOGITS)
        return upg_fail(v->err, UPG_E_INTERNAL, "a program begins with %s and ends with %s",
                        upg_op_name(UPG_OP_EMBED), upg_op_name(UPG_OP_LOGITS));
    for (uint32_t s = 0; s < p->n_slots; s++)
        if (v->slots[s] != SLOT_READ)
            return upg_fail(v->err, UPG_E_INTERNAL, "the last value of slot %u is never read", s);
    for (uint32_t l = 0; l < p->weights->config.n_layers; l++)
        if (v->kv[2 * l] != SLOT_READ || v->kv[2 * l + 1] != SLOT_READ)
            return upg_fail(v->err, UPG_E_INTERNAL, "layer %u has no attention", l);
    return UPG_OK;
}

upg_status upg_program_verify(const upg_program *program, upg_error *err)
{
    verifier   v = { .program = program, .err = err };
    upg_status st;

    v.slots = upg_calloc(program->n_slots, sizeof *v.slots, err);
    v.kv = upg_calloc(program->weights->config.n_layers, 2 * sizeof *v.kv, err);
    UPG_TRY(v.slots && v.kv ? UPG_OK : UPG_E_NOMEM);
    for (v.index = 0; v.index < program->n_ops; v.index++) {
        v.op = &program->ops[v.index];
        UPG_TRY(check_op(&v));
    }
    UPG_TRY(check_whole(&v));
    UPG_TRY(check_memory(program, err));
out:
    upg_free(v.kv);
    upg_free(v.slots);
    return st;
}
