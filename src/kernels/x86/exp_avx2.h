/* exp_avx2.h: exp of 8 floats, as exp_avx512.h describes it. */
#ifndef UPG_KERNELS_X86_EXP_AVX2_H
#define UPG_KERNELS_X86_EXP_AVX2_H

#include <immintrin.h>

/* Relative error below 2e-7; 0 below −87.33, infinity above 88.72. NaN gives NaN. */
static inline __m256 upg_exp_avx2(__m256 x)
{
    const __m256 low = _mm256_set1_ps(-87.33f);
    __m256       tiny = _mm256_cmp_ps(x, low, _CMP_LT_OQ);
    __m256       n, r, p;
    __m256i      half, rest;

    /* The second operand is returned for NaN, so x stands there. */
    x = _mm256_max_ps(low, _mm256_min_ps(_mm256_set1_ps(100.0f), x));
    n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)),
                        _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0x1.62e4p-1f), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0x1.7f7d1cp-20f), r);
    p = _mm256_set1_ps(1.0f / 5040);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 720));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 120));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 24));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 6));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.5f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    /* 2^n in two factors: n runs from −126 to 144, one exponent holds −126 to 127. */
    half = _mm256_srai_epi32(_mm256_cvtps_epi32(n), 1);
    rest = _mm256_sub_epi32(_mm256_cvtps_epi32(n), half);
    p = _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(
                             _mm256_add_epi32(half, _mm256_set1_epi32(127)), 23)));
    p = _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(
                             _mm256_add_epi32(rest, _mm256_set1_epi32(127)), 23)));
    return _mm256_andnot_ps(tiny, p);
}

#endif
