/* op_table.h: ops.def taken apart: which operands an op has and in which field of upg_op each lies.
 *
 * Builder, scratch planner, verifier and printer all go by this, so that a new line in ops.def
 * needs no new code in them unless it brings a new kind of operand. */
#ifndef UPG_PROGRAM_OP_TABLE_H
#define UPG_PROGRAM_OP_TABLE_H

#include "program/program.h"

typedef struct upg_op_signature {
    char    out;         /* 'a' or 'p': a slot in op->out; 'l': logits, no slot */
    char    in;          /* 'a' or 'p': a slot in op->in; 't': the token, no slot */
    bool    accumulates; /* op->out is read before it is written */
    bool    appends_k, appends_v, reads_kv;
    bool    has_vector; /* op->v */
    uint8_t n_matrices; /* op->w[0 … n_matrices − 1] */
} upg_op_signature;

/** Reads the operand string of an op. code < UPG_OP_COUNT. */
upg_op_signature upg_op_signature_of(upg_opcode code);
/** What the matrix needs of its input. */
upg_prepared upg_prepared_for(const upg_matrix *matrix);
/** Whether two preparations agree but for what is kept beside them. */
bool upg_prepared_equal(const upg_prepared *a, const upg_prepared *b);
/** Bytes of a slot for one row, a multiple of 64. */
size_t upg_slot_bytes(const upg_slot *slot);
/** Where the kept plain vector begins in a slot's row, a multiple of 64. */
size_t upg_slot_plain_offset(const upg_slot *slot);

/** Ops in which a slot holds a value: from its first write to its last use. */
typedef struct upg_live_range {
    uint32_t first, last; /* first > last: never used */
} upg_live_range;

/** ranges [n_slots], overwritten. Every slot number in the ops must be valid. */
void upg_live_ranges(const upg_op *ops, uint32_t n_ops, uint32_t n_slots, upg_live_range *ranges);

/** Gives every slot its offset: first fit, in the order of first writes; slots must stand in that
 * order. `live` u32 [n_slots] is scratch. Returns the arena's bytes for one row. */
size_t upg_scratch_plan(const upg_live_range *ranges, uint32_t n_slots, upg_slot *slots,
                        uint32_t *live);

#endif
