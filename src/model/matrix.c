/* matrix.c: single rows in fp32, and the search for values that are no numbers.
 *
 * The search reads every weight of a checkpoint once, so it has to run as fast as memory delivers.
 * A value is infinite or NaN when its exponent bits are all ones, and only then does adding one to
 * the lowest of them carry into the sign's place: per element one AND, one ADD, one OR, on
 * integers, which compilers turn into SIMD code for whatever ISA they may use. Where the answer for
 * a chunk is yes, a plain loop finds the element. */
#include "model/weights.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/halffloat.h"
#include "base/random.h"

enum { CHUNK = 16384 }; /* elements: they are still in the first-level cache for the plain loop */

static float element(const upg_matrix *m, size_t i)
{
    if (m->dtype == UPG_F32)
        return ((const float *)m->dense)[i];
    if (m->dtype == UPG_BF16)
        return upg_f32_from_bf16(((const uint16_t *)m->dense)[i]);
    return upg_f32_from_f16(((const uint16_t *)m->dense)[i]);
}

/* ---- rows ---------------------------------------------------------------------------------- */

/* x = D·Hᵀ·x'/√B; upg_hadamard is its own inverse. Signs are made as they are needed, so that a row
 * takes no memory. */
static void undo_rotation(const upg_rotation *rotation, float *x)
{
    upg_hadamard(rotation->width, rotation->block, x);
    for (uint32_t j = 0; j < rotation->width; j += 64) {
        uint64_t bits = upg_random_u64(rotation->seed, j / 64);

        for (uint32_t i = j; i < rotation->width && i < j + 64; i++)
            x[i] = bits >> (i - j) & 1 ? -x[i] : x[i];
    }
}

void upg_matrix_row(const upg_matrix *matrix, uint32_t row, float *out)
{
    size_t first = (size_t)row * matrix->n_cols;

    if (matrix->kind == UPG_MATRIX_CODED) {
        upg_coded_row(matrix->coded, row, out);
        undo_rotation(&matrix->coded->rotation, out);
        if (matrix->coded->outliers != NULL)
            upg_outliers_add_row(matrix->coded->outliers, row, 1, 0, matrix->n_cols, out);
        return;
    }
    for (uint32_t j = 0; j < matrix->n_cols; j++)
        out[j] = element(matrix, first + j);
}

/* ---- values that are no numbers ------------------------------------------------------------ */

/* Whether one of n elements, an exponent's bits all ones; `one` is the lowest exponent bit. */
static bool any_special_16(const uint16_t *x, size_t n, uint16_t exponent, uint16_t one)
{
    uint16_t carry = 0;

    for (size_t i = 0; i < n; i++)
        carry |= (uint16_t)((x[i] & exponent) + one);
    return carry >> 15 != 0;
}

static bool any_special_32(const float *x, size_t n)
{
    uint32_t carry = 0;

    for (size_t i = 0; i < n; i++)
        carry |= (upg_f32_bits(x[i]) & 0x7F800000u) + 0x00800000u;
    return carry >> 31 != 0;
}

static bool any_special(const upg_matrix *m, size_t first, size_t n)
{
    if (m->dtype == UPG_F32)
        return any_special_32((const float *)m->dense + first, n);
    if (m->dtype == UPG_BF16)
        return any_special_16((const uint16_t *)m->dense + first, n, 0x7F80u, 0x0080u);
    return any_special_16((const uint16_t *)m->dense + first, n, 0x7C00u, 0x0400u);
}

upg_status upg_matrix_check_finite(const upg_matrix *matrix, upg_error *err)
{
    size_t total = (size_t)matrix->n_rows * matrix->n_cols;

    if (matrix->kind != UPG_MATRIX_DENSE)
        return UPG_OK;
    for (size_t first = 0; first < total; first += CHUNK) {
        size_t n = total - first < CHUNK ? total - first : CHUNK;

        if (!any_special(matrix, first, n))
            continue;
        while (isfinite(element(matrix, first)))
            first++;
        return upg_fail(err, UPG_E_DATA,
                        "%s: \"%s\" holds %s at row %zu, column %zu (byte %" PRIu64
                        " of the file); is the download damaged?",
                        matrix->file, matrix->name,
                        isnan(element(matrix, first)) ? "NaN" : "infinity", first / matrix->n_cols,
                        first % matrix->n_cols,
                        matrix->file_offset + first * upg_dtype_bytes(matrix->dtype));
    }
    return UPG_OK;
}
