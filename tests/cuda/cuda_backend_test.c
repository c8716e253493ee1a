/* The cuda backend against the host's: on random coded and dense models of odd shapes, by single
 * tokens in one launch, op by op and in batches, with every type of KV cache; the micro model's
 * greedy text. Skips, and says so, where there is no GPU. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/backend.h"
#include "backend/cuda/cuda_tools.h"
#include "backend/cuda_loader.h"
#include "base/alloc.h"
#include "base/cpu.h"
#include "base/random.h"
#include "kernels/kernels.h"
#include "support/coded_weights.h"
#include "support/make_checkpoint.h"
#include "support/npy.h"
#include "support/temp_folder.h"

enum { N_TOKENS = 150, MAX_PAGES = 64, MAX_BATCH = 300, DENSE = 1 };

typedef struct model {
    char        *folder;
    upg_weights *weights;
    upg_program *program;
    upg_arena    arena;
    upg_error    err;
    uint32_t     n;
    int32_t      tokens[1024];
    bool         fast; /* batches may take values of 8 bits */
} model;

#define OK(m, expression)                                                                          \
    do {                                                                                           \
        if ((expression) != UPG_OK)                                                                \
            fail_msg("%s", (m)->err.message);                                                      \
    } while (0)

static const upg_backend_class *cuda;
static const upg_cuda_tools    *tools;

static bool no_gpu(void)
{
    upg_error err = { 0 };

    if (cuda != NULL)
        return false;
    if (upg_backend_find("cuda", &cuda, &err) != UPG_OK) {
        print_message("skipped: %s\n", err.message);
        assert_int_equal(err.code, UPG_E_DEVICE);
        return true;
    }
    {
        void                   *symbol = upg_cuda_symbol("upg_cuda_module_tools");
        upg_cuda_tools_function function;

        memcpy(&function, &symbol, sizeof function);
        tools = function();
    }
    return false;
}

/* ---- models -----------------------------------------------------------------------------------
 */

/* length: of codes; 0 = lengths in turn, DENSE = no codes */
static void open_model_at(model *m, const test_model_shape *shape, uint32_t length)
{
    memset(m, 0, sizeof *m);
    m->folder = make_folder();
    OK(m, make_checkpoint(m->folder, shape, 7, &m->err));
    OK(m, upg_weights_open(m->folder, &m->weights, &m->err));
    if (length != DENSE)
        OK(m, test_code_weights_at(m->weights, 0, length, 11, &m->arena, &m->err));
    OK(m, upg_program_build(m->weights, &m->program, &m->err));
    m->n = N_TOKENS < shape->context ? N_TOKENS : shape->context;
    for (uint32_t i = 0; i < m->n; i++)
        m->tokens[i] = (int32_t)(upg_random_u64(3, i) % shape->vocab);
}

static void open_model(model *m, const test_model_shape *shape, bool coded)
{
    open_model_at(m, shape, coded ? UPG_CODE_DEFAULT_LENGTH : DENSE);
}

static void close_model(model *m)
{
    upg_program_close(m->program);
    upg_weights_close(m->weights);
    upg_arena_deinit(&m->arena);
    if (m->folder)
        remove_folder(m->folder);
}

/* ---- sequences --------------------------------------------------------------------------------
 */

typedef struct sequence {
    const upg_backend_class *class_;
    upg_backend             *backend;
    upg_kv_layout            layout;
    upg_kv_view              view;
    uint8_t                 *pages[MAX_PAGES];
} sequence;

static void open_sequence(model *m, sequence *s, const upg_backend_class *class_,
                          upg_backend *backend, upg_kv_type kv, uint32_t n_tokens)
{
    *s = (sequence) { .class_ = class_, .backend = backend };
    s->layout = upg_kv_layout_make(&m->weights->config, kv);
    s->view.pages = s->pages;
    s->view.n_pages = (n_tokens + UPG_PAGE_TOKENS - 1) / UPG_PAGE_TOKENS;
    assert_true(s->view.n_pages <= MAX_PAGES);
    for (uint32_t i = 0; i < s->view.n_pages; i++)
        if (class_->kv_allocate)
            OK(m, class_->kv_allocate(backend, s->layout.page_bytes, &s->pages[i], &m->err));
        else
            assert_non_null(s->pages[i] = upg_alloc_aligned(s->layout.page_bytes, &m->err));
}

static void close_sequence(sequence *s)
{
    for (uint32_t i = 0; i < s->view.n_pages; i++)
        if (s->class_->kv_free)
            s->class_->kv_free(s->backend, s->pages[i], s->layout.page_bytes);
        else
            upg_free(s->pages[i]);
}

/* All tokens in batches of `batch`; logits f32 [n][vocab]. */
static void append(model *m, sequence *s, uint32_t batch, float *logits)
{
    static upg_batch_row rows[MAX_BATCH];

    for (uint32_t done = 0; done < m->n;) {
        upg_batch b = { .rows = rows, .kv_layout = &s->layout, .fast = m->fast };

        for (; b.n_rows < batch && done < m->n; done++)
            rows[b.n_rows++] = (upg_batch_row) { m->tokens[done], done, &s->view,
                                                 logits + (size_t)done * m->weights->config.vocab };
        OK(m, s->class_->run(s->backend, &b, &m->err));
    }
}

static float *run(model *m, const upg_backend_class *class_, upg_backend_options options,
                  upg_kv_type kv, uint32_t batch)
{
    size_t       vocab = m->weights->config.vocab;
    float       *logits = upg_malloc(m->n * vocab, sizeof *logits, &m->err);
    upg_backend *backend;
    sequence     s;

    assert_non_null(logits);
    memset(logits, 0xFF, m->n * vocab * sizeof *logits); /* NaN: what is not written shows */
    options.max_rows = batch;
    OK(m, class_->create(m->program, &options, &backend, &m->err));
    open_sequence(m, &s, class_, backend, kv, m->n);
    append(m, &s, batch, logits);
    close_sequence(&s);
    class_->close(backend);
    return logits;
}

/* Largest difference in units of the range of `want`, and its root mean square. */
static double difference(const model *m, const float *got, const float *want, double *rms)
{
    size_t n = (size_t)m->n * m->weights->config.vocab;
    double low = want[0], high = want[0], worst = 0, squares = 0;

    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - want[i]);

        low = fmin(low, want[i]);
        high = fmax(high, want[i]);
        worst = d <= worst ? worst : d; /* NaN counts */
        squares += d * d;
    }
    *rms = sqrt(squares / (double)n) / (high - low);
    return worst / (high - low);
}

/* The largest difference of every row, of the row's range. */
static void print_rows(const model *m, const float *got, const float *want)
{
    uint32_t vocab = m->weights->config.vocab;

    for (uint32_t i = 0; i < m->n; i++) {
        float low = INFINITY, high = -INFINITY, worst = 0;

        for (uint32_t k = 0; k < vocab; k++) {
            float x = want[(size_t)i * vocab + k];

            low = fminf(low, x);
            high = fmaxf(high, x);
            worst = fmaxf(worst, fabsf(got[(size_t)i * vocab + k] - x));
        }
        printf(" %u:%.1g", i, (double)(worst / (high - low)));
    }
    printf("\n");
}

static void expect_close(model *m, const float *want, upg_backend_options options, upg_kv_type kv,
                         uint32_t batch, double worst, double typical, const char *what)
{
    float *got = run(m, cuda, options, kv, batch);
    double rms, d = difference(m, got, want, &rms);

    print_message("  %s, kv %d, batches of %u: %.2g of the range, rms %.2g\n", what, kv, batch, d,
                  rms);
    if (!(d <= worst && rms <= typical))
        print_rows(m, got, want);
    if (!(d <= worst && rms <= typical))
        fail_msg("%s: differs by %g of the range, rms %g", what, d, rms);
    upg_free(got);
}

/* A row whose int8 code falls on the other side of a rounding moves logits by about 1/127 of one
 * input's share; with the narrow rows of these models that is up to some 1e-2 of the range. Typical
 * differences are those of fp32 sums, unless such a step happens in most rows. */
static const double coded_worst = 5e-2, coded_typical = 4e-3;
/* fp32 sums alone; and keys and values that fp16 rounds to the other side, 2^-11 of one of them. */
static const double dense_worst = 5e-5, dense_f16_worst = 1e-3;

static void check_shape(const test_model_shape *shape, const char *name)
{
    static const upg_kv_type types[] = { UPG_KV_F16, UPG_KV_F32, UPG_KV_I8 };
    upg_backend_options      none = { 0 }, by_op = { .decode_kernels_only = true };
    model                    m;

    print_message("%s\n", name);
    for (int coded = 0; coded < 3; coded++) { /* 2: codes of lengths 12, 14 and 16 */
        double typical = coded ? coded_typical : 5e-5;

        open_model_at(&m, shape, coded == 0 ? DENSE : coded == 1 ? UPG_CODE_DEFAULT_LENGTH : 0);
        for (int t = 0; t < 3; t++) {
            float *want =
                run(&m, &upg_backend_cpu, (upg_backend_options) { .threads = 2 }, types[t], 64);
            /* int8 entries step by 1/127 when a value falls on the other side */
            double w = coded || types[t] == UPG_KV_I8 ? coded_worst
                       : types[t] == UPG_KV_F16       ? dense_f16_worst
                                                      : dense_worst;
            double y = types[t] == UPG_KV_I8 ? coded_typical : typical;

            if (coded)
                expect_close(&m, want, none, types[t], 1, w, y, "one launch");
            expect_close(&m, want, by_op, types[t], 1, w, y, coded ? "coded" : "dense");
            expect_close(&m, want, none, types[t], 5, w, y, coded ? "coded" : "dense");
            expect_close(&m, want, none, types[t], 64, w, y, coded ? "coded" : "dense");
            upg_free(want);
        }
        close_model(&m);
    }
}

static void small_shape(void **state)
{
    test_model_shape shape = test_model_small();

    (void)state;
    if (no_gpu())
        skip();
    shape.context = 192;
    check_shape(&shape, "small");
}

static void awkward_widths(void **state)
{
    test_model_shape shape = test_model_small();

    (void)state;
    if (no_gpu())
        skip();
    shape.hidden = 200;
    shape.n_heads = 6;
    shape.n_kv_heads = 3;
    shape.head_dim = 20;
    shape.ffn = 328;
    shape.vocab = 331;
    shape.context = 192;
    shape.partial_rotary = 0.5;
    shape.tied = true;
    check_shape(&shape, "awkward widths");
}

static void wide_heads(void **state)
{
    test_model_shape shape = test_model_small();

    (void)state;
    if (no_gpu())
        skip();
    shape.hidden = 640;
    shape.n_heads = 5;
    shape.n_kv_heads = 1;
    shape.head_dim = 128;
    shape.ffn = 1536;
    shape.n_layers = 3;
    shape.context = 192;
    shape.sliding_window = 100;
    check_shape(&shape, "wide heads, sliding window");
    shape.head_dim = 256;
    shape.sliding_window = 0;
    check_shape(&shape, "heads of 256");
}

/* Batches that fill the device take several tiles of rows in a product and of keys in attention. */
static void large_batches(void **state)
{
    static const upg_kv_type types[] = { UPG_KV_F16, UPG_KV_I8 };
    upg_backend_options      none = { 0 }, threads = { .threads = 2 };
    test_model_shape         shape = test_model_small();
    upg_kernels              kernels;
    model                    m;

    (void)state;
    if (no_gpu())
        skip();
    upg_kernels_select(upg_cpu_flags(), &kernels);
    if (!kernels.fast_i8)
        print_message("values of 8 bits: not compared, this CPU computes exactly\n");
    shape.n_heads = 12;
    shape.n_kv_heads = 4;
    shape.ffn = 1280;
    shape.context = 320;
    for (int i = 0; i < 6; i++) { /* 4 and 5: codes of lengths 12, 14 and 16 */
        float *want;

        shape.head_dim = i % 2 ? 128 : 64;
        shape.hidden = i % 2 ? 1024 : 768;
        open_model_at(&m, &shape, i < 4 ? UPG_CODE_DEFAULT_LENGTH : 0);
        m.n = 300;
        m.fast = i == 1 || i == 2 || i == 4;
        if (m.fast && !kernels.fast_i8)
            m.fast = false;
        for (uint32_t k = 0; k < m.n; k++)
            m.tokens[k] = (int32_t)(upg_random_u64(4, k) % shape.vocab);
        want = run(&m, &upg_backend_cpu, threads, types[i / 2 % 2], 300);
        expect_close(&m, want, none, types[i / 2 % 2], 300, coded_worst, coded_typical,
                     m.fast ? "large batches, 8-bit values" : "large batches");
        expect_close(&m, want, none, types[i / 2 % 2], 100, coded_worst, coded_typical,
                     "the same in parts");
        upg_free(want);
        close_model(&m);
    }
}

/* Rows of two sequences in one batch give what they give apart. */
static void two_sequences(void **state)
{
    enum { FIRST = 70, SECOND = 43 };
    static upg_batch_row rows[FIRST + SECOND];
    test_model_shape     shape = test_model_small();
    upg_backend_options  options = { .max_rows = FIRST + SECOND };
    upg_backend         *backend;
    sequence             s[2];
    model                m;
    size_t               vocab;
    float               *apart, *together;

    (void)state;
    if (no_gpu())
        skip();
    shape.head_dim = 64;
    shape.context = 192;
    open_model(&m, &shape, true);
    vocab = m.weights->config.vocab;
    apart = upg_malloc(2 * (FIRST + SECOND) * vocab, sizeof *apart, &m.err);
    assert_non_null(apart);
    together = apart + (FIRST + SECOND) * vocab;
    OK(&m, cuda->create(m.program, &options, &backend, &m.err));
    for (int i = 0; i < 2; i++)
        open_sequence(&m, &s[i], cuda, backend, UPG_KV_F16, FIRST);
    for (int both = 0; both < 2; both++) {
        float    *to = both ? together : apart;
        upg_batch batch = { .rows = rows, .kv_layout = &s[0].layout };

        for (uint32_t i = 0; i < FIRST + SECOND; i++) {
            uint32_t position = i < FIRST ? i : i - FIRST;

            rows[i] =
                (upg_batch_row) { m.tokens[i], position, &s[i >= FIRST].view, to + i * vocab };
        }
        batch.n_rows = both ? FIRST + SECOND : FIRST;
        OK(&m, cuda->run(backend, &batch, &m.err));
        batch.rows += FIRST;
        batch.n_rows = SECOND;
        if (!both)
            OK(&m, cuda->run(backend, &batch, &m.err));
    }
    for (size_t i = 0; i < (FIRST + SECOND) * vocab; i++)
        if (!(fabsf(apart[i] - together[i]) <= 1e-5f))
            fail_msg("row %zu: %g instead of %g", i / vocab, (double)together[i], (double)apart[i]);
    for (int i = 0; i < 2; i++)
        close_sequence(&s[i]);
    cuda->close(backend);
    close_model(&m);
    upg_free(apart);
}

/* ---- the micro model --------------------------------------------------------------------------
 */

static int32_t argmax(const float *x, uint32_t n)
{
    uint32_t best = 0;

    for (uint32_t i = 1; i < n; i++)
        if (x[i] > x[best])
            best = i;
    return (int32_t)best;
}

/* Greedy text of the CPU behind a prompt, and how far the first token led at every step, in units
 * of the range of logits. */
static void greedy_cpu(model *m, uint32_t n_prompt, uint32_t n, int32_t *tokens, float *lead)
{
    uint32_t            vocab = m->weights->config.vocab;
    upg_backend_options options = { .threads = 2, .max_rows = 64 };
    float              *logits = upg_malloc(vocab, sizeof *logits, &m->err);
    upg_backend        *backend;
    sequence            s;

    OK(m, upg_backend_cpu.create(m->program, &options, &backend, &m->err));
    open_sequence(m, &s, &upg_backend_cpu, backend, UPG_KV_F16, n_prompt + n);
    for (uint32_t i = 0; i < n_prompt + n - 1; i++) {
        upg_batch_row row = { i < n_prompt ? m->tokens[i] : tokens[i - n_prompt], i, &s.view,
                              logits };
        upg_batch     batch = { .n_rows = 1, .rows = &row, .kv_layout = &s.layout, .cancel = NULL };

        OK(m, upg_backend_cpu.run(backend, &batch, &m->err));
        if (i + 1 >= n_prompt) {
            int32_t best = argmax(logits, vocab);
            float   top = logits[best], low = top;

            for (uint32_t k = 0; k < vocab; k++)
                low = fminf(low, logits[k]);
            tokens[i + 1 - n_prompt] = best;
            logits[best] = low;
            lead[i + 1 - n_prompt] = (top - logits[argmax(logits, vocab)]) / (top - low);
        }
    }
    close_sequence(&s);
    upg_backend_cpu.close(backend);
    upg_free(logits);
}

/* Leads below this are ties: single codes that round to the other side move logits by as much, see
 * the differences that micro_logits prints. */
static const float greedy_tie = 0.01f;

static void check_greedy(model *m, uint32_t n_prompt, uint32_t n, upg_cuda_way way)
{
    int32_t             want[256], got[256];
    float               lead[256], *logits;
    upg_backend_options options = { .max_rows = 64 };
    upg_backend        *backend;
    double              ms;
    sequence            s;
    uint32_t            i, kept = m->n;

    greedy_cpu(m, n_prompt, n, want, lead);
    OK(m, cuda->create(m->program, &options, &backend, &m->err));
    open_sequence(m, &s, cuda, backend, UPG_KV_F16, n_prompt + n);
    logits = upg_malloc((size_t)n_prompt * m->weights->config.vocab, sizeof *logits, &m->err);
    assert_non_null(logits);
    m->n = n_prompt - 1;
    append(m, &s, 64, logits);
    m->n = kept;
    OK(m, tools->decode(backend, way, &s.view, &s.layout, m->tokens[n_prompt - 1], n_prompt - 1, n,
                        got, &ms, &m->err));
    for (i = 0; i < n && got[i] == want[i]; i++)
        ;
    print_message("  way %d: %u of %u greedy tokens equal the CPU's (%.3f ms a token)\n", way, i, n,
                  ms / n);
    if (i < n && lead[i] > greedy_tie)
        fail_msg("token %u: %d instead of %d, which led by %g", i, got[i], want[i],
                 (double)lead[i]);
    upg_free(logits);
    close_sequence(&s);
    cuda->close(backend);
}

/* Opens micro as coded at a rate (0: as it is) with a prompt of its validation text. */
static void open_micro(model *m, uint32_t rate2)
{
    const char *path = getenv("UPG_TEST_MODEL");
    test_ids    ids;

    memset(m, 0, sizeof *m);
    OK(m,
       upg_weights_open(rate2 && path ? path : UPG_TEST_DATA "/phi4-micro", &m->weights, &m->err));
    if (rate2 && !path)
        OK(m, test_code_weights(m->weights, rate2, 5, &m->arena, &m->err));
    OK(m, upg_program_build(m->weights, &m->program, &m->err));
    OK(m, test_npy_read(UPG_TEST_DATA "/phi4-micro/valid_ids.npy", &ids, &m->err));
    m->n = 200;
    memcpy(m->tokens, ids.ids, m->n * sizeof *m->tokens);
    upg_free(ids.ids);
}

static void micro_logits(void **state)
{
    upg_backend_options none = { 0 }, ref = { .emulate_int8 = true };
    model               m;

    (void)state;
    if (no_gpu())
        skip();
    for (uint32_t coded = 0; coded < 2; coded++) {
        float *want;

        print_message("micro, %s\n", coded ? "coded" : "dense");
        open_micro(&m, coded ? 6 : 0);
        m.n = 80;
        want = run(&m, &upg_backend_ref, ref, UPG_KV_F32, 80);
        if (coded)
            expect_close(&m, want, none, UPG_KV_F32, 1, 2e-2, 2e-3, "one launch against ref");
        expect_close(&m, want, none, UPG_KV_F32, 80, coded ? 2e-2 : 1e-4, coded ? 2e-3 : 1e-5,
                     "batch against ref");
        upg_free(want);
        close_model(&m);
    }
}

static void micro_greedy(void **state)
{
    model m;

    (void)state;
    if (no_gpu())
        skip();
    open_micro(&m, 6);
    check_greedy(&m, 100, 100, UPG_CUDA_ONE_LAUNCH);
    check_greedy(&m, 100, 100, UPG_CUDA_STEPS);
    check_greedy(&m, 100, 100, UPG_CUDA_GRAPH);
    close_model(&m);
}

/* ---- errors -----------------------------------------------------------------------------------
 */

static void errors(void **state)
{
    test_model_shape    shape = test_model_small();
    upg_backend_options options = { .max_rows = 4, .device = "cuda:99" };
    upg_backend        *backend;
    atomic_bool         cancel = true;
    uint8_t            *page = NULL;
    sequence            s;
    model               m;

    (void)state;
    if (no_gpu())
        skip();
    open_model(&m, &shape, true);
    assert_int_equal(cuda->create(m.program, &options, &backend, &m.err), UPG_E_DEVICE);
    assert_non_null(strstr(m.err.message, "cuda:99"));
    options.device = "cuda:x";
    assert_int_equal(cuda->create(m.program, &options, &backend, &m.err), UPG_E_DEVICE);
    options.device = "cuda:0";
    ((float *)(uintptr_t)m.weights->layers[1].ffn_norm.values)[5] = NAN;
    OK(&m, cuda->create(m.program, &options, &backend, &m.err));
    /* more than any GPU has: refused, and the backend goes on */
    assert_int_equal(cuda->kv_allocate(backend, (size_t)1 << 45, &page, &m.err), UPG_E_NOMEM);
    assert_null(page);
    open_sequence(&m, &s, cuda, backend, UPG_KV_F16, 64);
    for (uint32_t n = 1; n < 4; n += 2) {
        upg_batch_row rows[3];
        upg_batch batch = { .n_rows = n, .rows = rows, .kv_layout = &s.layout, .cancel = &cancel };

        for (uint32_t i = 0; i < n; i++)
            rows[i] = (upg_batch_row) { m.tokens[i], i, &s.view, NULL };
        atomic_store(&cancel, true);
        assert_int_equal(cuda->run(backend, &batch, &m.err), UPG_E_CANCELLED);
        atomic_store(&cancel, false);
        assert_int_equal(cuda->run(backend, &batch, &m.err), UPG_E_DATA);
        assert_non_null(strstr(m.err.message, "NaN"));
    }
    close_sequence(&s);
    cuda->close(backend);
    close_model(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_shape),   cmocka_unit_test(awkward_widths),
        cmocka_unit_test(wide_heads),    cmocka_unit_test(large_batches),
        cmocka_unit_test(two_sequences), cmocka_unit_test(micro_logits),
        cmocka_unit_test(micro_greedy),  cmocka_unit_test(errors),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
