/* hadamard_avx512.c: Walsh-Hadamard, the first four butterflies inside registers.
 *
 * The sums and differences of upg_hadamard in its order, so that results are equal bit for bit. */
#include <immintrin.h>
#include <math.h>

#include "codec/rotation.h"
#include "kernels/x86/codec_x86.h"

/* Lanes whose number has the bit `half` hold the second operand b and get a − b. */
static inline __m512 butterfly(__m512 x, __m512 swapped, __mmask16 second)
{
    return _mm512_mask_sub_ps(_mm512_add_ps(x, swapped), second, swapped, x);
}

static inline __m512 within(__m512 x, size_t block)
{
    if (block > 1)
        x = butterfly(x, _mm512_permute_ps(x, _MM_SHUFFLE(2, 3, 0, 1)), 0xAAAA);
    if (block > 2)
        x = butterfly(x, _mm512_permute_ps(x, _MM_SHUFFLE(1, 0, 3, 2)), 0xCCCC);
    if (block > 4)
        x = butterfly(x, _mm512_shuffle_f32x4(x, x, _MM_SHUFFLE(2, 3, 0, 1)), 0xF0F0);
    if (block > 8)
        x = butterfly(x, _mm512_shuffle_f32x4(x, x, _MM_SHUFFLE(1, 0, 3, 2)), 0xFF00);
    return x;
}

static void across(size_t block, float *x)
{
    for (size_t half = 16; half < block; half *= 2)
        for (size_t i = 0; i < block; i += 2 * half)
            for (size_t j = i; j < i + half; j += 16) {
                __m512 a = _mm512_loadu_ps(x + j), b = _mm512_loadu_ps(x + j + half);

                _mm512_storeu_ps(x + j, _mm512_add_ps(a, b));
                _mm512_storeu_ps(x + j + half, _mm512_sub_ps(a, b));
            }
}

void upg_hadamard_avx512(size_t n, size_t block, float *x)
{
    const __m512 scale = _mm512_set1_ps(1.0f / sqrtf((float)block));
    size_t       whole = n / 16 * 16;

    for (size_t i = 0; i < whole; i += 16)
        _mm512_storeu_ps(x + i, within(_mm512_loadu_ps(x + i), block));
    for (size_t i = 0; block > 16 && i < n; i += block)
        across(block, x + i);
    for (size_t i = 0; i < whole; i += 16)
        _mm512_storeu_ps(x + i, _mm512_mul_ps(_mm512_loadu_ps(x + i), scale));
    if (whole < n)
        upg_hadamard(n - whole, block, x + whole);
}
