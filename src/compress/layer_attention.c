#include "compress/layer_attention.h"

#include <cblas.h>
#include <math.h>
#include <string.h>

void upg_attention_turn(const upg_model_config *c, const upg_layer_buffers *b, uint32_t n_heads,
                        float direction, float *x)
{
    uint32_t half = c->rope.rotary_dims / 2;

    for (uint32_t t = 0; t < b->n_tokens; t++) {
        const float *cosine = b->cosine + (size_t)t * half, *sine = b->sine + (size_t)t * half;

        for (uint32_t h = 0; h < n_heads; h++) {
            float *head = x + ((size_t)t * n_heads + h) * c->head_dim;

            for (uint32_t i = 0; i < half; i++) {
                float low = head[i], high = head[i + half], s = direction * sine[i];

                head[i] = low * cosine[i] - high * s;
                head[i + half] = high * cosine[i] + low * s;
            }
        }
    }
}

/* First key that query t sees. */
static uint32_t first_key(const upg_model_config *c, uint32_t t)
{
    return c->sliding_window != 0 && t + 1 > c->sliding_window ? t + 1 - c->sliding_window : 0;
}

/* scores = softmax over the visible keys, zero elsewhere. */
static void softmax_rows(const upg_layer_f32 *layer, const upg_layer_buffers *b)
{
    for (uint32_t t = 0; t < b->n_tokens; t++) {
        float   *row = b->scores + (size_t)t * b->n_tokens;
        uint32_t first = first_key(layer->config, t);
        float    max = -INFINITY, inverse;

        for (uint32_t i = first; i <= t; i++)
            max = row[i] > max ? row[i] : max;
        inverse = 1.0f / layer->kernels->exp_sum(t + 1 - first, max, row + first);
        for (uint32_t i = first; i <= t; i++)
            row[i] *= inverse;
        memset(row, 0, first * sizeof *row);
        memset(row + t + 1, 0, (b->n_tokens - t - 1) * sizeof *row);
    }
}

/* out[n_tokens][·] = α·op(a)·op(b) + β·out, all of one head with row strides. */
static void head_product(const upg_layer_buffers *b, CBLAS_TRANSPOSE ta, CBLAS_TRANSPOSE tb,
                         int cols, int depth, float alpha, const float *x, int x_stride,
                         const float *y, int y_stride, float beta, float *out, int out_stride)
{
    cblas_sgemm(CblasRowMajor, ta, tb, (int)b->n_tokens, cols, depth, alpha, x, x_stride, y,
                y_stride, beta, out, out_stride);
}

/* b->scores = the attention weights of head h. */
static void head_weights(const upg_layer_f32 *layer, const upg_layer_buffers *b, uint32_t h)
{
    const upg_model_config *c = layer->config;
    uint32_t                kv = h / (c->n_heads / c->n_kv_heads);
    int                     n = (int)b->n_tokens, d = (int)c->head_dim;
    const float *q = b->q + (size_t)h * c->head_dim, *k = b->k + (size_t)kv * c->head_dim;

    head_product(b, CblasNoTrans, CblasTrans, n, d, 1.0f / sqrtf((float)d), q, (int)b->q_width, k,
                 (int)b->kv_width, 0.0f, b->scores, n);
    softmax_rows(layer, b);
}

void upg_attention_forward(const upg_layer_f32 *layer, upg_layer_buffers *b)
{
    const upg_model_config *config = layer->config;
    int                     n = (int)b->n_tokens, d = (int)config->head_dim;

    upg_attention_turn(config, b, config->n_heads, 1, b->q);
    upg_attention_turn(config, b, config->n_kv_heads, 1, b->k);
    for (uint32_t h = 0; h < config->n_heads; h++) {
        const float *v =
            b->v + (size_t)(h / (config->n_heads / config->n_kv_heads)) * config->head_dim;

        head_weights(layer, b, h);
        head_product(b, CblasNoTrans, CblasNoTrans, d, n, 1.0f, b->scores, n, v, (int)b->kv_width,
                     0.0f, b->input[UPG_INPUT_O] + (size_t)h * config->head_dim, (int)b->q_width);
    }
}

/* score_gradient = P∘(dP − rowsum(dP∘P)), with dP in score_gradient and P in scores. */
static void softmax_backward(const upg_layer_buffers *b)
{
    for (uint32_t t = 0; t < b->n_tokens; t++) {
        const float *p = b->scores + (size_t)t * b->n_tokens;
        float       *dp = b->score_gradient + (size_t)t * b->n_tokens;
        double       dot = 0;

        for (uint32_t i = 0; i <= t; i++)
            dot += (double)p[i] * dp[i];
        for (uint32_t i = 0; i < b->n_tokens; i++)
            dp[i] = p[i] * (dp[i] - (float)dot);
    }
}

void upg_attention_backward(const upg_layer_f32 *layer, upg_layer_buffers *b, const float *d)
{
    const upg_model_config *config = layer->config;
    int                     n = (int)b->n_tokens, width = (int)config->head_dim;
    int                     q_stride = (int)b->q_width, kv_stride = (int)b->kv_width;
    float                   scale = 1.0f / sqrtf((float)width);

    memset(b->gradient[UPG_LAYER_K], 0, (size_t)n * b->kv_width * sizeof(float));
    memset(b->gradient[UPG_LAYER_V], 0, (size_t)n * b->kv_width * sizeof(float));
    for (uint32_t h = 0; h < config->n_heads; h++) {
        size_t q_at = (size_t)h * config->head_dim;
        size_t kv_at = (size_t)(h / (config->n_heads / config->n_kv_heads)) * config->head_dim;
        const float *dh = d + q_at;

        head_weights(layer, b, h);
        head_product(b, CblasTrans, CblasNoTrans, width, n, 1.0f, b->scores, n, dh, q_stride, 1.0f,
                     b->gradient[UPG_LAYER_V] + kv_at, kv_stride);
        head_product(b, CblasNoTrans, CblasTrans, n, width, 1.0f, dh, q_stride, b->v + kv_at,
                     kv_stride, 0.0f, b->score_gradient, n);
        softmax_backward(b);
        head_product(b, CblasNoTrans, CblasNoTrans, width, n, scale, b->score_gradient, n,
                     b->k + kv_at, kv_stride, 0.0f, b->gradient[UPG_LAYER_Q] + q_at, q_stride);
        head_product(b, CblasTrans, CblasNoTrans, width, n, scale, b->score_gradient, n,
                     b->q + q_at, q_stride, 1.0f, b->gradient[UPG_LAYER_K] + kv_at, kv_stride);
    }
    upg_attention_turn(config, b, config->n_heads, -1, b->gradient[UPG_LAYER_Q]);
    upg_attention_turn(config, b, config->n_kv_heads, -1, b->gradient[UPG_LAYER_K]);
}
