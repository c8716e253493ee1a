/* Encoding one matrix to the nearest path: error against the code's own, bands, odd shapes, weights
 * of rows, bad values, threads. */
#include "compress_fixture.h"

#include <stdatomic.h>

/* The squared error of each code on normal numbers, as measured with 64 × 4096 of them. */
static const struct {
    uint32_t rate2;
    double   error;
} codes[] = {
    { 4, .0757 }, { 5, .0386 }, { 6, .0192 }, { 7, .0099 }, { 8, .00499 }, { 10, .00129 }
};

static void error_is_that_of_the_code(void **state)
{
    enum { ROWS = 192, COLS = 512 };
    float     *w = gaussian(ROWS * COLS, 1);
    upg_matrix m = dense_matrix(ROWS, COLS, w);
    encode_env e;

    (void)state;
    env_open(&e, 2);
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
        upg_plan_unit      unit = unit_of(&m, 0, ROWS, codes[i].rate2);
        upg_encoded_matrix encoded;
        double             relative;

        OK(upg_encode_matrix(&e.context, &unit, 1, NULL, &encoded, &err));
        relative = encoded.error2 / encoded.energy2;
        /* 98304 numbers: 3 standard deviations of the mean are about 2.5 %; the free start and end
         * of each column and the fitted scale bring a little more */
        if (relative < .95 * codes[i].error || relative > 1.03 * codes[i].error)
            fail_msg("rate %u/2: %g, the code has %g", codes[i].rate2, relative, codes[i].error);
        upg_encoded_deinit(&encoded);
    }
    env_close(&e);
    free(w);
}

/* What is reported is what a decoder finds. */
static void check_report(const encode_env *e, const upg_plan_unit *units, uint32_t n_units,
                         const upg_encoded_matrix *encoded, const float *w)
{
    const upg_matrix *m = units[0].matrix;
    size_t            n = (size_t)m->n_rows * m->n_cols;
    float            *back = decode(e, units, n_units, encoded), *zero = calloc(n, sizeof *zero);
    double            error2 = distance2(w, back, n), energy2 = distance2(w, zero, n);

    assert_true(fabs(encoded->energy2 - energy2) <= 1e-5 * energy2);
    /* both sides round in f32: 1e-6 of the energy is below every code's error */
    if (fabs(encoded->error2 - error2) > 1e-3 * error2 + 1e-6 * energy2)
        fail_msg("%u × %u: reported error %g, found %g", m->n_rows, m->n_cols, encoded->error2,
                 error2);
    free(back);
    free(zero);
}

static void odd_shapes(void **state)
{
    static const uint32_t shapes[][2] = { { 1, 1 },   { 1, 64 },  { 2, 7 },     { 3, 8 },
                                          { 63, 33 }, { 65, 31 }, { 130, 100 }, { 5, 1056 },
                                          { 70, 1 },  { 9, 2048 } };
    encode_env            e;

    (void)state;
    env_open(&e, 2);
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
            uint32_t           rows = shapes[s][0], cols = shapes[s][1];
            float             *w = gaussian((size_t)rows * cols, s);
            upg_matrix         m = dense_matrix(rows, cols, w);
            upg_plan_unit      unit = unit_of(&m, 0, rows, codes[i].rate2);
            upg_encoded_matrix encoded;

            OK(upg_encode_matrix(&e.context, &unit, 1, NULL, &encoded, &err));
            assert_int_equal(encoded.n_words, upg_plan_unit_words(&unit));
            check_report(&e, &unit, 1, &encoded, w);
            if ((size_t)rows * cols > 1000)
                assert_true(encoded.error2 < 1.2 * codes[i].error * encoded.energy2);
            upg_encoded_deinit(&encoded);
            free(w);
        }
    env_close(&e);
}

static void bands_are_sequences_of_their_own(void **state)
{
    enum { ROWS = 200, COLS = 96 };
    float        *w = gaussian(ROWS * COLS, 3), *back;
    upg_matrix    m = dense_matrix(ROWS, COLS, w);
    upg_plan_unit units[] = { unit_of(&m, 0, 64, 10), unit_of(&m, 64, 1, 5), unit_of(&m, 65, 62, 7),
                              unit_of(&m, 127, 73, 4) };
    upg_encoded_matrix encoded;
    encode_env         e;

    (void)state;
    env_open(&e, 2);
    OK(upg_encode_matrix(&e.context, units, 4, NULL, &encoded, &err));
    check_report(&e, units, 4, &encoded, w);
    back = decode(&e, units, 4, &encoded);
    /* each band has the error of its rate: 5, (one row: no trellis to speak of), 3.5, 2 bits */
    assert_true(distance2(w, back, 64 * COLS) < .0017 * 64 * COLS);
    assert_true(distance2(w + 65 * COLS, back + 65 * COLS, 62 * COLS) < .012 * 62 * COLS);
    assert_true(distance2(w + 65 * COLS, back + 65 * COLS, 62 * COLS) > .007 * 62 * COLS);
    assert_true(distance2(w + 127 * COLS, back + 127 * COLS, 73 * COLS) > .055 * 73 * COLS);
    assert_true(distance2(w + 127 * COLS, back + 127 * COLS, 73 * COLS) < .09 * 73 * COLS);
    free(back);
    upg_encoded_deinit(&encoded);
    env_close(&e);
    free(w);
}

static void degenerate_rows(void **state)
{
    enum { ROWS = 40, COLS = 64 };
    float             *w = gaussian(ROWS * COLS, 4), *back;
    upg_matrix         m = dense_matrix(ROWS, COLS, w);
    upg_plan_unit      unit = unit_of(&m, 0, ROWS, 6);
    upg_encoded_matrix encoded;
    encode_env         e;

    (void)state;
    memset(w, 0, COLS * sizeof *w); /* zero row, first and last; constant rows; a tiny one */
    memset(w + (ROWS - 1) * COLS, 0, COLS * sizeof *w);
    for (int i = 0; i < COLS; i++) {
        w[7 * COLS + i] = 3;
        w[8 * COLS + i] = i == 5 ? 100 : 0;
        w[9 * COLS + i] *= 1e-30f;
    }
    env_open(&e, 1);
    OK(upg_encode_matrix(&e.context, &unit, 1, NULL, &encoded, &err));
    check_report(&e, &unit, 1, &encoded, w);
    back = decode(&e, &unit, 1, &encoded);
    for (int i = 0; i < COLS; i++)
        assert_true(back[i] == 0 && back[(ROWS - 1) * COLS + i] == 0 && back[9 * COLS + i] == 0);
    assert_true(distance2(w + 7 * COLS, back + 7 * COLS, COLS) < .2 * 9 * COLS);
    assert_true(distance2(w + 8 * COLS, back + 8 * COLS, COLS) < .2 * 10000);
    free(back);
    upg_encoded_deinit(&encoded);

    memset(w, 0, ROWS * COLS * sizeof *w); /* nothing at all */
    OK(upg_encode_matrix(&e.context, &unit, 1, NULL, &encoded, &err));
    assert_true(encoded.error2 == 0 && encoded.energy2 == 0);
    upg_encoded_deinit(&encoded);
    env_close(&e);
    free(w);
}

static void weighted_rows_come_out_nearer(void **state)
{
    enum { ROWS = 128, COLS = 256 };
    float             *w = gaussian(ROWS * COLS, 5), *plain, *weighted, weights[ROWS];
    upg_matrix         m = dense_matrix(ROWS, COLS, w);
    upg_plan_unit      unit = unit_of(&m, 0, ROWS, 5);
    upg_encoded_matrix encoded;
    encode_env         e;
    double             heavy[2] = { 0 }, light[2] = { 0 }; /* errors without and with weights */

    (void)state;
    env_open(&e, 2);
    for (int r = 0; r < ROWS; r++)
        weights[r] = r % 4 == 0 ? 16.0f : .5f;
    OK(upg_encode_matrix(&e.context, &unit, 1, NULL, &encoded, &err));
    plain = decode(&e, &unit, 1, &encoded);
    upg_encoded_deinit(&encoded);
    OK(upg_encode_matrix(&e.context, &unit, 1, weights, &encoded, &err));
    check_report(&e, &unit, 1, &encoded, w);
    weighted = decode(&e, &unit, 1, &encoded);
    upg_encoded_deinit(&encoded);
    for (size_t r = 0; r < ROWS; r++)
        for (int k = 0; k < 2; k++)
            (r % 4 == 0 ? heavy : light)[k] +=
                distance2(w + r * COLS, (k ? weighted : plain) + r * COLS, COLS);
    print_message("heavy rows %.4f -> %.4f, light rows %.4f -> %.4f\n", heavy[0] / (32 * COLS),
                  heavy[1] / (32 * COLS), light[0] / (96 * COLS), light[1] / (96 * COLS));
    assert_true(heavy[1] < .75 * heavy[0] && light[1] > light[0]);
    assert_true(16 * heavy[1] + .5 * light[1] < .85 * (16 * heavy[0] + .5 * light[0]));
    free(plain);
    free(weighted);
    env_close(&e);
    free(w);
}

static void bad_values_are_named(void **state)
{
    enum { ROWS = 70, COLS = 48 };
    static const float bad[] = { NAN, INFINITY, -INFINITY };
    float             *w = gaussian(ROWS * COLS, 6);
    upg_matrix         m = dense_matrix(ROWS, COLS, w);
    upg_plan_unit      unit = unit_of(&m, 0, ROWS, 6);
    upg_encoded_matrix encoded;
    encode_env         e;

    (void)state;
    env_open(&e, 2);
    for (size_t i = 0; i < 3; i++) {
        float keep = w[66 * COLS + 31];

        w[66 * COLS + 31] = bad[i];
        assert_int_equal(upg_encode_matrix(&e.context, &unit, 1, NULL, &encoded, &err), UPG_E_DATA);
        assert_non_null(strstr(err.message, "test.weight"));
        assert_non_null(strstr(err.message, "66"));
        assert_non_null(strstr(err.message, "31"));
        assert_null(encoded.bits);
        w[66 * COLS + 31] = keep;
    }
    for (int c = 0; c < COLS; c++) /* finite, but no fp16 scale holds it */
        w[12 * COLS + c] = 1e6f;
    assert_int_equal(upg_encode_matrix(&e.context, &unit, 1, NULL, &encoded, &err), UPG_E_DATA);
    assert_non_null(strstr(err.message, "test.weight"));
    assert_non_null(strstr(err.message, "row 12"));
    env_close(&e);
    free(w);
}

static void threads_change_nothing(void **state)
{
    enum { ROWS = 150, COLS = 1100 };
    float             *w = gaussian(ROWS * COLS, 8);
    upg_matrix         m = dense_matrix(ROWS, COLS, w);
    upg_plan_unit      units[] = { unit_of(&m, 0, 64, 7), unit_of(&m, 64, 86, 4) };
    upg_encoded_matrix first, other;

    (void)state;
    for (uint32_t threads = 1; threads <= 3; threads++) {
        encode_env e;

        env_open(&e, threads);
        OK(upg_encode_matrix(&e.context, units, 2, NULL, threads == 1 ? &first : &other, &err));
        env_close(&e);
        if (threads == 1)
            continue;
        assert_int_equal(first.n_words, other.n_words);
        assert_memory_equal(first.bits, other.bits, first.n_words * sizeof *first.bits);
        assert_memory_equal(first.scales, other.scales, ROWS * sizeof *first.scales);
        assert_true(first.error2 == other.error2 && first.energy2 == other.energy2);
        upg_encoded_deinit(&other);
    }
    upg_encoded_deinit(&first);
    free(w);
}

static void cancel_and_memory(void **state)
{
    enum { ROWS = 64, COLS = 64 };
    float             *w = gaussian(ROWS * COLS, 9);
    upg_matrix         m = dense_matrix(ROWS, COLS, w);
    upg_plan_unit      unit = unit_of(&m, 0, ROWS, 6);
    upg_encoded_matrix encoded;
    atomic_bool        cancel = true;
    encode_env         e;
    upg_status         st = UPG_E_NOMEM;

    (void)state;
    env_open(&e, 1);
    e.listener.cancel = &cancel;
    assert_int_equal(upg_encode_matrix(&e.context, &unit, 1, NULL, &encoded, &err),
                     UPG_E_CANCELLED);
    e.listener.cancel = NULL;
    upg_meter_start(&e.meter, &e.listener, "test", "weights", 1);
    for (uint64_t n = 0; st == UPG_E_NOMEM; n++) {
        upg_alloc_fail_after(n);
        st = upg_encode_matrix(&e.context, &unit, 1, NULL, &encoded, &err);
        upg_alloc_fail_after(UINT64_MAX);
        assert_true(st == UPG_OK ? n > 5 : encoded.bits == NULL);
    }
    OK(st);
    upg_encoded_deinit(&encoded);
    env_close(&e);
    free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(error_is_that_of_the_code),        cmocka_unit_test(odd_shapes),
        cmocka_unit_test(bands_are_sequences_of_their_own), cmocka_unit_test(degenerate_rows),
        cmocka_unit_test(weighted_rows_come_out_nearer),    cmocka_unit_test(bad_values_are_named),
        cmocka_unit_test(threads_change_nothing),           cmocka_unit_test(cancel_and_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
