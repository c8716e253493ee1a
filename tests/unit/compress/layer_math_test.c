/* The layer in fp32: forward against the reference backend, backward against central differences,
 * on small models of every kind. */
#include "forward_model.h"

#include "backend/ref/ref.h"
#include "compress/moments.h"
#include "support/coded_model.h"
#include "support/kv_sequence.h"

enum { MAX_TOKENS = 80, N_SHAPES = 7 };

static int single_blas(void **state)
{
    (void)state;
    upg_kernels_select(upg_cpu_flags(), &kernels);
    upg_blas_begin();
    return 0;
}

static test_model_shape shape_of(int index)
{
    test_model_shape s = test_model_small();

    switch (index) {
    case 1: /* every head its own keys, wide heads */
        s.n_kv_heads = 4;
        s.head_dim = 24;
        break;
    case 2: /* one KV head for all */
        s.n_kv_heads = 1;
        break;
    case 3:
        s.partial_rotary = .5;
        break;
    case 4:
        s.sliding_window = 9;
        break;
    case 5: /* the window passes the original context: long factors */
        s.longrope = true;
        s.original_context = 32;
        break;
    case 6: /* it does not: short factors */
        s.longrope = true;
        s.original_context = 80;
        s.tied = true;
        break;
    default:
        break;
    }
    return s;
}

static void forward_equals_the_reference(void **state)
{
    (void)state;
    for (int i = 0; i < N_SHAPES; i++) {
        test_model_shape    shape = shape_of(i);
        test_model          model;
        test_sequence       sequence;
        upg_backend        *backend;
        upg_backend_options options = { .max_rows = MAX_TOKENS };
        int32_t             tokens[MAX_TOKENS];
        float              *want, *got, low = INFINITY, high = -INFINITY;
        double              worst = 0;
        uint32_t            n = MAX_TOKENS;
        bool                long_rope = shape.longrope && n > shape.original_context;

        OK(test_model_make(&shape, false, 11 + (uint64_t)i, &model, &err));
        for (uint32_t t = 0; t < n; t++)
            tokens[t] = (int32_t)(upg_random_u64(1, t) % shape.vocab);
        want = malloc((size_t)n * shape.vocab * sizeof *want);
        assert_non_null(want);
        OK(upg_backend_ref.create(model.program, &options, &backend, &err));
        OK(test_sequence_init(&sequence, &model.weights->config, UPG_KV_F32, n, long_rope, &err));
        OK(test_sequence_append(&sequence, &upg_backend_ref, backend, n, tokens, n, false,
                                shape.vocab, want, &err));
        got = our_logits(model.weights, tokens, n);
        for (size_t k = 0; k < (size_t)n * shape.vocab; k++) {
            low = fminf(low, want[k]);
            high = fmaxf(high, want[k]);
            worst = fmax(worst, fabs((double)want[k] - (double)got[k]));
        }
        /* f32 sums of up to 96 terms in two layers: a few 1e-6; any wrong angle, mask or head is
         * far above */
        if (!(worst < 2e-5 * (double)(high - low)))
            fail_msg("shape %d: logits differ by %g of their range", i,
                     worst / (double)(high - low));
        free(want);
        free(got);
        test_sequence_deinit(&sequence);
        upg_backend_ref.close(backend);
        test_model_close(&model);
    }
}

/* ---- backward ---------------------------------------------------------------------------------
 */

typedef struct probe {
    upg_layer_f32     layer;
    upg_layer_buffers buffers;
    uint32_t          n;
    size_t            size; /* n · hidden */
    float            *state, *weights;
} probe;

/* Σ weights · layer(input), in double; the buffers hold that pass afterwards. */
static double loss(probe *p, const float *input)
{
    float *out = malloc(p->size * sizeof *out);
    double sum = 0;

    assert_non_null(out);
    memcpy(out, input, p->size * sizeof *out);
    upg_layer_forward(&p->layer, &p->buffers, out);
    for (size_t i = 0; i < p->size; i++)
        sum += (double)p->weights[i] * (double)out[i];
    free(out);
    return sum;
}

/* The loss's slope along `direction`, added to `x` [n] in place, by differences of order 4. */
static double slope(probe *p, const float *input, float *x, const float *direction, size_t n)
{
    static const double step[] = { -2, -1, 1, 2 }, factor[] = { 1, -8, 8, -1 };
    const double        h = 4e-3;
    float              *keep = malloc(n * sizeof *keep);
    double              sum = 0;

    assert_non_null(keep);
    memcpy(keep, x, n * sizeof *keep);
    for (int k = 0; k < 4; k++) {
        for (size_t i = 0; i < n; i++)
            x[i] = (float)((double)keep[i] + h * step[k] * (double)direction[i]);
        sum += factor[k] * loss(p, input);
    }
    memcpy(x, keep, n * sizeof *keep);
    free(keep);
    return sum / (12 * h);
}

static void compare(double want, double got, double size, int shape, const char *what)
{
    /* rounding: loss ≈ size, 1e-6 of it over a step of 4e-3 */
    if (fabs(want - got) > 1e-2 * fabs(want) + 1e-3 * size)
        fail_msg("shape %d: slope at %s is %g, the backward pass says %g", shape, what, want, got);
}

static void check_state(probe *p, const float *gradient, int shape)
{
    for (uint64_t trial = 0; trial < 4; trial++) {
        float *direction = gaussian(p->size, 100 + trial), *input = malloc(p->size * sizeof *input);
        double got = 0, norm = 0;

        assert_non_null(input);
        memcpy(input, p->state, p->size * sizeof *input);
        for (size_t i = 0; i < p->size; i++) {
            got += (double)gradient[i] * (double)direction[i];
            norm += (double)gradient[i] * (double)gradient[i];
        }
        compare(slope(p, input, input, direction, p->size), got, sqrt(norm), shape, "the input");
        free(direction);
        free(input);
    }
}

/* ∂/∂W of a matrix is Σ_t g_t x_tᵀ: tests the gradient at its output. */
static void check_matrix(probe *p, float *w, int which, int shape)
{
    static const char *const names[] = { "q", "k", "v", "o", "gate", "up", "down" };
    upg_layer_input          input = upg_layer_input_of((upg_layer_matrix)which);
    size_t                   cols = upg_layer_input_width(p->layer.config, input);
    const upg_layer_buffers *b = &p->buffers;
    const uint32_t           rows_of[] = { b->q_width, b->kv_width, b->kv_width, b->hidden,
                                           b->ffn,     b->ffn,      b->hidden };
    size_t                   rows = rows_of[which];
    float                   *direction = gaussian(rows * cols, 200 + (uint64_t)which);
    float                   *g = malloc(p->n * rows * sizeof *g);
    float                   *x = malloc(p->n * cols * sizeof *x);
    double                   got = 0, norm = 0;

    assert_true(g && x);
    memcpy(g, b->gradient[which], p->n * rows * sizeof *g); /* the slope's passes overwrite them */
    memcpy(x, b->input[input], p->n * cols * sizeof *x);
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < cols; c++) {
            double d = 0;

            for (size_t t = 0; t < p->n; t++)
                d += (double)g[t * rows + r] * (double)x[t * cols + c];
            got += d * (double)direction[r * cols + c];
            norm += d * d;
        }
    for (size_t i = 0; i < rows * cols; i++)
        direction[i] *= .05f; /* weights are about .1 */
    compare(slope(p, p->state, w, direction, rows * cols) / .05, got, sqrt(norm), shape,
            names[which]);
    free(direction);
    free(g);
    free(x);
}

static void backward_equals_differences(void **state)
{
    (void)state;
    for (int i = 0; i < N_SHAPES; i++) {
        test_model_shape shape = shape_of(i);
        test_model       model;
        upg_arena        arena = { 0 };
        probe            p = { .n = 20 };
        float           *gradient, *memory[UPG_LAYER_MATRICES];

        shape.n_layers = 1;
        if (shape.longrope)
            shape.original_context = i == 5 ? 16 : 64;
        OK(test_model_make(&shape, false, 31 + (uint64_t)i, &model, &err));
        p.size = (size_t)p.n * shape.hidden;
        p.state = gaussian(p.size, 1);
        p.weights = gaussian(p.size, 2);
        p.layer = layer_open(model.weights, 0, memory);
        OK(upg_layer_buffers_create(&model.weights->config, p.n, true, &arena, &p.buffers, &err));
        gradient = malloc(p.size * sizeof *gradient);
        assert_non_null(gradient);
        memcpy(gradient, p.weights, p.size * sizeof *gradient);
        (void)loss(&p, p.state);
        upg_layer_backward(&p.layer, &p.buffers, p.state, gradient);
        for (int m = 0; m < UPG_LAYER_MATRICES; m++) {
            float *again = malloc(p.size * sizeof *again);

            assert_non_null(again);
            check_matrix(&p, memory[m], m, i);
            memcpy(again, p.weights, p.size * sizeof *again); /* the buffers anew */
            (void)loss(&p, p.state);
            upg_layer_backward(&p.layer, &p.buffers, p.state, again);
            assert_memory_equal(again, gradient, p.size * sizeof *again);
            free(again);
        }
        check_state(&p, gradient, i);
        free(gradient);
        free(p.state);
        free(p.weights);
        layer_close(memory);
        upg_arena_deinit(&arena);
        test_model_close(&model);
    }
}

static void norm_backward(void **state)
{
    enum { N = 3, WIDTH = 50 };
    float *x = gaussian(N * WIDTH, 1), *w = gaussian(WIDTH, 2), *d = gaussian(N * WIDTH, 3);
    float  dx[N * WIDTH], out[N * WIDTH];

    (void)state;
    for (int i = 0; i < N * WIDTH; i++)
        dx[i] = 1; /* the gradient is added */
    upg_rmsnorm_backward(N, WIDTH, x, w, 1e-5f, d, dx);
    for (int i = 0; i < N * WIDTH; i++) {
        double change[2] = { 0 };

        for (int side = 0; side < 2; side++) {
            float keep = x[i];

            x[i] += side ? 1e-2f : -1e-2f;
            upg_rmsnorm_forward(N, WIDTH, x, w, 1e-5f, out);
            for (int j = 0; j < N * WIDTH; j++)
                change[side] += (double)d[j] * (double)out[j];
            x[i] = keep;
        }
        assert_true(fabs((change[1] - change[0]) / 2e-2 - ((double)dx[i] - 1)) < 2e-3);
    }
    free(x);
    free(w);
    free(d);
}

static void buffers_without_memory(void **state)
{
    test_model_shape shape = test_model_small();
    test_model       model;
    upg_status       st = UPG_E_NOMEM;

    (void)state;
    OK(test_model_make(&shape, false, 1, &model, &err));
    for (uint64_t n = 0; st == UPG_E_NOMEM; n++) {
        upg_arena         arena = { 0 };
        upg_layer_buffers buffers;

        upg_alloc_fail_after(n);
        st = upg_layer_buffers_create(&model.weights->config, 64, true, &arena, &buffers, &err);
        upg_alloc_fail_after(UINT64_MAX);
        upg_arena_deinit(&arena);
        assert_true(n > 0 || st == UPG_E_NOMEM);
    }
    OK(st);
    test_model_close(&model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forward_equals_the_reference),
        cmocka_unit_test(backward_equals_differences),
        cmocka_unit_test(norm_backward),
        cmocka_unit_test(buffers_without_memory),
    };

    return cmocka_run_group_tests(tests, single_blas, NULL);
}
