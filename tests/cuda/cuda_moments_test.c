/* Moments, their factor, targets and a layer's passes on a GPU against the host's, to the precision
 * of their products. Skips, and says so, where there is no GPU. */
#include "compress_device_fixture.h"

#include "base/cpu.h"
#include "compress/layer_math.h"

/* ---- moments ----------------------------------------------------------------------------------
 */

/* Correlated vectors of few digits, which TF32 holds. */
static float *inputs(uint32_t n, uint32_t width, uint64_t seed)
{
    float *x = gaussians((size_t)n * width, seed);

    for (size_t t = 0; t < n; t++)
        for (uint32_t i = 0; i < width; i++) {
            float before = i > 0 ? x[t * width + i - 1] : 0;

            x[t * width + i] = roundf(16 * (.8f * before + .6f * x[t * width + i])) / 16;
        }
    return x;
}

static void compare_moments(uint32_t width, uint32_t n, bool mixed)
{
    size_t      size = (size_t)width * width;
    float      *x = inputs(n, width, width), *y = mixed ? inputs(n, width, width + 1) : NULL;
    float      *d = reals(width), *ours = reals(size), *our_d = reals(width);
    float      *signs = reals(width);
    double      used, our_used, spread, sum = 0;
    upg_moments m;

    for (uint32_t i = 0; i < width; i++)
        signs[i] = 1;
    OK(upg_moments_init(&m, width, mixed, &err));
    OK(gpu->moments_begin(device, width, mixed, signs, 1, &err));
    for (uint32_t at = 0, part; at < n; at += part) { /* in uneven parts */
        const float *py = mixed ? y + (size_t)at * width : NULL;

        part = n - at < 100 ? n - at : 100;
        upg_moments_add(&m, pool, x + (size_t)at * width, py, part);
        OK(gpu->moments_add(device, x + (size_t)at * width, py, part, &err));
    }
    OK(upg_moments_factor(&m, pool, 1e-2, d, &used, &err));
    OK(gpu->moments_factor(device, 1e-2, &our_used, &spread, &err));
    assert_true(used == our_used);
    OK(gpu->moments_read(device, ours, our_d, &err));
    if (distance(ours, m.sum, size) > 1e-8 || distance(our_d, d, width) > 1e-8)
        fail_msg("width %u: L is off by %g, D by %g", width, distance(ours, m.sum, size),
                 distance(our_d, d, width));
    for (size_t i = 0; i < width; i++)
        for (size_t j = 0; j < i; j++)
            sum += (double)m.sum[i * width + j] * (double)m.sum[i * width + j];
    assert_true(fabs(spread - sum / width) <= 1e-4 * (sum / width) + 1e-12);
    if (mixed) {
        uint32_t rows = 75;
        float *w = gaussians((size_t)rows * width, 3), *our_w = gaussians((size_t)rows * width, 3);
        float *scratch = reals((size_t)rows * width);

        upg_moments_correct(&m, d, rows, w, scratch);
        OK(gpu->moments_correct(device, rows, our_w, &err));
        if (distance(our_w, w, (size_t)rows * width) > 1e-7)
            fail_msg("width %u: targets are off by %g", width,
                     distance(our_w, w, (size_t)rows * width));
        free(w);
        free(our_w);
        free(scratch);
    }
    upg_moments_deinit(&m);
    free(x);
    free(y);
    free(d);
    free(ours);
    free(our_d);
    free(signs);
}

static void test_moments(void **state)
{
    (void)state;
    if (no_gpu())
        skip();
    compare_moments(1, 3, false);
    compare_moments(63, 210, true);
    compare_moments(64, 100, false);
    compare_moments(65, 500, true);
    compare_moments(500, 1300, true);
}

/* What cannot be factored is refused by the same words. */
static void test_bad_moments(void **state)
{
    float  x[4] = { 0 }, signs[4] = { 1, 1, 1, 1 };
    double used, spread;

    (void)state;
    if (no_gpu())
        skip();
    OK(gpu->moments_begin(device, 4, false, signs, 1, &err));
    OK(gpu->moments_add(device, x, NULL, 1, &err));
    assert_int_equal(gpu->moments_factor(device, 1e-2, &used, &spread, &err), UPG_E_DATA);
    x[0] = NAN;
    OK(gpu->moments_begin(device, 4, false, signs, 1, &err));
    OK(gpu->moments_add(device, x, NULL, 1, &err));
    assert_int_equal(gpu->moments_factor(device, 1e-2, &used, &spread, &err), UPG_E_DATA);
    assert_int_equal(gpu->moments_correct(device, 1, x, &err), UPG_E_STATE);
}

/* ---- passes -----------------------------------------------------------------------------------
 */

static void compare_layer(const upg_model_config *config, uint32_t window, uint32_t n_windows)
{
    size_t            size = (size_t)window * config->hidden;
    upg_kernels       kernels;
    upg_arena         arena = { 0 };
    upg_layer_buffers b;
    upg_layer_f32     layer = { .config = config, .kernels = &kernels };
    float            *state = gaussians(n_windows * size, 21), *ours = reals(n_windows * size);
    float            *norm = gaussians(config->hidden, 22), *matrices[UPG_LAYER_MATRICES];
    upg_device_layer  shape = { config->hidden,
                                config->ffn,
                                config->n_heads,
                                config->n_kv_heads,
                                config->head_dim,
                                config->rope.rotary_dims,
                                config->sliding_window,
                                config->norm_eps,
                                window,
                                NULL,
                                NULL };

    upg_kernels_select(upg_cpu_flags(), &kernels);
    OK(upg_layer_buffers_create(config, window, false, &arena, &b, &err));
    shape.cosine = b.cosine;
    shape.sine = b.sine;
    layer.attention_norm = layer.ffn_norm = norm;
    OK(gpu->layer_begin(device, &shape, &err));
    OK(gpu->layer_norms(device, norm, norm, &err));
    for (int m = 0; m < UPG_LAYER_MATRICES; m++) {
        uint32_t cols = upg_layer_input_width(config, upg_layer_input_of(m));
        uint32_t rows = m == UPG_LAYER_Q ? config->n_heads * config->head_dim
                        : m == UPG_LAYER_K || m == UPG_LAYER_V
                            ? config->n_kv_heads * config->head_dim
                        : m == UPG_LAYER_GATE || m == UPG_LAYER_UP ? config->ffn
                                                                   : config->hidden;

        matrices[m] = gaussians((size_t)rows * cols, 30 + (uint64_t)m);
        for (size_t i = 0; i < (size_t)rows * cols; i++)
            matrices[m][i] /= sqrtf((float)cols);
        layer.matrix[m] = matrices[m];
        OK(gpu->layer_matrix(device, 1, (uint32_t)m, matrices[m], &err));
    }
    memcpy(ours, state, n_windows * size * sizeof *ours);
    OK(gpu->layer_pass(device, 1, 63, n_windows, ours, UPG_DEVICE_DROP, &err));
    for (uint32_t w = 0; w < n_windows; w++)
        upg_layer_forward(&layer, &b, state + w * size);
    if (!(distance(ours, state, n_windows * size) < 1e-5)) /* TF32: a few 1e-4, squared less */
        fail_msg("hidden %u, window %u: states are off by %g", config->hidden, window,
                 sqrt(distance(ours, state, n_windows * size)));
    for (int m = 0; m < UPG_LAYER_MATRICES; m++)
        free(matrices[m]);
    free(state);
    free(ours);
    free(norm);
    upg_arena_deinit(&arena);
}

static void test_layer(void **state)
{
    static const float inv_freq[32] = { 1, .7f, .4f, .2f, .1f, .05f, .02f, .01f };
    upg_model_config   c = {
          .hidden = 96, .ffn = 200, .n_heads = 6, .n_kv_heads = 2, .head_dim = 16, .norm_eps = 1e-5f
    };

    (void)state;
    if (no_gpu())
        skip();
    c.rope.rotary_dims = 16;
    c.rope.inv_freq = inv_freq;
    c.rope.attention_scaling = 1;
    compare_layer(&c, 37, 3);
    c.sliding_window = 9;
    c.rope.rotary_dims = 8;
    compare_layer(&c, 64, 2);
    c.n_kv_heads = 6;
    c.sliding_window = 0;
    compare_layer(&c, 300, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_moments),
        cmocka_unit_test(test_bad_moments),
        cmocka_unit_test(test_layer),
    };

    return cmocka_run_group_tests(tests, open_blas, close_all);
}
