/* The last step of a coded product: every ISA gives the scalar kernel's bits, for every rate and
 * constraint length, from any row on, at the limits of int32; and the scalar one gives the sums of
 * the code's definition. */
#include "kernel_check.h"

#include "kernels/quantised.h"

enum { MAX_ROWS = 400 };

/* Random taps with Σ|p| near the limit of 32767. */
static upg_code make_code(uint32_t rate2, uint32_t length)
{
    uint64_t counter = rate2 * 100 + length;
    upg_code code = { .rate2 = (uint8_t)rate2,
                      .k0 = (uint8_t)(rate2 / 2),
                      .k1 = (uint8_t)(rate2 / 2 + rate2 % 2),
                      .length = (uint8_t)length,
                      .gain = 0.00371f };

    for (uint32_t i = 0; i < length; i++)
        code.taps[i] = (int16_t)kc_int(&counter, -32767 / (int)length, 32767 / (int)length);
    return code;
}

/* The largest |u| whose sums stay below 2^31 with any signs: kernels may take int32 up to it. */
static int32_t largest_small(const upg_code *code)
{
    int32_t taps = 1;

    for (uint32_t i = 0; i < code->length; i++)
        taps += abs(code->taps[i]);
    return INT32_MAX / taps;
}

/* fill: 0 random, 1 and 2 the ends of int32, 3 small values, 4 and 5 all sums at the end of int32
 * or just past it */
static int32_t *make_u(const upg_band *band, int fill)
{
    uint64_t counter = 77;
    int32_t *u = kc_alloc(band->n_binary * sizeof *u);

    for (uint32_t b = 0; b < band->n_binary; b++)
        u[b] = fill == 0   ? (int32_t)(uint32_t)upg_random_u64(KC_SEED, counter++)
               : fill == 1 ? INT32_MAX
               : fill == 2 ? -INT32_MAX
               : fill == 3 ? kc_int(&counter, -100, 100)
                           : (largest_small(&band->code) + fill - 4) *
                                 (kc_int(&counter, 0, 3) > 0 ? 1 : -1);
    return u;
}

static uint16_t *make_scales(uint32_t n)
{
    uint16_t *scales = kc_alloc(n * sizeof *scales);

    for (uint32_t i = 0; i < n; i++)
        scales[i] = upg_f16_from_f32((float)upg_random_unit(KC_SEED, i) + 0.001f);
    scales[0] = 1; /* the smallest subnormal */
    return scales;
}

static void check_rows(const upg_kernels *scalar, const upg_kernels *k, const upg_band *band,
                       const int32_t *u, uint32_t row0, uint32_t n)
{
    float *want = kc_alloc(n * sizeof *want), *got = kc_alloc(n * sizeof *got);

    scalar->fir(band, row0, n, u, 0.013f, want);
    k->fir(band, row0, n, u, 0.013f, got);
    for (uint32_t r = 0; r < n; r++)
        if (memcmp(&want[r], &got[r], sizeof *got) != 0)
            fail_msg("%s: rate %u/2, L %u, rows from %u: row %u of %u is %.9g, not %.9g", k->name,
                     band->code.rate2, band->code.length, row0, r, n, (double)got[r],
                     (double)want[r]);
    kc_check_guards(got, n * sizeof *got);
    kc_free(want);
    kc_free(got);
}

static void check_band(const upg_kernels *scalar, uint32_t rate2, uint32_t length, int fill)
{
    static const uint32_t counts[] = { 1, 2, 3, 8, 31, 64, 65, 127, 128, 129, 300 };
    uint16_t             *scales = make_scales(MAX_ROWS);
    upg_band band = { .code = make_code(rate2, length), .n_rows = MAX_ROWS, .scales = scales };
    int32_t *u;

    band.n_binary = (uint32_t)upg_code_binary_rows(&band.code, MAX_ROWS);
    u = make_u(&band, fill);
    for (size_t level = 0; level < kc_level_count(); level++) {
        upg_kernels k;

        upg_kernels_select(kc_flags(level), &k);
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
            for (uint32_t row0 = 0; row0 < 4; row0++)
                check_rows(scalar, &k, &band, u, row0, counts[i]);
        check_rows(scalar, &k, &band, u, MAX_ROWS - 1, 1);
    }
    kc_free(u);
    kc_free(scales);
}

static void fir_equals_scalar(void **state)
{
    static const uint32_t rates[] = { 4, 5, 6, 7, 8, 10 };
    upg_kernels           scalar;

    (void)state;
    upg_kernels_select(0, &scalar);
    for (size_t i = 0; i < sizeof rates / sizeof *rates; i++)
        for (uint32_t length = UPG_CODE_MIN_LENGTH; length <= UPG_CODE_MAX_LENGTH; length++)
            for (int fill = 0; fill < 6; fill++)
                check_band(&scalar, rates[i], length, fill);
}

/* Y_r from the definition in code.h, for a code whose sums can be followed by hand. */
static void fir_is_the_definition(void **state)
{
    upg_code    code = { .rate2 = 5, .k0 = 2, .k1 = 3, .length = 8, .gain = 1.0f };
    uint16_t    scales[4];
    upg_band    band = { .code = code, .n_rows = 4, .scales = scales };
    int32_t     u[16];
    float       y[4];
    upg_kernels k;

    (void)state;
    band.code.taps[0] = 3;  /* the newest bit */
    band.code.taps[7] = -1; /* the oldest */
    band.n_binary = (uint32_t)upg_code_binary_rows(&band.code, 4);
    assert_int_equal(band.n_binary, 6 + 10);
    for (int32_t b = 0; b < 16; b++)
        u[b] = b * b;
    for (int r = 0; r < 4; r++)
        scales[r] = upg_f16_from_f32(0.5f);
    upg_kernels_select(0, &k);
    k.fir(&band, 0, 4, u, 2.0f, y);
    /* newest bits of the rows: 7, 10, 12, 15; oldest seven before */
    assert_true(y[0] == 3 * 49 - 0 && y[1] == 3 * 100 - 9);
    assert_true(y[2] == 3 * 144 - 25 && y[3] == 3 * 225 - 64);
}

static void coded_scale_equals_scalar(void **state)
{
    upg_kernels scalar, k;
    uint16_t   *scales = make_scales(70);
    int32_t     sums[70];

    (void)state;
    for (int i = 0; i < 70; i++)
        sums[i] = (int32_t)(uint32_t)upg_random_u64(KC_SEED, (uint64_t)i);
    sums[1] = INT32_MAX, sums[2] = INT32_MIN, sums[3] = 0;
    upg_kernels_select(0, &scalar);
    for (size_t level = 0; level < kc_level_count(); level++) {
        upg_kernels_select(kc_flags(level), &k);
        for (size_t n = 0; n <= 70; n++) {
            float *want = kc_alloc(n * sizeof *want), *got = kc_alloc(n * sizeof *got);

            scalar.coded_scale(n, sums, scales, 0.0053f, 0.7f, want);
            k.coded_scale(n, sums, scales, 0.0053f, 0.7f, got);
            if (n > 0)
                assert_memory_equal(want, got, n * sizeof *got);
            kc_check_guards(got, n * sizeof *got);
            kc_free(want);
            kc_free(got);
        }
    }
    kc_free(scales);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fir_equals_scalar),
        cmocka_unit_test(fir_is_the_definition),
        cmocka_unit_test(coded_scale_equals_scalar),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
