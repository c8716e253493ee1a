/* Every kernel of the cuda backend once or twice, on a model as small as they allow: what
 * compute-sanitizer's racecheck, which takes minutes for the other tests, ends in less than one. It
 * sees shared memory only; what blocks tell each other through global memory is out of its sight.
 * Results are compared with the CPU's as cuda_backend_test does. */
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
#include "base/random.h"
#include "support/coded_weights.h"
#include "support/device_sequence.h"
#include "support/make_checkpoint.h"
#include "support/temp_folder.h"

enum { N_PROMPT = 40, N_TOKENS = 44, VOCAB = 320 };

static const upg_backend_class *cuda;

static upg_error err;

#define OK(expression)                                                                             \
    do {                                                                                           \
        if ((expression) != UPG_OK)                                                                \
            fail_msg("%s", err.message);                                                           \
    } while (0)

static void feed(const upg_backend_class *class_, upg_backend *backend, device_sequence *s,
                 uint32_t begin, uint32_t end, float *logits)
{
    upg_batch_row rows[N_PROMPT];
    upg_batch     batch = { .n_rows = end - begin, .rows = rows, .kv_layout = &s->layout };

    for (uint32_t i = begin; i < end; i++)
        rows[i - begin] = (upg_batch_row) { (int32_t)(upg_random_u64(3, i) % VOCAB), i, &s->view,
                                            logits + (size_t)i * VOCAB };
    OK(class_->run(backend, &batch, &err));
}

/* A prompt, few rows, single tokens. */
static void run(const upg_program *program, const upg_backend_class *class_, upg_kv_type type,
                float *logits)
{
    upg_backend_options options = { .max_rows = N_PROMPT, .threads = 1 };
    upg_backend        *backend;
    device_sequence     s;

    OK(class_->create(program, &options, &backend, &err));
    OK(device_sequence_open(&s, class_, backend, &program->weights->config, type, &err));
    feed(class_, backend, &s, 0, N_PROMPT, logits);
    feed(class_, backend, &s, N_PROMPT, N_PROMPT + 3, logits);
    feed(class_, backend, &s, N_PROMPT + 3, N_TOKENS, logits);
    device_sequence_close(&s);
    class_->close(backend);
}

static void compare(const upg_program *program, upg_kv_type type)
{
    static float got[N_TOKENS * VOCAB], want[N_TOKENS * VOCAB];
    double       low = INFINITY, high = -INFINITY, squares = 0;

    run(program, &upg_backend_cpu, type, want);
    run(program, cuda, type, got);
    for (size_t i = 0; i < N_TOKENS * VOCAB; i++) {
        low = fmin(low, want[i]);
        high = fmax(high, want[i]);
        squares += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
    }
    assert_true(sqrt(squares / (N_TOKENS * VOCAB)) / (high - low) <= 5e-3);
}

static void draw(const upg_program *program)
{
    void                   *symbol = upg_cuda_symbol("upg_cuda_module_tools");
    upg_backend_options     options = { .max_rows = 1 };
    upg_cuda_tools_function function;
    upg_backend            *backend;
    device_sequence         s;
    int32_t                 token = 1, tokens[2];
    uint8_t                 drawn = 0;
    float                   logprobs[2];
    double                  ms;
    upg_draw                how = { .n_tokens = VOCAB,
                                    .temperature = 1,
                                    .repetition_penalty = 1.2f,
                                    .history = &token,
                                    .drawn = &drawn,
                                    .n_history = 1 };

    memcpy(&function, &symbol, sizeof function);
    OK(cuda->create(program, &options, &backend, &err));
    OK(device_sequence_open(&s, cuda, backend, &program->weights->config, UPG_KV_F16, &err));
    for (int ranked = 0; ranked < 2; ranked++) {
        OK(function()->draw(backend, &how, &s.view, &s.layout, token, 0, 2, tokens, logprobs, &ms,
                            &err));
        assert_in_range(tokens[1], 0, VOCAB - 1);
        how.top_k = 9;
        how.top_p = 0.9f;
        how.min_p = 0.2f;
    }
    device_sequence_close(&s);
    cuda->close(backend);
}

static void every_kernel(void **state)
{
    test_model_shape shape = test_model_small();
    char            *folder;
    upg_arena        arena = { 0 };
    upg_weights     *weights;
    upg_program     *program;

    (void)state;
    if (upg_backend_find("cuda", &cuda, &err) != UPG_OK) {
        print_message("skipped: %s\n", err.message);
        assert_int_equal(err.code, UPG_E_DEVICE);
        skip();
    }
    shape.vocab = VOCAB;
    shape.n_layers = 1;
    shape.hidden = 256;
    shape.head_dim = 64;
    folder = make_folder();
    OK(make_checkpoint(folder, &shape, 7, &err));
    OK(upg_weights_open(folder, &weights, &err));
    OK(test_code_weights(weights, 6, 11, &arena, &err));
    OK(upg_program_build(weights, &program, &err));
    compare(program, UPG_KV_F16);
    compare(program, UPG_KV_I8);
    draw(program);
    upg_program_close(program);
    OK(test_add_outliers(weights, 5, &arena, &err));
    OK(upg_program_build(weights, &program, &err));
    compare(program, UPG_KV_F16);
    upg_program_close(program);
    upg_weights_close(weights);
    upg_arena_deinit(&arena);
    remove_folder(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(every_kernel) };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
