/* cuda_bench: Phi-4's shape on one NVIDIA GPU, random bits in the benchmark mix (embedding in bands
 * of 2.875 bits on average, head 4, q, k, v, gate and up 3, o and down 3.5):
 *
 *     cuda_bench [results.json [layers [decode | prompts | prompts8 | once]]]
 *
 * What is measured, with median and spread of 31 repetitions: reading the weights, the products of
 * every shape within one launch beside plain reads of the same ring, decoding at empty context, 2k
 * and 16k with fp16 and int8 KV, as one launch, as a graph and through the API's call with logits,
 * and batches up to prefill of 512 tokens ("decode": the decoding in one launch alone, in a fifth
 * of the time; "prompts": prompts alone, "prompts8": those in 8-bit values; "once": one batch of
 * 512, to be profiled). Bits are shared between matrices on the host and apart on the device.
 */
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "backend/cuda/cuda_tools.h"
#include "backend/cuda_loader.h"
#include "base/alloc.h"
#include "base/arena.h"
#include "base/clock.h"
#include "base/halffloat.h"
#include "base/random.h"
#include "model/architecture.h"

enum {
    REPETITIONS = 31,
    TOKENS = 16, /* of one launch */
    CONTEXT = 16384 + 64,
    PREFILL = 512,
    SHARED_WORDS = 80 << 20, /* u32 of random bits on the host: more than the head has */
    PAGES = CONTEXT / UPG_PAGE_TOKENS
};

typedef struct bench {
    upg_weights              weights;
    upg_program             *program;
    const upg_backend_class *class_;
    const upg_cuda_tools    *tools;
    upg_backend             *backend;
    upg_arena                arena;
    uint32_t                *bits;
    uint16_t                *scales;
    float                   *ones, *inv_freq, *logits;
    uint8_t                 *pages[PAGES];
    upg_kv_layout            layout;
    upg_kv_view              view;
    uint64_t                 turn; /* which part of the shared bits comes next */
    FILE                    *json;
    upg_error                err;
} bench;

static void check(const bench *b, upg_status st)
{
    if (st == UPG_OK)
        return;
    fprintf(stderr, "cuda_bench: %s\n", b->err.message);
    exit(1);
}

/* ---- a model of random bits -------------------------------------------------------------------
 */

static void add_band(bench *b, upg_band *band, uint32_t row0, uint32_t n_rows, uint32_t rate2,
                     uint32_t n_cols)
{
    uint64_t words;

    band->code = *upg_code_find(rate2, UPG_CODE_DEFAULT_LENGTH);
    band->row0 = row0;
    band->n_rows = n_rows;
    band->n_binary = (uint32_t)upg_code_binary_rows(&band->code, n_rows);
    words = upg_band_words(band->n_binary, n_cols);
    if (words > SHARED_WORDS) {
        fprintf(stderr, "cuda_bench: a band of %" PRIu64 " words\n", words);
        exit(1);
    }
    band->bits = b->bits + b->turn++ * 1000003 % (SHARED_WORDS - words + 1) / 16 * 16;
    band->scales = b->scales;
}

static void make_matrix(bench *b, upg_matrix *m, upg_role role, uint32_t layer, uint32_t rate2)
{
    upg_coded_matrix *coded = upg_arena_alloc(&b->arena, 1, sizeof *coded, &b->err);
    upg_band         *bands = upg_arena_alloc(&b->arena, 3, sizeof *bands, &b->err);
    uint32_t          n;

    check(b, coded && bands ? UPG_OK : UPG_E_NOMEM);
    memset(coded, 0, sizeof *coded);
    *m = (upg_matrix) { .name = upg_role_pattern(role), .role = role, .layer = layer };
    upg_role_shape(&b->weights.config, role, &m->n_rows, &m->n_cols);
    n = m->n_rows;
    m->kind = UPG_MATRIX_CODED;
    m->coded = coded;
    coded->n_rows = n;
    coded->n_cols = m->n_cols;
    coded->rotation = upg_rotation_make(m->n_cols, m->n_cols + layer);
    coded->bands = bands;
    coded->n_bands = rate2 ? 1 : 3;
    if (rate2) {
        add_band(b, &bands[0], 0, n, rate2, m->n_cols);
        return;
    }
    add_band(b, &bands[0], 0, n / 8, 8, m->n_cols);
    add_band(b, &bands[1], n / 8, n / 2 - n / 8, 6, m->n_cols);
    add_band(b, &bands[2], n / 2, n - n / 2, 5, m->n_cols);
}

static void make_model(bench *b, uint32_t n_layers)
{
    upg_model_config *c = &b->weights.config;
    upg_vector        norm = { "norm", 5120, NULL, 0 };

    *c = (upg_model_config) { .n_layers = n_layers,
                              .hidden = 5120,
                              .n_heads = 40,
                              .n_kv_heads = 10,
                              .head_dim = 128,
                              .ffn = 17920,
                              .vocab = 100352,
                              .context = CONTEXT,
                              .norm_eps = 1e-5f };
    b->bits = upg_malloc(SHARED_WORDS, sizeof *b->bits, &b->err);
    b->scales = upg_malloc(c->vocab, sizeof *b->scales, &b->err);
    b->ones = upg_malloc(c->hidden, sizeof *b->ones, &b->err);
    b->inv_freq = upg_malloc(64, sizeof *b->inv_freq, &b->err);
    b->weights.layers = upg_calloc(n_layers, sizeof *b->weights.layers, &b->err);
    check(b, b->bits && b->scales && b->ones && b->inv_freq && b->weights.layers ? UPG_OK
                                                                                 : UPG_E_NOMEM);
    for (uint64_t i = 0; i < SHARED_WORDS / 2; i++) {
        uint64_t two = upg_random_u64(1, i);

        memcpy(b->bits + 2 * i, &two, sizeof two);
    }
    for (uint32_t i = 0; i < c->vocab; i++)
        b->scales[i] = upg_f16_from_f32((float)((0.5 + upg_random_unit(2, i)) / sqrt(5120.0)));
    for (uint32_t i = 0; i < c->hidden; i++)
        b->ones[i] = 1;
    for (int i = 0; i < 64; i++)
        b->inv_freq[i] = (float)pow(250000, -i / 64.0);
    norm.values = b->ones;
    c->rope = (upg_rope) { 128, CONTEXT, b->inv_freq, NULL, 1 };
    b->weights.final_norm = norm;
    make_matrix(b, &b->weights.embed, UPG_ROLE_EMBED, 0, 0);
    make_matrix(b, &b->weights.head, UPG_ROLE_HEAD, 0, 8);
    for (uint32_t i = 0; i < n_layers; i++) {
        upg_layer_weights *l = &b->weights.layers[i];

        l->attention_norm = l->ffn_norm = norm;
        make_matrix(b, &l->q, UPG_ROLE_Q, i, 6);
        make_matrix(b, &l->k, UPG_ROLE_K, i, 6);
        make_matrix(b, &l->v, UPG_ROLE_V, i, 6);
        make_matrix(b, &l->o, UPG_ROLE_O, i, 7);
        make_matrix(b, &l->gate, UPG_ROLE_GATE, i, 6);
        make_matrix(b, &l->up, UPG_ROLE_UP, i, 6);
        make_matrix(b, &l->down, UPG_ROLE_DOWN, i, 7);
    }
    check(b, upg_program_build(&b->weights, &b->program, &b->err));
}

/* ---- statistics -------------------------------------------------------------------------------
 */

typedef struct spread {
    double median, low, high;
} spread;

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static spread spread_of(double *values, int n)
{
    qsort(values, (size_t)n, sizeof *values, ascending);
    return (spread) { values[n / 2], values[0], values[n - 1] };
}

static void report(bench *b, const char *name, const char *unit, spread s)
{
    printf("%-44s %10.3f %-6s (%.3f … %.3f)\n", name, s.median, unit, s.low, s.high);
    fflush(stdout);
    if (b->json)
        fprintf(b->json,
                ",\n  {\"name\": \"%s\", \"unit\": \"%s\", \"median\": %.6g, \"low\": %.6g, "
                "\"high\": %.6g, \"repetitions\": %d}",
                name, unit, s.median, s.low, s.high, REPETITIONS);
}

/* ---- measurements -----------------------------------------------------------------------------
 */

static double read_speed(bench *b)
{
    double   speed[REPETITIONS], ms;
    uint64_t bytes = b->tools->token_bytes(b->backend);
    spread   s;

    for (int i = 0; i < REPETITIONS; i++) {
        check(b, b->tools->read(b->backend, bytes, 1, &ms, &b->err));
        speed[i] = (double)bytes / ms * 1e-9;
    }
    s = spread_of(speed, REPETITIONS);
    report(b, "plain read of all weights, a launch", "TB/s", s);
    return s.median;
}

static void shape(bench *b, upg_role role, const char *name)
{
    double   speed[2][REPETITIONS], ms;
    uint64_t bytes;
    uint32_t times = 1;
    spread   s[2];
    char     text[64];

    check(b, b->tools->bare(b->backend, role, 1, true, &bytes, &ms, &b->err));
    while (bytes * times < 2000000000)
        times++;
    for (int i = 0; i < REPETITIONS; i++)
        for (int multiplies = 0; multiplies < 2; multiplies++) {
            check(b, b->tools->bare(b->backend, role, times, multiplies, &bytes, &ms, &b->err));
            speed[multiplies][i] = (double)bytes / ms * 1e-9;
        }
    s[0] = spread_of(speed[0], REPETITIONS);
    s[1] = spread_of(speed[1], REPETITIONS);
    snprintf(text, sizeof text, "%s: read through the ring", name);
    report(b, text, "TB/s", s[0]);
    snprintf(text, sizeof text, "%s: product", name);
    report(b, text, "TB/s", s[1]);
    snprintf(text, sizeof text, "%s: product / read", name);
    report(b, text, "",
           (spread) { s[1].median / s[0].median, s[1].low / s[0].high, s[1].high / s[0].low });
}

static void open_pages(bench *b, upg_kv_type type)
{
    uint16_t *random;

    b->layout = upg_kv_layout_make(&b->weights.config, type);
    b->view = (upg_kv_view) { b->pages, PAGES, false };
    random = upg_malloc(b->layout.page_bytes / 2, sizeof *random, &b->err);
    check(b, random ? UPG_OK : UPG_E_NOMEM);
    for (size_t i = 0; i < b->layout.page_bytes / 2; i++) /* ±1/64 … ±1/2 in fp16; as f32 small */
        random[i] = (uint16_t)((upg_random_u64(5, i) & 0x8FFF) | 0x2800);
    for (uint32_t p = 0; p < PAGES; p++) {
        check(b, b->class_->kv_allocate(b->backend, b->layout.page_bytes, &b->pages[p], &b->err));
        check(b,
              b->class_->kv_copy(b->backend, b->pages[p], random, b->layout.page_bytes, &b->err));
    }
    upg_free(random);
}

static void close_pages(bench *b)
{
    for (uint32_t p = 0; p < PAGES; p++)
        b->class_->kv_free(b->backend, b->pages[p], b->layout.page_bytes);
}

static double decode(bench *b, upg_cuda_way way, const char *name, uint32_t position)
{
    double  speed[REPETITIONS], ms;
    int32_t tokens[TOKENS], first[TOKENS];
    spread  s;

    for (int i = -1; i < REPETITIONS; i++) {
        check(b, b->tools->decode(b->backend, way, &b->view, &b->layout, 1, position, TOKENS,
                                  tokens, &ms, &b->err));
        if (i >= 0)
            speed[i] = TOKENS / ms * 1e3;
        else
            memcpy(first, tokens, sizeof first);
        if (memcmp(first, tokens, sizeof first) != 0)
            printf("WARNING: %s: repetition %d gave other tokens\n", name, i);
    }
    s = spread_of(speed, REPETITIONS);
    report(b, name, "tok/s", s);
    return s.median;
}

/* Tokens drawn on the device, with all that costs time: top-k, top-p, min-p and penalties. */
static void decode_drawn(bench *b)
{
    int32_t  history[1] = { 1 }, tokens[TOKENS];
    uint8_t  drawn[1] = { 0 };
    upg_draw draw = { .n_tokens = b->weights.config.vocab,
                      .top_k = 40,
                      .temperature = 0.8f,
                      .top_p = 0.95f,
                      .min_p = 0.01f,
                      .repetition_penalty = 1.1f,
                      .presence_penalty = 0.1f,
                      .seed = 1,
                      .history = history,
                      .drawn = drawn,
                      .n_history = 1 };
    double   speed[REPETITIONS], ms;
    float    logprobs[TOKENS];

    for (int plain = 0; plain < 2; plain++) {
        for (int i = -1; i < REPETITIONS; i++) {
            check(b, b->tools->draw(b->backend, &draw, &b->view, &b->layout, 1, 0, TOKENS, tokens,
                                    logprobs, &ms, &b->err));
            if (i >= 0)
                speed[i] = TOKENS / ms * 1e3;
        }
        report(b, plain ? "decode, one launch, drawn by temperature" : "decode, one launch, drawn",
               "tok/s", spread_of(speed, REPETITIONS));
        draw = (upg_draw) { .n_tokens = b->weights.config.vocab, .temperature = 0.8f, .seed = 1 };
    }
}

/* Through run(): logits to the host at every token. */
static void decode_calls(bench *b)
{
    double speed[REPETITIONS];

    for (int i = -1; i < REPETITIONS; i++) {
        uint64_t start = upg_now_ns();

        for (uint32_t k = 0; k < 8; k++) {
            upg_batch_row row = { 1, k, &b->view, b->logits };
            upg_batch     batch = {
                    .n_rows = 1, .rows = &row, .kv_layout = &b->layout, .cancel = NULL
            };

            check(b, b->class_->run(b->backend, &batch, &b->err));
        }
        if (i >= 0)
            speed[i] = 8e9 / (double)(upg_now_ns() - start);
    }
    report(b, "decode by calls with logits, empty context", "tok/s", spread_of(speed, REPETITIONS));
}

static void batches(bench *b, uint32_t n, bool all_logits, bool fast)
{
    static upg_batch_row rows[PREFILL];
    upg_batch batch = { .n_rows = n, .rows = rows, .kv_layout = &b->layout, .fast = fast };
    double    ms[REPETITIONS];
    char      name[64];

    for (uint32_t i = 0; i < n; i++)
        rows[i] = (upg_batch_row) { (int32_t)(i * 31), i, &b->view,
                                    all_logits || i + 1 == n ? b->logits : NULL };
    check(b, b->tools->time_batch(b->backend, &batch, 2, ms, &b->err));
    check(b, b->tools->time_batch(b->backend, &batch, REPETITIONS, ms, &b->err));
    for (int i = 0; i < REPETITIONS; i++)
        ms[i] = n / ms[i] * 1e3;
    snprintf(name, sizeof name, "batch of %u rows%s", n, fast ? ", 8-bit values" : "");
    report(b, name, "tok/s", spread_of(ms, REPETITIONS));
}

/* The token kernel against the ops of a batch: the same two tokens both ways. */
static void compare_ways(bench *b)
{
    uint32_t      vocab = b->weights.config.vocab;
    upg_batch_row rows[2] = { { 1, 0, &b->view, NULL }, { 2, 1, &b->view, b->logits } };
    upg_batch     batch = { .n_rows = 2, .rows = rows, .kv_layout = &b->layout, .cancel = NULL };
    float        *other = upg_malloc(vocab, sizeof *other, &b->err);
    double        worst = 0, range = 0;

    check(b, other ? UPG_OK : UPG_E_NOMEM);
    check(b, b->class_->run(b->backend, &batch, &b->err));
    memcpy(other, b->logits, vocab * sizeof *other);
    batch.n_rows = 1;
    check(b, b->class_->run(b->backend, &batch, &b->err));
    batch.rows = rows + 1;
    check(b, b->class_->run(b->backend, &batch, &b->err));
    for (uint32_t i = 0; i < vocab; i++) {
        worst = fmax(worst, fabs((double)other[i] - (double)b->logits[i]));
        range = fmax(range, fabs((double)other[i]));
    }
    printf("one launch against op by op: largest difference %.3g of %.3g\n", worst, range);
    upg_free(other);
}

/* Milliseconds of each kind of op in a batch, run op by op. */
static void trace(bench *b, uint32_t n, bool fast)
{
    static upg_batch_row rows[PREFILL];
    upg_batch batch = { .n_rows = n, .rows = rows, .kv_layout = &b->layout, .fast = fast };
    double    ms[UPG_OP_COUNT] = { 0 };

    batch.op_ns = upg_calloc(b->program->n_ops + 1, sizeof *batch.op_ns, &b->err);
    check(b, batch.op_ns ? UPG_OK : UPG_E_NOMEM);
    for (uint32_t i = 0; i < n; i++)
        rows[i] = (upg_batch_row) { (int32_t)(i * 31), i, &b->view, i + 1 == n ? b->logits : NULL };
    for (int k = 0; k < 2; k++)
        check(b, b->class_->run(b->backend, &batch, &b->err));
    for (uint32_t i = 0; i < b->program->n_ops; i++)
        ms[b->program->ops[i].code] += (double)(batch.op_ns[i + 1] - batch.op_ns[i]) * 1e-6;
    printf("%u rows%s, op by op, milliseconds:", n, fast ? ", 8-bit values" : "");
    for (int code = 0; code < UPG_OP_COUNT; code++)
        printf(" %s %.2f", upg_op_name((upg_opcode)code), ms[code]);
    printf("\n");
    upg_free(batch.op_ns);
}

enum { PER_LAYER = 6, PARTS = 6 }; /* steps; clocks of a step */

/* Clocks of a part of step k of a layer: to the next noted one, or to where the next step begins; 0
 * where not noted. */
static double part_of(const long long *clocks, uint32_t layer, uint32_t k, int part)
{
    const long long *at = clocks + PARTS * (1 + PER_LAYER * layer + k);
    int              to = part + 1;

    if (at[part] == 0)
        return 0;
    while (to < PARTS - 1 && at[to] == 0)
        to++;
    return (double)(at[to] - at[part]);
}

/* Least, median and most of all blocks, of the average layer. */
static void print_part(bench *b, const long long *clocks, uint32_t k, int part, double *values)
{
    uint32_t n = b->tools->launches(b->backend, UPG_CUDA_STEPS);
    uint32_t n_blocks = b->tools->blocks(b->backend), n_layers = b->weights.config.n_layers;
    double   least = 0, median = 0, most = 0;

    for (uint32_t layer = 1; layer < n_layers; layer++) {
        uint32_t noted = 0;

        for (uint32_t block = 0; block < n_blocks; block++) {
            values[noted] = part_of(clocks + (size_t)block * PARTS * n, layer, k, part);
            noted += values[noted] > 0;
        }
        if (noted == 0)
            return;
        qsort(values, noted, sizeof *values, ascending);
        least += values[0] / (n_layers - 1);
        median += values[noted / 2] / (n_layers - 1);
        most += values[noted - 1] / (n_layers - 1);
    }
    printf(" %.0f/%.0f/%.0f", least, median, most);
}

/* Where a token's time goes, in clocks of the average layer, step by step. For each step the parts
 * between the noted clocks: the first is the wait for its input; of products then come rotation and
 * rounding, bit planes, tiles, rows; of attention keys, its part, the merge; of swiglu rotation,
 * the others' maxima, rounding. The last is the wait for the block's own warps. */
static void trace_steps(bench *b, uint32_t position)
{
    static const char *const names[] = { "embed", "product", "attention", "swiglu", "sample" };
    uint32_t                 n = b->tools->launches(b->backend, UPG_CUDA_STEPS);
    uint32_t                 n_blocks = b->tools->blocks(b->backend);
    long long *clocks = upg_calloc(PARTS * (size_t)n_blocks * n, sizeof *clocks, &b->err);
    int       *kinds = upg_calloc(n, sizeof *kinds, &b->err);
    double    *values = upg_calloc(n_blocks, sizeof *values, &b->err);

    check(b, clocks && kinds && values ? UPG_OK : UPG_E_NOMEM);
    check(b, b->tools->trace(b->backend, &b->view, &b->layout, position, clocks, kinds, &b->err));
    printf("  clocks at %u, of all blocks least/median/most:\n", position);
    for (uint32_t k = 0; k < PER_LAYER; k++) {
        printf("    %-10s", names[kinds[1 + PER_LAYER + k]]);
        for (int part = 0; part < PARTS; part++)
            print_part(b, clocks, k, part, values);
        printf("\n");
    }
    printf("    all %.0f\n", (double)(clocks[PARTS * n - 1] - clocks[0]));
    upg_free(values);
    upg_free(kinds);
    upg_free(clocks);
}

/* The last token of a prompt, in one batch with it and alone behind it. */
static void compare_prefill(bench *b, bool fast)
{
    static upg_batch_row rows[PREFILL];
    upg_batch batch = { .n_rows = PREFILL, .rows = rows, .kv_layout = &b->layout, .fast = fast };
    uint32_t  vocab = b->weights.config.vocab;
    float    *together = upg_malloc(vocab, sizeof *together, &b->err);
    double    squares = 0, all = 0;

    check(b, together ? UPG_OK : UPG_E_NOMEM);
    for (uint32_t i = 0; i < PREFILL; i++)
        rows[i] =
            (upg_batch_row) { (int32_t)(i * 31), i, &b->view, i + 1 == PREFILL ? together : NULL };
    check(b, b->class_->run(b->backend, &batch, &b->err));
    rows[PREFILL - 1].logits = b->logits;
    batch.rows = rows + PREFILL - 1;
    batch.n_rows = 1;
    check(b, b->class_->run(b->backend, &batch, &b->err));
    for (uint32_t i = 0; i < vocab; i++) {
        double d = (double)together[i] - (double)b->logits[i];

        squares += d * d;
        all += (double)together[i] * (double)together[i];
    }
    printf("a prompt's last token in the batch%s against alone: %.3g of the logits' norm\n",
           fast ? ", 8-bit values," : "", sqrt(squares / all));
    upg_free(together);
}

/* One batch of values of 8 bits, to be profiled. */
static void once(bench *b)
{
    static upg_batch_row rows[PREFILL];
    upg_batch batch = { .n_rows = PREFILL, .rows = rows, .kv_layout = &b->layout, .fast = true };

    for (uint32_t i = 0; i < PREFILL; i++)
        rows[i] =
            (upg_batch_row) { (int32_t)(i * 31), i, &b->view, i + 1 == PREFILL ? b->logits : NULL };
    check(b, b->class_->run(b->backend, &batch, &b->err));
}

static void prompts(bench *b, bool exact)
{
    for (int fast = !exact; fast < 2; fast++) {
        compare_prefill(b, fast);
        for (uint32_t n = fast ? 16 : 64; n <= PREFILL; n *= n == 64 ? 4 : 2)
            batches(b, n, false, fast);
        trace(b, 64, fast);
        trace(b, PREFILL, fast);
    }
}

static void decode_types(bench *b, uint32_t n_layers, bool all)
{
    static const char *const types[] = { "fp16", "", "int8" };
    char                     name[64];
    double                   speed;

    for (int type = 0; type < 3; type += 2) {
        open_pages(b, (upg_kv_type)type);
        if (type == 0) {
            compare_ways(b);
            speed = decode(b, UPG_CUDA_ONE_LAUNCH, "decode, one launch, empty context", 0);
            printf("  %.4f ms a token, %.4f ms for %u layers each with its share of the head\n",
                   1e3 / speed, 1e3 / speed / n_layers, n_layers);
            decode_drawn(b);
            trace_steps(b, 0);
        }
        if (type == 0 && all) {
            decode(b, UPG_CUDA_GRAPH, "decode, graph of steps, empty context", 0);
            decode(b, UPG_CUDA_STEPS, "decode, step by step, empty context", 0);
            decode_calls(b);
        }
        snprintf(name, sizeof name, "decode, one launch, 2k context, %s KV", types[type]);
        decode(b, UPG_CUDA_ONE_LAUNCH, name, 2048);
        snprintf(name, sizeof name, "decode, one launch, 16k context, %s KV", types[type]);
        decode(b, UPG_CUDA_ONE_LAUNCH, name, 16384);
        if (type == 0 && all) {
            for (uint32_t n = 1; n <= 8; n *= 2)
                batches(b, n, true, false);
            trace(b, 1, false);
            trace(b, 8, false);
            prompts(b, true);
        }
        trace_steps(b, 16384);
        close_pages(b);
    }
}

static void measure(bench *b, uint32_t n_layers)
{
    read_speed(b);
    shape(b, UPG_ROLE_Q, "q, k, v 7680 x 5120, 3 bits");
    shape(b, UPG_ROLE_O, "o 5120 x 5120, 3.5 bits");
    shape(b, UPG_ROLE_GATE, "gate, up 35840 x 5120, 3 bits");
    shape(b, UPG_ROLE_DOWN, "down 5120 x 17920, 3.5 bits");
    shape(b, UPG_ROLE_HEAD, "head 100352 x 5120, 4 bits");
    decode_types(b, n_layers, true);
}

int main(int argc, char **argv)
{
    static bench            b;
    upg_backend_options     options = { .max_rows = PREFILL };
    uint32_t                n_layers = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 40;
    upg_cuda_tools_function function;
    void                   *symbol;
    uint64_t                start;

    if (upg_backend_find("cuda", &b.class_, &b.err) != UPG_OK) {
        fprintf(stderr, "cuda_bench: skipped: %s\n", b.err.message);
        return 0;
    }
    symbol = upg_cuda_symbol("upg_cuda_module_tools");
    memcpy(&function, &symbol, sizeof function);
    b.tools = function();
    make_model(&b, n_layers);
    start = upg_now_ns();
    check(&b, b.class_->create(b.program, &options, &b.backend, &b.err));
    printf("%s; %u layers; %.3f GB of code bits a token, %.2f GB on the device, loaded in %.2f s\n",
           b.class_->describe(b.backend), n_layers, (double)b.tools->token_bytes(b.backend) * 1e-9,
           (double)b.class_->memory(b.backend) * 1e-9, (double)(upg_now_ns() - start) * 1e-9);
    printf("launches a token: %u (one launch), %u (steps)\n",
           b.tools->launches(b.backend, UPG_CUDA_ONE_LAUNCH),
           b.tools->launches(b.backend, UPG_CUDA_STEPS));
    b.json = argc > 1 ? fopen(argv[1], "w") : NULL;
    if (b.json)
        fprintf(b.json,
                "[\n  {\"device\": \"%s\", \"layers\": %u, \"bytes_per_token\": %" PRIu64 "}",
                b.class_->describe(b.backend), n_layers, b.tools->token_bytes(b.backend));
    b.logits = upg_malloc((size_t)b.weights.config.vocab, sizeof *b.logits, &b.err);
    check(&b, b.logits ? UPG_OK : UPG_E_NOMEM);
    if (argc > 3 && strcmp(argv[3], "decode") == 0) {
        decode_types(&b, n_layers, false);
    } else if (argc > 3) {
        open_pages(&b, UPG_KV_F16);
        if (strcmp(argv[3], "once") == 0)
            once(&b);
        else
            prompts(&b, strcmp(argv[3], "prompts8") != 0);
        close_pages(&b);
    } else {
        measure(&b, n_layers);
    }
    if (b.json) {
        fprintf(b.json, "\n]\n");
        fclose(b.json);
    }
    b.class_->close(b.backend);
    return 0;
}
