/* program_print.c: a program as text, one line for each slot and op. */
#include "program/program.h"

#include <inttypes.h>

#include "program/op_table.h"

static upg_status print_slot(const upg_slot *slot, uint32_t index, upg_buffer *text, upg_error *err)
{
    const char *kind = slot->kind == UPG_SLOT_F32 ? "f32"
                       : slot->prepared.rotated   ? "rotated"
                                                  : "plain";
    upg_status  st;

    UPG_TRY(upg_buffer_addf(text, err, "s%-5u %-8s %6u wide  %7zu bytes at %7zu", index, kind,
                            slot->width, slot->bytes, slot->offset));
    if (slot->kind == UPG_SLOT_PREPARED && slot->prepared.rotated)
        UPG_TRY(upg_buffer_addf(text, err, "  blocks of %u, seed 0x%" PRIx64,
                                slot->prepared.rotation.block, slot->prepared.rotation.seed));
    if (slot->kind == UPG_SLOT_PREPARED && slot->prepared.keep_plain)
        UPG_TRY(upg_buffer_addf(text, err, ", plain too"));
    UPG_TRY(upg_buffer_add(text, "\n", 1, err));
out:
    return st;
}

/* " model…weight [rows][cols] BF16" or, for coded ones, the rates of the bands in order. */
static upg_status print_matrix(const upg_matrix *w, upg_buffer *text, upg_error *err)
{
    upg_status st;

    UPG_TRY(upg_buffer_addf(text, err, " %s [%u][%u]", w->name, w->n_rows, w->n_cols));
    if (w->kind == UPG_MATRIX_DENSE) {
        UPG_TRY(upg_buffer_addf(text, err, " %s", upg_dtype_name(w->dtype)));
        return UPG_OK;
    }
    for (uint32_t b = 0; b < w->coded->n_bands; b++)
        UPG_TRY(upg_buffer_addf(text, err, "%s%g", b ? "+" : " coded ",
                                w->coded->bands[b].code.rate2 / 2.0));
    if (w->coded->outliers != NULL)
        UPG_TRY(upg_buffer_addf(text, err, " outliers %u + %u columns",
                                w->coded->outliers->n_sparse, w->coded->outliers->n_columns));
out:
    return st;
}

static upg_status print_inputs(const upg_op *op, upg_buffer *text, upg_error *err)
{
    upg_op_signature s = upg_op_signature_of(op->code);
    upg_status       st = UPG_OK;

    if (s.in == 't')
        UPG_TRY(upg_buffer_addf(text, err, " token"));
    if (s.accumulates)
        UPG_TRY(upg_buffer_addf(text, err, " s%u", op->out));
    if (op->in != UPG_NO_SLOT)
        UPG_TRY(upg_buffer_addf(text, err, " s%u", op->in));
    if (s.reads_kv)
        UPG_TRY(upg_buffer_addf(text, err, " kv"));
    if (op->v)
        UPG_TRY(upg_buffer_addf(text, err, " %s [%u]", op->v->name, op->v->n));
    for (uint32_t i = 0; i < s.n_matrices; i++)
        UPG_TRY(print_matrix(op->w[i], text, err));
out:
    return st;
}

static upg_status print_op(const upg_op *op, uint32_t index, upg_buffer *text, upg_error *err)
{
    upg_op_signature s = upg_op_signature_of(op->code);
    upg_status       st;

    UPG_TRY(upg_buffer_addf(text, err, "%-5u  %-13s layer %-3u", index, upg_op_name(op->code),
                            op->layer));
    if (s.out == 'l')
        UPG_TRY(upg_buffer_addf(text, err, " logits"));
    else if (op->out != UPG_NO_SLOT)
        UPG_TRY(upg_buffer_addf(text, err, " s%u", op->out));
    if (s.appends_k || s.appends_v)
        UPG_TRY(
            upg_buffer_addf(text, err, " %s%s", s.appends_k ? "k" : "", s.appends_v ? "v" : ""));
    UPG_TRY(upg_buffer_addf(text, err, " <"));
    UPG_TRY(print_inputs(op, text, err));
    UPG_TRY(upg_buffer_add(text, "\n", 1, err));
out:
    return st;
}

upg_status upg_program_print(const upg_program *program, upg_buffer *text, upg_error *err)
{
    upg_status st;

    UPG_TRY(upg_buffer_addf(text, err, "%u layers, %u ops, %u slots, %zu bytes of scratch a row\n",
                            program->weights->config.n_layers, program->n_ops, program->n_slots,
                            program->arena_bytes));
    for (uint32_t i = 0; i < program->n_slots; i++)
        UPG_TRY(print_slot(&program->slots[i], i, text, err));
    for (uint32_t i = 0; i < program->n_ops; i++)
        UPG_TRY(print_op(&program->ops[i], i, text, err));
out:
    return st;
}
