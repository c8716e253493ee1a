/* attention_avx512.c: attention over one KV page with AVX-512.
 *
 * Scores are the product of gemm_avx512.h with the page as the matrix. Values: lanes are
 * dimensions, 4 heads by 64 dimensions make 16 accumulators, and the tokens are added in order. The
 * page is read once for four heads, from L1 for the next four. */
#include "kernels/tables.h"

#include <immintrin.h>

#include "kernels/x86/exp_avx512.h"
#include "kernels/x86/gemm_avx512.h"

static inline __mmask16 tail_mask(size_t left)
{
    return left >= 16 ? (__mmask16)0xFFFF : (__mmask16)((1u << left) - 1);
}

static void attention_scores(size_t n_heads, size_t head_dim, size_t n_tokens, const float *q,
                             const uint16_t *k, float scale, float *score)
{
    upg_gemm(UPG_GEMM_F16, n_heads, n_tokens, head_dim, q, head_dim, k, head_dim, score, 64);
    for (size_t h = 0; h < n_heads; h++)
        for (size_t t = 0; t < n_tokens; t += 16) {
            __mmask16 mask = tail_mask(n_tokens - t);
            float    *s = score + 64 * h + t;

            _mm512_mask_storeu_ps(
                s, mask, _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, s), _mm512_set1_ps(scale)));
        }
}

/* H heads (a constant) by dimensions d … d + 16·D − 1; the last 16 under a mask. */
UPG_GEMM_INLINE void values_tile(size_t H, size_t D, size_t head_dim, size_t n_tokens,
                                 const float *p, const uint16_t *v, __mmask16 last, float *acc)
{
    __m512 sum[4][4];

    for (size_t h = 0; h < H; h++)
        for (size_t i = 0; i < D; i++)
            sum[h][i] = _mm512_maskz_loadu_ps(i + 1 == D ? last : (__mmask16)0xFFFF,
                                              acc + h * head_dim + 16 * i);
    for (size_t t = 0; t < n_tokens; t++) {
        __m512 value[4];

        for (size_t i = 0; i < D; i++)
            value[i] = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(
                i + 1 == D ? last : (__mmask16)0xFFFF, v + t * head_dim + 16 * i));
        for (size_t h = 0; h < H; h++)
            for (size_t i = 0; i < D; i++)
                sum[h][i] = _mm512_fmadd_ps(_mm512_set1_ps(p[64 * h + t]), value[i], sum[h][i]);
    }
    for (size_t h = 0; h < H; h++)
        for (size_t i = 0; i < D; i++)
            _mm512_mask_storeu_ps(acc + h * head_dim + 16 * i,
                                  i + 1 == D ? last : (__mmask16)0xFFFF, sum[h][i]);
}

UPG_GEMM_INLINE void values_heads(size_t H, size_t head_dim, size_t n_tokens, const float *p,
                                  const uint16_t *v, float *acc)
{
    size_t d = 0;

    for (; d + 64 <= head_dim; d += 64)
        values_tile(H, 4, head_dim, n_tokens, p, v + d, (__mmask16)0xFFFF, acc + d);
    for (; d < head_dim; d += 16)
        values_tile(H, 1, head_dim, n_tokens, p, v + d, tail_mask(head_dim - d), acc + d);
}

static void attention_values(size_t n_heads, size_t head_dim, size_t n_tokens, const float *p,
                             const uint16_t *v, float *acc)
{
    size_t h = 0;

    for (; h + 4 <= n_heads; h += 4)
        values_heads(4, head_dim, n_tokens, p + 64 * h, v, acc + h * head_dim);
    for (; h < n_heads; h++)
        values_heads(1, head_dim, n_tokens, p + 64 * h, v, acc + h * head_dim);
}

static float exp_sum(size_t n, float max, float *x)
{
    const __m512 shift = _mm512_set1_ps(max);
    __m512       sum = _mm512_setzero_ps();

    for (size_t i = 0; i < n; i += 16) {
        __mmask16 mask = tail_mask(n - i);
        __m512    e = upg_exp_avx512(_mm512_sub_ps(_mm512_maskz_loadu_ps(mask, x + i), shift));

        _mm512_mask_storeu_ps(x + i, mask, e);
        sum = _mm512_mask_add_ps(sum, mask, sum, e);
    }
    return _mm512_reduce_add_ps(sum);
}

void upg_kernels_attention_avx512(upg_kernels *k)
{
    k->attention_scores = attention_scores;
    k->attention_values = attention_values;
    k->exp_sum = exp_sum;
}
