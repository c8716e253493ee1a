/* forward_model.h: a whole model through layer_math, and divergences between two of them. */
#ifndef UPG_TESTS_FORWARD_MODEL_H
#define UPG_TESTS_FORWARD_MODEL_H

#include "compress_fixture.h"

#include "compress/dense_rows.h"
#include "compress/layer_math.h"

static upg_kernels kernels; /* the test selects them */

/* A layer's matrices as f32. */
static inline upg_layer_f32 layer_open(upg_weights *weights, uint32_t index, float **memory)
{
    upg_layer_weights *from = &weights->layers[index];
    upg_layer_f32      layer = { .config = &weights->config,
                                 .kernels = &kernels,
                                 .attention_norm = from->attention_norm.values,
                                 .ffn_norm = from->ffn_norm.values };

    for (int m = 0; m < UPG_LAYER_MATRICES; m++) {
        const upg_matrix *matrix = upg_layer_matrix_of(from, m);

        memory[m] = malloc((size_t)matrix->n_rows * matrix->n_cols * sizeof(float));
        assert_non_null(memory[m]);
        for (uint32_t r = 0; r < matrix->n_rows; r++)
            upg_dense_row_part(matrix, r, 0, matrix->n_cols,
                               memory[m] + (size_t)r * matrix->n_cols);
        layer.matrix[m] = memory[m];
    }
    return layer;
}

static inline void layer_close(float **memory)
{
    for (int m = 0; m < UPG_LAYER_MATRICES; m++)
        free(memory[m]);
}

static inline float *embed(const upg_weights *weights, const int32_t *tokens, uint32_t n)
{
    uint32_t hidden = weights->config.hidden;
    float   *state = malloc((size_t)n * hidden * sizeof *state);

    assert_non_null(state);
    for (uint32_t t = 0; t < n; t++)
        upg_dense_row_part(&weights->embed, (uint32_t)tokens[t], 0, hidden,
                           state + (size_t)t * hidden);
    return state;
}

/* Logits of the whole model through layer_math: f32 [n][vocab]; free them. */
static inline float *our_logits(upg_weights *weights, const int32_t *tokens, uint32_t n)
{
    const upg_model_config *c = &weights->config;
    float                  *state = embed(weights, tokens, n),
          *normed = malloc((size_t)n * c->hidden * sizeof *normed);
    float    *head = malloc((size_t)c->vocab * c->hidden * sizeof *head);
    float    *logits = malloc((size_t)n * c->vocab * sizeof *logits), *memory[UPG_LAYER_MATRICES];
    upg_arena arena = { 0 };
    upg_layer_buffers buffers;

    assert_true(normed && head && logits);
    OK(upg_layer_buffers_create(c, n, false, &arena, &buffers, &err));
    for (uint32_t l = 0; l < c->n_layers; l++) {
        upg_layer_f32 layer = layer_open(weights, l, memory);

        upg_layer_forward(&layer, &buffers, state);
        layer_close(memory);
    }
    upg_rmsnorm_forward(n, c->hidden, state, weights->final_norm.values, c->norm_eps, normed);
    for (uint32_t r = 0; r < c->vocab; r++)
        upg_dense_row_part(&weights->head, r, 0, c->hidden, head + (size_t)r * c->hidden);
    upg_product(n, c->vocab, c->hidden, normed, head, false, logits);
    upg_arena_deinit(&arena);
    free(state);
    free(normed);
    free(head);
    return logits;
}

/* Mean KL(exact ‖ other) in nats over n rows of f32 [vocab] logits. */
static inline double mean_divergence(const float *exact, const float *other, uint32_t n,
                                     uint32_t vocab)
{
    double total = 0;

    for (size_t t = 0; t < n; t++, exact += vocab, other += vocab) {
        double max[2] = { -INFINITY, -INFINITY }, sum[2] = { 0 };

        for (uint32_t i = 0; i < vocab; i++) {
            max[0] = fmax(max[0], (double)exact[i]);
            max[1] = fmax(max[1], (double)other[i]);
        }
        for (uint32_t i = 0; i < vocab; i++) {
            sum[0] += (double)expf(exact[i] - (float)max[0]);
            sum[1] += (double)expf(other[i] - (float)max[1]);
        }
        for (uint32_t i = 0; i < vocab; i++) {
            double p = (double)exact[i] - max[0] - log(sum[0]);
            double q = (double)other[i] - max[1] - log(sum[1]);

            total += (double)expf((float)p) * (p - q);
        }
    }
    return total / n;
}

#endif
