/* fir_avx2.c: the last step of a coded product with AVX2: as fir_avx512.c, 4 rows at a time. */
#include "kernels/fir_phases.h"
#include "kernels/quantised.h"
#include "kernels/tables.h"

#include <immintrin.h>

/* y[i] = (float)(sum · (s·g·s_x)) for 4 rows. */
static inline __m128 scale4(__m256d sum, const uint16_t *scales, double gain, double s_x)
{
    __m128i half = _mm_loadl_epi64((const __m128i *)(const void *)scales);
    __m256d factor = _mm256_cvtps_pd(_mm_cvtph_ps(half));

    factor = _mm256_mul_pd(_mm256_mul_pd(factor, _mm256_set1_pd(gain)), _mm256_set1_pd(s_x));
    return _mm256_cvtpd_ps(_mm256_mul_pd(sum, factor));
}

/* n rows of one kind; sums f64 [≥ n + 15]. Four chains of additions hide the latency of one. */
static void fir_rows(const upg_fir_taps *taps, uint32_t length, uint32_t n, double *sums)
{
    for (uint32_t s = 0; s < n; s += 16) {
        __m256d sum[4];

        for (int c = 0; c < 4; c++)
            sum[c] = _mm256_setzero_pd();
        for (uint32_t i = 0; i < length; i++) {
            const int32_t *u = taps->u[i] + s;
            __m256d        p = _mm256_set1_pd(taps->p[i]);

            for (int c = 0; c < 4; c++) {
                __m128i four = _mm_loadu_si128((const __m128i *)(const void *)(u + 4 * c));

                sum[c] = _mm256_fmadd_pd(_mm256_cvtepi32_pd(four), p, sum[c]);
            }
        }
        for (int c = 0; c < 4; c++)
            _mm256_storeu_pd(sums + s + 4 * c, sum[c]);
    }
}

static void scale_rows(uint32_t n, const double *sums, const uint16_t *scales, float gain,
                       float s_x, float *y)
{
    uint32_t r = 0;

    for (; r + 4 <= n; r += 4)
        _mm_storeu_ps(y + r,
                      scale4(_mm256_loadu_pd(sums + r), scales + r, (double)gain, (double)s_x));
    for (; r < n; r++)
        y[r] = (float)(sums[r] * upg_coded_factor(scales[r], gain, s_x));
}

static void fir(const upg_band *band, uint32_t row0, uint32_t n_rows, const int32_t *u, float s_x,
                float *y)
{
    const upg_code *code = &band->code;
    const uint32_t  kinds = code->k0 == code->k1 ? 1 : 2;
    const uint32_t  stride = kinds == 1 ? code->k0 : (uint32_t)code->k0 + code->k1;
    upg_fir_phases  phases;
    upg_fir_taps    taps;
    double          sums[2][UPG_FIR_STEPS + 16], both[2 * UPG_FIR_STEPS];

    for (uint32_t done = 0; done < n_rows; done += kinds * UPG_FIR_STEPS) {
        uint32_t first = row0 + done;
        uint32_t n = n_rows - done < kinds * UPG_FIR_STEPS ? n_rows - done : kinds * UPG_FIR_STEPS;
        uint32_t base = (uint32_t)upg_code_newest(code, first) + 1 - code->length;
        uint32_t end = (uint32_t)upg_code_newest(code, first + n - 1) + 1;

        upg_fir_sort(u + base, end - base, stride, &phases);
        for (uint32_t kind = 0; kind < kinds && kind < n; kind++) {
            uint32_t place = (uint32_t)upg_code_newest(code, first + kind) - base;
            uint32_t n_kind = (n - kind + kinds - 1) / kinds;

            upg_fir_place_taps(code, &phases, place, stride, &taps);
            fir_rows(&taps, code->length, n_kind, sums[kind]);
        }
        for (uint32_t s = 0; kinds == 2 && s < (n + 1) / 2; s++) {
            both[2 * s] = sums[0][s];
            both[2 * s + 1] = sums[1][s];
        }
        scale_rows(n, kinds == 2 ? both : sums[0], band->scales + first, code->gain, s_x, y + done);
    }
}

static void coded_scale(size_t n, const int32_t *sum, const uint16_t *scales, float gain, float s_x,
                        float *y)
{
    size_t i = 0;

    for (; i + 4 <= n; i += 4) {
        __m256d four =
            _mm256_cvtepi32_pd(_mm_loadu_si128((const __m128i *)(const void *)(sum + i)));

        _mm_storeu_ps(y + i, scale4(four, scales + i, (double)gain, (double)s_x));
    }
    for (; i < n; i++)
        y[i] = upg_coded_output(sum[i], upg_coded_factor(scales[i], gain, s_x));
}

void upg_kernels_fir_avx2(upg_kernels *k)
{
    k->fir = fir;
    k->coded_scale = coded_scale;
}
