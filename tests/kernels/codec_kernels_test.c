/* The coded matrices' kernels of every ISA equal the scalar ones, on random and extreme inputs, and
 * write nothing outside their outputs. */
#include "kernel_check.h"

#include "kernels/quantised.h"

#include <math.h>

#include "codec/rotation.h"

/* random, bits 0, bits 1, x −127, x 127, x 0, bits 0 with x −127: the largest sums */
enum { FILLS = 7 };

static void compare_bitdot(const upg_kernels *ref, const upg_kernels *new, size_t groups,
                           size_t rows, int fill)
{
    uint64_t  counter = groups * 1000 + rows;
    size_t    bytes = groups * UPG_PREPARED_BYTES_PER_GROUP;
    uint32_t *code = kc_alloc(groups * rows * sizeof *code);
    int8_t   *x = kc_alloc(32 * groups);
    void     *prepared_ref = kc_alloc(bytes), *prepared_new = kc_alloc(bytes);
    int32_t  *want = kc_alloc(rows * sizeof *want), *got = kc_alloc(rows * sizeof *got);

    for (size_t i = 0; i < groups * rows; i++)
        code[i] = fill == 1 || fill == 6 ? 0
                  : fill == 2            ? UINT32_MAX
                                         : (uint32_t)upg_random_u64(KC_SEED, counter++);
    for (size_t i = 0; i < 32 * groups; i++)
        x[i] = (int8_t)(fill == 3 || fill == 6 ? -127
                        : fill == 4            ? 127
                        : fill == 5            ? 0
                                               : kc_int(&counter, -127, 127));
    ref->bitdot_prepare(groups, x, prepared_ref);
    ref->bitdot(groups, rows, code, prepared_ref, want);
    new->bitdot_prepare(groups, x, prepared_new);
    new->bitdot(groups, rows, code, prepared_new, got);
    for (size_t t = 0; t < rows; t++)
        if (want[t] != got[t])
            fail_msg("%s: groups %zu, rows %zu, fill %d: u[%zu] is %d, not %d", new->name, groups,
                     rows, fill, t, got[t], want[t]);
    kc_check_guards(got, rows * sizeof *got);
    kc_check_guards(prepared_new, bytes);
    kc_free(code);
    kc_free(x);
    kc_free(prepared_ref);
    kc_free(prepared_new);
    kc_free(want);
    kc_free(got);
}

static void bitdot_equals_scalar(void **state)
{
    static const size_t more[] = { 15, 64, 160, 561 };
    upg_kernels         ref, new;

    (void)state;
    upg_kernels_select(0, &ref);
    for (size_t level = 0; level < kc_level_count(); level++) {
        upg_kernels_select(kc_flags(level), &new);
        for (size_t rows = 16; rows <= 64; rows += 16)
            for (int fill = 0; fill < FILLS; fill++) {
                for (size_t groups = 0; groups <= 9; groups++)
                    compare_bitdot(&ref, &new, groups, rows, fill);
                for (size_t i = 0; i < sizeof more / sizeof more[0]; i++)
                    compare_bitdot(&ref, &new, more[i], rows, fill);
            }
    }
}

/* The scalar kernel itself against bits taken one by one. */
static void bitdot_is_signed_sum(void **state)
{
    _Alignas(64) uint32_t code[2 * 16] = { 0 };
    int8_t                x[64] = { 0 };
    _Alignas(64) uint8_t  prepared[2 * UPG_PREPARED_BYTES_PER_GROUP];
    int32_t               u[16];
    upg_kernels           k;

    (void)state;
    upg_kernels_select(0, &k);
    x[0] = 100, x[31] = -7, x[32] = 50; /* columns 0, 31 and 32 */
    code[3] = 1u | 1u << 31;            /* row 3, group 0 */
    code[16 + 3] = 1u;                  /* row 3, group 1 */
    code[16 + 5] = 1u;
    k.bitdot_prepare(2, x, prepared);
    k.bitdot(2, 16, code, prepared, u);
    assert_int_equal(u[0], -143);
    assert_int_equal(u[3], 143);
    assert_int_equal(u[5], -100 + 7 + 50);
}

static upg_band random_band(uint32_t rate2, uint32_t length, uint32_t n_rows, uint32_t n_cols,
                            uint64_t *counter)
{
    upg_band  band = { .n_rows = n_rows };
    uint64_t  words;
    uint32_t *bits;

    band.code = (upg_code) { .rate2 = (uint8_t)rate2,
                             .k0 = (uint8_t)(rate2 / 2),
                             .k1 = (uint8_t)((rate2 + 1) / 2),
                             .length = (uint8_t)length,
                             .gain = 0.01f };
    for (uint32_t i = 0; i < length; i++)
        band.code.taps[i] = (int16_t)kc_int(counter, -2047, 2047); /* Σ up to 32752 */
    assert_int_equal(upg_code_check(&band.code, NULL), UPG_OK);
    band.n_binary = (uint32_t)upg_code_binary_rows(&band.code, n_rows);
    words = upg_band_words(band.n_binary, n_cols);
    bits = kc_alloc(words * sizeof *bits);
    for (uint64_t i = 0; i < words; i++)
        bits[i] = (uint32_t)upg_random_u64(KC_SEED, (*counter)++);
    band.bits = bits;
    return band;
}

static void compare_decode(const upg_kernels *ref, const upg_kernels *new, const upg_band *band,
                           uint32_t n_cols, uint32_t row0, size_t stride)
{
    uint32_t n = band->n_rows - row0;
    size_t   count = (n - 1) * stride + 32, bytes = count * sizeof(int16_t);

    for (uint32_t group = 0; group < upg_group_count(n_cols); group++) {
        int16_t *want = kc_alloc(bytes), *got = kc_alloc(bytes);

        ref->decode_group(band, n_cols, group, row0, n, want, stride);
        new->decode_group(band, n_cols, group, row0, n, got, stride);
        for (size_t i = 0; i < count; i++)
            if (want[i] != got[i])
                fail_msg("%s: rate2 %u, L %u, %u rows from %u, group %u: v[%zu] is %d, not %d",
                         new->name, band->code.rate2, band->code.length, n, row0, group, i, got[i],
                         want[i]);
        kc_check_guards(got, bytes);
        kc_free(want);
        kc_free(got);
    }
}

static void decode_equals_scalar(void **state)
{
    static const uint8_t rates[] = { 4, 5, 6, 7, 8, 10 };
    upg_kernels          ref, new;
    uint64_t             counter = 0;

    (void)state;
    upg_kernels_select(0, &ref);
    for (size_t level = 0; level < kc_level_count(); level++) {
        upg_kernels_select(kc_flags(level), &new);
        for (size_t i = 0; i < sizeof rates; i++)
            for (uint32_t length = 8; length <= 16; length += length == 12 ? 1 : 4)
                for (uint32_t n_rows = 1; n_rows < 200; n_rows = n_rows * 3 + 1) {
                    uint32_t n_cols = 1 + (uint32_t)kc_int(&counter, 0, 99);
                    upg_band band = random_band(rates[i], length, n_rows, n_cols, &counter);

                    compare_decode(&ref, &new, &band, n_cols, 0, 32);
                    compare_decode(&ref, &new, &band, n_cols, n_rows / 2, 41);
                    compare_decode(&ref, &new, &band, n_cols, n_rows - 1, 32);
                    kc_free((void *)(uintptr_t)band.bits);
                }
    }
}

static void compare_decode_i8(const upg_kernels *ref, const upg_kernels *new, const upg_band *band,
                              uint32_t n_cols, uint32_t row0, size_t extra)
{
    uint32_t n = band->n_rows - row0, n_groups = upg_group_count(n_cols);

    for (uint32_t group = 0; group < n_groups; group += 2) {
        size_t   width = 32 * (size_t)(n_groups - group), stride = width + extra;
        size_t   bytes = (n - 1) * stride + width;
        uint8_t *want = kc_alloc(bytes), *got = kc_alloc(bytes);

        ref->decode_i8(band, n_cols, group, n_groups - group, row0, n, want, stride);
        new->decode_i8(band, n_cols, group, n_groups - group, row0, n, got, stride);
        for (size_t i = 0; i < bytes; i++)
            if (i % stride < width && want[i] != got[i])
                fail_msg("%s: rate2 %u, L %u, %u rows from %u, group %u: byte %zu is %d, not %d",
                         new->name, band->code.rate2, band->code.length, n, row0, group, i, got[i],
                         want[i]);
        kc_check_guards(got, bytes);
        kc_free(want);
        kc_free(got);
    }
}

static void decode_i8_equals_scalar(void **state)
{
    static const uint8_t rates[] = { 4, 5, 6, 7, 8, 10 };
    upg_kernels          ref, new;
    uint64_t             counter = 5;

    (void)state;
    upg_kernels_select(0, &ref);
    for (size_t level = 0; level < kc_level_count(); level++) {
        upg_kernels_select(kc_flags(level), &new);
        for (size_t i = 0; i < sizeof rates; i++)
            for (uint32_t length = 8; length <= 16; length++)
                for (uint32_t n_rows = 1; n_rows < 200; n_rows = n_rows * 3 + 1) {
                    uint32_t n_cols = 1 + (uint32_t)kc_int(&counter, 0, 139);
                    upg_band band = random_band(rates[i], length, n_rows, n_cols, &counter);

                    compare_decode_i8(&ref, &new, &band, n_cols, 0, 0);
                    compare_decode_i8(&ref, &new, &band, n_cols, n_rows / 2, 9);
                    compare_decode_i8(&ref, &new, &band, n_cols, n_rows - 1, 0);
                    kc_free((void *)(uintptr_t)band.bits);
                }
    }
}

/* Every value within half a step of the exact one, the largest ones at ±127 at most. */
static void decode_i8_rounds(void **state)
{
    uint64_t    counter = 8;
    upg_band    band = random_band(6, 12, 50, 64, &counter);
    int32_t     multiplier = upg_int8_multiplier(&band.code);
    int16_t     exact[50 * 32];
    uint8_t     v[50 * 32];
    upg_kernels k;

    (void)state;
    upg_kernels_select(0, &k);
    k.decode_group(&band, 64, 1, 0, 50, exact, 32);
    k.decode_i8(&band, 64, 1, 1, 0, 50, v, 32);
    for (size_t i = 0; i < 50 * 32; i++) {
        int32_t twice = 2 * (multiplier * exact[i] - 32768 * (v[i] - 128));

        assert_true(v[i] >= 1);
        assert_in_range(twice + 32768, 0, 65536);
    }
    kc_free((void *)(uintptr_t)band.bits);
}

/* The scalar kernel against upg_band_row_values, which goes another way. */
static void decode_equals_row_values(void **state)
{
    uint64_t    counter = 77;
    upg_band    band = random_band(5, 12, 37, 75, &counter);
    int32_t     values[75];
    int16_t     v[37 * 32];
    upg_kernels k;

    (void)state;
    upg_kernels_select(0, &k);
    for (uint32_t group = 0; group < 3; group++) {
        k.decode_group(&band, 75, group, 0, 37, v, 32);
        for (uint32_t r = 0; r < 37; r++) {
            upg_band_row_values(&band, 75, r, values);
            for (uint32_t j = 0; j < 32 && 32 * group + j < 75; j++)
                assert_int_equal(v[32 * r + j], values[32 * group + j]);
        }
    }
    kc_free((void *)(uintptr_t)band.bits);
}

static int16_t *random_i16(size_t n, int32_t largest, int extreme, uint64_t *counter)
{
    int16_t *data = kc_alloc(n * sizeof *data);

    for (size_t i = 0; i < n; i++)
        data[i] = (int16_t)(extreme ? largest : kc_int(counter, -largest, largest));
    return data;
}

static void compare_gemm(const upg_kernels *ref, const upg_kernels *new, size_t m, size_t rows,
                         size_t n_cols, int extreme)
{
    uint64_t counter = m * 100 + rows;
    size_t   x_stride = n_cols + 32 * (m % 2), v_stride = n_cols + 3, y_stride = rows + m % 3;
    size_t   count = (m - 1) * y_stride + rows, bytes = count * sizeof(int32_t);
    int16_t *x = random_i16((m - 1) * x_stride + n_cols, 127, extreme, &counter);
    /* n_cols · 127 · largest stays below 2^31 */
    int16_t *v =
        random_i16((rows - 1) * v_stride + n_cols, n_cols > 512 ? 8000 : 32767, extreme, &counter);
    int32_t *want = kc_alloc(bytes), *got = kc_alloc(bytes);

    for (size_t i = 0; i < count; i++)
        want[i] = got[i] = extreme ? 0 : kc_int(&counter, -1000, 1000);
    ref->gemm_i16(m, rows, n_cols, x, x_stride, v, v_stride, want, y_stride);
    new->gemm_i16(m, rows, n_cols, x, x_stride, v, v_stride, got, y_stride);
    for (size_t i = 0; i < count; i++)
        if (want[i] != got[i])
            fail_msg("%s: m %zu, rows %zu, n_cols %zu: y[%zu] is %d, not %d", new->name, m, rows,
                     n_cols, i, got[i], want[i]);
    kc_check_guards(got, bytes);
    kc_free(x);
    kc_free(v);
    kc_free(want);
    kc_free(got);
}

static void gemm_i16_equals_scalar(void **state)
{
    upg_kernels ref, new;

    (void)state;
    upg_kernels_select(0, &ref);
    for (size_t level = 0; level < kc_level_count(); level++) {
        upg_kernels_select(kc_flags(level), &new);
        for (size_t m = 1; m <= 9; m++)
            for (size_t rows = 1; rows <= 13; rows++)
                for (size_t n_cols = 32; n_cols <= 96; n_cols += 32)
                    compare_gemm(&ref, &new, m, rows, n_cols, 0);
        compare_gemm(&ref, &new, 70, 65, 512, 1);
        compare_gemm(&ref, &new, 131, 7, 2048, 1);
        compare_gemm(&ref, &new, 131, 7, 2048, 0);
    }
}

static void compare_gemm_i8(const upg_kernels *ref, const upg_kernels *new, size_t m, size_t rows,
                            size_t n_cols, int extreme)
{
    uint64_t counter = m * 100 + rows;
    size_t   x_stride = n_cols + 32 * (m % 2), v_stride = n_cols + 3, y_stride = rows + m % 3;
    size_t   count = (m - 1) * y_stride + rows, bytes = count * sizeof(int32_t);
    size_t   n_x = (m - 1) * x_stride + n_cols, n_v = (rows - 1) * v_stride + n_cols;
    int8_t  *x = kc_alloc(n_x);
    uint8_t *v = kc_alloc(n_v);
    int32_t *want = kc_alloc(bytes), *got = kc_alloc(bytes);

    for (size_t i = 0; i < n_x; i++)
        x[i] = (int8_t)(extreme ? -127 : kc_int(&counter, -127, 127));
    for (size_t i = 0; i < n_v; i++)
        v[i] = (uint8_t)(extreme ? 255 : kc_int(&counter, 0, 255));
    for (size_t i = 0; i < count; i++)
        want[i] = got[i] = kc_int(&counter, -1000, 1000);
    ref->gemm_i8(m, rows, n_cols, x, x_stride, v, v_stride, want, y_stride);
    new->gemm_i8(m, rows, n_cols, x, x_stride, v, v_stride, got, y_stride);
    for (size_t i = 0; i < count; i++)
        if (want[i] != got[i])
            fail_msg("%s: m %zu, rows %zu, n_cols %zu: y[%zu] is %d, not %d", new->name, m, rows,
                     n_cols, i, got[i], want[i]);
    kc_check_guards(got, bytes);
    kc_free(x);
    kc_free(v);
    kc_free(want);
    kc_free(got);
}

static void gemm_i8_equals_scalar(void **state)
{
    upg_kernels ref, new;

    (void)state;
    upg_kernels_select(0, &ref);
    for (size_t level = 0; level < kc_level_count(); level++) {
        upg_kernels_select(kc_flags(level), &new);
        for (size_t m = 1; m <= 13; m++)
            for (size_t rows = 1; rows <= 9; rows++)
                for (size_t n_cols = 32; n_cols <= 160; n_cols += 32)
                    compare_gemm_i8(&ref, &new, m, rows, n_cols, 0);
        compare_gemm_i8(&ref, &new, 70, 65, 512, 1);
        compare_gemm_i8(&ref, &new, 31, 7, 70016, 1); /* sums pass int32 */
    }
}

static void hadamard_equals_scalar(void **state)
{
    upg_kernels new;
    uint64_t counter = 0;

    (void)state;
    for (size_t level = 0; level < kc_level_count(); level++) {
        upg_kernels_select(kc_flags(level), &new);
        for (size_t block = 1; block <= 1024; block *= 2)
            for (size_t n = block; n <= 5 * block; n += block) {
                size_t bytes = n * sizeof(float);
                float *want = kc_alloc(bytes), *got = kc_alloc(bytes);

                for (size_t i = 0; i < n; i++)
                    want[i] = got[i] = (float)kc_int(&counter, -1000000, 1000000) * 0.37f;
                upg_hadamard(n, block, want);
                new.hadamard(n, block, got);
                if (memcmp(want, got, bytes) != 0)
                    fail_msg("%s: n %zu, block %zu differ", new.name, n, block);
                kc_check_guards(got, bytes);
                kc_free(want);
                kc_free(got);
            }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bitdot_equals_scalar),   cmocka_unit_test(bitdot_is_signed_sum),
        cmocka_unit_test(decode_equals_scalar),   cmocka_unit_test(decode_equals_row_values),
        cmocka_unit_test(gemm_i16_equals_scalar), cmocka_unit_test(decode_i8_equals_scalar),
        cmocka_unit_test(decode_i8_rounds),       cmocka_unit_test(gemm_i8_equals_scalar),
        cmocka_unit_test(hadamard_equals_scalar),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
