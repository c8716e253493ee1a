/* attention_scalar.c: the contracts of the attention kernels as plain loops. */
#include "base/halffloat.h"
#include "kernels/tables.h"

#include <math.h>

static void attention_scores(size_t n_heads, size_t head_dim, size_t n_tokens, const float *q,
                             const uint16_t *k, float scale, float *score)
{
    for (size_t h = 0; h < n_heads; h++)
        for (size_t t = 0; t < n_tokens; t++) {
            float sum = 0;

            for (size_t d = 0; d < head_dim; d++)
                sum += q[h * head_dim + d] * upg_f32_from_f16(k[t * head_dim + d]);
            score[64 * h + t] = scale * sum;
        }
}

static void attention_values(size_t n_heads, size_t head_dim, size_t n_tokens, const float *p,
                             const uint16_t *v, float *acc)
{
    for (size_t h = 0; h < n_heads; h++)
        for (size_t t = 0; t < n_tokens; t++)
            for (size_t d = 0; d < head_dim; d++)
                acc[h * head_dim + d] += p[64 * h + t] * upg_f32_from_f16(v[t * head_dim + d]);
}

static void attention_scores_i8(size_t n_heads, size_t head_dim, size_t n_tokens, const float *q,
                                const int8_t *k, const float *scales, float scale, float *score)
{
    for (size_t h = 0; h < n_heads; h++)
        for (size_t t = 0; t < n_tokens; t++) {
            float sum = 0;

            for (size_t d = 0; d < head_dim; d++)
                sum += q[h * head_dim + d] * (float)k[t * head_dim + d];
            score[64 * h + t] = sum * (scale * scales[t]);
        }
}

static void attention_values_i8(size_t n_heads, size_t head_dim, size_t n_tokens, const float *p,
                                const int8_t *v, const float *scales, float *acc)
{
    for (size_t h = 0; h < n_heads; h++)
        for (size_t t = 0; t < n_tokens; t++) {
            float weight = p[64 * h + t] * scales[t];

            for (size_t d = 0; d < head_dim; d++)
                acc[h * head_dim + d] += weight * (float)v[t * head_dim + d];
        }
}

static float exp_sum(size_t n, float max, float *x)
{
    float sum = 0;

    for (size_t i = 0; i < n; i++) {
        x[i] = expf(x[i] - max);
        sum += x[i];
    }
    return sum;
}

void upg_kernels_attention_scalar(upg_kernels *k)
{
    k->attention_scores = attention_scores;
    k->attention_values = attention_values;
    k->attention_scores_i8 = attention_scores_i8;
    k->attention_values_i8 = attention_values_i8;
    k->exp_sum = exp_sum;
}
