/* Columns and feedback on a GPU against the host's: paths bit for bit, and feedback too where no
 * sum has another order. Skips, and says so, where there is no GPU. */
#include "compress_device_fixture.h"

#include "base/cpu.h"
#include "compress/feedback.h"
#include "kernels/viterbi.h"

/* ---- columns ----------------------------------------------------------------------------------
 */

typedef enum targets { USUAL, FAR, WILD, WEIGHTED, TARGETS } targets;

/* Some columns with single targets that the usual and the wide int16 form do not hold. */
static void spoil(float *x, uint32_t n_rows, uint32_t n_columns, targets kind)
{
    for (uint32_t c = 0; c < n_columns; c += 2)
        for (uint32_t r = c; r < n_rows; r += 97)
            x[(size_t)c * n_rows + r] *= kind == FAR ? 4.0f : 30.0f;
}

static void compare_columns(const upg_code *code, uint32_t n_rows, uint32_t n_columns, targets kind)
{
    size_t             n = (size_t)n_rows * n_columns;
    float             *x = gaussians(n, n_rows + code->rate2 + 100u * kind);
    float             *weights = kind == WEIGHTED ? reals(n_rows) : NULL;
    uint16_t          *ours = calloc(n, sizeof *ours), *theirs = calloc(n, sizeof *theirs);
    upg_viterbi       *viterbi;
    upg_device_columns columns = { code, n_rows, n_columns, x, n_rows, weights, ours };

    assert_true(ours && theirs);
    if (kind == FAR || kind == WILD)
        spoil(x, n_rows, n_columns, kind);
    for (uint32_t r = 0; weights && r < n_rows; r++)
        weights[r] = (float)exp(4 * upg_random_unit(77, r) - 2);
    memset(ours, 0xFF, n * sizeof *ours);
    OK(gpu->columns(device, &columns, 1, &err));
    OK(upg_viterbi_create(code, n_rows, UPG_VITERBI_FAST, upg_cpu_flags(), &viterbi, &err));
    for (uint32_t c = 0; c < n_columns; c++)
        upg_viterbi_encode(viterbi, n_rows, x + (size_t)c * n_rows, weights,
                           theirs + (size_t)c * n_rows);
    for (size_t i = 0; i < n; i++)
        if (ours[i] != theirs[i])
            fail_msg(
                "L = %u, %g bits, %u rows, kind %d: column %zu differs in row %zu of its window",
                code->length, code->rate2 / 2.0, n_rows, (int)kind, i / n_rows, i % n_rows);
    upg_viterbi_close(viterbi);
    free(x);
    free(weights);
    free(ours);
    free(theirs);
}

static void test_columns(void **state)
{
    static const uint32_t rows[] = { 1, 2, 19, 333, 1500, 4097 };
    static const uint32_t rates2[] = { 4, 5, 6, 7, 8, 10 };

    (void)state;
    if (no_gpu())
        skip();
    for (size_t k = 0; k < sizeof rates2 / sizeof *rates2; k++)
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
            for (int kind = USUAL; kind < TARGETS; kind++)
                compare_columns(upg_code_find(rates2[k], 12), rows[i], i < 4 ? 9 : 5,
                                (targets)kind);
}

static void test_long_codes(void **state)
{
    static const uint32_t rates2[] = { 4, 5, 6, 7, 8, 10 };

    (void)state;
    if (no_gpu())
        skip();
    for (uint32_t length = 14; length <= 16; length += 2)
        for (size_t k = 0; k < sizeof rates2 / sizeof *rates2; k++)
            for (int kind = USUAL; kind < TARGETS; kind += length == 14 ? 1 : 3)
                compare_columns(upg_code_find(rates2[k], length), length == 14 ? 1201 : 700, 2,
                                (targets)kind);
}

/* Many units of one launch, as bands of an embedding. */
static void test_bands(void **state)
{
    const upg_code *codes[3] = { upg_code_find(8, 12), upg_code_find(5, 12), upg_code_find(6, 12) };
    uint32_t        rows[3] = { 130, 700, 65 }, at = 0, all = 895, n_columns = 70;
    float          *x = gaussians((size_t)all * n_columns, 9);
    uint16_t       *ours[3];
    upg_device_columns columns[3];

    (void)state;
    if (no_gpu()) {
        free(x);
        skip();
    }
    for (int u = 0; u < 3; at += rows[u++]) {
        ours[u] = calloc((size_t)rows[u] * n_columns, sizeof *ours[u]);
        assert_non_null(ours[u]);
        columns[u] =
            (upg_device_columns) { codes[u], rows[u], n_columns, x + at, all, NULL, ours[u] };
    }
    OK(gpu->columns(device, columns, 3, &err));
    at = 0;
    for (int u = 0; u < 3; at += rows[u++]) {
        uint16_t    *theirs = calloc(rows[u], sizeof *theirs);
        upg_viterbi *viterbi;

        OK(upg_viterbi_create(codes[u], rows[u], UPG_VITERBI_FAST, upg_cpu_flags(), &viterbi,
                              &err));
        for (uint32_t c = 0; c < n_columns; c++) {
            upg_viterbi_encode(viterbi, rows[u], x + (size_t)c * all + at, NULL, theirs);
            assert_memory_equal(theirs, ours[u] + (size_t)c * rows[u], rows[u] * sizeof *theirs);
        }
        upg_viterbi_close(viterbi);
        free(theirs);
        free(ours[u]);
    }
    free(x);
}

/* ---- feedback ---------------------------------------------------------------------------------
 */

typedef struct problem {
    uint32_t      n_rows[3], n_units, n_cols, all;
    upg_matrix    matrix;
    upg_plan_unit units[3];
    float        *weights, *lower;
} problem;

static problem make_problem(uint32_t n_cols, uint32_t n_units, const uint32_t *rows,
                            const uint32_t *rates2, float tail)
{
    problem p = { .n_units = n_units, .n_cols = n_cols };

    for (uint32_t u = 0; u < n_units; u++) {
        p.units[u] = (upg_plan_unit) { .row0 = p.all,
                                       .n_rows = rows[u],
                                       .code = upg_code_find(rates2[u], 12) };
        p.all += rows[u];
    }
    p.matrix = (upg_matrix) { .name = "w", .n_rows = p.all, .n_cols = n_cols };
    p.weights = gaussians((size_t)p.all * n_cols, n_cols);
    for (size_t i = 0; i < (size_t)p.all * n_cols; i += 401)
        p.weights[i] *= tail;
    p.lower = gaussians((size_t)n_cols * n_cols, 5);
    for (size_t i = 0; i < n_cols; i++)
        for (size_t j = 0; j < n_cols; j++)
            p.lower[i * n_cols + j] = j < i ? p.lower[i * n_cols + j] * .04f : j == i ? 1 : 0;
    return p;
}

static void code_on_host(problem *p, upg_feedback_matrix *m)
{
    upg_kernels        kernels;
    upg_meter          meter;
    upg_listener       nobody = { 0 };
    upg_encode_context context = { pool, &kernels, upg_cpu_flags(), 0, &meter };

    for (uint32_t u = 0; u < p->n_units; u++)
        p->units[u].matrix = &p->matrix;
    upg_kernels_select(upg_cpu_flags(), &kernels);
    upg_meter_start(&meter, &nobody, "", "", 0);
    m->units = p->units;
    m->n_units = p->n_units;
    m->weights = reals((size_t)p->all * p->n_cols);
    memcpy(m->weights, p->weights, (size_t)p->all * p->n_cols * sizeof(float));
    OK(upg_feedback_encode(&context, p->lower, m, 1, &err));
}

/* With the host's scales. */
static void code_on_gpu(const problem *p, const upg_feedback_matrix *host, uint32_t *bits)
{
    upg_device_unit units[3];
    upg_meter       meter;
    upg_listener    nobody = { 0 };
    uint64_t        words = 0;

    upg_meter_start(&meter, &nobody, "", "", 0);
    for (uint32_t u = 0; u < p->n_units; u++) {
        const upg_plan_unit *unit = &p->units[u];

        units[u] = (upg_device_unit) { unit->code, unit->n_rows,
                                       p->weights + (size_t)unit->row0 * p->n_cols,
                                       host->encoded.scales + unit->row0, bits + words };
        words += upg_plan_unit_words(unit);
    }
    OK(gpu->feedback(device, p->n_cols, p->lower, units, p->n_units, &meter, &err));
}

/* tr(E·L·Lᵀ·Eᵀ): what feedback makes small. */
static double weighted_error(const problem *p, const float *original, const float *decoded)
{
    double sum = 0;

    for (uint32_t r = 0; r < p->all; r++)
        for (uint32_t j = 0; j < p->n_cols; j++) {
            double e = 0;

            for (uint32_t i = j; i < p->n_cols; i++) {
                size_t at = (size_t)r * p->n_cols + i;

                e += ((double)original[at] - (double)decoded[at]) *
                     (double)p->lower[(size_t)i * p->n_cols + j];
            }
            sum += e * e;
        }
    return sum;
}

static void compare_feedback(problem p)
{
    size_t              n = (size_t)p.all * p.n_cols;
    upg_feedback_matrix host = { 0 };
    float              *original = reals(n);
    uint32_t           *bits;
    double              ours, theirs;

    memcpy(original, p.weights, n * sizeof *original);
    code_on_host(&p, &host);
    bits = calloc(host.encoded.n_words, sizeof *bits);
    assert_non_null(bits);
    memset(bits, 0xA5, host.encoded.n_words * sizeof *bits);
    code_on_gpu(&p, &host, bits);
    if (p.n_cols <= 128) { /* not one sum in another order */
        assert_memory_equal(bits, host.encoded.bits, host.encoded.n_words * sizeof *bits);
        assert_memory_equal(p.weights, host.weights, n * sizeof *original);
    } else {
        upg_encoded_matrix encoded = host.encoded;
        upg_band           bands[3];
        upg_encode_context context = { .seed = 0 };
        upg_coded_matrix   view;
        float             *row = reals(p.n_cols);

        encoded.bits = bits;
        view = upg_encoded_view(&context, p.units, p.n_units, &encoded, bands);
        for (uint32_t r = 0; r < p.all; r++) { /* the bits say what the decoded weights are */
            upg_coded_row(&view, r, row);
            assert_true(distance(row, p.weights + (size_t)r * p.n_cols, p.n_cols) < 1e-12);
        }
        ours = weighted_error(&p, original, p.weights);
        theirs = weighted_error(&p, original, host.weights);
        if (fabs(ours / theirs - 1) > .01)
            fail_msg("%u columns: error %g, the host's %g", p.n_cols, ours, theirs);
        free(row);
    }
    upg_encoded_deinit(&host.encoded);
    free(host.weights);
    free(bits);
    free(original);
    free(p.weights);
    free(p.lower);
}

static void test_feedback(void **state)
{
    static const uint32_t rates2[] = { 6, 5, 10, 4, 7, 8 };
    static const uint32_t shapes[][3] = { { 1, 3, 40 }, { 333, 61, 700 }, { 1600, 1, 1100 } };
    static const uint32_t widths[] = { 1, 31, 100, 128 };

    (void)state;
    if (no_gpu())
        skip();
    for (size_t w = 0; w < 4; w++)
        for (size_t s = 0; s < 3; s++)
            for (size_t k = 0; k < 2; k++)
                compare_feedback(
                    make_problem(widths[w], 3, shapes[s], rates2 + 3 * k, k == 0 ? 1 : 1.6f));
}

/* Targets so far out that columns fall to the wide and the float32 search in the middle. */
static void test_feedback_restarts(void **state)
{
    static const uint32_t rates2[] = { 6, 8, 5 }, rows[] = { 3000, 1900, 64 };

    (void)state;
    if (no_gpu())
        skip();
    compare_feedback(make_problem(64, 3, rows, rates2, 3));
    compare_feedback(make_problem(40, 2, rows, rates2, 40));
}

static void test_wide_feedback(void **state)
{
    static const uint32_t rates2[] = { 6, 7, 4 }, rows[] = { 200, 64, 31 };

    (void)state;
    if (no_gpu())
        skip();
    compare_feedback(make_problem(129, 3, rows, rates2, 1));
    compare_feedback(make_problem(400, 3, rows, rates2, 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_columns),
        cmocka_unit_test(test_long_codes),
        cmocka_unit_test(test_bands),
        cmocka_unit_test(test_feedback),
        cmocka_unit_test(test_feedback_restarts),
        cmocka_unit_test(test_wide_feedback),
    };

    return cmocka_run_group_tests(tests, open_blas, close_all);
}
