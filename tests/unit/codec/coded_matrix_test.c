/* Bits lie where the format says, padding is zero, rows of several bands come out again. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/halffloat.h"
#include "base/random.h"
#include "codec/coded_matrix.h"

static void *aligned(size_t bytes)
{
    void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64 + 64);

    assert_non_null(memory);
    memset(memory, 0xEE, bytes + 64);
    return memory;
}

static void sizes_and_places(void **state)
{
    (void)state;
    assert_int_equal(upg_group_count(1), 1);
    assert_int_equal(upg_group_count(32), 1);
    assert_int_equal(upg_group_count(33), 2);
    assert_int_equal(upg_group_count(UINT32_MAX), 1u << 27);
    assert_int_equal(upg_block_rows(64, 0), 64);
    assert_int_equal(upg_block_rows(65, 1), 16);
    assert_int_equal(upg_block_rows(81, 1), 32);
    assert_int_equal(upg_block_rows(12, 0), 16);
    assert_int_equal(upg_block_count(64), 1);
    assert_int_equal(upg_block_count(65), 2);
    assert_int_equal(upg_band_words(81, 37), (64 + 32) * 2);
    assert_int_equal(upg_band_words(12, 1), 16);
    /* row 70 of 81: second block, whose rows are 32 wide; group 1 of 2 */
    assert_int_equal(upg_word_index(81, 37, 70, 1), 64 * 2 + 32 + 6);
    assert_int_equal(upg_word_index(81, 37, 63, 1), 64 + 63);
    assert_int_equal(upg_band_words(UINT32_MAX, UINT32_MAX), ((uint64_t)1 << 32) << 27);
}

/* Windows of a random bit sequence: those that an encoder would give. */
static void windows_of(const upg_code *code, uint32_t n_rows, uint64_t seed, uint16_t *windows)
{
    uint32_t window = (uint32_t)upg_random_u64(seed, 0);
    uint32_t mask = (1u << code->length) - 1;

    for (uint32_t r = 0; r < n_rows; r++) {
        uint32_t k = r % 2 == 0 ? code->k0 : code->k1;

        window = (window << k | (uint32_t)(upg_random_u64(seed, r + 1) & ((1u << k) - 1))) & mask;
        windows[r] = (uint16_t)window;
    }
}

/* Packs a band of random windows and keeps them: windows u16 [n_cols][n_rows]. */
static uint32_t *pack(const upg_code *code, uint32_t n_rows, uint32_t n_cols, uint64_t seed,
                      uint16_t *windows)
{
    uint32_t  n_binary = (uint32_t)upg_code_binary_rows(code, n_rows);
    uint64_t  words = upg_band_words(n_binary, n_cols);
    uint32_t *bits = aligned(words * sizeof *bits);

    for (uint32_t j = 0; j < n_cols; j++)
        windows_of(code, n_rows, seed * 1000 + j, windows + (size_t)j * n_rows);
    for (uint32_t group = upg_group_count(n_cols); group-- > 0;) {
        uint32_t n = n_cols - 32 * group < 32 ? n_cols - 32 * group : 32;

        upg_band_pack_group(code, n_rows, n_cols, group, n, windows + (size_t)32 * group * n_rows,
                            bits);
    }
    assert_int_equal(bits[words], 0xEEEEEEEE); /* nothing past the band */
    return bits;
}

static void round_trip(const upg_code *code, uint32_t n_rows, uint32_t n_cols)
{
    upg_band  band = { .code = *code, .n_rows = n_rows };
    uint16_t *windows = malloc((size_t)n_rows * n_cols * sizeof *windows);
    int32_t  *values = malloc(n_cols * sizeof *values);
    uint32_t *bits;
    uint64_t  ones = 0, stored_ones = 0;

    assert_true(windows != NULL && values != NULL);
    band.n_binary = (uint32_t)upg_code_binary_rows(code, n_rows);
    bits = pack(code, n_rows, n_cols, n_rows + n_cols, windows);
    band.bits = bits;
    for (uint32_t r = 0; r < n_rows; r++) {
        upg_band_row_values(&band, n_cols, r, values);
        for (uint32_t j = 0; j < n_cols; j++) {
            uint32_t window = windows[(size_t)j * n_rows + r];
            uint32_t k = r == 0 ? code->length : r % 2 == 0 ? code->k0 : code->k1;

            assert_int_equal(values[j], upg_code_value(code, window));
            ones += (uint64_t)__builtin_popcount(window & ((1u << k) - 1));
        }
    }
    /* every one bit is a column's: padding rows and columns are zero */
    for (uint64_t i = 0; i < upg_band_words(band.n_binary, n_cols); i++)
        stored_ones += (uint64_t)__builtin_popcount(bits[i]);
    assert_int_equal(ones, stored_ones);
    free(bits);
    free(windows);
    free(values);
}

static void bands_round_trip(void **state)
{
    static const uint8_t  rates[][2] = { { 4, 12 },  { 5, 12 },  { 6, 12 }, { 7, 12 }, { 8, 12 },
                                         { 10, 12 }, { 4, 14 },  { 5, 14 }, { 6, 14 }, { 7, 14 },
                                         { 8, 14 },  { 10, 14 }, { 4, 16 }, { 5, 16 }, { 6, 16 },
                                         { 7, 16 },  { 8, 16 },  { 10, 16 } };
    static const uint32_t widths[] = { 1, 7, 31, 32, 33, 100 };
    static const uint32_t heights[] = { 1, 2, 3, 16, 21, 64, 77 };

    (void)state;
    for (size_t i = 0; i < sizeof rates / sizeof rates[0]; i++)
        for (size_t w = 0; w < sizeof widths / sizeof widths[0]; w++)
            for (size_t h = 0; h < sizeof heights / sizeof heights[0]; h++)
                round_trip(upg_code_find(rates[i][0], rates[i][1]), heights[h], widths[w]);
}

/* Three bands of different half rates, two of them starting at odd rows; each counts its own rows,
 * so that its first row is an even one. */
static void rows_of_several_bands(void **state)
{
    enum { COLUMNS = 45, ROWS = 5 + 8 + 3 };
    static const uint32_t starts[] = { 0, 5, 13, ROWS };
    static const uint8_t  rates[] = { 5, 7, 8 };
    upg_band              bands[3];
    uint16_t              windows[3][COLUMNS * 8], scales[ROWS];
    upg_coded_matrix      matrix = { .n_rows = ROWS, .n_cols = COLUMNS, .n_bands = 3 };
    float                 row[COLUMNS];

    (void)state;
    for (uint32_t r = 0; r < ROWS; r++)
        scales[r] = upg_f16_from_f32(0.01f * (float)(r + 1));
    for (uint32_t i = 0; i < 3; i++) {
        const upg_code *code = upg_code_find(rates[i], 12);
        uint32_t        n = starts[i + 1] - starts[i];

        bands[i] = (upg_band) { .code = *code,
                                .row0 = starts[i],
                                .n_rows = n,
                                .n_binary = (uint32_t)upg_code_binary_rows(code, n),
                                .bits = pack(code, n, COLUMNS, i + 5, windows[i]),
                                .scales = scales + starts[i] };
    }
    matrix.bands = bands;
    for (uint32_t r = 0; r < ROWS; r++) {
        const upg_band *band = upg_coded_band_of(&matrix, r);
        uint32_t        i = r < 5 ? 0 : r < 13 ? 1 : 2;

        assert_ptr_equal(band, &bands[i]);
        upg_coded_row(&matrix, r, row);
        for (uint32_t j = 0; j < COLUMNS; j++) {
            int32_t v = upg_code_value(&band->code, windows[i][j * band->n_rows + r - band->row0]);
            double  want = (double)upg_f32_from_f16(scales[r]) * (double)band->code.gain * v;

            /* two roundings to fp32 */
            assert_true(fabs((double)row[j] - want) <= 1.3e-7 * fabs(want));
        }
    }
    for (uint32_t i = 0; i < 3; i++)
        free((void *)(uintptr_t)bands[i].bits);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_and_places),
        cmocka_unit_test(bands_round_trip),
        cmocka_unit_test(rows_of_several_bands),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
