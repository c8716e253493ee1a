/* What a model says about itself, and evaluation through upg.h. */
#include "support/open_model.h"

#include <math.h>

#include "base/alloc.h"
#include "runtime/engine.h"

static char *folder;

static int set_up(void **state)
{
    test_model_shape shape = test_model_small();

    (void)state;
    folder = make_folder();
    MUST(make_checkpoint(folder, &shape, 1, err));
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    remove_folder(folder);
    return 0;
}

static void keep_line(void *user, upg_log level, const char *message)
{
    if (level == UPG_LOG_WARN) /* more threads than this machine has cores */
        return;
    assert_int_equal(level, UPG_LOG_INFO);
    snprintf(user, 512, "%s", message);
}

static void test_description(void **state)
{
    char              line[512] = "";
    upg_model_options options = { .struct_size = sizeof options,
                                  .device = "cpu",
                                  .threads = 2,
                                  .hooks = { .log = keep_line, .user = line } };
    upg_model_info    info = { .struct_size = sizeof info };
    upg_model        *model;

    (void)state;
    MUST(upg_model_open(folder, &options, &model, err));
    assert_non_null(strstr(line, "runs on cpu"));
    MUST(upg_model_describe(model, &info, err));
    assert_int_equal(info.struct_size, sizeof info);
    assert_string_equal(info.architecture, "Phi3ForCausalLM");
    assert_non_null(strstr(info.device, "2 threads"));
    assert_int_equal(info.layers, 2);
    assert_int_equal(info.vocab_size, 320);
    assert_int_equal(info.context_tokens, 128);
    assert_string_equal(info.quality_json, "");
    assert_true(info.parameters > 2 * 320 * 64);
    assert_int_equal(info.weight_bytes, 2 * info.parameters); /* bf16 */
    assert_int_equal(info.source_bytes, info.weight_bytes);
    assert_true(
        fabs(info.bits_per_parameter * (double)info.parameters / 8 - (double)info.file_bytes) < 1);
    assert_true(fabs(info.ratio_fp32 * (double)info.file_bytes / 4 - (double)info.parameters) < 1);
    assert_true(info.ratio_source > 0.9 && info.ratio_source <= 1);
    /* matrices: bf16, of the embedding one row; two layers of two heads of 16, keys and values */
    assert_int_equal(info.token_bytes, info.weight_bytes - 2 * 64 * (320 - 1) - 2 * 64 * 5);
    assert_int_equal(info.token_macs, info.parameters - 64 * 320 - 64 * 5);
    assert_int_equal(info.head_macs, 64 * 320);
    assert_false(info.fast_prompts); /* nothing is coded */
    assert_int_equal(info.kv_bytes, 2 * 2 * 16 * 2 * 2);
    assert_int_equal(info.kv_bytes_int8, 2 * 2 * (16 + 4) * 2);
    assert_int_equal(info.batch_tokens, 256);
    assert_null(upg_model_tokenizer(model));
    assert_non_null(strstr(upg_model_program(model), "ATTENTION"));
    info.struct_size = 0;
    MUST_FAIL(UPG_E_ARG, "upg_model_info.struct_size", upg_model_describe(model, &info, err));
    upg_model_close(model);
    upg_model_close(NULL);
}

static void keep_warning(void *user, upg_log level, const char *message)
{
    if (level == UPG_LOG_WARN)
        snprintf(user, 512, "%s", message);
}

/* More threads than cores work, and are warned of; absurd numbers are refused. */
static void test_too_many_threads(void **state)
{
    char              line[512] = "";
    upg_model_options options = { .struct_size = sizeof options,
                                  .device = "cpu",
                                  .threads = 300,
                                  .hooks = { .log = keep_warning, .user = line } };
    upg_model        *model = NULL;
    upg_token         prompt[] = { 1, 2, 3 };
    upg_session      *session;

    (void)state;
    MUST(upg_model_open_synthetic("phi4-micro:1", &options, &model, err));
    assert_non_null(strstr(line, "300 threads on "));
    session = make_session(model, NULL);
    MUST(upg_prefill(session, prompt, 3, NULL, err));
    upg_session_close(session);
    upg_model_close(model);
    options.threads = 4097;
    MUST_FAIL(UPG_E_ARG, "threads is 4097: at most 4096",
              upg_model_open(folder, &options, &model, err));
}

/* Synthetic models run as all others do, and are the same for any number of threads. */
static void test_synthetic(void **state)
{
    upg_model_options options = { .struct_size = sizeof options, .device = "cpu", .threads = 1 };
    upg_model_info    info = { .struct_size = sizeof info };
    upg_token         prompt[] = { 5, 77, 8000 };
    upg_token         drawn[2][6];
    upg_model        *none = NULL;

    (void)state;
    for (uint32_t i = 0; i < 2; i++) {
        upg_model   *model = NULL;
        upg_session *session;

        options.threads = i + 1;
        MUST(upg_model_open_synthetic("phi4-micro:2", &options, &model, err));
        MUST(upg_model_describe(model, &info, err));
        assert_int_equal(info.layers, 2);
        assert_null(upg_model_tokenizer(model));
        assert_true(info.token_bytes < info.weight_bytes && info.token_bytes > info.token_macs / 4);
        session = make_session(model, NULL);
        MUST(upg_prefill(session, prompt, 3, NULL, err));
        for (int n = 0; n < 6; n++) {
            upg_step step = { 0 };

            MUST(upg_decode(&session, 1, &step, err));
            assert_int_equal(step.status, UPG_OK);
            drawn[i][n] = step.token;
        }
        upg_session_close(session);
        upg_model_close(model);
    }
    assert_memory_equal(drawn[0], drawn[1], sizeof drawn[0]);
    options.verify = 1;
    MUST_FAIL(UPG_E_ARG, "no hashes", upg_model_open_synthetic("phi4-micro", &options, &none, err));
    assert_null(none);
}

static void test_tensors(void **state)
{
    upg_model      *model = open_path(folder, "ref", 1);
    upg_model_info  info = { .struct_size = sizeof info };
    upg_tensor_info t = { .struct_size = sizeof t };
    uint64_t        bytes = 0, values = 0;
    size_t          n = 0;

    (void)state;
    MUST(upg_model_describe(model, &info, err));
    for (upg_status st = UPG_OK; st == UPG_OK; n++) {
        st = upg_model_tensor(model, n, &t, NULL);
        if (st != UPG_OK)
            break;
        bytes += t.bytes;
        values += t.shape[0] * (t.shape[1] ? t.shape[1] : 1);
        assert_true(t.bits_per_weight == 16 && t.relative_error == 0);
        assert_int_equal(t.shape[2], 0);
        if (n == 0)
            assert_string_equal(t.name, "model.embed_tokens.weight");
        if (n == 1)
            assert_string_equal(t.name, "model.layers.0.input_layernorm.weight");
        if (n == 18)
            assert_string_equal(t.name, "model.layers.1.mlp.down_proj.weight");
    }
    assert_int_equal(n, 2 * 9 + 3);
    assert_string_equal(t.name, "lm_head.weight");
    assert_int_equal(bytes, info.weight_bytes);
    assert_int_equal(values, info.parameters);
    MUST_FAIL(UPG_E_ARG, "tensor 21: the model has 21", upg_model_tensor(model, 21, &t, err));
    upg_model_close(model);
}

static void open_with_generation(const char *json, upg_sampling *sampling)
{
    upg_model *model;

    write_file(in_folder(folder, "generation_config.json"), json, strlen(json));
    model = open_path(folder, "cpu", 1);
    *sampling = (upg_sampling) { .struct_size = sizeof *sampling, .seed = 77 };
    MUST(upg_model_sampling(model, sampling, err));
    assert_true(upg_model_is_end(model, 5) && upg_model_is_end(model, 9));
    assert_false(upg_model_is_end(model, 6));
    upg_model_close(model);
}

static void test_sampling_defaults(void **state)
{
    upg_sampling s;

    (void)state;
    open_with_generation("{\"eos_token_id\": [5, 9], \"do_sample\": true, \"temperature\": 0.5,"
                         " \"top_k\": 30, \"top_p\": 0.75, \"repetition_penalty\": 1.25}",
                         &s);
    assert_true(s.temperature == 0.5f && s.top_k == 30 && s.top_p == 0.75f && s.min_p == 0 &&
                s.repetition_penalty == 1.25f && s.seed == 0 && s.bias_count == 0);
    open_with_generation("{\"eos_token_id\": [5, 9], \"do_sample\": true}", &s);
    assert_true(s.temperature == 1 && s.top_k == 0 && s.top_p == 0);
    open_with_generation("{\"eos_token_id\": [5, 9], \"temperature\": 0.5}", &s);
    assert_true(s.temperature == 0 && s.top_k == 0);
}

static void test_evaluation(void **state)
{
    test_model_shape shape = test_model_small();
    upg_model       *model = open_random(&shape, 1, "cpu", 2), *other;
    upg_token        tokens[330];
    double           nll[10], again[10], sum = 0;
    upg_eval_options options = { .struct_size = sizeof options, .window = 33, .window_nll = nll };
    upg_eval_result  result = { .struct_size = sizeof result }, small = result;

    (void)state;
    for (size_t i = 0; i < 330; i++)
        tokens[i] = some_token(320, i);
    other = open_random(&shape, 2, "ref", 1);
    options.against = other;
    MUST(upg_evaluate(model, tokens, 329, &options, &result, err)); /* nine windows and a part */
    assert_int_equal(result.windows, 9);
    assert_int_equal(result.tokens, 9 * 32);
    for (int i = 0; i < 9; i++)
        sum += nll[i];
    assert_true(fabs(sum / (9 * 32) - result.nll) < 1e-12);
    assert_true(fabs(log(result.perplexity) - result.nll) < 1e-12);
    assert_true(result.kl_mean > 0.01 && result.kl_p99 > result.kl_mean);
    assert_true(result.top1_agreement < 1);
    assert_true(fabs(result.ppl_ratio - result.perplexity / result.against_perplexity) < 1e-9);
    /* Windows count for themselves: one alone gives the same, however rows were batched. */
    options.window_nll = again;
    options.windows = 1;
    MUST(upg_evaluate(model, tokens + 33 * 5, 33 * 2, &options, &small, err));
    assert_int_equal(small.windows, 1);
    assert_true(again[0] == nll[5]);
    MUST_FAIL(UPG_E_ARG, "less than one window of 33",
              upg_evaluate(model, tokens, 32, &options, &small, err));
    options.window = 129;
    MUST_FAIL(UPG_E_ARG, "windows of 129", upg_evaluate(model, tokens, 330, &options, &small, err));
    tokens[40] = 320;
    options.window = 33;
    MUST_FAIL(UPG_E_ARG, "index 40", upg_evaluate(model, tokens, 330, &options, &small, err));
    upg_model_close(other);
    shape.vocab = 256;
    options.against = other = open_random(&shape, 2, "cpu", 1);
    MUST_FAIL(UPG_E_ARG, "320 and 256", upg_evaluate(model, tokens, 33, &options, &small, err));
    upg_model_close(other);
    upg_model_close(model);
}

/* Sums do not depend on how many threads score. */
static void test_evaluation_by_threads(void **state)
{
    test_model_shape shape = test_model_small();
    upg_eval_result  results[3];
    upg_token        tokens[256];

    (void)state;
    for (size_t i = 0; i < 256; i++)
        tokens[i] = some_token(320, i);
    for (uint32_t t = 0; t < 3; t++) {
        upg_model       *model = open_random(&shape, 1, "cpu", t + 1);
        upg_model       *other = open_random(&shape, 3, "cpu", 1);
        upg_eval_options options = { .struct_size = sizeof options,
                                     .window = 64,
                                     .against = other };

        results[t] = (upg_eval_result) { .struct_size = sizeof results[t] };
        MUST(upg_evaluate(model, tokens, 256, &options, &results[t], err));
        results[t].seconds = 0;
        upg_model_close(other);
        upg_model_close(model);
    }
    assert_memory_equal(&results[0], &results[1], sizeof results[0]);
    assert_memory_equal(&results[0], &results[2], sizeof results[0]);
}

static void test_open_without_memory(void **state)
{
    upg_model_options options = { .struct_size = sizeof options, .device = "cpu", .threads = 1 };
    upg_model        *model;
    upg_status        st = UPG_E_NOMEM;

    (void)state;
    for (uint64_t n = 0; st != UPG_OK; n++) {
        upg_alloc_fail_after(n);
        st = upg_model_open(folder, &options, &model, NULL);
        upg_alloc_fail_after(UINT64_MAX);
        assert_true(st == UPG_OK ? model != NULL : st == UPG_E_NOMEM && !model);
        assert_true(n < 10000);
    }
    upg_model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_description),           cmocka_unit_test(test_synthetic),
        cmocka_unit_test(test_too_many_threads),      cmocka_unit_test(test_tensors),
        cmocka_unit_test(test_sampling_defaults),     cmocka_unit_test(test_evaluation),
        cmocka_unit_test(test_evaluation_by_threads), cmocka_unit_test(test_open_without_memory),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
