/* Tokens drawn on the device against the host's sampler: the same seed must give the same tokens as
 * the sampler draws from the device's logits, over temperatures, top-k, top-p, min-p, penalties and
 * biases. Skips, and says so, where there is no GPU. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/cuda/cuda_tools.h"
#include "backend/cuda_loader.h"
#include "base/cpu.h"
#include "base/random.h"
#include "runtime/sampler.h"
#include "support/coded_weights.h"
#include "support/device_sequence.h"
#include "support/make_checkpoint.h"
#include "support/temp_folder.h"

enum { N_PROMPT = 20, N_DRAWN = 24, VOCAB = 20011, SAMPLED = 20000, SEED = 77 };

typedef struct fixture {
    char        *folder;
    upg_weights *weights;
    upg_program *program;
    upg_arena    arena;
    upg_backend *backend;
    upg_error    err;

    device_sequence   sequence;
    upg_sampler_space space;
    float            *logits;
    int32_t           tokens[N_PROMPT + N_DRAWN + 1];
    uint8_t           drawn[N_PROMPT + N_DRAWN + 1];
} fixture;

static const upg_backend_class *cuda;
static const upg_cuda_tools    *tools;
static fixture                  f;

#define OK(expression)                                                                             \
    do {                                                                                           \
        if ((expression) != UPG_OK)                                                                \
            fail_msg("%s", f.err.message);                                                         \
    } while (0)

static bool no_gpu(void)
{
    void                   *symbol;
    upg_cuda_tools_function function;

    if (cuda == NULL && upg_backend_find("cuda", &cuda, &f.err) != UPG_OK) {
        print_message("skipped: %s\n", f.err.message);
        assert_int_equal(f.err.code, UPG_E_DEVICE);
        cuda = NULL;
        return true;
    }
    symbol = upg_cuda_symbol("upg_cuda_module_tools");
    memcpy(&function, &symbol, sizeof function);
    tools = function();
    return false;
}

/* ---- a model with a prompt in its cache --------------------------------------------------------
 */

static void compute(uint32_t begin, uint32_t end)
{
    for (uint32_t i = begin; i < end; i++) {
        upg_batch_row row = { f.tokens[i], i, &f.sequence.view, f.logits };
        upg_batch     batch = { .n_rows = 1, .rows = &row, .kv_layout = &f.sequence.layout };

        OK(cuda->run(f.backend, &batch, &f.err));
    }
}

static int open_model(void **state)
{
    upg_backend_options options = { .max_rows = 8 };
    test_model_shape    shape = test_model_small();

    (void)state;
    if (no_gpu())
        return 0;
    shape.vocab = VOCAB;
    f.folder = make_folder();
    OK(make_checkpoint(f.folder, &shape, 7, &f.err));
    OK(upg_weights_open(f.folder, &f.weights, &f.err));
    OK(test_code_weights(f.weights, 6, 11, &f.arena, &f.err));
    OK(upg_program_build(f.weights, &f.program, &f.err));
    OK(cuda->create(f.program, &options, &f.backend, &f.err));
    OK(device_sequence_open(&f.sequence, cuda, f.backend, &f.weights->config, UPG_KV_F16, &f.err));
    f.logits = upg_alloc_aligned(VOCAB * sizeof *f.logits, &f.err);
    f.space.values = upg_alloc_aligned(VOCAB * sizeof *f.space.values, &f.err);
    f.space.counts = upg_calloc(VOCAB, sizeof *f.space.counts, &f.err);
    f.space.candidates = upg_calloc(VOCAB, sizeof *f.space.candidates, &f.err);
    assert_true(f.logits && f.space.values && f.space.counts && f.space.candidates);
    for (uint32_t i = 0; i < N_PROMPT; i++)
        f.tokens[i] = (int32_t)(upg_random_u64(3, i) % SAMPLED);
    compute(0, N_PROMPT);
    return 0;
}

static int close_model(void **state)
{
    (void)state;
    if (cuda == NULL)
        return 0;
    device_sequence_close(&f.sequence);
    cuda->close(f.backend);
    upg_free(f.logits);
    upg_free(f.space.values);
    upg_free(f.space.counts);
    upg_free(f.space.candidates);
    upg_program_close(f.program);
    upg_weights_close(f.weights);
    upg_arena_deinit(&f.arena);
    remove_folder(f.folder);
    return 0;
}

/* ---- draws --------------------------------------------------------------------------------------
 */

static upg_draw draw_of(const upg_sampling *s, upg_draw_bias *biases)
{
    for (size_t i = 0; i < s->bias_count; i++)
        biases[i] = (upg_draw_bias) { s->biases[i].token, s->biases[i].value };
    return (upg_draw) { .n_tokens = SAMPLED,
                        .top_k = s->top_k,
                        .temperature = s->temperature,
                        .top_p = s->top_p,
                        .min_p = s->min_p,
                        .repetition_penalty = s->repetition_penalty,
                        .presence_penalty = s->presence_penalty,
                        .frequency_penalty = s->frequency_penalty,
                        .seed = s->seed,
                        .place = N_PROMPT,
                        .biases = biases,
                        .n_biases = s->bias_count,
                        .history = f.tokens,
                        .drawn = f.drawn,
                        .n_history = N_PROMPT };
}

/* log softmax of logit `token`, in fp64 */
static double log_probability(int32_t token)
{
    double top = f.logits[0], sum = 0;

    for (uint32_t i = 0; i < VOCAB; i++)
        top = fmax(top, f.logits[i]);
    for (uint32_t i = 0; i < VOCAB; i++)
        sum += exp(f.logits[i] - top);
    return f.logits[token] - top - log(sum);
}

static void check(const upg_sampling *settings, const char *name)
{
    upg_draw_bias biases[64];
    upg_draw      draw = draw_of(settings, biases);
    upg_sampler   sampler = { 0 };
    upg_kernels   kernels;
    int32_t       got[N_DRAWN];
    float         logprobs[N_DRAWN];
    double        ms;

    memset(f.drawn, 0, sizeof f.drawn);
    for (uint32_t i = 1; i < N_PROMPT; i += 3)
        f.drawn[i] = 1;
    upg_kernels_select(upg_cpu_flags(), &kernels);
    OK(upg_sampler_set(&sampler, settings, VOCAB, &f.err));
    OK(tools->draw(f.backend, &draw, &f.sequence.view, &f.sequence.layout, f.tokens[N_PROMPT - 1],
                   N_PROMPT - 1, N_DRAWN, got, logprobs, &ms, &f.err));
    for (uint32_t i = 0; i < N_DRAWN; i++) {
        upg_sampler_history history = { f.tokens, f.drawn, N_PROMPT + i };
        int32_t             want;

        compute(N_PROMPT + i - 1, N_PROMPT + i);
        want = upg_sampler_choose(&sampler, &kernels, &f.space, f.logits, SAMPLED, NULL, &history,
                                  N_PROMPT + i);
        if (got[i] != want)
            fail_msg("%s: token %u is %d, the host draws %d", name, i, got[i], want);
        if (fabs(logprobs[i] - log_probability(want)) > 1e-4)
            fail_msg("%s: token %u has log-probability %g, not %g", name, i, (double)logprobs[i],
                     log_probability(want));
        f.tokens[N_PROMPT + i] = want;
        f.drawn[N_PROMPT + i] = 1;
    }
    print_message("  %s: %d tokens as the host draws them, %.3f ms each\n", name, N_DRAWN,
                  ms / N_DRAWN);
    upg_sampler_deinit(&sampler);
}

static void as_the_host(void **state)
{
    static const upg_scored biases[] = { { 5, 3.0f }, { 900, -INFINITY }, { 19999, 2.5f } };
    static const struct {
        const char  *name;
        upg_sampling sampling;
    } cases[] = {
        { "greedy", { .temperature = 0 } },
        { "greedy, penalties", { .repetition_penalty = 1.3f, .frequency_penalty = 0.5f } },
        { "greedy, biases", { .biases = biases, .bias_count = 3 } },
        { "temperature", { .temperature = 0.8f } },
        { "hot", { .temperature = 100 } },
        { "min-p", { .temperature = 1.2f, .min_p = 0.05f } },
        { "top-k", { .temperature = 1, .top_k = 40 } },
        { "top-k 1", { .temperature = 1, .top_k = 1 } },
        { "top-p", { .temperature = 1, .top_p = 0.9f } },
        { "top-p, hot", { .temperature = 30, .top_p = 0.95f } },
        { "top-p, cold", { .temperature = 0.05f, .top_p = 0.95f } },
        { "all", { .temperature = 0.9f, .top_k = 200, .top_p = 0.95f, .min_p = 0.02f } },
        { "all, penalties, biases",
          { .temperature = 1.1f,
            .top_k = 1000,
            .top_p = 0.98f,
            .min_p = 0.001f,
            .repetition_penalty = 1.2f,
            .presence_penalty = 0.3f,
            .frequency_penalty = 0.2f,
            .biases = biases,
            .bias_count = 3 } },
    };

    (void)state;
    if (cuda == NULL)
        skip();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        upg_sampling sampling = cases[i].sampling;

        sampling.seed = SEED + i;
        check(&sampling, cases[i].name);
    }
}

/* All logits equal: 20,000 ranks with one weight, told apart by id alone. */
static void ties(void **state)
{
    upg_scored   biases[1];
    upg_sampling sampling = { .temperature = 100, .top_p = 0.5f, .seed = 3 };

    (void)state;
    if (cuda == NULL)
        skip();
    biases[0] = (upg_scored) { 7, -INFINITY };
    sampling.biases = biases;
    sampling.bias_count = 1;
    sampling.top_k = SAMPLED - 5;
    check(&sampling, "nearly all");
}

static void refused(void **state)
{
    upg_draw_bias twice[] = { { 4, 1 }, { 4, 1 } }, *all;
    upg_sampling  sampling = { .temperature = 1 };
    upg_draw      draw = draw_of(&sampling, NULL);
    int32_t       got[2];
    double        ms;

    (void)state;
    if (cuda == NULL)
        skip();
    draw.biases = twice;
    draw.n_biases = 2;
    assert_int_equal(tools->draw(f.backend, &draw, &f.sequence.view, &f.sequence.layout, 1,
                                 N_PROMPT, 2, got, NULL, &ms, &f.err),
                     UPG_E_UNSUPPORTED);
    all = upg_calloc(SAMPLED, sizeof *all, &f.err);
    assert_non_null(all);
    for (int32_t i = 0; i < SAMPLED; i++)
        all[i] = (upg_draw_bias) { i, -INFINITY };
    draw.biases = all;
    draw.n_biases = SAMPLED;
    OK(tools->draw(f.backend, &draw, &f.sequence.view, &f.sequence.layout, 1, N_PROMPT, 2, got,
                   NULL, &ms, &f.err));
    assert_int_equal(got[0], -1);
    upg_free(all);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_the_host),
        cmocka_unit_test(ties),
        cmocka_unit_test(refused),
    };

    return cmocka_run_group_tests(tests, open_model, close_model);
}
