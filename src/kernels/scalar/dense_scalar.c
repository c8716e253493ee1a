/* dense_scalar.c: the contracts of the dense kernels as plain loops. */
#include "base/halffloat.h"
#include "kernels/tables.h"

#include <math.h>

static void gemm_bf16(size_t m, size_t rows, size_t n_cols, const float *x, size_t x_stride,
                      const uint16_t *w, size_t w_stride, float *y, size_t y_stride)
{
    for (size_t i = 0; i < m; i++)
        for (size_t r = 0; r < rows; r++) {
            float sum = 0;

            for (size_t j = 0; j < n_cols; j++)
                sum += x[i * x_stride + j] * upg_f32_from_bf16(w[r * w_stride + j]);
            y[i * y_stride + r] = sum;
        }
}

static void gemm_f16(size_t m, size_t rows, size_t n_cols, const float *x, size_t x_stride,
                     const uint16_t *w, size_t w_stride, float *y, size_t y_stride)
{
    for (size_t i = 0; i < m; i++)
        for (size_t r = 0; r < rows; r++) {
            float sum = 0;

            for (size_t j = 0; j < n_cols; j++)
                sum += x[i * x_stride + j] * upg_f32_from_f16(w[r * w_stride + j]);
            y[i * y_stride + r] = sum;
        }
}

static void gemm_f32(size_t m, size_t rows, size_t n_cols, const float *x, size_t x_stride,
                     const float *w, size_t w_stride, float *y, size_t y_stride)
{
    for (size_t i = 0; i < m; i++)
        for (size_t r = 0; r < rows; r++) {
            float sum = 0;

            for (size_t j = 0; j < n_cols; j++)
                sum += x[i * x_stride + j] * w[r * w_stride + j];
            y[i * y_stride + r] = sum;
        }
}

static double sum_squares(size_t n, const float *x)
{
    double total = 0;

    for (size_t start = 0; start < n; start += 1024) {
        size_t end = n - start < 1024 ? n : start + 1024;
        float  sum = 0;

        for (size_t i = start; i < end; i++)
            sum += x[i] * x[i];
        total += (double)sum;
    }
    return total;
}

static float max_abs(size_t n, const float *x)
{
    float max = 0;

    for (size_t i = 0; i < n; i++)
        if (fabsf(x[i]) > max)
            max = fabsf(x[i]);
    return max;
}

static void quantise_i8(size_t n, const float *x, float inverse, int8_t *q)
{
    for (size_t i = 0; i < n; i++)
        q[i] = (int8_t)nearbyintf(x[i] * inverse);
}

static void swiglu(size_t n, const float *gate, const float *up, float *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
}

void upg_kernels_dense_scalar(upg_kernels *k)
{
    k->gemm_bf16 = gemm_bf16;
    k->gemm_f16 = gemm_f16;
    k->gemm_f32 = gemm_f32;
    k->sum_squares = sum_squares;
    k->max_abs = max_abs;
    k->quantise_i8 = quantise_i8;
    k->swiglu = swiglu;
    upg_kernels_attention_scalar(k);
}
