/* attention_avx2.c: attention over one KV page with AVX2 and F16C; as attention_avx512.c, with
 * tiles of 2 heads by 32 dimensions. */
#include "base/halffloat.h"
#include "kernels/tables.h"

#include <immintrin.h>

#include "kernels/x86/exp_avx2.h"
#include "kernels/x86/gemm_avx2.h"

static void attention_scores(size_t n_heads, size_t head_dim, size_t n_tokens, const float *q,
                             const uint16_t *k, float scale, float *score)
{
    upg_gemm2(UPG_GEMM2_F16, n_heads, n_tokens, head_dim, q, head_dim, k, head_dim, score, 64);
    for (size_t h = 0; h < n_heads; h++)
        for (size_t t = 0; t < n_tokens; t++)
            score[64 * h + t] *= scale;
}

static void attention_scores_i8(size_t n_heads, size_t head_dim, size_t n_tokens, const float *q,
                                const int8_t *k, const float *scales, float scale, float *score)
{
    upg_gemm2(UPG_GEMM2_I8, n_heads, n_tokens, head_dim, q, head_dim, k, head_dim, score, 64);
    for (size_t h = 0; h < n_heads; h++)
        for (size_t t = 0; t < n_tokens; t++)
            score[64 * h + t] *= scale * scales[t];
}

static inline float element(upg_gemm2_type type, const char *at)
{
    uint16_t half;

    if (type == UPG_GEMM2_I8)
        return (float)*(const int8_t *)at;
    memcpy(&half, at, sizeof half);
    return upg_f32_from_f16(half);
}

/* H heads by 8·D dimensions, both constants. */
UPG_GEMM2_INLINE void values_tile(upg_gemm2_type type, size_t H, size_t D, size_t row_bytes,
                                  size_t head_dim, size_t n_tokens, const float *p, const char *v,
                                  float *acc)
{
    __m256 sum[2][4];

    for (size_t h = 0; h < H; h++)
        for (size_t i = 0; i < D; i++)
            sum[h][i] = _mm256_loadu_ps(acc + h * head_dim + 8 * i);
    for (size_t t = 0; t < n_tokens; t++)
        for (size_t i = 0; i < D; i++) {
            __m256 value =
                upg_gemm2_load(type, v + t * row_bytes + 8 * i * upg_gemm2_element(type));

            for (size_t h = 0; h < H; h++)
                sum[h][i] = _mm256_fmadd_ps(_mm256_broadcast_ss(p + 64 * h + t), value, sum[h][i]);
        }
    for (size_t h = 0; h < H; h++)
        for (size_t i = 0; i < D; i++)
            _mm256_storeu_ps(acc + h * head_dim + 8 * i, sum[h][i]);
}

UPG_GEMM2_INLINE void values_heads(upg_gemm2_type type, size_t H, size_t head_dim, size_t n_tokens,
                                   const float *p, const char *v, float *acc)
{
    const size_t bytes = upg_gemm2_element(type), row = head_dim * bytes;
    size_t       d = 0;

    for (; d + 32 <= head_dim; d += 32)
        values_tile(type, H, 4, row, head_dim, n_tokens, p, v + d * bytes, acc + d);
    for (; d + 8 <= head_dim; d += 8)
        values_tile(type, H, 1, row, head_dim, n_tokens, p, v + d * bytes, acc + d);
    for (; d < head_dim; d++)
        for (size_t h = 0; h < H; h++)
            for (size_t t = 0; t < n_tokens; t++)
                acc[h * head_dim + d] += p[64 * h + t] * element(type, v + t * row + d * bytes);
}

UPG_GEMM2_INLINE void values(upg_gemm2_type type, size_t n_heads, size_t head_dim, size_t n_tokens,
                             const float *p, const char *v, float *acc)
{
    size_t h = 0;

    for (; h + 2 <= n_heads; h += 2)
        values_heads(type, 2, head_dim, n_tokens, p + 64 * h, v, acc + h * head_dim);
    if (h < n_heads)
        values_heads(type, 1, head_dim, n_tokens, p + 64 * h, v, acc + h * head_dim);
}

static void attention_values(size_t n_heads, size_t head_dim, size_t n_tokens, const float *p,
                             const uint16_t *v, float *acc)
{
    values(UPG_GEMM2_F16, n_heads, head_dim, n_tokens, p, (const char *)v, acc);
}

static void attention_values_i8(size_t n_heads, size_t head_dim, size_t n_tokens, const float *p,
                                const int8_t *v, const float *scales, float *acc)
{
    float scaled[2 * 64];

    for (size_t h = 0; h < n_heads; h += 2) {
        size_t n = n_heads - h < 2 ? n_heads - h : 2;

        for (size_t i = 0; i < n; i++)
            for (size_t t = 0; t < n_tokens; t++)
                scaled[64 * i + t] = p[64 * (h + i) + t] * scales[t];
        values(UPG_GEMM2_I8, n, head_dim, n_tokens, scaled, (const char *)v, acc + h * head_dim);
    }
}

static float exp_sum(size_t n, float max, float *x)
{
    const __m256 shift = _mm256_set1_ps(max);
    float        sums[8], tail[8] = { 0 }, total = 0;
    __m256       sum = _mm256_setzero_ps();
    size_t       i = 0;

    for (; i + 8 <= n; i += 8) {
        __m256 e = upg_exp_avx2(_mm256_sub_ps(_mm256_loadu_ps(x + i), shift));

        _mm256_storeu_ps(x + i, e);
        sum = _mm256_add_ps(sum, e);
    }
    if (i < n) {
        memcpy(tail, x + i, (n - i) * sizeof *x);
        _mm256_storeu_ps(tail, upg_exp_avx2(_mm256_sub_ps(_mm256_loadu_ps(tail), shift)));
        memcpy(x + i, tail, (n - i) * sizeof *x);
        for (size_t l = n - i; l < 8; l++)
            tail[l] = 0;
        sum = _mm256_add_ps(sum, _mm256_loadu_ps(tail));
    }
    _mm256_storeu_ps(sums, sum);
    for (size_t l = 0; l < 8; l++)
        total += sums[l];
    return total;
}

void upg_kernels_attention_avx2(upg_kernels *k)
{
    k->attention_scores = attention_scores;
    k->attention_values = attention_values;
    k->attention_scores_i8 = attention_scores_i8;
    k->attention_values_i8 = attention_values_i8;
    k->exp_sum = exp_sum;
}
