/* The reference backend against itself: batches, KV types, coded against decoded matrices, int8
 * inputs. Also shows that the comparison sees differences. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "support/backend_compare.h"
#include "support/coded_model.h"

enum { MAX_ROWS = 80 };

static const test_executor ref_f32 = { &upg_backend_ref, { .max_rows = MAX_ROWS } };
static const test_executor ref_int8 = { &upg_backend_ref,
                                        { .max_rows = MAX_ROWS, .emulate_int8 = true } };

/* Three sequences of 75, 6 and 4 tokens: page borders, single rows, mixed batches. */
static const uint32_t      mixed[][TEST_MAX_SEQUENCES] = { { 5, 0, 3 }, { 1, 1, 1 }, { 69, 5, 0 } };
static const test_schedule mixed_schedule = { 3, 3, mixed, UPG_KV_F32, false, false, 7 };

static void make(const test_model_shape *shape, bool coded, test_model *model)
{
    upg_error err;

    if (test_model_make(shape, coded, 11, model, &err) != UPG_OK)
        fail_msg("%s", err.message);
}

static test_difference compare(const test_model *model, const test_executor *a,
                               const test_executor *b, const test_schedule *schedule)
{
    test_difference d;
    upg_error       err;

    if (test_backends_compare(model->program, a, b, schedule, &d, &err) != UPG_OK)
        fail_msg("%s", err.message);
    assert_true(d.n_logits > 0);
    return d;
}

static void equals_itself(void **state)
{
    test_model_shape shape = test_model_small();
    test_model       model;
    test_difference  d;

    (void)state;
    make(&shape, true, &model);
    d = compare(&model, &ref_f32, &ref_f32, &mixed_schedule);
    assert_true(d.logits == 0 && d.kv == 0);
    assert_int_equal(d.n_logits, 85);
    test_model_close(&model);
}

/* int8 inputs change results a little: DESIGN gives a relative error² of 0.5 … 2.9e-4 for each
 * product, so a few percent of the range after two layers. */
static void int8_is_close(void **state)
{
    test_model_shape shape = test_model_small();
    test_model       model;
    test_difference  d;

    (void)state;
    make(&shape, true, &model);
    d = compare(&model, &ref_f32, &ref_int8, &mixed_schedule);
    print_message("int8 inputs: logits %.2e, KV %.2e\n", d.logits, d.kv);
    assert_true(d.logits > 1e-5 && d.logits < 0.04);
    assert_true(d.kv > 1e-5 && d.kv < 0.04);
    test_model_close(&model);
}

static void int8_leaves_dense_alone(void **state)
{
    test_model_shape shape = test_model_small();
    test_model       model;
    test_difference  d;

    (void)state;
    make(&shape, false, &model);
    d = compare(&model, &ref_f32, &ref_int8, &mixed_schedule);
    assert_true(d.logits == 0 && d.kv == 0);
    test_model_close(&model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_itself),
        cmocka_unit_test(int8_is_close),
        cmocka_unit_test(int8_leaves_dense_alone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
