/* The verifier: a good program passes, and every way of breaking one is refused with a message that
 * names the op and what is wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "program/op_table.h"
#include "support/coded_model.h"

enum { MAX_OPS = 64, MAX_SLOTS = 64, N_LAYERS = 2 };

/* Indices in a program of two layers. */
enum {
    EMBED,
    NORM,
    QKV,
    ATTENTION,
    O,
    FFN_NORM,
    GATE_UP,
    DOWN,
    LAYER_1,
    FINAL_NORM = LAYER_1 + 7,
    LOGITS,
    N_OPS
};

/* The first ops of an unfused one. */
enum {
    PLAIN_NORM = 1,
    PLAIN_PREPARE,
    PLAIN_Q,
    PLAIN_K,
    PLAIN_V,
    PLAIN_ROPE_Q,
    PLAIN_ROPE_K,
    PLAIN_APPEND_K,
    PLAIN_APPEND_V,
    PLAIN_ATTEND,
    PLAIN_ADD = 13,
    PLAIN_SWIGLU = 18,
    PLAIN_HEAD_PREPARE = 1 + 21 * N_LAYERS + 1
};

/* A program that may be changed. */
typedef struct editable {
    upg_program program;
    upg_op      ops[MAX_OPS];
    upg_slot    slots[MAX_SLOTS];
} editable;

static test_model   model;
static upg_program *plain;
static upg_error    err;

static int open_model(void **state)
{
    test_model_shape shape = test_model_small();

    (void)state;
    shape.n_layers = N_LAYERS;
    if (test_model_make(&shape, true, 9, &model, &err) != UPG_OK)
        return -1;
    return upg_program_build_as(UPG_PROGRAM_UNFUSED, model.weights, &plain, &err) == UPG_OK ? 0
                                                                                            : -1;
}

static int close_model(void **state)
{
    (void)state;
    upg_program_close(plain);
    test_model_close(&model);
    return 0;
}

static void copy_of(const upg_program *p, editable *e)
{
    assert_true(p->n_ops <= MAX_OPS && p->n_slots <= MAX_SLOTS);
    e->program = *p;
    memcpy(e->ops, p->ops, p->n_ops * sizeof *p->ops);
    memcpy(e->slots, p->slots, p->n_slots * sizeof *p->slots);
    e->program.ops = e->ops;
    e->program.slots = e->slots;
}

static void copy_program(editable *e)
{
    assert_int_equal(model.program->n_ops, N_OPS);
    copy_of(model.program, e);
}

static void refused(const editable *e, const char *words)
{
    err.message[0] = '\0';
    assert_int_equal(upg_program_verify(&e->program, &err), UPG_E_INTERNAL);
    if (!strstr(err.message, words))
        fail_msg("expected \"%s\" in: %s", words, err.message);
}

/* Applies one change to a good program and expects `words` in the refusal. */
#define BROKEN(change, words)                                                                      \
    do {                                                                                           \
        editable e;                                                                                \
        copy_program(&e);                                                                          \
        assert_int_equal(upg_program_verify(&e.program, &err), UPG_OK);                            \
        change;                                                                                    \
        refused(&e, words);                                                                        \
    } while (0)

#define BROKEN_PLAIN(change, words)                                                                \
    do {                                                                                           \
        editable e;                                                                                \
        copy_of(plain, &e);                                                                        \
        assert_int_equal(upg_program_verify(&e.program, &err), UPG_OK);                            \
        change;                                                                                    \
        refused(&e, words);                                                                        \
    } while (0)

static void operands(void **state)
{
    (void)state;
    BROKEN(e.ops[QKV].code = UPG_OP_COUNT, "op 2 has code");
    BROKEN(e.ops[QKV].out = e.program.n_slots, "op 2 (QKV_ROPE, layer 0): the output is slot");
    BROKEN(e.ops[QKV].out = UPG_NO_SLOT, "op 2 (QKV_ROPE, layer 0): the output is slot");
    BROKEN(e.ops[GATE_UP].in = 1000, "op 6 (GATE_UP, layer 0): the input is slot 1000");
    BROKEN(e.ops[EMBED].in = 0, "as the input of an op that has none");
    BROKEN(e.ops[LOGITS].out = 0, "as the output of an op that has none");
    BROKEN(e.ops[NORM].out = 0, "the output, slot 0, is of the wrong kind");
    BROKEN(e.ops[QKV].in = 0, "the input, slot 0, is of the wrong kind");
    BROKEN(e.slots[e.ops[O].in].kind = UPG_SLOT_F32, "is of the wrong kind");
    BROKEN(e.ops[QKV].w[2] = NULL, "matrix 2 is missing");
    BROKEN(e.ops[O].w[1] = e.ops[O].w[0], "matrix 1 where the op has 1");
    BROKEN(e.ops[NORM].v = NULL, "the vector is missing");
    BROKEN(e.ops[O].v = e.ops[NORM].v, "a vector where the op has none");
}

static void matrices(void **state)
{
    upg_matrix copy = model.weights->layers[0].up;

    (void)state;
    BROKEN(e.ops[QKV].w[1] = e.ops[QKV].w[2], "matrix 1 is not one that this op");
    BROKEN(e.ops[GATE_UP].w[0] = e.ops[LAYER_1 + GATE_UP - 1].w[0], "matrix 0 is not one");
    BROKEN(e.ops[LOGITS].w[0] = e.ops[EMBED].w[0], "matrix 0 is not one");
    BROKEN(e.ops[GATE_UP].w[1] = &copy, "matrix 1 is not one");
    BROKEN(e.ops[NORM].v = &model.weights->layers[1].ffn_norm, "the vector is not one");
    BROKEN(e.ops[O].layer = 1, "matrix 0 is not one");
    BROKEN(e.ops[ATTENTION].layer = N_LAYERS, "no such layer");
    BROKEN(e.ops[LOGITS].layer = 0, "no such layer");
    BROKEN(e.ops[EMBED].layer = 1, "no such layer");
}

/* Weights that disagree with the config or with themselves. */
static void shapes(void **state)
{
    upg_layer_weights     *l = &model.weights->layers[1], saved = *l;
    upg_coded_matrix       code = *saved.down.coded;
    const upg_model_config config = model.weights->config;
    upg_outliers           none = { .n_rows = 64, .n_cols = 96 };
    editable               e;

    (void)state;
    copy_program(&e);
    l->down.n_cols--;
    refused(&e, "down_proj.weight, is [64][95], the config says [64][96]");
    *l = saved;
    l->down.coded = &code;
    code.n_rows--;
    refused(&e, "its code [63][96]");
    code.n_rows++;
    code.rotation.width = 64;
    refused(&e, "rotation of 64");
    code.rotation.width = 96;
    code.outliers = &none;
    refused(&e, "lacks the plain vector that the outliers of model.layers.1.mlp.down_proj");
    none.n_cols--;
    refused(&e, "is [64][96], its outliers [64][95]");
    l->down.coded = NULL;
    refused(&e, "has no code");
    *l = saved;
    l->gate.kind = UPG_MATRIX_DENSE;
    refused(&e, "has no values");
    *l = saved;
    l->ffn_norm.n++;
    refused(&e, "has 65 values");
    *l = saved;
    model.weights->config.n_kv_heads++;
    refused(&e, "k_proj.weight");
    model.weights->config = config;
    assert_int_equal(upg_program_verify(&e.program, &err), UPG_OK);
}

static void widths(void **state)
{
    (void)state;
    BROKEN(e.slots[e.ops[EMBED].out].width++, "op 0 (EMBED, layer 0): the output");
    BROKEN(e.slots[e.ops[NORM].out].width--, "op 1 (NORM_PREPARE, layer 0): the output");
    BROKEN(e.slots[e.ops[QKV].out].width--, "op 2 (QKV_ROPE, layer 0): the output");
    BROKEN(e.slots[e.ops[ATTENTION].out].width++, "op 3 (ATTENTION, layer 0): the output");
    BROKEN(e.slots[e.ops[GATE_UP].out].width++, "op 6 (GATE_UP, layer 0): the output");
    BROKEN(e.ops[DOWN].in = e.ops[O].in, "op 7 (GEMV_ADD, layer 0): the input");
}

static void preparations(void **state)
{
    (void)state;
    BROKEN(e.slots[e.ops[QKV].in].prepared.rotated = false, "is not prepared as model.layers.0");
    BROKEN(e.slots[e.ops[O].in].prepared.rotation.seed++, "o_proj.weight needs it");
    BROKEN(e.slots[e.ops[LOGITS].in].prepared.rotation.block /= 2, "lm_head.weight needs it");
    BROKEN(e.slots[e.ops[O].in].prepared.keep_plain = true, "it needs");
    BROKEN(e.ops[GATE_UP].in = e.ops[QKV].in, "gate_proj.weight needs it");
}

static void remove_op(editable *e, uint32_t index)
{
    e->program.n_ops--;
    memmove(&e->ops[index], &e->ops[index + 1], (e->program.n_ops - index) * sizeof *e->ops);
}

static void swap_ops(editable *e, uint32_t a, uint32_t b)
{
    upg_op op = e->ops[a];

    e->ops[a] = e->ops[b];
    e->ops[b] = op;
}

static void order(void **state)
{
    (void)state;
    BROKEN(swap_ops(&e, NORM, QKV), "is read before it is written");
    BROKEN(swap_ops(&e, QKV, ATTENTION), "is read before it is written");
    BROKEN(swap_ops(&e, ATTENTION, O), "is read before it is written");
    BROKEN(remove_op(&e, NORM), "is read before it is written");
    BROKEN(remove_op(&e, EMBED), "slot 0 is read before it is written");
    BROKEN(e.ops[LAYER_1] = e.ops[NORM], "is read before it is written");
    BROKEN(e.ops[ATTENTION].layer = 1, "KV cache is read before this layer appended");
    BROKEN(e.ops[ATTENTION] = e.ops[QKV], "is written again before its value was read");
}

/* Nothing may be computed for nothing: a lost op leaves a value unread. */
static void lost_values(void **state)
{
    (void)state;
    BROKEN(remove_op(&e, O), "is never read");
    BROKEN(remove_op(&e, DOWN), "is never read");
    BROKEN(remove_op(&e, LOGITS), "ends with LOGITS");
    BROKEN(e.program.n_ops = 0, "begins with EMBED");
    BROKEN(e.ops[FINAL_NORM].in = e.ops[LOGITS].in, "is of the wrong kind");
}

/* All ops of a layer, or its attention alone, twice or not at all. */
static void layers(void **state)
{
    (void)state;
    BROKEN(
        {
            for (uint32_t i = 0; i < 7; i++)
                remove_op(&e, LAYER_1);
            e.program.n_slots = 2 + 5; /* those of layer 0 and … */
            e.slots[6] = model.program->slots[model.program->ops[LOGITS].in];
            e.ops[LAYER_1].out = e.ops[LAYER_1 + 1].in = 6; /* … the head's input */
        },
        "layer 1 has no attention");
    BROKEN(
        {
            memmove(&e.ops[O + 2], &e.ops[O + 1], (N_OPS - O - 1) * sizeof *e.ops);
            e.ops[O + 1] = e.ops[QKV];
            e.program.n_ops++;
        },
        "appends to the KV cache a second time");
}

static void memory(void **state)
{
    (void)state;
    BROKEN(e.slots[3].offset += 4, "multiples of 64");
    BROKEN(e.slots[3].bytes -= 64, "slot 3: width 64 in");
    BROKEN(e.slots[3].bytes += 4, "multiples of 64");
    BROKEN(e.program.arena_bytes -= 64, "of an arena of");
    BROKEN(e.slots[2].offset = SIZE_MAX - 63, "of an arena of");
    BROKEN(e.slots[e.ops[NORM].out].offset = e.slots[0].offset, "slots 0 and 1 overlap");
    BROKEN(e.slots[e.ops[QKV].out].offset = e.slots[e.ops[QKV].in].offset, "slots 1 and 2 overlap");
    BROKEN(e.slots[0].bytes += 64, "overlap while both live");
    BROKEN(e.slots[e.ops[O].in].width = 0, "has width 0");
}

static void plain_ops(void **state)
{
    (void)state;
    BROKEN_PLAIN(e.ops[PLAIN_Q].w[0] = model.program->ops[EMBED].w[0], "matrix 0 is not one");
    BROKEN_PLAIN(e.ops[PLAIN_Q].layer = 1, "matrix 0 is not one");
    BROKEN_PLAIN(e.ops[PLAIN_Q].w[0] = NULL, "op 3 (GEMV, layer 0): matrix 0 is missing");
    BROKEN_PLAIN(e.ops[PLAIN_PREPARE].out = 0, "the output, slot 0, is of the wrong kind");
    BROKEN_PLAIN(e.slots[e.ops[PLAIN_PREPARE].out].prepared.rotation.seed++, "is not prepared as");
    BROKEN_PLAIN(e.slots[e.ops[PLAIN_NORM].out].width++, "op 1 (NORM, layer 0): the output");
    BROKEN_PLAIN(e.slots[e.ops[PLAIN_PREPARE].out].width--, "op 2 (PREPARE, layer 0): the output");
    BROKEN_PLAIN(e.slots[e.ops[PLAIN_ROPE_Q].out].width--, "op 6 (ROPE, layer 0): the output");
    BROKEN_PLAIN(e.ops[PLAIN_ROPE_Q].out = e.ops[PLAIN_ROPE_Q].in, "is both input and output");
    BROKEN_PLAIN(e.ops[PLAIN_APPEND_K].in = e.ops[PLAIN_ROPE_Q].out,
                 "op 8 (APPEND_KEY, layer 0): the input");
    BROKEN_PLAIN(e.ops[PLAIN_APPEND_V].out = 0, "as the output of an op that has none");
    BROKEN_PLAIN(e.ops[PLAIN_ADD].in = e.ops[PLAIN_SWIGLU].in, "op 13 (ADD, layer 0): the output");
    BROKEN_PLAIN(e.ops[PLAIN_SWIGLU].in = 0, "op 18 (SWIGLU, layer 0): the output");
    BROKEN_PLAIN(e.ops[PLAIN_HEAD_PREPARE].layer++, "no such layer");
}

/* Keys and values are appended once each, before they are read. */
static void plain_order(void **state)
{
    (void)state;
    BROKEN_PLAIN(swap_ops(&e, PLAIN_PREPARE, PLAIN_Q), "is read before it is written");
    BROKEN_PLAIN(swap_ops(&e, PLAIN_APPEND_V, PLAIN_ATTEND), "KV cache is read before this layer");
    BROKEN_PLAIN(swap_ops(&e, PLAIN_APPEND_K, PLAIN_ATTEND), "KV cache is read before this layer");
    BROKEN_PLAIN({ e.ops[PLAIN_APPEND_V].code = UPG_OP_APPEND_KEY; },
                 "appends to the KV cache a second time");
    BROKEN_PLAIN(remove_op(&e, PLAIN_ADD), "is never read");
    BROKEN_PLAIN(remove_op(&e, PLAIN_ATTEND), "is read before it is written");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(operands),    cmocka_unit_test(matrices),     cmocka_unit_test(shapes),
        cmocka_unit_test(widths),      cmocka_unit_test(preparations), cmocka_unit_test(order),
        cmocka_unit_test(lost_values), cmocka_unit_test(layers),       cmocka_unit_test(memory),
        cmocka_unit_test(plain_ops),   cmocka_unit_test(plain_order),
    };

    return cmocka_run_group_tests(tests, open_model, close_model);
}
