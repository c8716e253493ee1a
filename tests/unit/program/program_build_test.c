/* What the builder makes: ops, slots, preparations, scratch, text; and what it refuses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/random.h"
#include "program/op_table.h"
#include "support/coded_model.h"

static upg_error err;

#define OK(expression)                                                                             \
    do {                                                                                           \
        if ((expression) != UPG_OK)                                                                \
            fail_msg("%s", err.message);                                                           \
    } while (0)

static void make(uint32_t n_layers, bool coded, test_model *model)
{
    test_model_shape shape = test_model_small();

    shape.n_layers = n_layers;
    OK(test_model_make(&shape, coded, 3, model, &err));
}

static void ops_stand_in_order(void **state)
{
    const upg_opcode layer[] = { UPG_OP_NORM_PREPARE, UPG_OP_QKV_ROPE,     UPG_OP_ATTENTION,
                                 UPG_OP_GEMV_ADD,     UPG_OP_NORM_PREPARE, UPG_OP_GATE_UP,
                                 UPG_OP_GEMV_ADD };
    test_model       m;
    const upg_op    *op;

    (void)state;
    make(2, false, &m);
    assert_int_equal(m.program->n_ops, 3 + 2 * 7);
    op = m.program->ops;
    assert_int_equal(op++->code, UPG_OP_EMBED);
    for (uint32_t l = 0; l < 2; l++)
        for (uint32_t i = 0; i < 7; i++, op++) {
            assert_int_equal(op->code, layer[i]);
            assert_int_equal(op->layer, l);
        }
    assert_int_equal(op++->code, UPG_OP_NORM_PREPARE);
    assert_int_equal(op->code, UPG_OP_LOGITS);
    assert_int_equal(op->out, UPG_NO_SLOT);
    test_model_close(&m);
}

/* An unfused program: 21 ops a layer, each of one kind, and EMBED and LOGITS as ever. */
static void plain_ops_stand_in_order(void **state)
{
    const upg_opcode layer[] = { UPG_OP_NORM,    UPG_OP_PREPARE,    UPG_OP_GEMV,
                                 UPG_OP_GEMV,    UPG_OP_GEMV,       UPG_OP_ROPE,
                                 UPG_OP_ROPE,    UPG_OP_APPEND_KEY, UPG_OP_APPEND_VALUE,
                                 UPG_OP_ATTEND,  UPG_OP_PREPARE,    UPG_OP_GEMV,
                                 UPG_OP_ADD,     UPG_OP_NORM,       UPG_OP_PREPARE,
                                 UPG_OP_GEMV,    UPG_OP_GEMV,       UPG_OP_SWIGLU,
                                 UPG_OP_PREPARE, UPG_OP_GEMV,       UPG_OP_ADD };
    enum { N = sizeof layer / sizeof layer[0] };
    test_model    m;
    upg_program  *plain;
    const upg_op *op;

    (void)state;
    make(2, true, &m);
    OK(upg_program_build_as(UPG_PROGRAM_UNFUSED, m.weights, &plain, &err));
    assert_int_equal(plain->n_ops, 4 + 2 * N);
    assert_int_equal(plain->n_slots, 3 + 2 * 16);
    op = plain->ops;
    assert_int_equal(op++->code, UPG_OP_EMBED);
    for (uint32_t l = 0; l < 2; l++)
        for (uint32_t i = 0; i < N; i++, op++) {
            assert_int_equal(op->code, layer[i]);
            assert_int_equal(op->layer, l);
            assert_true(upg_op_is_plain(op->code));
        }
    assert_int_equal(op++->code, UPG_OP_NORM);
    assert_int_equal(op++->code, UPG_OP_PREPARE);
    assert_int_equal(op->code, UPG_OP_LOGITS);
    for (uint32_t i = 0; i < m.program->n_ops; i++)
        assert_false(upg_op_is_plain(m.program->ops[i].code));
    upg_program_close(plain);
    test_model_close(&m);
}

static void preparations_follow_the_matrices(void **state)
{
    test_model m;

    (void)state;
    for (uint32_t coded = 0; coded < 2; coded++) {
        make(2, coded, &m);
        for (uint32_t i = 0; i < m.program->n_ops; i++) {
            const upg_op *op = &m.program->ops[i];

            if (upg_op_signature_of(op->code).in != 'p')
                continue;
            assert_int_equal(m.program->slots[op->in].prepared.rotated, coded);
            if (coded)
                assert_memory_equal(&m.program->slots[op->in].prepared.rotation,
                                    &op->w[0]->coded->rotation, sizeof(upg_rotation));
        }
        test_model_close(&m);
    }
}

/* One dense matrix among coded ones where nothing else reads its input. */
/* The plain vector is kept where one of the matrices that read the input has outliers. */
static void outliers_keep_the_plain_vector(void **state)
{
    test_model       m;
    upg_coded_matrix with;
    upg_outliers     none = { 0 };
    size_t           before;

    (void)state;
    make(2, true, &m);
    before = m.program->arena_bytes;
    with = *m.weights->layers[1].k.coded;
    none.n_rows = with.n_rows;
    none.n_cols = with.n_cols;
    with.outliers = &none;
    m.weights->layers[1].k.coded = &with;
    OK(test_model_rebuild(&m, &err));
    assert_true(m.program->arena_bytes >= before);
    for (uint32_t i = 0; i < m.program->n_ops; i++) {
        const upg_op *op = &m.program->ops[i];

        if (op->w[0] && op->in != UPG_NO_SLOT)
            assert_int_equal(m.program->slots[op->in].prepared.keep_plain,
                             op->code == UPG_OP_QKV_ROPE && op->layer == 1);
    }
    test_model_close(&m);
}

static void kinds_may_mix(void **state)
{
    test_model m;

    (void)state;
    make(1, false, &m);
    OK(test_model_code_matrix(&m, &m.weights->layers[0].down, 1, 2, &err));
    OK(test_model_rebuild(&m, &err));
    test_model_close(&m);
}

static void refuses_different_preparations(void **state)
{
    test_model m;

    (void)state;
    make(2, false, &m);
    OK(test_model_code_matrix(&m, &m.weights->layers[1].k, 1, 2, &err));
    assert_int_equal(test_model_rebuild(&m, &err), UPG_E_UNSUPPORTED);
    assert_null(m.program);
    assert_non_null(strstr(err.message, "layers.1.self_attn.q_proj.weight is dense"));
    assert_non_null(strstr(err.message, "layers.1.self_attn.k_proj.weight"));
    OK(test_model_code_matrix(&m, &m.weights->layers[1].q, 1, 2, &err));
    OK(test_model_code_matrix(&m, &m.weights->layers[1].v, 1, 3, &err));
    assert_int_equal(test_model_rebuild(&m, &err), UPG_E_UNSUPPORTED);
    assert_non_null(strstr(err.message, "v_proj"));
    assert_non_null(strstr(err.message, "0x3"));
    test_model_close(&m);
}

static void refuses_wrong_shapes(void **state)
{
    test_model m;

    (void)state;
    make(1, false, &m);
    m.weights->layers[0].up.n_rows--;
    assert_int_equal(test_model_rebuild(&m, &err), UPG_E_INTERNAL);
    assert_non_null(strstr(err.message, "up_proj"));
    test_model_close(&m);
}

/* More layers need more slots, but no more scratch. */
static void scratch_is_reused(void **state)
{
    test_model one, five;
    size_t     sum = 0;

    (void)state;
    make(1, true, &one);
    make(5, true, &five);
    for (uint32_t s = 0; s < one.program->n_slots; s++)
        sum += one.program->slots[s].bytes;
    assert_int_equal(one.program->arena_bytes, five.program->arena_bytes);
    assert_true(five.program->arena_bytes < sum);
    assert_int_equal(five.program->n_slots, 2 + 5 * 5);
    test_model_close(&five);
    test_model_close(&one);
}

/* Random live ranges: no two live slots overlap, and the arena is as large as needed and no more
 * than all slots together. */
static void plans_random_ranges(void **state)
{
    enum { N = 40 };
    upg_live_range ranges[N];
    upg_slot       slots[N];
    uint32_t       live[N];

    (void)state;
    for (uint64_t seed = 0; seed < 200; seed++) {
        size_t arena, sum = 0, end = 0;

        for (uint32_t s = 0; s < N; s++) {
            uint32_t first = s == 0 ? 0 : ranges[s - 1].first;

            ranges[s].first = first + (uint32_t)(upg_random_u64(seed, 3 * s) % 3);
            ranges[s].last = ranges[s].first + (uint32_t)(upg_random_u64(seed, 3 * s + 1) % 9);
            slots[s] = (upg_slot) { .width = 1 + upg_random_u64(seed, 3 * s + 2) % 300 };
        }
        arena = upg_scratch_plan(ranges, N, slots, live);
        for (uint32_t a = 0; a < N; a++) {
            assert_true(slots[a].bytes >= 4 * slots[a].width);
            assert_int_equal(slots[a].offset % 64, 0);
            sum += slots[a].bytes;
            if (end < slots[a].offset + slots[a].bytes)
                end = slots[a].offset + slots[a].bytes;
            for (uint32_t b = 0; b < a; b++)
                assert_false(ranges[b].last >= ranges[a].first &&
                             slots[b].offset < slots[a].offset + slots[a].bytes &&
                             slots[a].offset < slots[b].offset + slots[b].bytes);
        }
        assert_int_equal(arena, end);
        assert_true(arena < sum);
    }
}

static void signatures_are_read(void **state)
{
    upg_op_signature s = upg_op_signature_of(UPG_OP_QKV_ROPE);

    (void)state;
    assert_true(s.out == 'a' && s.in == 'p' && s.n_matrices == 3 && s.appends_k && s.appends_v);
    assert_false(s.reads_kv || s.accumulates || s.has_vector);
    s = upg_op_signature_of(UPG_OP_GEMV_ADD);
    assert_true(s.out == 'a' && s.in == 'p' && s.n_matrices == 1 && s.accumulates);
    s = upg_op_signature_of(UPG_OP_ATTENTION);
    assert_true(s.out == 'p' && s.in == 'a' && s.n_matrices == 0 && s.reads_kv && !s.appends_k);
    s = upg_op_signature_of(UPG_OP_LOGITS);
    assert_true(s.out == 'l' && s.in == 'p' && s.n_matrices == 1);
    s = upg_op_signature_of(UPG_OP_EMBED);
    assert_true(s.out == 'a' && s.in == 't' && s.n_matrices == 1);
    s = upg_op_signature_of(UPG_OP_NORM_PREPARE);
    assert_true(s.out == 'p' && s.in == 'a' && s.has_vector);
    s = upg_op_signature_of(UPG_OP_APPEND_VALUE);
    assert_true(!s.out && s.in == 'a' && s.appends_v && !s.appends_k && !s.accumulates);
    s = upg_op_signature_of(UPG_OP_SWIGLU);
    assert_true(s.out == 'a' && s.in == 'a' && s.accumulates);
    assert_string_equal(upg_op_name(UPG_OP_GATE_UP), "GATE_UP");
    assert_string_equal(upg_op_name(UPG_OP_COUNT), "?");
}

static const char expected_text[] =
    "1 layers, 10 ops, 7 slots, 1472 bytes of scratch a row\n"
    "s0     f32          64 wide      256 bytes at       0\n"
    "s1     plain        64 wide      256 bytes at     256\n"
    "s2     f32          64 wide      256 bytes at     512\n"
    "s3     plain        64 wide      256 bytes at     256\n"
    "s4     plain        64 wide      256 bytes at     256\n"
    "s5     rotated      96 wide      960 bytes at     512  blocks of 32, seed 0x2\n"
    "s6     plain        64 wide      256 bytes at     256\n"
    "0      EMBED         layer 0   s0 < token model.embed_tokens.weight [320][64] BF16\n"
    "1      NORM_PREPARE  layer 0   s1 < s0 model.layers.0.input_layernorm.weight [64]\n"
    "2      QKV_ROPE      layer 0   s2 kv < s1 model.layers.0.self_attn.q_proj.weight [64][64] BF16"
    " model.layers.0.self_attn.k_proj.weight [32][64] BF16"
    " model.layers.0.self_attn.v_proj.weight [32][64] BF16\n"
    "3      ATTENTION     layer 0   s3 < s2 kv\n"
    "4      GEMV_ADD      layer 0   s0 < s0 s3 model.layers.0.self_attn.o_proj.weight [64][64]"
    " BF16\n"
    "5      NORM_PREPARE  layer 0   s4 < s0 model.layers.0.post_attention_layernorm.weight [64]\n"
    "6      GATE_UP       layer 0   s5 < s4 model.layers.0.mlp.gate_proj.weight [96][64] BF16"
    " model.layers.0.mlp.up_proj.weight [96][64] BF16\n"
    "7      GEMV_ADD      layer 0   s0 < s0 s5 model.layers.0.mlp.down_proj.weight [64][96] coded"
    " 2.5+4+3.5\n"
    "8      NORM_PREPARE  layer 1   s6 < s0 model.norm.weight [64]\n"
    "9      LOGITS        layer 1   logits < s6 lm_head.weight [320][64] BF16\n";

static const char plain_text[] =
    "8      APPEND_KEY    layer 0   k < s7\n"
    "9      APPEND_VALUE  layer 0   v < s5\n"
    "10     ATTEND        layer 0   s8 < s6 kv\n"
    "11     PREPARE       layer 0   s9 < s8\n"
    "12     GEMV          layer 0   s10 < s9 model.layers.0.self_attn.o_proj.weight [64][64] BF16\n"
    "13     ADD           layer 0   s0 < s0 s10\n"
    "14     NORM          layer 0   s11 < s0 model.layers.0.post_attention_layernorm.weight [64]\n";

static void prints_plain_ops(void **state)
{
    test_model   m;
    upg_program *plain;
    upg_buffer   text;

    (void)state;
    make(1, false, &m);
    OK(upg_program_build_as(UPG_PROGRAM_UNFUSED, m.weights, &plain, &err));
    upg_buffer_init(&text, 1 << 20);
    OK(upg_program_print(plain, &text, &err));
    assert_non_null(strstr(text.data, plain_text));
    upg_buffer_deinit(&text);
    upg_program_close(plain);
    test_model_close(&m);
}

static void prints(void **state)
{
    test_model m;
    upg_buffer text;

    (void)state;
    make(1, false, &m);
    OK(test_model_code_matrix(&m, &m.weights->layers[0].down, 1, 2, &err));
    OK(test_model_rebuild(&m, &err));
    upg_buffer_init(&text, 1 << 20);
    OK(upg_program_print(m.program, &text, &err));
    assert_string_equal(text.data, expected_text);
    upg_buffer_deinit(&text);
    upg_buffer_init(&text, 100);
    assert_int_equal(upg_program_print(m.program, &text, &err), UPG_E_BUDGET);
    upg_buffer_deinit(&text);
    test_model_close(&m);
}

static void out_of_memory(void **state)
{
    test_model   m;
    upg_program *program;
    upg_status   st = UPG_E_NOMEM;
    uint64_t     n = 0;

    (void)state;
    make(1, false, &m);
    for (; st != UPG_OK && n < 100; n++) {
        upg_alloc_fail_after(n);
        st = upg_program_build_as(n % 2 ? UPG_PROGRAM_UNFUSED : UPG_PROGRAM_FUSED, m.weights,
                                  &program, &err);
        assert_true(st == UPG_OK ? program != NULL : st == UPG_E_NOMEM && program == NULL);
    }
    upg_alloc_fail_after(UINT64_MAX);
    assert_int_equal(st, UPG_OK);
    assert_true(n > 5);
    upg_program_close(program);
    upg_program_close(NULL);
    test_model_close(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ops_stand_in_order),
        cmocka_unit_test(plain_ops_stand_in_order),
        cmocka_unit_test(preparations_follow_the_matrices),
        cmocka_unit_test(outliers_keep_the_plain_vector),
        cmocka_unit_test(kinds_may_mix),
        cmocka_unit_test(refuses_different_preparations),
        cmocka_unit_test(refuses_wrong_shapes),
        cmocka_unit_test(scratch_is_reused),
        cmocka_unit_test(plans_random_ranges),
        cmocka_unit_test(signatures_are_read),
        cmocka_unit_test(prints),
        cmocka_unit_test(prints_plain_ops),
        cmocka_unit_test(out_of_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
