/* ref_backend.c: creating, running and closing the reference backend. */
#include <stdio.h>

#include "backend/ref/ref.h"
#include "base/alloc.h"
#include "base/clock.h"

static const upg_ref_op ops[UPG_OP_COUNT] = {
    [UPG_OP_EMBED] = upg_ref_embed,
    [UPG_OP_NORM_PREPARE] = upg_ref_norm_prepare,
    [UPG_OP_QKV_ROPE] = upg_ref_qkv_rope,
    [UPG_OP_ATTENTION] = upg_ref_attention,
    [UPG_OP_GEMV_ADD] = upg_ref_gemv_add,
    [UPG_OP_GATE_UP] = upg_ref_gate_up,
    [UPG_OP_LOGITS] = upg_ref_logits,
    [UPG_OP_NORM] = upg_ref_norm,
    [UPG_OP_PREPARE] = upg_ref_prepare_op,
    [UPG_OP_GEMV] = upg_ref_gemv,
    [UPG_OP_ROPE] = upg_ref_rope,
    [UPG_OP_APPEND_KEY] = upg_ref_append,
    [UPG_OP_APPEND_VALUE] = upg_ref_append,
    [UPG_OP_ATTEND] = upg_ref_attend,
    [UPG_OP_ADD] = upg_ref_add,
    [UPG_OP_SWIGLU] = upg_ref_swiglu,
};

static void close_ref(upg_backend *backend)
{
    upg_ref *ref = (upg_ref *)backend;

    if (!ref)
        return;
    upg_free(ref->angles);
    upg_free(ref->mixed);
    upg_free(ref->scores);
    upg_free(ref->values);
    upg_free(ref->keys);
    upg_free(ref->row_values);
    upg_free(ref->row_wide);
    upg_free(ref->row);
    upg_free(ref->signs);
    upg_free(ref->outputs);
    upg_free(ref->temp[1]);
    upg_free(ref->temp[0]);
    upg_free(ref->arena);
    upg_free(ref);
}

static upg_status check_program(const upg_program *program, upg_error *err)
{
    for (uint32_t i = 0; i < program->n_ops; i++)
        if ((unsigned)program->ops[i].code >= UPG_OP_COUNT || !ops[program->ops[i].code])
            return upg_fail(err, UPG_E_UNSUPPORTED, "backend \"ref\" has no op %s",
                            upg_op_name(program->ops[i].code));
    return UPG_OK;
}

static uint32_t widest(const upg_program *program)
{
    const upg_model_config *c = &program->weights->config;
    uint32_t                width = c->n_kv_heads * c->head_dim;

    for (uint32_t s = 0; s < program->n_slots; s++)
        if (width < program->slots[s].width)
            width = program->slots[s].width;
    return width;
}

/* n · size zeroed bytes, counted. */
static void *take(upg_ref *ref, size_t n, size_t size, upg_error *err)
{
    ref->bytes += n * size; /* upg_calloc checks the product */
    return upg_calloc(n, size, err);
}

static upg_status allocate(upg_ref *ref, upg_error *err)
{
    const upg_model_config *c = &ref->program->weights->config;
    size_t                  rows = ref->max_rows, width = ref->max_width;
    size_t                  positions = ref->max_positions;
    bool                    ok;

    ok = (ref->arena = take(ref, rows, ref->program->arena_bytes, err)) &&
         (ref->temp[0] = take(ref, rows, width * sizeof(float), err)) &&
         (ref->temp[1] = take(ref, rows, width * sizeof(float), err)) &&
         (ref->outputs = take(ref, rows, sizeof(float *), err)) &&
         (ref->signs = take(ref, width, sizeof(float), err)) &&
         (ref->row = take(ref, width, sizeof(float), err)) &&
         (ref->row_wide = take(ref, width, sizeof(double), err)) &&
         (ref->row_values = take(ref, width, sizeof(int32_t), err)) &&
         (ref->keys = take(ref, positions, c->head_dim * sizeof(float), err)) &&
         (ref->values = take(ref, positions, c->head_dim * sizeof(float), err)) &&
         (ref->scores = take(ref, positions, sizeof(double), err)) &&
         (ref->mixed = take(ref, c->head_dim, sizeof(double), err)) &&
         (ref->angles = take(ref, c->rope.rotary_dims, sizeof(double), err));
    return ok ? UPG_OK : UPG_E_NOMEM;
}

static upg_status create_ref(const upg_program *program, const upg_backend_options *options,
                             upg_backend **backend, upg_error *err)
{
    const upg_model_config *c = &program->weights->config;
    upg_ref                *ref = NULL;
    upg_status              st;

    UPG_TRY(options->max_rows ? UPG_OK : upg_fail(err, UPG_E_ARG, "max_rows is 0"));
    UPG_TRY(check_program(program, err));
    ref = upg_calloc(1, sizeof *ref, err);
    UPG_TRY(ref ? UPG_OK : UPG_E_NOMEM);
    ref->program = program;
    ref->kv_shape = upg_kv_layout_make(c, UPG_KV_F32);
    ref->max_rows = options->max_rows;
    ref->max_positions = (c->context + UPG_PAGE_TOKENS - 1) / UPG_PAGE_TOKENS * UPG_PAGE_TOKENS;
    ref->emulate_int8 = options->emulate_int8;
    ref->max_width = widest(program);
    ref->bytes = sizeof *ref;
    UPG_TRY(allocate(ref, err));
    snprintf(ref->description, sizeof ref->description, "ref, scalar%s, 1 thread",
             ref->emulate_int8 ? " with int8 inputs" : "");
out:
    if (st != UPG_OK) {
        close_ref((upg_backend *)ref);
        ref = NULL;
    }
    *backend = (upg_backend *)ref;
    return st;
}

static upg_status check_row(const upg_ref *ref, const upg_batch *batch, uint32_t i, upg_error *err)
{
    const upg_batch_row *row = &batch->rows[i];

    if (row->token < 0 || (uint32_t)row->token >= ref->program->weights->config.vocab)
        return upg_fail(err, UPG_E_ARG, "row %u: token %d of a vocabulary of %u", i, row->token,
                        ref->program->weights->config.vocab);
    if (row->position >= ref->max_positions || row->position / UPG_PAGE_TOKENS >= row->kv->n_pages)
        return upg_fail(err, UPG_E_ARG, "row %u: position %u, the context is %u, pages hold %u", i,
                        row->position, ref->program->weights->config.context,
                        row->kv->n_pages * UPG_PAGE_TOKENS);
    if (i > 0 && row[-1].kv == row->kv && row->position != row[-1].position + 1)
        return upg_fail(err, UPG_E_ARG, "row %u: position %u follows %u", i, row->position,
                        row[-1].position);
    return UPG_OK;
}

static upg_status check_batch(const upg_ref *ref, const upg_batch *batch, upg_error *err)
{
    const upg_kv_layout *have = batch->kv_layout, *want = &ref->kv_shape;
    upg_status           st = UPG_OK;

    if (batch->n_rows > ref->max_rows)
        return upg_fail(err, UPG_E_ARG, "%u rows, the backend was made for %u", batch->n_rows,
                        ref->max_rows);
    if (have->n_layers != want->n_layers || have->n_kv_heads != want->n_kv_heads ||
        have->head_dim != want->head_dim)
        return upg_fail(err, UPG_E_ARG, "the KV layout is that of another model");
    for (uint32_t i = 0; i < batch->n_rows; i++)
        UPG_TRY(check_row(ref, batch, i, err));
out:
    return st;
}

static void observe(const upg_ref *ref, const upg_op *op, uint32_t n_rows)
{
    const upg_slot *slot;

    if (!ref->observer || op->out == UPG_NO_SLOT)
        return;
    slot = &ref->program->slots[op->out];
    if (slot->kind == UPG_SLOT_F32)
        ref->observer(ref->observer_context, op, upg_ref_slot_row(ref, op->out, 0), n_rows,
                      slot->width, slot->bytes / sizeof(float));
}

static upg_status run_ref(upg_backend *backend, const upg_batch *batch, upg_error *err)
{
    upg_ref   *ref = (upg_ref *)backend;
    upg_status st;

    UPG_TRY(check_batch(ref, batch, err));
    if (batch->op_ns)
        batch->op_ns[0] = upg_now_ns();
    for (uint32_t i = 0; i < ref->program->n_ops; i++) {
        const upg_op *op = &ref->program->ops[i];

        if (batch->cancel && atomic_load_explicit(batch->cancel, memory_order_relaxed))
            return upg_fail(err, UPG_E_CANCELLED, "cancelled before op %u", i);
        UPG_TRY(ops[op->code](ref, op, batch, err));
        observe(ref, op, batch->n_rows);
        if (batch->op_ns)
            batch->op_ns[i + 1] = upg_now_ns();
    }
out:
    return st;
}

static const char *describe_ref(const upg_backend *backend)
{
    return ((const upg_ref *)backend)->description;
}

static uint64_t memory_ref(const upg_backend *backend)
{
    return ((const upg_ref *)backend)->bytes;
}

void upg_ref_observe(upg_backend *backend, upg_ref_observer observer, void *context)
{
    upg_ref *ref = (upg_ref *)backend;

    ref->observer = observer;
    ref->observer_context = context;
}

const upg_backend_class upg_backend_ref = {
    .name = "ref",
    .times_ops = true,
    .create = create_ref,
    .run = run_ref,
    .describe = describe_ref,
    .memory = memory_ref,
    .close = close_ref,
};
