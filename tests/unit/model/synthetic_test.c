/* Synthetic models: the benchmark mix adds up, every bit has its place, bad shapes are refused. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
/* cmocka.h wants the above first. */
#include <cmocka.h>

#include "base/alloc.h"
#include "model/architecture.h"
#include "model/synthetic_file.h"
#include "support/temp_folder.h"

static upg_pool *pool;

static int set_up(void **state)
{
    (void)state;
    return upg_pool_create(2, &pool, NULL) != UPG_OK;
}

static int tear_down(void **state)
{
    (void)state;
    upg_pool_close(pool);
    return 0;
}

static upg_weights *make(const char *shape)
{
    upg_weights *w = NULL;
    upg_error    err = { 0 };

    if (upg_weights_synthetic(shape, 0, pool, &w, &err) != UPG_OK)
        fail_msg("%s", err.message);
    return w;
}

/* Bands cover the rows, words lie where they should, padding is zero, scales are usable. */
static void check_matrix(const upg_matrix *m)
{
    const upg_coded_matrix *c = m->coded;
    uint32_t                row = 0;
    uint64_t                bytes = 0;

    assert_int_equal(m->kind, UPG_MATRIX_CODED);
    assert_int_equal(c->n_cols % UPG_GROUP_COLUMNS, 0);
    for (uint32_t i = 0; i < c->n_bands; i++) {
        const upg_band *b = &c->bands[i];
        uint64_t        words = upg_band_words(b->n_binary, c->n_cols), ones = 0;

        assert_int_equal(b->row0, row);
        assert_int_equal((uintptr_t)b->bits % 64, 0);
        assert_int_equal(b->n_binary, upg_code_binary_rows(&b->code, b->n_rows));
        for (uint64_t k = 0; k < words; k++)
            ones += (uint64_t)__builtin_popcount(b->bits[k]);
        assert_in_range(ones * 100 / ((uint64_t)b->n_binary * c->n_cols), 49, 51);
        for (uint32_t r = 0; r < b->n_rows; r++)
            assert_in_range(b->scales[r], 1, 0x7BFF); /* positive, finite fp16 */
        row += b->n_rows;
        bytes += words * 4;
    }
    assert_int_equal(row, m->n_rows);
    assert_in_range(m->bytes, bytes + 2 * (uint64_t)m->n_rows,
                    bytes + 2 * (uint64_t)m->n_rows + 63);
}

static void test_every_matrix(void **state)
{
    upg_weights *w = make("phi4-micro");

    (void)state;
    assert_int_equal(w->config.n_layers, 4);
    assert_int_equal(w->config.hidden, 256);
    assert_int_equal(w->tokenizer_json.size, 0);
    for (uint32_t i = 0; i < upg_weights_matrix_count(w); i++)
        check_matrix(upg_weights_matrix(w, i));
    assert_int_equal(w->embed.coded->n_bands, 3);
    assert_int_equal(w->head.coded->bands[0].code.rate2, 8);
    assert_int_equal(w->layers[3].down.coded->bands[0].code.rate2, 7);
    assert_int_equal(w->layers[3].up.coded->bands[0].code.rate2, 6);
    assert_int_equal(w->layers[1].q.coded->rotation.seed, w->layers[1].v.coded->rotation.seed);
    assert_int_equal(w->layers[1].gate.coded->rotation.seed, w->layers[1].up.coded->rotation.seed);
    assert_int_not_equal(w->layers[1].q.coded->rotation.seed, w->layers[2].q.coded->rotation.seed);
    upg_weights_close(w);
}

static void test_layers_and_sameness(void **state)
{
    upg_weights *a = make("phi4-micro:2"), *b = make("phi4-micro:2");

    (void)state;
    assert_int_equal(a->config.n_layers, 2);
    for (uint32_t i = 0; i < upg_weights_matrix_count(a); i++) {
        const upg_band *x = upg_weights_matrix(a, i)->coded->bands;
        const upg_band *y = upg_weights_matrix(b, i)->coded->bands;

        assert_memory_equal(x->bits, y->bits, upg_band_words(x->n_binary, a->config.hidden) * 4);
        assert_memory_equal(x->scales, y->scales, x->n_rows * sizeof *x->scales);
    }
    upg_weights_close(a);
    upg_weights_close(b);
}

static void same_matrix(const upg_matrix *file, const upg_matrix *memory)
{
    const upg_coded_matrix *x = file->coded, *y = memory->coded;

    assert_string_equal(file->name, memory->name);
    assert_int_equal(x->n_bands, y->n_bands);
    assert_int_equal(x->rotation.seed, y->rotation.seed);
    for (uint32_t i = 0; i < x->n_bands; i++) {
        const upg_band *a = &x->bands[i], *b = &y->bands[i];

        assert_int_equal(a->n_rows, b->n_rows);
        assert_memory_equal(a->bits, b->bits, upg_band_words(a->n_binary, x->n_cols) * 4);
        assert_memory_equal(a->scales, b->scales, a->n_rows * sizeof *a->scales);
    }
}

/* The file holds the weights and the parts that belong into one; others are left out. */
static void test_as_a_file(void **state)
{
    const upg_side_file files[] = {
        { "generation_config.json", { (const uint8_t *)"{\"top_k\": 7}", 12 } },
        { "special_tokens_map.json", { (const uint8_t *)"{}", 2 } },
    };
    char        *folder = make_folder();
    const char  *path = in_folder(folder, "m.upg");
    upg_weights *memory = make("phi4-micro:2"), *w = NULL;
    upg_error    err = { 0 };

    (void)state;
    if (upg_synthetic_write(path, "phi4-micro:2", files, 2, pool, NULL, &err) != UPG_OK ||
        upg_weights_open(path, &w, &err) != UPG_OK)
        fail_msg("%s", err.message);
    assert_int_equal(w->config.n_layers, 2);
    assert_int_equal(w->config.top_k, 7);
    assert_int_equal(w->n_parameters, memory->n_parameters);
    for (uint32_t i = 0; i < upg_weights_matrix_count(memory); i++)
        same_matrix(upg_weights_matrix(w, i), upg_weights_matrix(memory, i));
    assert_true(fabsf(w->final_norm.values[3] - memory->final_norm.values[3]) < 0.01f);
    upg_weights_close(w);
    assert_int_equal(upg_synthetic_write(path, "phi4-micro:2", NULL, 0, pool, NULL, &err),
                     UPG_E_EXISTS);
    upg_weights_close(memory);
    remove_folder(folder);
}

/* A limit that nothing meets makes it say the sizes of a model without building it. */
static void test_phi4_is_the_benchmark_mix(void **state)
{
    upg_weights *w;
    upg_error    err = { 0 };
    const char  *number;

    (void)state;
    assert_int_equal(upg_weights_synthetic("phi4", 3000000000u, pool, &w, &err), UPG_E_BUDGET);
    assert_null(w);
    number = strstr(err.message, "needs ");
    assert_non_null(number);
    assert_in_range(strtoull(number + 6, NULL, 10), 5855000000u, 5870000000u);
    assert_non_null(strstr(err.message, "phi4:18 would fit"));
    assert_int_equal(upg_weights_synthetic("phi4:3", 1000, pool, &w, &err), UPG_E_BUDGET);
    assert_non_null(strstr(err.message, "take a smaller shape"));
}

static void test_bad_shapes(void **state)
{
    static const char *const bad[] = { "",       "phi",     "phi44",   "phi4:",     "phi4:0",
                                       "phi4:x", "phi4:-1", "phi4:2 ", "phi4:1001", "phi4-micro:" };

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        upg_weights *w;
        upg_error    err = { 0 };

        assert_int_equal(upg_weights_synthetic(bad[i], 0, pool, &w, &err), UPG_E_ARG);
        assert_non_null(strstr(err.message, "phi4, phi4-nano, phi4-micro"));
        assert_null(w);
    }
}

static void test_out_of_memory(void **state)
{
    upg_status st = UPG_E_NOMEM;

    (void)state;
    for (uint64_t n = 0; st != UPG_OK; n++) {
        upg_weights *w;
        upg_error    err = { 0 };

        upg_alloc_fail_after(n);
        st = upg_weights_synthetic("phi4-micro:1", 0, pool, &w, &err);
        upg_alloc_fail_after(UINT64_MAX);
        assert_true(st == UPG_OK || (st == UPG_E_NOMEM && w == NULL));
        upg_weights_close(w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_matrix), cmocka_unit_test(test_layers_and_sameness),
        cmocka_unit_test(test_as_a_file),    cmocka_unit_test(test_phi4_is_the_benchmark_mix),
        cmocka_unit_test(test_bad_shapes),   cmocka_unit_test(test_out_of_memory),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
