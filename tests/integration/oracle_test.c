/* The reference backend against logits, hidden states, greedy text and likelihoods that
 * transformers computed in fp32 from the same checkpoints (oracle.json and oracle.safetensors
 * beside each model). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/ref/ref.h"
#include "base/alloc.h"
#include "base/file.h"
#include "base/json.h"
#include "support/kv_sequence.h"
#include "support/npy.h"

enum { MAX_ROWS = 64 };

typedef struct fixture {
    upg_error    err;
    upg_weights *weights;
    upg_program *program;
    upg_backend *backend;
    upg_st      *oracle;      /* oracle.safetensors */
    json_t      *oracle_json; /* NULL for the random models, which have no greedy text */
    float       *hidden;      /* f32 [n_layers + 1][hidden]: of the newest row */
    char         folder[512];
} fixture;

#define OK(f, expression)                                                                          \
    do {                                                                                           \
        if ((expression) != UPG_OK)                                                                \
            fail_msg("%s: %s", (f)->folder, (f)->err.message);                                     \
    } while (0)

static const char *path_in(const fixture *f, const char *name)
{
    static char path[1024];

    snprintf(path, sizeof path, "%s/%s", f->folder, name);
    return path;
}

/* Keeps the residual stream after the embedding and after each layer. */
static void keep_hidden(void *context, const upg_op *op, const float *values, uint32_t n_rows,
                        uint32_t width, size_t stride)
{
    fixture *f = context;
    uint32_t entry = op->code == UPG_OP_EMBED ? 0 : op->layer + 1u;

    if (op->code == UPG_OP_EMBED ||
        (op->code == UPG_OP_GEMV_ADD && op->w[0]->role == UPG_ROLE_DOWN))
        memcpy(f->hidden + (size_t)entry * width, values + stride * (n_rows - 1),
               width * sizeof *values);
}

/* False when this model is not there: the test is skipped with a message. */
static bool setup(fixture *f, const char *root, const char *model)
{
    upg_buffer          text;
    upg_backend_options options = { .max_rows = MAX_ROWS };

    memset(f, 0, sizeof *f);
    snprintf(f->folder, sizeof f->folder, "%s/%s", root, model);
    if (!upg_file_is_folder(f->folder)) {
        print_message("skipped: no %s\n", f->folder);
        return false;
    }
    OK(f, upg_weights_open(f->folder, &f->weights, &f->err));
    OK(f, upg_program_build(f->weights, &f->program, &f->err));
    OK(f, upg_backend_ref.create(f->program, &options, &f->backend, &f->err));
    OK(f, upg_st_open(path_in(f, "oracle.safetensors"), &f->oracle, &f->err));
    upg_buffer_init(&text, 1 << 20);
    OK(f, upg_file_read(path_in(f, "oracle.json"), &text, &f->err));
    OK(f, upg_json_parse((upg_span) { (uint8_t *)text.data, text.size }, &f->oracle_json, &f->err));
    upg_buffer_deinit(&text);
    f->hidden = upg_calloc(f->weights->config.n_layers + 1,
                           f->weights->config.hidden * sizeof *f->hidden, &f->err);
    assert_non_null(f->hidden);
    upg_ref_observe(f->backend, keep_hidden, f);
    return true;
}

static void teardown(fixture *f)
{
    upg_free(f->hidden);
    json_decref(f->oracle_json);
    upg_st_close(f->oracle);
    upg_backend_ref.close(f->backend);
    upg_program_close(f->program);
    upg_weights_close(f->weights);
}

/* Logits of all n tokens, f32 [n][vocab]; upg_free them. */
static float *run_tokens(fixture *f, const int32_t *tokens, uint32_t n)
{
    const upg_model_config *c = &f->weights->config;
    test_sequence           sequence;
    float                  *logits = upg_malloc(n, c->vocab * sizeof *logits, &f->err);
    bool                    long_rope = c->rope.long_inv_freq && n > c->rope.original_context;

    assert_non_null(logits);
    OK(f, test_sequence_init(&sequence, c, UPG_KV_F32, n, long_rope, &f->err));
    OK(f, test_sequence_append(&sequence, &upg_backend_ref, f->backend, MAX_ROWS, tokens, n, false,
                               c->vocab, logits, &f->err));
    test_sequence_deinit(&sequence);
    return logits;
}

static uint32_t argmax(const float *x, uint32_t n)
{
    uint32_t best = 0;

    for (uint32_t i = 1; i < n; i++)
        if (x[i] > x[best])
            best = i;
    return best;
}

/* |got − want| within `tolerance` of the range of want. */
static void check_close(const fixture *f, const char *what, const float *got, const float *want,
                        size_t n, double tolerance)
{
    double low = want[0], high = want[0], worst = 0;
    size_t at = 0;

    for (size_t i = 0; i < n; i++) {
        low = fmin(low, want[i]);
        high = fmax(high, want[i]);
        if (!(fabs((double)got[i] - want[i]) <= worst)) {
            worst = fabs((double)got[i] - want[i]);
            at = i;
        }
    }
    if (!(worst <= tolerance * (high - low)))
        fail_msg("%s: %s: element %zu is %g, expected %g; range %g", f->folder, what, at,
                 (double)got[at], (double)want[at], high - low);
}

/* The last oracle entry is after the final norm. */
static void final_norm(const fixture *f)
{
    const upg_weights *w = f->weights;
    float             *x = f->hidden + (size_t)w->config.n_layers * w->config.hidden;
    double             squares = 0;

    for (uint32_t j = 0; j < w->config.hidden; j++)
        squares += (double)x[j] * x[j];
    for (uint32_t j = 0; j < w->config.hidden; j++)
        x[j] *= (float)(w->final_norm.values[j] /
                        sqrt(squares / w->config.hidden + (double)w->config.norm_eps));
}

static void check_hidden(fixture *f, const upg_st_tensor *want)
{
    uint32_t hidden = f->weights->config.hidden;
    char     what[64];

    assert_int_equal(want->shape[0], f->weights->config.n_layers + 1);
    assert_int_equal(want->shape[1], hidden);
    final_norm(f);
    for (uint32_t l = 0; l <= f->weights->config.n_layers; l++) {
        snprintf(what, sizeof what, "%s[%u]", want->name, l);
        check_close(f, what, f->hidden + (size_t)l * hidden,
                    (const float *)want->bytes.data + (size_t)l * hidden, hidden, 1e-3);
    }
}

/* Logits of the last position, or of all, within 1e-3 of their range. */
static void check_length(fixture *f, const upg_st_tensor *ids)
{
    const char          *length = ids->name + strlen("ids_");
    uint32_t             n = (uint32_t)ids->shape[0], vocab = f->weights->config.vocab;
    char                 name[64];
    const upg_st_tensor *want, *hidden;
    float               *logits;

    snprintf(name, sizeof name, "logits_%s", length);
    want = upg_st_find(f->oracle, name);
    snprintf(name, sizeof name, "hidden_%s", length);
    hidden = upg_st_find(f->oracle, name);
    assert_non_null(want);
    logits = run_tokens(f, (const int32_t *)ids->bytes.data, n);
    assert_int_equal(want->bytes.size, (want->rank == 2 ? n : 1) * (size_t)vocab * sizeof(float));
    check_close(f, want->name, want->rank == 2 ? logits : logits + (size_t)(n - 1) * vocab,
                (const float *)want->bytes.data, want->bytes.size / sizeof(float), 1e-3);
    if (hidden)
        check_hidden(f, hidden);
    upg_free(logits);
}

static void check_lengths(fixture *f)
{
    uint32_t n_checked = 0;

    for (size_t i = 0; i < upg_st_count(f->oracle); i++) {
        const upg_st_tensor *t = upg_st_at(f->oracle, i);

        if (strncmp(t->name, "ids_", 4) == 0) {
            check_length(f, t);
            n_checked++;
        }
    }
    assert_int_equal(n_checked, 4);
}

/* Prompt and continuation as one array; *n_prompt tokens of it are the prompt. */
static int32_t *greedy_tokens(const json_t *entry, uint32_t *n_prompt, uint32_t *n)
{
    const json_t *prompt = json_object_get(entry, "prompt_ids");
    const json_t *ids = json_object_get(entry, "ids");
    int32_t      *tokens;

    *n_prompt = (uint32_t)json_array_size(prompt);
    *n = *n_prompt + (uint32_t)json_array_size(ids);
    assert_true(*n_prompt > 0 && *n > *n_prompt);
    tokens = upg_calloc(*n, sizeof *tokens, NULL);
    assert_non_null(tokens);
    for (uint32_t i = 0; i < *n; i++)
        tokens[i] = (int32_t)json_integer_value(i < *n_prompt ? json_array_get(prompt, i)
                                                              : json_array_get(ids, i - *n_prompt));
    return tokens;
}

/* With the oracle's text fed in, every next token must be the most likely one: by induction greedy
 * decoding then gives this text. Up to the first margin below 1e-2. */
static void check_greedy(fixture *f, const json_t *entry)
{
    const json_t *margins = json_object_get(entry, "margins");
    double        min_margin = json_number_value(json_object_get(entry, "min_margin"));
    uint32_t      n_prompt, n, vocab = f->weights->config.vocab, n_checked = 0;
    int32_t      *tokens = greedy_tokens(entry, &n_prompt, &n);
    float        *logits = run_tokens(f, tokens, n - 1);

    for (uint32_t i = n_prompt; i < n; i++, n_checked++) {
        double margin =
            margins ? json_number_value(json_array_get(margins, i - n_prompt)) : min_margin;

        if (margin < 1e-2)
            break;
        assert_int_equal(argmax(logits + (size_t)(i - 1) * vocab, vocab), tokens[i]);
    }
    print_message("%s: %u greedy tokens equal\n", strrchr(f->folder, '/') + 1, n_checked);
    if (margins || min_margin >= 1e-2)
        assert_true(n_checked > 0);
    upg_free(logits);
    upg_free(tokens);
}

/* Token by token, as a session decodes, with fp16 KV pages. */
static void check_greedy_stepwise(fixture *f, const json_t *entry)
{
    const upg_model_config *c = &f->weights->config;
    uint32_t                n_prompt, n;
    int32_t                *tokens = greedy_tokens(entry, &n_prompt, &n);
    float                  *logits = upg_malloc(c->vocab, sizeof *logits, &f->err);
    test_sequence           sequence;

    assert_non_null(logits);
    OK(f, test_sequence_init(&sequence, c, UPG_KV_F16, n, false, &f->err));
    for (uint32_t i = n_prompt; i < n; i++) {
        uint32_t from = i == n_prompt ? 0 : i - 1;

        OK(f, test_sequence_append(&sequence, &upg_backend_ref, f->backend, MAX_ROWS, tokens + from,
                                   i - from, true, c->vocab, logits, &f->err));
        assert_int_equal(argmax(logits, c->vocab), tokens[i]);
    }
    test_sequence_deinit(&sequence);
    upg_free(logits);
    upg_free(tokens);
}

static double negative_log_likelihood(const float *logits, uint32_t vocab, int32_t token)
{
    double max = logits[argmax(logits, vocab)], sum = 0;

    for (uint32_t i = 0; i < vocab; i++)
        sum += exp(logits[i] - max);
    return log(sum) + max - logits[token];
}

static void check_windows(fixture *f, uint32_t n_windows)
{
    const json_t *want = json_object_get(json_object_get(f->oracle_json, "valid"), "window_nll");
    uint32_t      vocab = f->weights->config.vocab;
    test_ids      ids;

    OK(f, test_npy_read(path_in(f, "valid_ids.npy"), &ids, &f->err));
    assert_int_equal(json_array_size(want), ids.n_windows);
    for (uint32_t w = 0; w < n_windows; w++) {
        const int32_t *tokens = ids.ids + (size_t)w * ids.window;
        float         *logits = run_tokens(f, tokens, ids.window);
        double         nll = 0, expected = json_number_value(json_array_get(want, w));

        for (uint32_t i = 0; i + 1 < ids.window; i++)
            nll += negative_log_likelihood(logits + (size_t)i * vocab, vocab, tokens[i + 1]);
        print_message("%s: window %u: nll %.5f, expected %.5f\n", strrchr(f->folder, '/') + 1, w,
                      nll, expected);
        if (!(fabs(nll - expected) <= 2e-4 * expected))
            fail_msg("window %u: nll %.5f, expected %.5f", w, nll, expected);
        upg_free(logits);
    }
    upg_free(ids.ids);
}

static void check_trained(const char *root, const char *model, uint32_t n_windows, bool stepwise)
{
    fixture f;
    size_t  i;
    json_t *entry;

    if (!setup(&f, root, model))
        skip();
    check_lengths(&f);
    json_array_foreach(json_object_get(f.oracle_json, "greedy"), i, entry) check_greedy(&f, entry);
    assert_int_equal(i, 4);
    check_greedy(&f, json_object_get(f.oracle_json, "chat_greedy"));
    if (stepwise)
        check_greedy_stepwise(&f, json_array_get(json_object_get(f.oracle_json, "greedy"), 0));
    check_windows(&f, n_windows);
    teardown(&f);
}

static void phi4_micro(void **state)
{
    (void)state;
    check_trained(UPG_TEST_DATA, "phi4-micro", 2, true);
}

static void phi4_nano(void **state)
{
    (void)state;
    check_trained(UPG_SHARED_DATA "/models", "phi4-nano", 1, false);
}

static void check_random(const char *model)
{
    fixture f;

    if (!setup(&f, UPG_SHARED_DATA "/models/random", model))
        skip();
    check_lengths(&f);
    teardown(&f);
}

static void gqa4_hd128(void **state)
{
    (void)state;
    check_random("gqa4-hd128");
}

static void hidden640(void **state)
{
    (void)state;
    check_random("hidden640");
}

static void sliding_window(void **state)
{
    (void)state;
    check_random("sliding-window");
}

static void tied_partial_longrope(void **state)
{
    (void)state;
    check_random("tied-partial-longrope");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(phi4_micro),
        cmocka_unit_test(gqa4_hd128),
        cmocka_unit_test(hidden640),
        cmocka_unit_test(sliding_window),
        cmocka_unit_test(tied_partial_longrope),
        cmocka_unit_test(phi4_nano),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
