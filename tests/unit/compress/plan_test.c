/* Plans: units in order, bands, budgets kept and used, the greedy choice against all choices. */
#include "compress_fixture.h"

#include "compress/plan.h"
#include "support/make_checkpoint.h"
#include "support/temp_folder.h"

#include <stdio.h>

typedef struct planned {
    char        *folder;
    upg_weights *weights;
    upg_arena    arena;
    upg_plan     plan;
} planned;

static void plan_open(planned *p, uint32_t vocab, bool tied)
{
    test_model_shape shape = test_model_small();

    *p = (planned) { .folder = make_folder() };
    shape.vocab = vocab;
    shape.tied = tied;
    OK(make_checkpoint(p->folder, &shape, 1, &err));
    OK(upg_weights_open(p->folder, &p->weights, &err));
    OK(upg_plan_create(p->weights, &p->arena, &p->plan, &err));
}

static void plan_close(planned *p)
{
    upg_weights_close(p->weights);
    upg_arena_deinit(&p->arena);
    remove_folder(p->folder);
}

static uint64_t bytes_of(const upg_plan *plan)
{
    uint64_t words = 0;

    for (uint32_t u = 0; u < plan->n_units; u++)
        words += upg_plan_unit_words(&plan->units[u]);
    return 4 * words;
}

static void units_cover_matrices_in_order(void **state)
{
    static const uint32_t vocabs[] = { 320, 4095, 4096, 8199 };

    (void)state;
    for (size_t v = 0; v < sizeof vocabs / sizeof *vocabs; v++)
        for (int tied = 0; tied < 2; tied++) {
            planned  p;
            uint32_t u = 0;

            plan_open(&p, vocabs[v], tied);
            for (uint32_t i = 0; i < upg_weights_matrix_count(p.weights); i++) {
                const upg_matrix *m = upg_weights_matrix(p.weights, i);
                uint32_t          n, row = 0;

                assert_true(u < p.plan.n_units);
                n = upg_plan_units_of(&p.plan, u);
                for (uint32_t b = 0; b < n; b++, u++) {
                    const upg_plan_unit *unit = &p.plan.units[u];

                    assert_ptr_equal(unit->matrix, m);
                    assert_int_equal(unit->row0, row);
                    assert_true(unit->n_rows > 0 && unit->sensitivity > 0);
                    assert_int_equal(unit->code->rate2, 4); /* the lowest, before any budget */
                    if (b + 1 < n)
                        assert_int_equal(unit->n_rows % UPG_BLOCK_ROWS, 0);
                    row += unit->n_rows;
                }
                assert_int_equal(row, m->n_rows);
                /* bands by token for the embedding and the head alone, and only in large ones */
                assert_int_equal(n > 1, vocabs[v] >= 4096 && (m->role == UPG_ROLE_EMBED ||
                                                              m->role == UPG_ROLE_HEAD));
            }
            assert_int_equal(u, p.plan.n_units);
            assert_int_equal(p.plan.code_bytes, bytes_of(&p.plan));
            plan_close(&p);
        }
}

static void budgets_are_kept_and_used(void **state)
{
    planned  p;
    uint64_t least, most;
    double   last = INFINITY;

    (void)state;
    plan_open(&p, 8192, false);
    least = p.plan.code_bytes;
    OK(upg_plan_fill(&p.plan, UINT64_MAX, &err));
    most = p.plan.code_bytes;
    for (uint32_t u = 0; u < p.plan.n_units; u++)
        assert_int_equal(p.plan.units[u].code->rate2, 10);
    assert_true(most > 2 * least);
    for (int step = 0; step <= 40; step++) {
        uint64_t budget = least + (most - least) * (uint64_t)step / 40;
        upg_plan plan;

        OK(upg_plan_create(p.weights, &p.arena, &plan, &err));
        OK(upg_plan_fill(&plan, budget, &err));
        assert_int_equal(plan.code_bytes, bytes_of(&plan));
        assert_true(plan.code_bytes <= budget);
        /* Near the highest rates only the largest units are left to raise, and in so small a model
         * they are a large part of it. */
        assert_true((double)plan.code_bytes >= (step <= 33 ? .998 : .95) * (double)budget);
        assert_true(plan.predicted_kl <= last); /* more bytes are never worse */
        last = plan.predicted_kl;
    }
    plan_close(&p);
}

/* Codes of another length take the same bytes but for their start rows, and lose what their own
 * error says. */
static void longer_codes_lose_less(void **state)
{
    planned p;
    double  usual, lowest;

    (void)state;
    plan_open(&p, 8192, false);
    lowest = p.plan.predicted_kl;
    OK(upg_plan_fill(&p.plan, 2 * p.plan.code_bytes, &err));
    usual = p.plan.predicted_kl;
    for (uint32_t length = 14; length <= 16; length += 2) {
        const upg_code *code = upg_code_find(4, length);
        double          ratio = upg_code_error(code) / upg_code_error(upg_code_find(4, 12));

        upg_plan_set_length(&p.plan, length);
        assert_int_equal(p.plan.code_bytes, bytes_of(&p.plan));
        assert_true(fabs(p.plan.predicted_kl / lowest - ratio) < 1e-9);
        OK(upg_plan_fill(&p.plan, 2 * p.plan.code_bytes, &err));
        for (uint32_t u = 0; u < p.plan.n_units; u++)
            assert_int_equal(p.plan.units[u].code->length, length);
        assert_true(p.plan.predicted_kl < .99 * usual);
        usual = p.plan.predicted_kl;
    }
    plan_close(&p);
}

static void too_small_a_budget(void **state)
{
    planned  p;
    uint64_t least;
    char     figure[32];

    (void)state;
    plan_open(&p, 320, false);
    least = p.plan.code_bytes;
    assert_int_equal(upg_plan_fill(&p.plan, least - 1, &err), UPG_E_BUDGET);
    snprintf(figure, sizeof figure, "%llu", (unsigned long long)least);
    assert_non_null(strstr(err.message, figure));
    snprintf(figure, sizeof figure, "%llu", (unsigned long long)(least - 1));
    assert_non_null(strstr(err.message, figure));
    assert_int_equal(p.plan.code_bytes, least);
    OK(upg_plan_fill(&p.plan, least, &err)); /* exactly the least is enough */
    assert_int_equal(p.plan.code_bytes, least);
    plan_close(&p);
}

/* Squared error of each rate relative to 3 bits, here from the codes' own figures; plan.c uses
 * those of KL, which differ by a few percent. */
static double relative(uint32_t rate2)
{
    static const double error[] = {
        [4] = .0757, [5] = .0386, [6] = .0192, [7] = .0099, [8] = .00499, [10] = .00129
    };

    return error[rate2] / error[6];
}

static double loss(const upg_plan_unit *units, const uint32_t *rate2, uint32_t n)
{
    double sum = 0;

    for (uint32_t u = 0; u < n; u++)
        sum += units[u].sensitivity * relative(rate2[u]);
    return sum;
}

static uint64_t bytes_at(upg_plan_unit unit, uint32_t rate2)
{
    unit.code = upg_code_find(rate2, UPG_CODE_DEFAULT_LENGTH);
    return 4 * upg_plan_unit_words(&unit);
}

/* The least loss of all plans within the budget, by trying every one. */
static double best_loss(const upg_plan_unit *units, uint32_t n, uint64_t budget)
{
    static const uint32_t rates[] = { 4, 5, 6, 7, 8, 10 };
    uint32_t              n_plans = 1, chosen[8];
    double                best = INFINITY;

    for (uint32_t u = 0; u < n; u++)
        n_plans *= 6;
    for (uint32_t i = 0; i < n_plans; i++) {
        uint64_t bytes = 0;
        double   found;

        for (uint32_t u = 0, rest = i; u < n; u++, rest /= 6) {
            chosen[u] = rates[rest % 6];
            bytes += bytes_at(units[u], chosen[u]);
        }
        found = loss(units, chosen, n);
        if (bytes <= budget && found < best)
            best = found;
    }
    return best;
}

static void greedy_is_near_the_best(void **state)
{
    enum { N = 6 };
    static const uint32_t shapes[N][2] = { { 256, 256 }, { 64, 256 },  { 64, 256 },
                                           { 512, 128 }, { 128, 512 }, { 320, 64 } };
    upg_matrix            matrices[N];
    upg_plan_unit         units[N];
    double                worst = 0;

    (void)state;
    for (uint32_t trial = 0; trial < 12; trial++) {
        upg_plan plan = { .n_units = N, .units = units };
        uint32_t chosen[N];
        double   found, best;
        uint64_t budget = 0;

        for (uint32_t u = 0; u < N; u++) {
            matrices[u] = dense_matrix(shapes[u][0], shapes[u][1], NULL);
            units[u] = unit_of(&matrices[u], 0, shapes[u][0], 4);
            units[u].sensitivity = exp(6 * upg_random_unit(trial, u));
            budget += bytes_at(units[u], 4);
        }
        plan.code_bytes = budget;
        budget = budget * (23 + trial) / 20;
        OK(upg_plan_fill(&plan, budget, &err));
        for (uint32_t u = 0; u < N; u++)
            chosen[u] = plan.units[u].code->rate2;
        found = loss(units, chosen, N);
        best = best_loss(units, N, budget);
        assert_true(found >= best * (1 - 1e-12));
        worst = fmax(worst, found / best);
    }
    /* six units: the last raise that does not fit is a large part of the budget */
    print_message("greedy plan: at worst %.3f of the least loss\n", worst);
    assert_true(worst < 1.25);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(units_cover_matrices_in_order),
        cmocka_unit_test(budgets_are_kept_and_used),
        cmocka_unit_test(longer_codes_lose_less),
        cmocka_unit_test(too_small_a_budget),
        cmocka_unit_test(greedy_is_near_the_best),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
