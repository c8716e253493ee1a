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

/* What a caller that walks through keys and values head after head reads next. Keys of a head are
 * few KiB and end at a page of memory, where the processor's own prefetching stops. */
enum { AHEAD_BYTES = 16384 };

UPG_GEMM_INLINE void prefetch(const char *at, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += 64)
        _mm_prefetch(at + AHEAD_BYTES + i, _MM_HINT_T1);
}

/* Products of all heads with four tokens at a time. */
UPG_GEMM_INLINE void products(upg_gemm_type type, size_t n_heads, size_t head_dim, size_t n_tokens,
                              const float *q, const char *k, float *score)
{
    const size_t bytes = head_dim * upg_gemm_element(type);

    for (size_t t = 0; t < n_tokens; t += UPG_GEMM_R) {
        size_t rows = n_tokens - t < UPG_GEMM_R ? n_tokens - t : UPG_GEMM_R, h = 0;

        prefetch(k + t * bytes, rows * bytes);
        for (; h + UPG_GEMM_M <= n_heads; h += UPG_GEMM_M)
            upg_gemm_tile(type, UPG_GEMM_M, rows, head_dim, q + h * head_dim, head_dim,
                          k + t * bytes, bytes, score + 64 * h + t, 64);
        upg_gemm_few(type, n_heads - h, rows, head_dim, q + h * head_dim, head_dim, k + t * bytes,
                     bytes, score + 64 * h + t, 64);
    }
}

static void attention_scores(size_t n_heads, size_t head_dim, size_t n_tokens, const float *q,
                             const uint16_t *k, float scale, float *score)
{
    products(UPG_GEMM_F16, n_heads, head_dim, n_tokens, q, (const char *)k, score);
    for (size_t h = 0; h < n_heads; h++)
        for (size_t t = 0; t < n_tokens; t += 16) {
            __mmask16 mask = tail_mask(n_tokens - t);
            float    *s = score + 64 * h + t;

            _mm512_mask_storeu_ps(
                s, mask, _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, s), _mm512_set1_ps(scale)));
        }
}

/* to[h][t] = from[h][t]·(scale·token[t]) */
static void scale_tokens(size_t n_heads, size_t n_tokens, const float *from, const float *token,
                         float scale, float *to)
{
    for (size_t t = 0; t < n_tokens; t += 16) {
        __mmask16 mask = tail_mask(n_tokens - t);
        __m512    s = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, token + t), _mm512_set1_ps(scale));

        for (size_t h = 0; h < n_heads; h++)
            _mm512_mask_storeu_ps(to + 64 * h + t, mask,
                                  _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, from + 64 * h + t), s));
    }
}

static void attention_scores_i8(size_t n_heads, size_t head_dim, size_t n_tokens, const float *q,
                                const int8_t *k, const float *scales, float scale, float *score)
{
    products(UPG_GEMM_I8, n_heads, head_dim, n_tokens, q, (const char *)k, score);
    scale_tokens(n_heads, n_tokens, score, scales, scale, score);
}

/* H heads (a constant) by dimensions d … d + 16·D − 1; the last 16 under a mask. */
UPG_GEMM_INLINE void values_tile(upg_gemm_type type, size_t H, size_t D, size_t head_dim,
                                 size_t n_tokens, const float *p, const char *v, __mmask16 last,
                                 float *acc)
{
    const size_t element = upg_gemm_element(type);
    __m512       sum[4][4];

    for (size_t h = 0; h < H; h++)
        for (size_t i = 0; i < D; i++)
            sum[h][i] = _mm512_maskz_loadu_ps(i + 1 == D ? last : (__mmask16)0xFFFF,
                                              acc + h * head_dim + 16 * i);
    for (size_t t = 0; t < n_tokens; t++) {
        const char *at = v + t * head_dim * element;
        __m512      value[4];

        prefetch(at, 16 * D * element);
        for (size_t i = 0; i < D; i++)
            value[i] =
                upg_gemm_load(type, at + 16 * i * element, i + 1 == D ? last : (__mmask16)0xFFFF);
        for (size_t h = 0; h < H; h++)
            for (size_t i = 0; i < D; i++)
                sum[h][i] = _mm512_fmadd_ps(_mm512_set1_ps(p[64 * h + t]), value[i], sum[h][i]);
    }
    for (size_t h = 0; h < H; h++)
        for (size_t i = 0; i < D; i++)
            _mm512_mask_storeu_ps(acc + h * head_dim + 16 * i,
                                  i + 1 == D ? last : (__mmask16)0xFFFF, sum[h][i]);
}

UPG_GEMM_INLINE void values_heads(upg_gemm_type type, size_t H, size_t head_dim, size_t n_tokens,
                                  const float *p, const char *v, float *acc)
{
    const size_t element = upg_gemm_element(type);
    size_t       d = 0;

    for (; d + 64 <= head_dim; d += 64)
        values_tile(type, H, 4, head_dim, n_tokens, p, v + d * element, (__mmask16)0xFFFF, acc + d);
    for (; d < head_dim; d += 16)
        values_tile(type, H, 1, head_dim, n_tokens, p, v + d * element, tail_mask(head_dim - d),
                    acc + d);
}

UPG_GEMM_INLINE void values(upg_gemm_type type, size_t n_heads, size_t head_dim, size_t n_tokens,
                            const float *p, const char *v, float *acc)
{
    size_t h = 0;

    for (; h + 4 <= n_heads; h += 4)
        values_heads(type, 4, head_dim, n_tokens, p + 64 * h, v, acc + h * head_dim);
    for (; h < n_heads; h++)
        values_heads(type, 1, head_dim, n_tokens, p + 64 * h, v, acc + h * head_dim);
}

static void attention_values(size_t n_heads, size_t head_dim, size_t n_tokens, const float *p,
                             const uint16_t *v, float *acc)
{
    values(UPG_GEMM_F16, n_heads, head_dim, n_tokens, p, (const char *)v, acc);
}

static void attention_values_i8(size_t n_heads, size_t head_dim, size_t n_tokens, const float *p,
                                const int8_t *v, const float *scales, float *acc)
{
    float scaled[4 * 64];

    for (size_t h = 0; h < n_heads; h += 4) {
        size_t n = n_heads - h < 4 ? n_heads - h : 4;

        scale_tokens(n, n_tokens, p + 64 * h, scales, 1.0f, scaled);
        values(UPG_GEMM_I8, n, head_dim, n_tokens, scaled, (const char *)v, acc + h * head_dim);
    }
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
    k->attention_scores_i8 = attention_scores_i8;
    k->attention_values_i8 = attention_values_i8;
    k->exp_sum = exp_sum;
}
