/* Tap sets: the library's own are sound, each bad field of another is named, values and indices are
 * what their definitions say. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "codec/code.h"

static const uint8_t known[][2] = { { 4, 12 },  { 5, 12 },  { 6, 12 }, { 7, 12 }, { 8, 12 },
                                    { 10, 12 }, { 4, 14 },  { 5, 14 }, { 6, 14 }, { 7, 14 },
                                    { 8, 14 },  { 10, 14 }, { 4, 16 }, { 5, 16 }, { 6, 16 },
                                    { 7, 16 },  { 8, 16 },  { 10, 16 } };

static int is_prime(int n)
{
    if (n < 2)
        return 0;
    for (int d = 2; d * d <= n; d++)
        if (n % d == 0)
            return 0;
    return 1;
}

static void own_sets_are_sound(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        const upg_code *code = upg_code_find(known[i][0], known[i][1]);
        double          power = 0;

        assert_non_null(code);
        assert_int_equal(code->rate2, known[i][0]);
        assert_int_equal(code->length, known[i][1]);
        assert_int_equal(upg_code_check(code, NULL), UPG_OK);
        for (int t = 0; t < code->length; t++) {
            assert_true(is_prime(abs(code->taps[t])));
            power += code->taps[t] * code->taps[t];
        }
        /* over all windows values have variance g²·Σp², more than 1: paths prefer small values */
        /* a step of the rate divides the error by nearly 4 and 2, a longer code by a little */
        assert_true(upg_code_error(code) > 1.1 * pow(2, -code->rate2) &&
                    upg_code_error(code) < 1.4 * pow(2, -code->rate2));
        power *= (double)code->gain * (double)code->gain;
        assert_true(power > 0.8 && power < 1.5);
    }
    assert_null(upg_code_find(6, 13));
    assert_null(upg_code_find(9, 12));
    assert_null(upg_code_find(0, 0));
}

static void refuse(upg_code code, const char *field)
{
    upg_error err = { 0 };

    assert_int_equal(upg_code_check(&code, &err), UPG_E_FORMAT);
    if (strstr(err.message, field) == NULL)
        fail_msg("\"%s\" does not name %s", err.message, field);
    assert_int_equal(upg_code_check(&code, NULL), UPG_E_FORMAT);
}

static void bad_fields_are_named(void **state)
{
    const upg_code good = *upg_code_find(5, 12);
    upg_code       bad;

    (void)state;
    for (int rate2 = 0; rate2 < 256; rate2++) {
        int allowed = (rate2 >= 4 && rate2 <= 8) || rate2 == 10;

        bad = good;
        bad.rate2 = (uint8_t)rate2;
        bad.k0 = (uint8_t)(rate2 / 2);
        bad.k1 = (uint8_t)((rate2 + 1) / 2);
        if (allowed)
            assert_int_equal(upg_code_check(&bad, NULL), UPG_OK);
        else
            refuse(bad, "rate2");
    }
    bad = good, bad.k0 = 3, refuse(bad, "k0");
    bad = good, bad.k1 = 2, refuse(bad, "k1");
    bad = good, bad.length = 7, refuse(bad, "length");
    bad = good, bad.length = 17, refuse(bad, "length");
    bad = good, bad.length = 255, refuse(bad, "length");
    bad = good, bad.taps[12] = 1, refuse(bad, "taps[12]");
    bad = good, bad.taps[15] = -1, refuse(bad, "taps[15]");
    bad = good, bad.taps[0] = INT16_MIN, refuse(bad, "taps");
    bad = good, bad.taps[3] = 32000, refuse(bad, "taps");
    bad = good, bad.gain = 0, refuse(bad, "gain");
    bad = good, bad.gain = -1, refuse(bad, "gain");
    bad = good, bad.gain = NAN, refuse(bad, "gain");
    bad = good, bad.gain = INFINITY, refuse(bad, "gain");
}

/* The largest sum that is allowed is allowed: 16 taps, Σ = 32767. */
static void largest_taps_fit(void **state)
{
    upg_code code = { .rate2 = 4, .k0 = 2, .k1 = 2, .length = 16, .gain = 1e-4f };
    int16_t *table = malloc((1u << 16) * sizeof *table);

    (void)state;
    for (int i = 0; i < 16; i++)
        code.taps[i] = i % 2 ? 2047 : -2047;
    code.taps[0] = 32767 - 15 * 2047;
    assert_int_equal(upg_code_check(&code, NULL), UPG_OK);
    assert_non_null(table);
    upg_code_table(&code, table);
    for (uint32_t w = 0; w < 1u << 16; w++)
        assert_int_equal(table[w], upg_code_value(&code, w));
    free(table);
    code.taps[0]++;
    assert_int_equal(upg_code_check(&code, NULL), UPG_E_FORMAT);
}

static void table_is_signed_sums(void **state)
{
    static int16_t table[1 << UPG_CODE_MAX_LENGTH];

    (void)state;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        const upg_code *code = upg_code_find(known[i][0], known[i][1]);

        upg_code_table(code, table);
        for (uint32_t w = 0; w < 1u << code->length; w++) {
            int32_t sum = 0;

            for (uint32_t t = 0; t < code->length; t++)
                sum += (2 * (int32_t)(w >> t & 1) - 1) * code->taps[t];
            assert_int_equal(table[w], sum);
            assert_int_equal(upg_code_value(code, w), sum);
        }
    }
}

/* Row by row: k0 bits on even rows, k1 on odd ones, after L − k0 start rows. */
static void indices_count_bits(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        const upg_code *code = upg_code_find(known[i][0], known[i][1]);
        uint64_t        stored = code->length - code->k0;

        for (uint64_t r = 0; r < 100; r++) {
            assert_int_equal(upg_code_bits_before(code, r), stored - (code->length - code->k0));
            stored += r % 2 == 0 ? code->k0 : code->k1;
            assert_int_equal(upg_code_newest(code, r), stored - 1);
            assert_int_equal(upg_code_binary_rows(code, r + 1), stored);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(own_sets_are_sound), cmocka_unit_test(bad_fields_are_named),
        cmocka_unit_test(largest_taps_fit),   cmocka_unit_test(table_is_signed_sums),
        cmocka_unit_test(indices_count_bits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
