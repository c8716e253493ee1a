/* Outliers found where they are planted, none where there are none, bought when they pay, and
 * encoding beside them. */
#include "compress_fixture.h"

#include "compress/outlier_search.h"

enum { ROWS = 300, COLS = 256 };

/* A plan of one matrix in two units. */
typedef struct searched {
    upg_matrix    matrix;
    upg_plan_unit units[2];
    upg_plan      plan;
    upg_arena     arena;
} searched;

static void search(searched *s, const float *values, uint32_t threads)
{
    upg_pool *pool = NULL;

    *s = (searched) { .matrix = dense_matrix(ROWS, COLS, values) };
    s->units[0] = unit_of(&s->matrix, 0, 100, 4);
    s->units[1] = unit_of(&s->matrix, 100, 200, 4);
    s->plan = (upg_plan) { .n_units = 2, .units = s->units };
    OK(upg_pool_create(threads, &pool, &err));
    OK(upg_outliers_find(&s->plan, pool, &s->arena, &err));
    upg_pool_close(pool);
}

static void gaussian_has_none(void **state)
{
    float   *w = gaussian((size_t)ROWS * COLS, 1);
    searched s;

    (void)state;
    search(&s, w, 2);
    assert_int_equal(s.plan.n_candidates, 0);
    upg_arena_deinit(&s.arena);
    memset(w, 0, (size_t)ROWS * COLS * sizeof *w);
    search(&s, w, 1);
    assert_int_equal(s.plan.n_candidates, 0);
    upg_arena_deinit(&s.arena);
    w[5] = NAN;
    search(&s, w, 1);
    assert_int_equal(s.plan.n_candidates, 0);
    upg_arena_deinit(&s.arena);
    free(w);
}

/* A few weights of 20 … 60 σ among Gaussian ones, all in the second unit. */
static void single_weights(void **state)
{
    float              *w = gaussian((size_t)ROWS * COLS, 2);
    searched            s;
    const upg_outliers *o;
    float               row[COLS];

    (void)state;
    for (uint32_t k = 0; k < 40; k++)
        w[(size_t)(100 + 5 * k) * COLS + 37 * k % COLS] = (k % 2 ? -20 - (float)k : 20 + (float)k);
    search(&s, w, 2);
    assert_int_equal(s.plan.n_candidates, 1);
    o = s.plan.candidates[0].outliers;
    assert_int_equal(o->n_columns, 0);
    assert_int_equal(o->n_sparse, 40);
    assert_int_equal(s.plan.candidates[0].counts.n_sparse, 40);
    for (uint32_t k = 0; k < 40; k++) {
        uint32_t r = 100 + 5 * k, j = 37 * k % COLS;

        memset(row, 0, sizeof row);
        upg_outliers_add_row(o, r, 1, 0, COLS, row);
        assert_float_equal(row[j], w[(size_t)r * COLS + j], 0.51 * (double)o->scale);
        row[j] = 0;
        for (uint32_t i = 0; i < COLS; i++)
            assert_true(row[i] == 0);
    }
    assert_true(s.units[0].removed == 0 && s.units[1].removed > 0.2);
    upg_arena_deinit(&s.arena);
    free(w);
}

/* Columns of 5 and 30 σ become dense, one of 3 σ (below the price of a byte a row) does not; a
 * column that one weight alone makes large costs three bytes and not a column. */
static void columns(void **state)
{
    float              *w = gaussian((size_t)ROWS * COLS, 3);
    searched            s;
    const upg_outliers *o;

    (void)state;
    for (uint32_t r = 0; r < ROWS; r++) {
        w[(size_t)r * COLS + 7] *= 30;
        w[(size_t)r * COLS + 200] *= 5;
        w[(size_t)r * COLS + 90] *= 3;
    }
    w[(size_t)50 * COLS + 130] = 400;
    search(&s, w, 1);
    assert_int_equal(s.plan.n_candidates, 1);
    o = s.plan.candidates[0].outliers;
    assert_int_equal(o->n_columns, 2);
    assert_int_equal(o->column[0], 7);
    assert_int_equal(o->column[1], 200);
    assert_true(o->n_sparse >= 1);
    assert_int_equal(o->columns[o->row_begin[50]], 130);
    assert_true(s.units[0].removed > 0.7 && s.units[1].removed > 0.7);
    assert_true(s.plan.candidates[0].bytes >= 2 * ROWS &&
                s.plan.candidates[0].bytes < 2 * ROWS + 512);
    upg_arena_deinit(&s.arena);
    free(w);
}

/* Heavy tails everywhere: no more than one weight in a thousand. */
static void at_most_one_in_a_thousand(void **state)
{
    float   *w = gaussian((size_t)ROWS * COLS, 4);
    searched s, again;

    (void)state;
    for (size_t i = 0; i < (size_t)ROWS * COLS; i++)
        w[i] = w[i] * w[i] * w[i];
    search(&s, w, 1);
    assert_int_equal(s.plan.n_candidates, 1);
    assert_in_range(s.plan.candidates[0].outliers->n_sparse, 60, ROWS * COLS / 1000);
    search(&again, w, 3); /* the number of threads shows nowhere */
    assert_int_equal(again.plan.candidates[0].outliers->n_sparse,
                     s.plan.candidates[0].outliers->n_sparse);
    assert_memory_equal(again.plan.candidates[0].outliers->values,
                        s.plan.candidates[0].outliers->values,
                        s.plan.candidates[0].outliers->n_sparse);
    assert_true(again.units[0].removed == s.units[0].removed);
    upg_arena_deinit(&s.arena);
    upg_arena_deinit(&again.arena);
    free(w);
}

/* The plan buys them first where they gain more than a rate, and not where they do not fit. */
static void bought_when_they_pay(void **state)
{
    float   *w = gaussian((size_t)ROWS * COLS, 5);
    searched s;
    uint64_t least;

    (void)state;
    for (uint32_t r = 0; r < ROWS; r++)
        w[(size_t)r * COLS + 11] *= 30;
    search(&s, w, 1);
    assert_int_equal(s.plan.n_candidates, 1);
    upg_plan_reset(&s.plan);
    least = s.plan.code_bytes;
    OK(upg_plan_fill(&s.plan, least + s.plan.candidates[0].bytes - 1, &err));
    assert_null(upg_plan_outliers_of(&s.plan, 0));
    upg_plan_reset(&s.plan);
    OK(upg_plan_fill(&s.plan, least + s.plan.candidates[0].bytes, &err));
    assert_ptr_equal(upg_plan_outliers_of(&s.plan, 0), &s.plan.candidates[0]);
    assert_ptr_equal(s.units[0].outliers, s.plan.candidates[0].outliers);
    assert_ptr_equal(s.units[1].outliers, s.plan.candidates[0].outliers);
    assert_int_equal(s.plan.code_bytes, least + s.plan.candidates[0].bytes);
    assert_true(s.plan.predicted_kl < 0.3 * 2 * 4.07); /* two units of sensitivity 1 at 2 bits */
    OK(upg_plan_fill_either(&s.plan, least + 4000, 500, &err));
    assert_non_null(upg_plan_outliers_of(&s.plan, 0));
    assert_true(s.plan.code_bytes <= least + 3500);
    OK(upg_plan_fill_either(&s.plan, least + 4000, least + 4001, &err)); /* never fits */
    assert_null(upg_plan_outliers_of(&s.plan, 0));
    assert_true(s.plan.code_bytes > least + 3000);
    s.plan.n_candidates = 1;
    s.units[0].removed = s.units[1].removed = 0.02; /* a gain of less than one in a hundred */
    OK(upg_plan_fill_either(&s.plan, least + 4000, 500, &err));
    assert_null(upg_plan_outliers_of(&s.plan, 0));
    assert_int_equal(s.plan.n_candidates, 0);
    s.plan.n_candidates = 1;
    /* hardly anything to gain: rates go first, and there they stay */
    s.units[0].removed = s.units[1].removed = 1e-6;
    upg_plan_reset(&s.plan);
    OK(upg_plan_fill(&s.plan, least + 3000, &err));
    assert_null(upg_plan_outliers_of(&s.plan, 0));
    upg_arena_deinit(&s.arena);
    free(w);
}

/* Encoded beside its outliers, a matrix has a small part of the error; the report is what decoding
 * gives. */
static void encoding_beside_outliers(void **state)
{
    float             *w = gaussian((size_t)ROWS * COLS, 6);
    searched           s;
    encode_env         e;
    upg_encoded_matrix with, without;
    float             *decoded;

    (void)state;
    for (uint32_t r = 0; r < ROWS; r++)
        w[(size_t)r * COLS + 99] *= 30;
    w[1234] = -300;
    search(&s, w, 2);
    env_open(&e, 2);
    OK(upg_encode_matrix(&e.context, s.units, 2, NULL, &without, &err));
    s.units[0].outliers = s.units[1].outliers = s.plan.candidates[0].outliers;
    OK(upg_encode_matrix(&e.context, s.units, 2, NULL, &with, &err));
    decoded = decode(&e, s.units, 2, &with);
    assert_float_equal(with.energy2, without.energy2, 1e-6 * with.energy2);
    assert_float_equal(with.error2, distance2(decoded, w, (size_t)ROWS * COLS), 1e-4 * with.error2);
    assert_true(with.error2 < 0.27 * without.error2);
    upg_encoded_deinit(&with);
    upg_encoded_deinit(&without);
    free(decoded);
    env_close(&e);
    upg_arena_deinit(&s.arena);
    free(w);
}

static void out_of_memory(void **state)
{
    float     *w = gaussian((size_t)ROWS * COLS, 7);
    upg_pool  *pool = NULL;
    upg_status st = UPG_E_NOMEM;
    uint64_t   n;

    (void)state;
    OK(upg_pool_create(1, &pool, &err));
    for (uint32_t r = 0; r < ROWS; r++)
        w[(size_t)r * COLS + 11] *= 30;
    w[1234] = -300;
    for (n = 0; st != UPG_OK; n++) {
        searched s = { .matrix = dense_matrix(ROWS, COLS, w) };

        s.units[0] = unit_of(&s.matrix, 0, ROWS, 4);
        s.plan = (upg_plan) { .n_units = 1, .units = s.units };
        upg_alloc_fail_after(n);
        st = upg_outliers_find(&s.plan, pool, &s.arena, &err);
        upg_alloc_fail_after(UINT64_MAX);
        assert_true(st == UPG_OK || st == UPG_E_NOMEM);
        upg_arena_deinit(&s.arena);
    }
    assert_true(n > 12);
    upg_pool_close(pool);
    free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gaussian_has_none),
        cmocka_unit_test(single_weights),
        cmocka_unit_test(columns),
        cmocka_unit_test(at_most_one_in_a_thousand),
        cmocka_unit_test(bought_when_they_pay),
        cmocka_unit_test(encoding_beside_outliers),
        cmocka_unit_test(out_of_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
