/* program.h: the PDVM: a model as a flat, immutable, verified array of fused ops.
 *
 * Every backend executes the same array, op by op, for a batch of rows (one row = one token of one
 * sequence). Invariants after upg_program_build: operands are resolved and of the right kind and
 * width, every slot is written before it is read, scratch slots that live at the same time do not
 * overlap, and matrices that share a prepared input share its preparation. */
#ifndef UPG_PROGRAM_PROGRAM_H
#define UPG_PROGRAM_PROGRAM_H

#include "base/buffer.h"
#include "model/weights.h"

typedef enum upg_opcode {
#define UPG_OP(name, operands, meaning) UPG_OP_##name,
#include "program/ops.def"
#undef UPG_OP
    UPG_OP_COUNT
} upg_opcode;

/** How the input of a GEMV is prepared, decided by the matrices that read it.
 *   plain     the f32 vector itself (dense matrices)
 *   rotated   rotation (codec/rotation.h), then int8 with one scale s_x = max|x'|/127 per row:
 *             q = round to nearest even(x'·(127/max|x'|)), both quotients and the product in f32;
 *             s_x = 0 and q = 0 for a zero vector
 *
 * A coded matrix times a rotated input is defined to the last rounding, so that backends agree
 * wherever their q agree: with the exact integer sum Σ_j V[r][j]·q[j] (codec/code.h)
 *
 *     y_r = (float)((double)sum · ((double)s_r · g · s_x))        products from left to right
 *
 * The 8-bit-table arithmetic of a kernel replaces the exact sum by its own, the rest stays. A
 * matrix with outliers reads the plain vector too and adds e_r (codec/outliers.h) to y_r, in f32,
 * before the op does anything else with it. */
typedef struct upg_prepared {
    bool         rotated;
    bool         keep_plain; /* when rotated: the plain f32 vector is kept beside the int8 one */
    upg_rotation rotation;   /* when rotated */
} upg_prepared;

typedef enum upg_slot_kind { UPG_SLOT_F32, UPG_SLOT_PREPARED } upg_slot_kind;

/** A scratch value, one for each row of a batch. */
typedef struct upg_slot {
    upg_slot_kind kind;
    uint32_t      width;    /* elements */
    upg_prepared  prepared; /* of UPG_SLOT_PREPARED */
    size_t        bytes;    /* for one row, a multiple of 64; backends may lay out their own */
    size_t        offset; /* in the arena of one row; slots alive at the same time don't overlap */
} upg_slot;

/* Bytes of a prepared slot for one row: f32 [width] when plain; when rotated int8 [groups of 32],
 * 64 for the f32 scale, the kernels' prepared form (kernels.h), and f32 [width] when the plain
 * vector is kept. The layout inside is the
 * backend's. For a batch of n rows, n · offset and n · bytes keep slots apart as one row's do. */
enum {
    UPG_SLOT_GROUP_BYTES = 256, /* of the prepared form, for 32 inputs; checked by the backends */
    UPG_NO_SLOT = UINT16_MAX
};

typedef struct upg_op {
    upg_opcode        code;
    uint16_t          layer; /* EMBED: 0; after the last layer: n_layers */
    uint16_t          out;  /* slot; LOGITS: UPG_NO_SLOT. An `a` that is read and written is here */
    uint16_t          in;   /* slot; EMBED: UPG_NO_SLOT */
    const upg_matrix *w[3]; /* in the order of ops.def */
    const upg_vector *v;
} upg_op;

typedef struct upg_program {
    const upg_weights *weights; /* borrowed: outlives the program */
    uint32_t           n_ops, n_slots;
    const upg_op      *ops;
    const upg_slot    *slots;
    size_t             arena_bytes; /* scratch for one row */
} upg_program;

/** Fused programs are what models run. In an unfused one every op does one thing, as engines do
 * that call a function for each: three times as many ops and values for the same numbers, bit for
 * bit. It is there to be measured and to check the fused ops against. */
typedef enum upg_program_form { UPG_PROGRAM_FUSED, UPG_PROGRAM_UNFUSED } upg_program_form;

/** Builds and verifies. Errors: E_NOMEM; E_UNSUPPORTED (matrices with one input but different
 * preparations, by name); E_INTERNAL when the verifier refuses what the builder made. */
upg_status upg_program_build_as(upg_program_form form, const upg_weights *weights,
                                upg_program **program, upg_error *err);
/** The same, fused. */
upg_status upg_program_build(const upg_weights *weights, upg_program **program, upg_error *err);
/** The verifier alone, for tests and for programs from elsewhere. Errors: E_INTERNAL naming op and
 * operand. */
upg_status  upg_program_verify(const upg_program *program, upg_error *err);
void        upg_program_close(upg_program *program);
const char *upg_op_name(upg_opcode code);
const char *upg_op_operands(upg_opcode code);
/** Whether an op is one of unfused programs alone. */
bool upg_op_is_plain(upg_opcode code);
/** One line for each op and slot, as `upg inspect --program` prints it. */
upg_status upg_program_print(const upg_program *program, upg_buffer *text, upg_error *err);

#endif
