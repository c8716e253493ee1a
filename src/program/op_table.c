/* op_table.c: names and operands of ops.def, and what follows from them about slots. */
#include "program/op_table.h"

#include <assert.h>

static const char *const names[] = {
#define UPG_OP(name, operands, meaning) #name,
#include "program/ops.def"
#undef UPG_OP
};

static const char *const operand_strings[] = {
#define UPG_OP(name, operands, meaning) operands,
#include "program/ops.def"
#undef UPG_OP
};

const char *upg_op_name(upg_opcode code)
{
    return (unsigned)code < UPG_OP_COUNT ? names[code] : "?";
}

const char *upg_op_operands(upg_opcode code)
{
    return (unsigned)code < UPG_OP_COUNT ? operand_strings[code] : "";
}

bool upg_op_is_plain(upg_opcode code)
{
    return code > UPG_OP_LOGITS && code < UPG_OP_COUNT;
}

static void add_output(upg_op_signature *s, char letter)
{
    switch (letter) {
    case 'k':
        s->appends_k = s->appends_v = true;
        break;
    case 'K':
        s->appends_k = true;
        break;
    case 'V':
        s->appends_v = true;
        break;
    default:
        s->out = letter;
    }
}

static void add_input(upg_op_signature *s, char letter)
{
    switch (letter) {
    case 'w':
        s->n_matrices++;
        break;
    case 'v':
        s->has_vector = true;
        break;
    case 'k':
        s->reads_kv = true;
        break;
    default: /* of two slots, the first is the output's */
        if (s->in)
            s->accumulates = true;
        s->in = letter;
    }
}

upg_op_signature upg_op_signature_of(upg_opcode code)
{
    upg_op_signature s = { 0 };
    bool             input = false;

    for (const char *c = upg_op_operands(code); *c; c++) {
        if (*c == '<')
            input = true;
        else if (input)
            add_input(&s, *c);
        else
            add_output(&s, *c);
    }
    return s;
}

upg_prepared upg_prepared_for(const upg_matrix *matrix)
{
    upg_prepared p = { .rotated = matrix->kind == UPG_MATRIX_CODED };

    if (p.rotated) {
        p.rotation = matrix->coded->rotation;
        p.keep_plain = matrix->coded->outliers != NULL;
    }
    return p;
}

bool upg_prepared_equal(const upg_prepared *a, const upg_prepared *b)
{
    if (!a->rotated || !b->rotated)
        return a->rotated == b->rotated;
    return a->rotation.width == b->rotation.width && a->rotation.block == b->rotation.block &&
           a->rotation.seed == b->rotation.seed;
}

size_t upg_slot_plain_offset(const upg_slot *slot)
{
    size_t groups = upg_group_count(slot->width);

    return 64 + (groups * (UPG_GROUP_COLUMNS + UPG_SLOT_GROUP_BYTES) + 63) / 64 * 64;
}

size_t upg_slot_bytes(const upg_slot *slot)
{
    size_t plain = (slot->width * sizeof(float) + 63) / 64 * 64;

    if (slot->kind == UPG_SLOT_PREPARED && slot->prepared.rotated)
        return upg_slot_plain_offset(slot) + (slot->prepared.keep_plain ? plain : 0);
    return plain;
}

static void touch(upg_live_range *range, uint32_t op)
{
    if (range->first > op)
        range->first = op;
    range->last = op;
}

void upg_live_ranges(const upg_op *ops, uint32_t n_ops, uint32_t n_slots, upg_live_range *ranges)
{
    for (uint32_t s = 0; s < n_slots; s++)
        ranges[s] = (upg_live_range) { .first = UINT32_MAX, .last = 0 };
    for (uint32_t i = 0; i < n_ops; i++) {
        if (ops[i].in != UPG_NO_SLOT)
            touch(&ranges[ops[i].in], i);
        if (ops[i].out != UPG_NO_SLOT)
            touch(&ranges[ops[i].out], i);
    }
}

/* The end of a live slot that lies in the way of [offset, offset + bytes), or 0. */
static size_t obstacle(const upg_slot *slots, const uint32_t *live, uint32_t n_live, size_t offset,
                       size_t bytes)
{
    for (uint32_t i = 0; i < n_live; i++) {
        const upg_slot *s = &slots[live[i]];

        if (s->offset < offset + bytes && offset < s->offset + s->bytes)
            return s->offset + s->bytes;
    }
    return 0;
}

static uint32_t drop_dead(const upg_live_range *ranges, uint32_t op, uint32_t *live, uint32_t n)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < n; i++)
        if (ranges[live[i]].last >= op)
            live[kept++] = live[i];
    return kept;
}

size_t upg_scratch_plan(const upg_live_range *ranges, uint32_t n_slots, upg_slot *slots,
                        uint32_t *live)
{
    uint32_t n_live = 0;
    size_t   arena_bytes = 0;

    for (uint32_t s = 0; s < n_slots; s++) {
        size_t offset = 0, end;

        assert(s == 0 || ranges[s - 1].first <= ranges[s].first);
        slots[s].bytes = upg_slot_bytes(&slots[s]);
        n_live = drop_dead(ranges, ranges[s].first, live, n_live);
        while ((end = obstacle(slots, live, n_live, offset, slots[s].bytes)) != 0)
            offset = end;
        slots[s].offset = offset;
        live[n_live++] = s;
        if (arena_bytes < offset + slots[s].bytes)
            arena_bytes = offset + slots[s].bytes;
    }
    return arena_bytes;
}
