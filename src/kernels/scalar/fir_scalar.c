/* fir_scalar.c: the contracts of a coded product's last step as plain loops. */
#include "kernels/quantised.h"
#include "kernels/tables.h"

static void fir(const upg_band *band, uint32_t row0, uint32_t n_rows, const int32_t *u, float s_x,
                float *y)
{
    const upg_code *code = &band->code;

    for (uint32_t r = 0; r < n_rows; r++) {
        const int32_t *newest = u + upg_code_newest(code, row0 + r);
        int64_t        sum = 0;

        for (int i = 0; i < code->length; i++)
            sum += (int64_t)code->taps[i] * newest[-i];
        y[r] = upg_coded_output(sum, upg_coded_factor(band->scales[row0 + r], code->gain, s_x));
    }
}

static void coded_scale(size_t n, const int32_t *sum, const uint16_t *scales, float gain, float s_x,
                        float *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = upg_coded_output(sum[i], upg_coded_factor(scales[i], gain, s_x));
}

void upg_kernels_fir_scalar(upg_kernels *k)
{
    k->fir = fir;
    k->coded_scale = coded_scale;
}
