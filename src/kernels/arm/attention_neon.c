/* attention_neon.c: attention over one KV page with NEON, tiles of 4 heads by 16 dimensions. */
#include "base/halffloat.h"
#include "kernels/tables.h"

#include <arm_neon.h>

#include "kernels/arm/exp_neon.h"
#include "kernels/arm/gemm_neon.h"

static void attention_scores(size_t n_heads, size_t head_dim, size_t n_tokens, const float *q,
                             const uint16_t *k, float scale, float *score)
{
    upg_gemmn(UPG_GEMMN_F16, n_heads, n_tokens, head_dim, q, head_dim, k, head_dim, score, 64);
    for (size_t h = 0; h < n_heads; h++)
        for (size_t t = 0; t < n_tokens; t++)
            score[64 * h + t] *= scale;
}

static void attention_scores_i8(size_t n_heads, size_t head_dim, size_t n_tokens, const float *q,
                                const int8_t *k, const float *scales, float scale, float *score)
{
    upg_gemmn(UPG_GEMMN_I8, n_heads, n_tokens, head_dim, q, head_dim, k, head_dim, score, 64);
    for (size_t h = 0; h < n_heads; h++)
        for (size_t t = 0; t < n_tokens; t++)
            score[64 * h + t] *= scale * scales[t];
}

static inline float element(upg_gemmn_type type, const char *at)
{
    uint16_t half;

    if (type == UPG_GEMMN_I8)
        return (float)*(const int8_t *)at;
    memcpy(&half, at, sizeof half);
    return upg_f32_from_f16(half);
}

/* H heads by 8·D dimensions, both constants. */
UPG_GEMMN_INLINE void values_tile(upg_gemmn_type type, size_t H, size_t D, size_t head_dim,
                                  size_t n_tokens, const float *p, const char *v, float *acc)
{
    const size_t bytes = upg_gemmn_element(type);
    float32x4_t  sum[4][4];

    for (size_t h = 0; h < H; h++)
        for (size_t i = 0; i < 2 * D; i++)
            sum[h][i] = vld1q_f32(acc + h * head_dim + 4 * i);
    for (size_t t = 0; t < n_tokens; t++)
        for (size_t i = 0; i < D; i++) {
            float32x4x2_t value = upg_gemmn_load(type, v + (t * head_dim + 8 * i) * bytes);

            for (size_t h = 0; h < H; h++) {
                float32x4_t weight = vld1q_dup_f32(p + 64 * h + t);

                sum[h][2 * i] = vfmaq_f32(sum[h][2 * i], weight, value.val[0]);
                sum[h][2 * i + 1] = vfmaq_f32(sum[h][2 * i + 1], weight, value.val[1]);
            }
        }
    for (size_t h = 0; h < H; h++)
        for (size_t i = 0; i < 2 * D; i++)
            vst1q_f32(acc + h * head_dim + 4 * i, sum[h][i]);
}

UPG_GEMMN_INLINE void values_heads(upg_gemmn_type type, size_t H, size_t head_dim, size_t n_tokens,
                                   const float *p, const char *v, float *acc)
{
    const size_t bytes = upg_gemmn_element(type);
    size_t       d = 0;

    for (; d + 16 <= head_dim; d += 16)
        values_tile(type, H, 2, head_dim, n_tokens, p, v + d * bytes, acc + d);
    for (; d + 8 <= head_dim; d += 8)
        values_tile(type, H, 1, head_dim, n_tokens, p, v + d * bytes, acc + d);
    for (; d < head_dim; d++)
        for (size_t h = 0; h < H; h++)
            for (size_t t = 0; t < n_tokens; t++)
                acc[h * head_dim + d] +=
                    p[64 * h + t] * element(type, v + (t * head_dim + d) * bytes);
}

UPG_GEMMN_INLINE void values(upg_gemmn_type type, size_t n_heads, size_t head_dim, size_t n_tokens,
                             const float *p, const char *v, float *acc)
{
    size_t h = 0;

    for (; h + 4 <= n_heads; h += 4)
        values_heads(type, 4, head_dim, n_tokens, p + 64 * h, v, acc + h * head_dim);
    if (h + 2 <= n_heads) {
        values_heads(type, 2, head_dim, n_tokens, p + 64 * h, v, acc + h * head_dim);
        h += 2;
    }
    if (h < n_heads)
        values_heads(type, 1, head_dim, n_tokens, p + 64 * h, v, acc + h * head_dim);
}

static void attention_values(size_t n_heads, size_t head_dim, size_t n_tokens, const float *p,
                             const uint16_t *v, float *acc)
{
    values(UPG_GEMMN_F16, n_heads, head_dim, n_tokens, p, (const char *)v, acc);
}

static void attention_values_i8(size_t n_heads, size_t head_dim, size_t n_tokens, const float *p,
                                const int8_t *v, const float *scales, float *acc)
{
    float scaled[4 * 64];

    for (size_t h = 0; h < n_heads; h += 4) {
        size_t n = n_heads - h < 4 ? n_heads - h : 4;

        for (size_t i = 0; i < n; i++)
            for (size_t t = 0; t < n_tokens; t++)
                scaled[64 * i + t] = p[64 * (h + i) + t] * scales[t];
        values(UPG_GEMMN_I8, n, head_dim, n_tokens, scaled, (const char *)v, acc + h * head_dim);
    }
}

static float exp_sum(size_t n, float max, float *x)
{
    const float32x4_t shift = vdupq_n_f32(max);
    float32x4_t       sum = vdupq_n_f32(0);
    float             tail[4] = { 0 };
    size_t            i = 0;

    for (; i + 4 <= n; i += 4) {
        float32x4_t e = upg_exp_neon(vsubq_f32(vld1q_f32(x + i), shift));

        vst1q_f32(x + i, e);
        sum = vaddq_f32(sum, e);
    }
    if (i < n) {
        memcpy(tail, x + i, (n - i) * sizeof *x);
        vst1q_f32(tail, upg_exp_neon(vsubq_f32(vld1q_f32(tail), shift)));
        memcpy(x + i, tail, (n - i) * sizeof *x);
        for (size_t l = n - i; l < 4; l++)
            tail[l] = 0;
        sum = vaddq_f32(sum, vld1q_f32(tail));
    }
    return vaddvq_f32(sum);
}

void upg_kernels_attention_neon(upg_kernels *k)
{
    k->attention_scores = attention_scores;
    k->attention_values = attention_values;
    k->attention_scores_i8 = attention_scores_i8;
    k->attention_values_i8 = attention_values_i8;
    k->exp_sum = exp_sum;
}
