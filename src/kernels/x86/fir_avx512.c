/* fir_avx512.c: the last step of a coded product with AVX-512: 8 rows at a time in fp64.
 *
 * |u| < 2^31 and Σ|p| < 2^15, so all sums stay below 2^53: fp64 is exact and equals int64. The
 * sorting (fir_phases.h) costs about a cycle for each binary row, the taps a cycle for each row. */
#include "kernels/fir_phases.h"
#include "kernels/tables.h"

#include <immintrin.h>

/* y[i] = (float)(sum · (s·g·s_x)) for 8 rows. */
static inline __m256 scale8(__m512d sum, __m128i scales, double gain, double s_x)
{
    __m512d factor = _mm512_cvtps_pd(_mm256_cvtph_ps(scales));

    factor = _mm512_mul_pd(_mm512_mul_pd(factor, _mm512_set1_pd(gain)), _mm512_set1_pd(s_x));
    return _mm512_cvtpd_ps(_mm512_mul_pd(sum, factor));
}

/* n rows of one kind; sums f64 [≥ n + 31]. Four chains of additions hide the latency of one. */
static void fir_rows(const upg_fir_taps *taps, uint32_t length, uint32_t n, double *sums)
{
    for (uint32_t s = 0; s < n; s += 32) {
        __m512d sum[4];

        for (int c = 0; c < 4; c++)
            sum[c] = _mm512_setzero_pd();
        for (uint32_t i = 0; i < length; i++) {
            const int32_t *u = taps->u[i] + s;
            __m512d        p = _mm512_set1_pd(taps->p[i]);

            for (int c = 0; c < 4; c++) {
                __m256i eight = _mm256_loadu_si256((const __m256i *)(const void *)(u + 8 * c));

                sum[c] = _mm512_fmadd_pd(_mm512_cvtepi32_pd(eight), p, sum[c]);
            }
        }
        for (int c = 0; c < 4; c++)
            _mm512_storeu_pd(sums + s + 8 * c, sum[c]);
    }
}

static void scale_rows(uint32_t n, const double *sums, const uint16_t *scales, double gain,
                       double s_x, float *y)
{
    for (uint32_t r = 0; r < n; r += 8) {
        __mmask8 mask = n - r >= 8 ? (__mmask8)0xFF : (__mmask8)((1u << (n - r)) - 1);
        __m256   out = scale8(_mm512_maskz_loadu_pd(mask, sums + r),
                              _mm_maskz_loadu_epi16(mask, scales + r), gain, s_x);

        _mm256_mask_storeu_ps(y + r, mask, out);
    }
}

static void fir(const upg_band *band, uint32_t row0, uint32_t n_rows, const int32_t *u, float s_x,
                float *y)
{
    const upg_code *code = &band->code;
    const uint32_t  kinds = code->k0 == code->k1 ? 1 : 2;
    const uint32_t  stride = kinds == 1 ? code->k0 : (uint32_t)code->k0 + code->k1;
    upg_fir_phases  phases;
    upg_fir_taps    taps;
    double          sums[2][UPG_FIR_STEPS + 32], both[2 * UPG_FIR_STEPS];

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
        scale_rows(n, kinds == 2 ? both : sums[0], band->scales + first, (double)code->gain,
                   (double)s_x, y + done);
    }
}

static void coded_scale(size_t n, const int32_t *sum, const uint16_t *scales, float gain, float s_x,
                        float *y)
{
    for (size_t i = 0; i < n; i += 8) {
        __mmask8 mask = n - i >= 8 ? (__mmask8)0xFF : (__mmask8)((1u << (n - i)) - 1);
        __m512d  eight = _mm512_cvtepi32_pd(_mm256_maskz_loadu_epi32(mask, sum + i));

        _mm256_mask_storeu_ps(
            y + i, mask,
            scale8(eight, _mm_maskz_loadu_epi16(mask, scales + i), (double)gain, (double)s_x));
    }
}

void upg_kernels_fir_avx512(upg_kernels *k)
{
    k->fir = fir;
    k->coded_scale = coded_scale;
}
