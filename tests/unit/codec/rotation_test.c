/* The rotation keeps products, is undone by its inverse, and takes its signs from the seed. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/random.h"
#include "codec/rotation.h"

static void block_sizes(void **state)
{
    static const uint32_t cases[][2] = { { 1, 1 },           { 2, 2 },         { 7, 1 },
                                         { 48, 16 },         { 100, 4 },       { 1024, 1024 },
                                         { 2048, 1024 },     { 5120, 1024 },   { 17920, 512 },
                                         { 1u << 31, 1024 }, { UINT32_MAX, 1 } };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        upg_rotation rotation = upg_rotation_make(cases[i][0], 3);

        assert_int_equal(rotation.width, cases[i][0]);
        assert_int_equal(rotation.block, cases[i][1]);
        assert_int_equal(rotation.seed, 3);
    }
}

static void signs_come_from_the_seed(void **state)
{
    upg_rotation rotation = upg_rotation_make(200, 42);
    float        signs[200];
    int          negative = 0;

    (void)state;
    upg_rotation_signs(&rotation, signs);
    for (uint32_t j = 0; j < 200; j++) {
        int bit = (int)(upg_random_u64(42, j / 64) >> (j % 64) & 1);

        assert_true(signs[j] == (bit ? -1.0f : 1.0f));
        negative += bit;
    }
    assert_true(negative > 70 && negative < 130);
}

/* Entry (i, j) of the Sylvester matrix is (−1)^popcount(i & j). */
static void hadamard_is_sylvester(void **state)
{
    float x[64];

    (void)state;
    for (uint32_t block = 1; block <= 64; block *= 2)
        for (uint32_t j = 0; j < 64; j++) {
            for (uint32_t i = 0; i < 64; i++)
                x[i] = i == j ? 1.0f : 0.0f;
            upg_hadamard(64, block, x);
            for (uint32_t i = 0; i < 64; i++) {
                float scale = 1.0f / sqrtf((float)block), want = 0;

                if (i / block == j / block)
                    want = __builtin_popcount(i % block & j % block) % 2 ? -scale : scale;
                assert_true(x[i] == want);
            }
        }
}

static void products_survive(void **state)
{
    static const uint32_t widths[] = { 1, 3, 8, 40, 96, 1792, 2048 };

    (void)state;
    for (size_t k = 0; k < sizeof widths / sizeof widths[0]; k++) {
        uint32_t     n = widths[k];
        upg_rotation rotation = upg_rotation_make(n, k);
        float       *x = malloc(2 * n * sizeof *x), *signs = malloc(n * sizeof *signs);
        float       *before = malloc(2 * n * sizeof *before);
        double       dot = 0, rotated = 0, norm = 0;

        assert_true(x != NULL && signs != NULL && before != NULL);
        upg_rotation_signs(&rotation, signs);
        for (uint32_t i = 0; i < 2 * n; i++)
            before[i] = x[i] = (float)(upg_random_unit(9, i) - 0.5);
        upg_rotation_apply(&rotation, signs, x, 2);
        for (uint32_t i = 0; i < n; i++) {
            dot += (double)before[i] * (double)before[n + i];
            rotated += (double)x[i] * (double)x[n + i];
            norm += (double)before[i] * (double)before[i];
        }
        /* 10 additions and a product, each rounded to 2^-24, on numbers of size one */
        assert_true(fabs(dot - rotated) <= 1e-5 * (1 + norm));
        upg_rotation_undo(&rotation, signs, x, 2);
        for (uint32_t i = 0; i < 2 * n; i++)
            assert_true(fabsf(x[i] - before[i]) <= 1e-5f);
        free(x);
        free(signs);
        free(before);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(block_sizes),
        cmocka_unit_test(signs_come_from_the_seed),
        cmocka_unit_test(hadamard_is_sylvester),
        cmocka_unit_test(products_survive),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
