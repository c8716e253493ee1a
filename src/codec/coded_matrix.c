/* coded_matrix.c: bits into their places, and values of rows out of them, as plain loops. */
#include "codec/coded_matrix.h"

#include <string.h>

#include "base/halffloat.h"

/* Bit i of each column's window becomes bit (column) of one word. */
static uint32_t gather_bit(const uint16_t *window, uint32_t n_cols, uint32_t i)
{
    uint32_t word = 0;

    for (uint32_t c = 0; c < n_cols; c++)
        word |= (uint32_t)(window[c] >> i & 1u) << c;
    return word;
}

/* The words of one group lie in one run in each block: those past n_binary are padding. */
static void clear_padding(uint32_t n_binary, uint32_t matrix_cols, uint32_t group, uint32_t *bits)
{
    uint32_t last = upg_block_count(n_binary) - 1;
    uint32_t stored = last * UPG_BLOCK_ROWS + upg_block_rows(n_binary, last);

    for (uint32_t b = n_binary; b < stored; b++)
        bits[upg_word_index(n_binary, matrix_cols, b, group)] = 0;
}

void upg_band_pack_group(const upg_code *code, uint32_t n_rows, uint32_t matrix_cols,
                         uint32_t group, uint32_t n_cols, const uint16_t *windows, uint32_t *bits)
{
    uint32_t n_binary = (uint32_t)upg_code_binary_rows(code, n_rows);
    uint16_t window[UPG_GROUP_COLUMNS];

    for (uint32_t r = 0; r < n_rows; r++) {
        uint32_t newest = (uint32_t)upg_code_newest(code, r);
        uint32_t n_new = r == 0 ? code->length : r % 2 == 0 ? code->k0 : code->k1;

        for (uint32_t c = 0; c < n_cols; c++)
            window[c] = windows[(size_t)c * n_rows + r];
        for (uint32_t i = 0; i < n_new; i++)
            bits[upg_word_index(n_binary, matrix_cols, newest - i, group)] =
                gather_bit(window, n_cols, i);
    }
    clear_padding(n_binary, matrix_cols, group, bits);
}

const upg_band *upg_coded_band_of(const upg_coded_matrix *matrix, uint32_t row)
{
    uint32_t low = 0, high = matrix->n_bands - 1;

    while (low < high) {
        uint32_t middle = low + (high - low + 1) / 2;

        if (matrix->bands[middle].row0 <= row)
            low = middle;
        else
            high = middle - 1;
    }
    return &matrix->bands[low];
}

/* Values of the columns of one group, those past the width included. */
static void group_values(const upg_band *band, uint32_t n_cols, uint32_t group, uint32_t band_row,
                         int32_t values[UPG_GROUP_COLUMNS])
{
    const upg_code *code = &band->code;
    uint32_t        newest = (uint32_t)upg_code_newest(code, band_row);

    memset(values, 0, UPG_GROUP_COLUMNS * sizeof *values);
    for (uint32_t i = 0; i < code->length; i++) {
        uint32_t word = band->bits[upg_word_index(band->n_binary, n_cols, newest - i, group)];

        for (uint32_t j = 0; j < UPG_GROUP_COLUMNS; j++)
            values[j] += word >> j & 1u ? code->taps[i] : -code->taps[i];
    }
}

static uint32_t columns_of_group(uint32_t n_cols, uint32_t group)
{
    uint32_t left = n_cols - group * UPG_GROUP_COLUMNS;

    return left < UPG_GROUP_COLUMNS ? left : UPG_GROUP_COLUMNS;
}

void upg_band_row_values(const upg_band *band, uint32_t n_cols, uint32_t band_row, int32_t *out)
{
    int32_t values[UPG_GROUP_COLUMNS];

    for (uint32_t group = 0; group < upg_group_count(n_cols); group++) {
        group_values(band, n_cols, group, band_row, values);
        memcpy(out + group * UPG_GROUP_COLUMNS, values,
               columns_of_group(n_cols, group) * sizeof *values);
    }
}

void upg_coded_row(const upg_coded_matrix *matrix, uint32_t row, float *out)
{
    const upg_band *band = upg_coded_band_of(matrix, row);
    uint32_t        band_row = row - band->row0;
    float           factor = upg_f32_from_f16(band->scales[band_row]) * band->code.gain;
    int32_t         values[UPG_GROUP_COLUMNS];

    for (uint32_t group = 0; group < upg_group_count(matrix->n_cols); group++) {
        uint32_t n = columns_of_group(matrix->n_cols, group);

        group_values(band, matrix->n_cols, group, band_row, values);
        for (uint32_t j = 0; j < n; j++)
            out[group * UPG_GROUP_COLUMNS + j] = factor * (float)values[j];
    }
}
