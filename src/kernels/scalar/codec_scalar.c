/* codec_scalar.c: the contracts of the coded matrices' kernels as loops. */
#include <string.h>

#include "codec/rotation.h"
#include "kernels/quantised.h"
#include "kernels/tables.h"

static void bitdot_prepare(size_t groups, const int8_t *x, void *prepared)
{
    if (groups > 0)
        memcpy(prepared, x, 32 * groups);
}

static void bitdot(size_t groups, size_t rows, const uint32_t *code, const void *prepared,
                   int32_t *u)
{
    const int8_t *x = prepared;

    for (size_t t = 0; t < rows; t++) {
        int32_t sum = 0;

        for (size_t g = 0; g < groups; g++)
            for (size_t i = 0; i < 32; i++)
                sum += code[rows * g + t] >> i & 1 ? x[32 * g + i] : -x[32 * g + i];
        u[t] = sum;
    }
}

/* i8 [8·groups][16]: entry `value` of each nibble. */
static float lut8_prepare(size_t groups, const int8_t *x, void *prepared)
{
    int8_t *entries = prepared;
    int32_t largest = 0;
    int16_t multiplier;

    for (size_t n = 0; n < 8 * groups; n++) {
        int32_t sum = 0;

        for (int q = 0; q < 4; q++)
            sum += x[4 * n + q] < 0 ? -x[4 * n + q] : x[4 * n + q];
        largest = sum > largest ? sum : largest;
    }
    multiplier = upg_lut8_multiplier(largest);
    for (size_t n = 0; n < 8 * groups; n++)
        for (int value = 0; value < 16; value++) {
            int32_t v = 0;

            for (int q = 0; q < 4; q++)
                v += value >> q & 1 ? x[4 * n + q] : -x[4 * n + q];
            entries[16 * n + value] = (int8_t)upg_lut8_entry(v, multiplier);
        }
    return upg_lut8_factor(multiplier);
}

static void lut8(size_t groups, size_t rows, const uint32_t *code, const void *prepared, int32_t *u)
{
    const int8_t *entries = prepared;

    for (size_t t = 0; t < rows; t++) {
        int32_t sum = 0;

        for (size_t g = 0; g < groups; g++)
            for (size_t n = 0; n < 8; n++)
                sum += entries[16 * (8 * g + n) + (code[rows * g + t] >> 4 * n & 15)];
        u[t] = sum;
    }
}

static void decode_group(const upg_band *band, uint32_t n_cols, uint32_t group, uint32_t row0,
                         uint32_t n_rows, int16_t *v, size_t stride)
{
    const upg_code *code = &band->code;

    for (uint32_t r = 0; r < n_rows; r++) {
        uint32_t newest = (uint32_t)upg_code_newest(code, row0 + r);
        int16_t *out = v + r * stride;

        memset(out, 0, UPG_GROUP_COLUMNS * sizeof *out);
        for (uint32_t i = 0; i < code->length; i++) {
            uint32_t word = band->bits[upg_word_index(band->n_binary, n_cols, newest - i, group)];

            for (uint32_t j = 0; j < UPG_GROUP_COLUMNS; j++)
                out[j] = (int16_t)(out[j] + (word >> j & 1 ? code->taps[i] : -code->taps[i]));
        }
    }
}

static void gemm_i16(size_t m, size_t rows, size_t n_cols, const int16_t *x, size_t x_stride,
                     const int16_t *v, size_t v_stride, int32_t *y, size_t y_stride)
{
    for (size_t i = 0; i < m; i++)
        for (size_t r = 0; r < rows; r++) {
            int32_t sum = 0;

            for (size_t j = 0; j < n_cols; j++)
                sum += x[i * x_stride + j] * v[r * v_stride + j];
            y[i * y_stride + r] += sum;
        }
}

static void decode_i8(const upg_band *band, uint32_t n_cols, uint32_t group, uint32_t n_groups,
                      uint32_t row0, uint32_t n_rows, uint8_t *v, size_t stride)
{
    int16_t exact[UPG_GROUP_COLUMNS], multiplier = upg_int8_multiplier(&band->code);

    for (uint32_t g = 0; g < n_groups; g++)
        for (uint32_t r = 0; r < n_rows; r++) {
            decode_group(band, n_cols, group + g, row0 + r, 1, exact, 0);
            for (uint32_t j = 0; j < UPG_GROUP_COLUMNS; j++)
                v[r * stride + g * UPG_GROUP_COLUMNS + j] =
                    (uint8_t)(128 + upg_int8_value(exact[j], multiplier));
        }
}

static void gemm_i8(size_t m, size_t rows, size_t n_cols, const int8_t *x, size_t x_stride,
                    const uint8_t *v, size_t v_stride, int32_t *y, size_t y_stride)
{
    for (size_t i = 0; i < m; i++)
        for (size_t r = 0; r < rows; r++) {
            uint32_t sum = (uint32_t)y[i * y_stride + r];

            for (size_t j = 0; j < n_cols; j++)
                sum += (uint32_t)(x[i * x_stride + j] * v[r * v_stride + j]);
            y[i * y_stride + r] = (int32_t)sum;
        }
}

void upg_kernels_codec_scalar(upg_kernels *k)
{
    k->bitdot_prepare = bitdot_prepare;
    k->bitdot = bitdot;
    k->lut8_prepare = lut8_prepare;
    k->lut8 = lut8;
    k->decode_group = decode_group;
    k->gemm_i16 = gemm_i16;
    k->decode_i8 = decode_i8;
    k->gemm_i8 = gemm_i8;
    k->hadamard = upg_hadamard;
}
