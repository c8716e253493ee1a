/* hadamard_avx2.c: Walsh-Hadamard, the first three butterflies inside registers.
 *
 * The sums and differences of upg_hadamard in its order, so that results are equal bit for bit. */
#include <immintrin.h>
#include <math.h>

#include "codec/rotation.h"
#include "kernels/x86/codec_x86.h"

/* Blends of the sums and of the differences a − b, where `swapped` holds a in the lanes of b. */
#define BUTTERFLY(x, swapped, second)                                                              \
    _mm256_blend_ps(_mm256_add_ps(x, swapped), _mm256_sub_ps(swapped, x), second)

static inline __m256 within(__m256 x, size_t block)
{
    if (block > 1)
        x = BUTTERFLY(x, _mm256_permute_ps(x, _MM_SHUFFLE(2, 3, 0, 1)), 0xAA);
    if (block > 2)
        x = BUTTERFLY(x, _mm256_permute_ps(x, _MM_SHUFFLE(1, 0, 3, 2)), 0xCC);
    if (block > 4)
        x = BUTTERFLY(x, _mm256_permute2f128_ps(x, x, 0x01), 0xF0);
    return x;
}

static void across(size_t block, float *x)
{
    for (size_t half = 8; half < block; half *= 2)
        for (size_t i = 0; i < block; i += 2 * half)
            for (size_t j = i; j < i + half; j += 8) {
                __m256 a = _mm256_loadu_ps(x + j), b = _mm256_loadu_ps(x + j + half);

                _mm256_storeu_ps(x + j, _mm256_add_ps(a, b));
                _mm256_storeu_ps(x + j + half, _mm256_sub_ps(a, b));
            }
}

void upg_hadamard_avx2(size_t n, size_t block, float *x)
{
    const __m256 scale = _mm256_set1_ps(1.0f / sqrtf((float)block));
    size_t       whole = n / 8 * 8;

    for (size_t i = 0; i < whole; i += 8)
        _mm256_storeu_ps(x + i, within(_mm256_loadu_ps(x + i), block));
    for (size_t i = 0; block > 8 && i < n; i += block)
        across(block, x + i);
    for (size_t i = 0; i < whole; i += 8)
        _mm256_storeu_ps(x + i, _mm256_mul_ps(_mm256_loadu_ps(x + i), scale));
    if (whole < n)
        upg_hadamard(n - whole, block, x + whole);
}
