#include "compress/layer_math.h"

#include <cblas.h>
#include <math.h>
#include <string.h>

#include "backend/rotary.h"
#include "compress/layer_attention.h"

upg_matrix *upg_layer_matrix_of(upg_layer_weights *layer, upg_layer_matrix which)
{
    upg_matrix *const all[UPG_LAYER_MATRICES] = { &layer->q,    &layer->k,  &layer->v,   &layer->o,
                                                  &layer->gate, &layer->up, &layer->down };

    return all[which];
}

upg_layer_input upg_layer_input_of(upg_layer_matrix which)
{
    static const upg_layer_input inputs[UPG_LAYER_MATRICES] = {
        UPG_INPUT_ATTENTION, UPG_INPUT_ATTENTION, UPG_INPUT_ATTENTION, UPG_INPUT_O,
        UPG_INPUT_FFN,       UPG_INPUT_FFN,       UPG_INPUT_DOWN
    };

    return inputs[which];
}

uint32_t upg_layer_input_width(const upg_model_config *config, upg_layer_input input)
{
    switch (input) {
    case UPG_INPUT_O:
        return config->n_heads * config->head_dim;
    case UPG_INPUT_DOWN:
        return config->ffn;
    default:
        return config->hidden;
    }
}

/* Output width of a matrix. */
static uint32_t rows_of(const upg_layer_buffers *b, upg_layer_matrix which)
{
    switch (which) {
    case UPG_LAYER_Q:
        return b->q_width;
    case UPG_LAYER_K:
    case UPG_LAYER_V:
        return b->kv_width;
    case UPG_LAYER_GATE:
    case UPG_LAYER_UP:
        return b->ffn;
    default:
        return b->hidden;
    }
}

static float *vectors(upg_arena *arena, uint32_t n, uint32_t width, upg_status *st, upg_error *err)
{
    float *memory = upg_arena_alloc(arena, (size_t)n * width, sizeof *memory, err);

    if (memory == NULL)
        *st = UPG_E_NOMEM;
    return memory;
}

upg_status upg_layer_buffers_create(const upg_model_config *config, uint32_t n_tokens,
                                    bool with_gradients, upg_arena *arena,
                                    upg_layer_buffers *buffers, upg_error *err)
{
    upg_status st = UPG_OK;
    uint32_t   n = n_tokens, half = config->rope.rotary_dims / 2;
    bool long_rope = config->rope.long_inv_freq != NULL && n_tokens > config->rope.original_context;
    upg_layer_buffers b = { .n_tokens = n,
                            .hidden = config->hidden,
                            .q_width = config->n_heads * config->head_dim,
                            .kv_width = config->n_kv_heads * config->head_dim,
                            .ffn = config->ffn };
    uint32_t          wide = b.ffn > b.q_width ? b.ffn : b.q_width;

    for (int i = 0; i < UPG_LAYER_INPUTS; i++)
        b.input[i] = vectors(arena, n, upg_layer_input_width(config, i), &st, err);
    b.q = vectors(arena, n, b.q_width, &st, err);
    b.k = vectors(arena, n, b.kv_width, &st, err);
    b.v = vectors(arena, n, b.kv_width, &st, err);
    b.middle = vectors(arena, n, b.hidden, &st, err);
    b.gate = vectors(arena, n, b.ffn, &st, err);
    b.up = vectors(arena, n, b.ffn, &st, err);
    b.scores = vectors(arena, n, n, &st, err);
    b.cosine = vectors(arena, n, half, &st, err);
    b.sine = vectors(arena, n, half, &st, err);
    if (with_gradients) {
        for (int m = 0; m < UPG_LAYER_MATRICES; m++)
            b.gradient[m] = vectors(arena, n, rows_of(&b, m), &st, err);
        b.score_gradient = vectors(arena, n, n, &st, err);
        b.wide = vectors(arena, n, wide, &st, err);
        b.narrow = vectors(arena, n, b.hidden, &st, err);
    }
    for (uint32_t t = 0; t < n && st == UPG_OK; t++)
        upg_rope_angles(&config->rope, long_rope, t, b.cosine + (size_t)t * half,
                        b.sine + (size_t)t * half);
    *buffers = b;
    return st;
}

uint64_t upg_layer_buffers_memory(const upg_model_config *config, uint32_t n_tokens,
                                  bool with_gradients)
{
    uint64_t q = (uint64_t)config->n_heads * config->head_dim;
    uint64_t kv = (uint64_t)config->n_kv_heads * config->head_dim;
    uint64_t hidden = config->hidden, ffn = config->ffn, n = n_tokens;
    uint64_t vectors = 3 * hidden + 2 * q + 2 * kv + 3 * ffn + n + config->rope.rotary_dims;

    if (with_gradients)
        vectors += q + 2 * kv + 2 * hidden + 2 * ffn + n + (ffn > q ? ffn : q) + hidden;
    return n * vectors * sizeof(float);
}

/* ---- products and norms --------------------------------------------------------------------- */

void upg_product(uint32_t n, uint32_t rows, uint32_t cols, const float *x, const float *w, bool add,
                 float *y)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)n, (int)rows, (int)cols, 1.0f, x,
                (int)cols, w, (int)cols, add ? 1.0f : 0.0f, y, (int)rows);
}

void upg_product_backward(uint32_t n, uint32_t rows, uint32_t cols, const float *d, const float *w,
                          bool add, float *dx)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)n, (int)cols, (int)rows, 1.0f, d,
                (int)rows, w, (int)cols, add ? 1.0f : 0.0f, dx, (int)cols);
}

/* 1 / sqrt(mean x² + eps) */
static double inverse_rms(const float *x, uint32_t width, float eps)
{
    double sum = 0;

    for (uint32_t i = 0; i < width; i++)
        sum += (double)x[i] * x[i];
    return 1.0 / sqrt(sum / width + (double)eps);
}

void upg_rmsnorm_forward(uint32_t n, uint32_t width, const float *x, const float *weight, float eps,
                         float *out)
{
    for (uint32_t t = 0; t < n; t++, x += width, out += width) {
        float r = (float)inverse_rms(x, width, eps);

        for (uint32_t i = 0; i < width; i++)
            out[i] = x[i] * r * weight[i];
    }
}

/* With out = r·x·w and r = (mean x² + eps)^-½: dx = r·(w·d) − x·r³/width·Σ (w·d·x). */
void upg_rmsnorm_backward(uint32_t n, uint32_t width, const float *x, const float *weight,
                          float eps, const float *d, float *dx)
{
    for (uint32_t t = 0; t < n; t++, x += width, d += width, dx += width) {
        double r = inverse_rms(x, width, eps), dot = 0;
        float  a, b;

        for (uint32_t i = 0; i < width; i++)
            dot += (double)weight[i] * d[i] * x[i];
        a = (float)r;
        b = (float)(r * r * r * dot / width);
        for (uint32_t i = 0; i < width; i++)
            dx[i] += a * weight[i] * d[i] - b * x[i];
    }
}

void upg_column_products(uint32_t n, uint32_t width, const float *a, const float *b, float *sums)
{
    memset(sums, 0, width * sizeof *sums);
    for (uint32_t t = 0; t < n; t++, a += width, b += width)
        for (uint32_t i = 0; i < width; i++)
            sums[i] += a[i] * b[i];
}

/* ---- forward -------------------------------------------------------------------------------- */

static float sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

/* y = x·Wᵀ for one of the layer's matrices, x being its input buffer. */
static void apply(const upg_layer_f32 *layer, const upg_layer_buffers *b, upg_layer_matrix which,
                  bool add, float *y)
{
    upg_layer_input input = upg_layer_input_of(which);

    upg_product(b->n_tokens, rows_of(b, which), upg_layer_input_width(layer->config, input),
                b->input[input], layer->matrix[which], add, y);
}

void upg_layer_attention_input(const upg_layer_f32 *layer, upg_layer_buffers *b, const float *state)
{
    upg_rmsnorm_forward(b->n_tokens, b->hidden, state, layer->attention_norm,
                        layer->config->norm_eps, b->input[UPG_INPUT_ATTENTION]);
}

void upg_layer_attention(const upg_layer_f32 *layer, upg_layer_buffers *b)
{
    apply(layer, b, UPG_LAYER_Q, false, b->q);
    apply(layer, b, UPG_LAYER_K, false, b->k);
    apply(layer, b, UPG_LAYER_V, false, b->v);
    upg_attention_forward(layer, b);
}

void upg_layer_attention_add(const upg_layer_f32 *layer, upg_layer_buffers *b, float *state)
{
    apply(layer, b, UPG_LAYER_O, true, state);
}

void upg_layer_ffn_input(const upg_layer_f32 *layer, upg_layer_buffers *b, const float *state)
{
    memcpy(b->middle, state, (size_t)b->n_tokens * b->hidden * sizeof *state);
    upg_rmsnorm_forward(b->n_tokens, b->hidden, state, layer->ffn_norm, layer->config->norm_eps,
                        b->input[UPG_INPUT_FFN]);
}

void upg_layer_ffn(const upg_layer_f32 *layer, upg_layer_buffers *b)
{
    size_t n = (size_t)b->n_tokens * b->ffn;

    apply(layer, b, UPG_LAYER_GATE, false, b->gate);
    apply(layer, b, UPG_LAYER_UP, false, b->up);
    layer->kernels->swiglu(n, b->gate, b->up, b->input[UPG_INPUT_DOWN]);
}

void upg_layer_ffn_add(const upg_layer_f32 *layer, upg_layer_buffers *b, float *state)
{
    apply(layer, b, UPG_LAYER_DOWN, true, state);
}

void upg_layer_forward(const upg_layer_f32 *layer, upg_layer_buffers *b, float *state)
{
    upg_layer_attention_input(layer, b, state);
    upg_layer_attention(layer, b);
    upg_layer_attention_add(layer, b, state);
    upg_layer_ffn_input(layer, b, state);
    upg_layer_ffn(layer, b);
    upg_layer_ffn_add(layer, b, state);
}

/* ---- backward ------------------------------------------------------------------------------- */

/* dx = gradient[which]·W (+ dx when add) */
static void apply_backward(const upg_layer_f32 *layer, const upg_layer_buffers *b,
                           upg_layer_matrix which, bool add, float *dx)
{
    upg_product_backward(b->n_tokens, rows_of(b, which),
                         upg_layer_input_width(layer->config, upg_layer_input_of(which)),
                         b->gradient[which], layer->matrix[which], add, dx);
}

/* From the gradient at silu(gate)·up to those at gate and up. */
static void swiglu_backward(const upg_layer_buffers *b, const float *d)
{
    size_t n = (size_t)b->n_tokens * b->ffn;

    for (size_t i = 0; i < n; i++) {
        float s = sigmoid(b->gate[i]), silu = b->gate[i] * s;

        b->gradient[UPG_LAYER_UP][i] = d[i] * silu;
        b->gradient[UPG_LAYER_GATE][i] = d[i] * b->up[i] * (s + silu * (1.0f - s));
    }
}

void upg_layer_backward(const upg_layer_f32 *layer, upg_layer_buffers *b, const float *state_in,
                        float *gradient)
{
    const upg_model_config *c = layer->config;
    size_t                  bytes = (size_t)b->n_tokens * b->hidden * sizeof *gradient;

    memcpy(b->gradient[UPG_LAYER_DOWN], gradient, bytes);
    apply_backward(layer, b, UPG_LAYER_DOWN, false, b->wide);
    swiglu_backward(b, b->wide);
    apply_backward(layer, b, UPG_LAYER_GATE, false, b->narrow);
    apply_backward(layer, b, UPG_LAYER_UP, true, b->narrow);
    if (b->ffn_norm_gradient != NULL)
        upg_column_products(b->n_tokens, b->hidden, b->input[UPG_INPUT_FFN], b->narrow,
                            b->ffn_norm_gradient);
    upg_rmsnorm_backward(b->n_tokens, b->hidden, b->middle, layer->ffn_norm, c->norm_eps, b->narrow,
                         gradient);
    memcpy(b->gradient[UPG_LAYER_O], gradient, bytes);
    apply_backward(layer, b, UPG_LAYER_O, false, b->wide);
    upg_attention_backward(layer, b, b->wide);
    apply_backward(layer, b, UPG_LAYER_Q, false, b->narrow);
    apply_backward(layer, b, UPG_LAYER_K, true, b->narrow);
    apply_backward(layer, b, UPG_LAYER_V, true, b->narrow);
    if (b->attention_norm_gradient != NULL)
        upg_column_products(b->n_tokens, b->hidden, b->input[UPG_INPUT_ATTENTION], b->narrow,
                            b->attention_norm_gradient);
    upg_rmsnorm_backward(b->n_tokens, b->hidden, state_in, layer->attention_norm, c->norm_eps,
                         b->narrow, gradient);
}
