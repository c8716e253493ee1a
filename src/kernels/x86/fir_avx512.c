/* fir_avx512.c: the last step of a coded product with AVX-512: 16 rows at a time in int32 where
 * their sums fit, else 8 in fp64.
 *
 * Whether they fit is seen while u is sorted (fir_phases.h): max |u| · Σ|p| < 2^31, which only
 * inputs far from random exceed. fp64 is exact as well: |u| < 2^31 and Σ|p| < 2^15, so all sums
 * stay below 2^53. About 2 cycles for each row in int32, 7 in fp64. */
#include "kernels/fir_phases.h"
#include "kernels/tables.h"

#include <immintrin.h>
#include <stdbool.h>

/* y[i] = (float)(sum · (s·g·s_x)) for 8 rows. */
static inline __m256 scale8(__m512d sum, __m128i scales, double gain, double s_x)
{
    __m512d factor = _mm512_cvtps_pd(_mm256_cvtph_ps(scales));

    factor = _mm512_mul_pd(_mm512_mul_pd(factor, _mm512_set1_pd(gain)), _mm512_set1_pd(s_x));
    return _mm512_cvtpd_ps(_mm512_mul_pd(sum, factor));
}

/* ---- u by phases ----------------------------------------------------------------------------- */

static inline __mmask16 first_lanes(uint32_t n)
{
    return n >= 16 ? (__mmask16)0xFFFF : (__mmask16)((1u << n) - 1);
}

/* Sixteen steps of each phase out of `stride` (a constant) registers. Returns max |u|. */
static inline __attribute__((always_inline)) uint32_t sort_by(const uint32_t *restrict u,
                                                              uint32_t count, const uint32_t stride,
                                                              upg_fir_phases *restrict phases)
{
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i first = _mm512_mullo_epi32(lane, _mm512_set1_epi32((int)stride));
    __m512i       v[UPG_FIR_MAX_STRIDE], largest = _mm512_setzero_si512();

    for (uint32_t step = 0; step * stride < count; step += 16) {
        for (uint32_t j = 0; j < stride; j++) {
            uint32_t at = step * stride + 16 * j;

            v[j] = _mm512_setzero_si512();
            if (at < count)
                v[j] = _mm512_maskz_loadu_epi32(first_lanes(count - at), u + at);
            largest = _mm512_max_epu32(largest, _mm512_abs_epi32(v[j]));
        }
        for (uint32_t f = 0; f < stride; f++) {
            __m512i place = _mm512_add_epi32(first, _mm512_set1_epi32((int)f));
            __m512i source = _mm512_srli_epi32(place, 4);
            __m512i sorted = _mm512_permutexvar_epi32(place, v[0]);

            for (uint32_t j = 1; j < stride; j++)
                sorted = _mm512_mask_permutexvar_epi32(
                    sorted, _mm512_cmpeq_epi32_mask(source, _mm512_set1_epi32((int)j)), place,
                    v[j]);
            _mm512_storeu_si512(phases->u[f] + step, sorted);
        }
    }
    return _mm512_reduce_max_epu32(largest);
}

static uint32_t sort(const int32_t *signed_u, uint32_t count, uint32_t stride,
                     upg_fir_phases *phases)
{
    const uint32_t *u = (const uint32_t *)signed_u;

    switch (stride) {
    case 2:
        return sort_by(u, count, 2, phases);
    case 3:
        return sort_by(u, count, 3, phases);
    case 4:
        return sort_by(u, count, 4, phases);
    case 5:
        return sort_by(u, count, 5, phases);
    case 7:
        return sort_by(u, count, 7, phases);
    default:
        upg_fir_sort(signed_u, count, stride, phases);
        return UINT32_MAX;
    }
}

/* ---- rows of one kind ------------------------------------------------------------------------ */

/* sums f64 [≥ n + 31]. Four chains of additions hide the latency of one. */
static void fir_rows_f64(const upg_fir_taps *taps, uint32_t length, uint32_t n, double *sums)
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

/* sums i32 [≥ n + 31] */
static void fir_rows_i32(const upg_fir_taps *taps, uint32_t length, uint32_t n, int32_t *sums)
{
    for (uint32_t s = 0; s < n; s += 32) {
        __m512i low = _mm512_setzero_si512(), high = _mm512_setzero_si512();

        for (uint32_t i = 0; i < length; i++) {
            const int32_t *u = taps->u[i] + s;
            __m512i        p = _mm512_set1_epi32((int32_t)taps->p[i]);

            low = _mm512_add_epi32(low, _mm512_mullo_epi32(_mm512_loadu_si512(u), p));
            high = _mm512_add_epi32(high, _mm512_mullo_epi32(_mm512_loadu_si512(u + 16), p));
        }
        _mm512_storeu_si512(sums + s, low);
        _mm512_storeu_si512(sums + s + 16, high);
    }
}

/* ---- scales ---------------------------------------------------------------------------------- */

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

/* ---- the whole ------------------------------------------------------------------------------- */

static uint32_t sum_of_taps(const upg_code *code)
{
    uint32_t sum = 0;

    for (uint32_t i = 0; i < code->length; i++)
        sum += (uint32_t)(code->taps[i] < 0 ? -code->taps[i] : code->taps[i]);
    return sum;
}

static void rows_of_kind(const upg_fir_taps *taps, uint32_t length, uint32_t n, bool small,
                         double *sums)
{
    int32_t sums32[UPG_FIR_STEPS + 32];

    if (!small) {
        fir_rows_f64(taps, length, n, sums);
        return;
    }
    fir_rows_i32(taps, length, n, sums32);
    for (uint32_t s = 0; s < n; s += 8)
        _mm512_storeu_pd(sums + s,
                         _mm512_cvtepi32_pd(_mm256_loadu_si256((const void *)(sums32 + s))));
}

static void fir(const upg_band *band, uint32_t row0, uint32_t n_rows, const int32_t *u, float s_x,
                float *y)
{
    const upg_code *code = &band->code;
    const uint32_t  kinds = code->k0 == code->k1 ? 1 : 2;
    const uint32_t  stride = kinds == 1 ? code->k0 : (uint32_t)code->k0 + code->k1;
    const uint32_t  largest = INT32_MAX / (sum_of_taps(code) + 1); /* |u| whose sums fit */
    upg_fir_phases  phases;
    upg_fir_taps    taps;
    double          sums[2][UPG_FIR_STEPS + 32], both[2 * UPG_FIR_STEPS];

    for (uint32_t done = 0; done < n_rows; done += kinds * UPG_FIR_STEPS) {
        uint32_t first = row0 + done;
        uint32_t n = n_rows - done < kinds * UPG_FIR_STEPS ? n_rows - done : kinds * UPG_FIR_STEPS;
        uint32_t base = (uint32_t)upg_code_newest(code, first) + 1 - code->length;
        uint32_t end = (uint32_t)upg_code_newest(code, first + n - 1) + 1;
        bool     small = sort(u + base, end - base, stride, &phases) <= largest;

        for (uint32_t kind = 0; kind < kinds && kind < n; kind++) {
            uint32_t place = (uint32_t)upg_code_newest(code, first + kind) - base;
            uint32_t n_kind = (n - kind + kinds - 1) / kinds;

            upg_fir_place_taps(code, &phases, place, stride, &taps);
            rows_of_kind(&taps, code->length, n_kind, small, sums[kind]);
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
