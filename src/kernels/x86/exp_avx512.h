/* exp_avx512.h: exp of 16 floats, for the kernels that need it.
 *
 * Cody and Waite: x = n·ln 2 + r with |r| ≤ ln 2 / 2, ln 2 in two parts, exp r by its Taylor series
 * to degree 7 (remainder below 1e-8 relative), then a multiplication by 2^n. */
#ifndef UPG_KERNELS_X86_EXP_AVX512_H
#define UPG_KERNELS_X86_EXP_AVX512_H

#include <immintrin.h>

/* Relative error below 2e-7; 0 below −87.33, infinity above 88.72. NaN gives NaN. */
static inline __m512 upg_exp_avx512(__m512 x)
{
    const __m512 low = _mm512_set1_ps(-87.33f);
    __mmask16    tiny = _mm512_cmp_ps_mask(x, low, _CMP_LT_OQ);
    __m512       n, r, p;

    /* The second operand is returned for NaN, so x stands there. */
    x = _mm512_max_ps(low, _mm512_min_ps(_mm512_set1_ps(100.0f), x));
    n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)),
                             _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0x1.62e4p-1f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0x1.7f7d1cp-20f), r);
    p = _mm512_set1_ps(1.0f / 5040);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 720));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 120));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 24));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 6));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    return _mm512_maskz_scalef_ps((__mmask16)~tiny, p, n);
}

#endif
