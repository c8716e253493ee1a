/* ref_multiply.c: prepared inputs and matrix products.
 *
 * A rotated input is kept in f32, or, to foretell what the fast backends compute, as int8 with its
 * scale (program.h, upg_prepared): integers first, the scale after UPG_GROUP_COLUMNS · groups
 * bytes. A matrix row is decoded once for all rows of the batch. Outliers read the plain vector,
 * which then lies at the row's end. */
#include <math.h>

#include "backend/ref/ref.h"
#include "base/halffloat.h"
#include "program/op_table.h"

_Static_assert(UPG_SLOT_GROUP_BYTES >= UPG_GROUP_COLUMNS * (int)sizeof(float),
               "a rotated slot also holds the f32 form");

static bool is_int8(const upg_ref *ref, const upg_slot *slot)
{
    return ref->emulate_int8 && slot->prepared.rotated;
}

static float *scale_of(const upg_slot *slot, void *row)
{
    return (float *)((uint8_t *)row + (size_t)upg_group_count(slot->width) * UPG_GROUP_COLUMNS);
}

static float *plain_of(const upg_slot *slot, void *row)
{
    return (float *)((uint8_t *)row + upg_slot_plain_offset(slot));
}

static void quantise(const float *x, uint32_t n, int8_t *q, float *scale)
{
    float max = 0, inverse;

    for (uint32_t j = 0; j < n; j++)
        max = fmaxf(max, fabsf(x[j]));
    inverse = max > 0 ? 127.0f / max : 0;
    for (uint32_t j = 0; j < n; j++)
        q[j] = (int8_t)rintf(x[j] * inverse);
    *scale = max / 127.0f;
}

void upg_ref_prepare(upg_ref *ref, uint16_t slot, uint32_t row, float *x)
{
    const upg_slot *s = &ref->program->slots[slot];
    void           *out = upg_ref_slot_row(ref, slot, row);

    if (s->prepared.keep_plain)
        for (uint32_t j = 0; j < s->width; j++)
            plain_of(s, out)[j] = x[j];
    if (s->prepared.rotated) {
        upg_rotation_signs(&s->prepared.rotation, ref->signs);
        upg_rotation_apply(&s->prepared.rotation, ref->signs, x, 1);
    }
    if (is_int8(ref, s))
        quantise(x, s->width, out, scale_of(s, out));
    else
        for (uint32_t j = 0; j < s->width; j++)
            ((float *)out)[j] = x[j];
}

/* Eight sums side by side, so that the compiler may use vectors; added in one fixed order. */
static double dot(const double *w, const float *x, uint32_t n)
{
    double   part[8] = { 0 }, sum = 0;
    uint32_t j = 0;

    for (; j + 8 <= n; j += 8)
        for (uint32_t i = 0; i < 8; i++)
            part[i] += w[j + i] * (double)x[j + i];
    for (; j < n; j++)
        sum += w[j] * (double)x[j];
    for (uint32_t i = 0; i < 8; i++)
        sum += part[i];
    return sum;
}

static void multiply_f32(upg_ref *ref, const upg_matrix *w, uint16_t input, uint32_t n_rows)
{
    for (uint32_t r = 0; r < w->n_rows; r++) {
        if (w->kind == UPG_MATRIX_CODED)
            upg_coded_row(w->coded, r, ref->row);
        else
            upg_matrix_row(w, r, ref->row);
        for (uint32_t j = 0; j < w->n_cols; j++)
            ref->row_wide[j] = ref->row[j];
        for (uint32_t m = 0; m < n_rows; m++)
            if (ref->outputs[m])
                ref->outputs[m][r] =
                    (float)dot(ref->row_wide, upg_ref_slot_row(ref, input, m), w->n_cols);
    }
}

static int64_t dot_int8(const int32_t *v, const int8_t *q, uint32_t n)
{
    int64_t sum = 0;

    for (uint32_t j = 0; j < n; j++)
        sum += (int64_t)v[j] * q[j];
    return sum;
}

static void multiply_int8(upg_ref *ref, const upg_matrix *w, uint16_t input, uint32_t n_rows)
{
    const upg_slot *slot = &ref->program->slots[input];

    for (uint32_t r = 0; r < w->n_rows; r++) {
        const upg_band *band = upg_coded_band_of(w->coded, r);
        float           row_scale = upg_f32_from_f16(band->scales[r - band->row0]);

        upg_band_row_values(band, w->n_cols, r - band->row0, ref->row_values);
        for (uint32_t m = 0; m < n_rows; m++) {
            void  *x = upg_ref_slot_row(ref, input, m);
            double factor = (double)row_scale * band->code.gain * *scale_of(slot, x);

            if (ref->outputs[m])
                ref->outputs[m][r] =
                    (float)((double)dot_int8(ref->row_values, x, w->n_cols) * factor);
        }
    }
}

/* y_r += e_r, as outliers.h defines it. */
static void add_outliers(const upg_outliers *o, const float *x, float *y)
{
    for (uint32_t r = 0; r < o->n_rows; r++) {
        double sum = 0;

        for (uint32_t k = 0; o->n_sparse && k < o->row_begin[r + 1] - o->row_begin[r]; k++)
            sum += (double)o->values[o->row_begin[r] + k] * x[o->columns[o->row_begin[r] + k]];
        sum *= o->scale;
        for (uint32_t d = 0; d < o->n_columns; d++)
            sum += o->column_values[(size_t)d * o->n_rows + r] *
                   ((double)o->column_scales[d] * x[o->column[d]]);
        y[r] += (float)sum;
    }
}

void upg_ref_multiply(upg_ref *ref, const upg_matrix *w, uint16_t input, uint32_t n_rows)
{
    if (is_int8(ref, &ref->program->slots[input]))
        multiply_int8(ref, w, input, n_rows);
    else
        multiply_f32(ref, w, input, n_rows);
    for (uint32_t m = 0; m < n_rows && w->kind == UPG_MATRIX_CODED && w->coded->outliers; m++)
        if (ref->outputs[m])
            add_outliers(w->coded->outliers,
                         plain_of(&ref->program->slots[input], upg_ref_slot_row(ref, input, m)),
                         ref->outputs[m]);
}
