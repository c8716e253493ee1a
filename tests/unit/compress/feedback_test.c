/* Error feedback: the golden case, against round to nearest, bits against the decoded values,
 * threads, memory, cancelling. */
#include "compress_fixture.h"

#include <jansson.h>
#include <stdatomic.h>

#include "compress/feedback.h"
#include "compress/moments.h"

typedef struct problem {
    uint32_t rows, cols;
    float   *w;     /* f32 [rows][cols], rotated */
    float   *h;     /* f32 [cols][cols] */
    float   *lower; /* f32 [cols][cols]: L for a damping of 1e-2 */
} problem;

static int open_blas(void **state)
{
    (void)state;
    upg_blas_begin();
    return 0;
}

static void factor(problem *p)
{
    upg_pool   *pool;
    upg_moments m;
    double      used;
    size_t      bytes = (size_t)p->cols * p->cols * sizeof *p->h;

    OK(upg_pool_create(1, &pool, &err));
    OK(upg_moments_init(&m, p->cols, false, &err));
    memcpy(m.sum, p->h, bytes);
    m.n = 1;
    OK(upg_moments_factor(&m, pool, 1e-2, NULL, &used, &err));
    p->lower = malloc(bytes);
    assert_non_null(p->lower);
    memcpy(p->lower, m.sum, bytes);
    upg_moments_deinit(&m);
    upg_pool_close(pool);
}

/* Correlated inputs: components that follow one another. */
static problem make_problem(uint32_t rows, uint32_t cols)
{
    enum { N = 600 };
    problem p = { rows, cols, gaussian((size_t)rows * cols, 1), NULL, NULL };
    float  *x = gaussian((size_t)N * cols, 2);

    p.h = calloc((size_t)cols * cols, sizeof *p.h);
    assert_non_null(p.h);
    for (size_t t = 0; t < N; t++) {
        float *v = x + t * cols;

        for (uint32_t i = 1; i < cols; i++)
            v[i] = .9f * v[i - 1] + .4f * v[i];
        for (size_t i = 0; i < cols; i++)
            for (size_t j = 0; j < cols; j++)
                p.h[i * cols + j] += v[i] * v[j] / N;
    }
    free(x);
    factor(&p);
    return p;
}

static void free_problem(problem *p)
{
    free(p->w);
    free(p->h);
    free(p->lower);
}

/* tr(E·H·Eᵀ) / tr(W·H·Wᵀ) */
static double proxy(const problem *p, const float *decoded)
{
    double error = 0, energy = 0;

    for (size_t r = 0; r < p->rows; r++)
        for (size_t i = 0; i < p->cols; i++)
            for (size_t j = 0; j < p->cols; j++) {
                const float *w = p->w + r * p->cols, *q = decoded + r * p->cols;
                double       h = (double)p->h[i * p->cols + j];

                error += (double)(w[i] - q[i]) * h * (double)(w[j] - q[j]);
                energy += (double)w[i] * h * (double)w[j];
            }
    return error / energy;
}

/* Encodes a copy of W; the decoded copy comes back. */
static float *run(const problem *p, encode_env *e, const upg_plan_unit *units, uint32_t n_units,
                  upg_encoded_matrix *encoded)
{
    size_t              bytes = (size_t)p->rows * p->cols * sizeof(float);
    upg_feedback_matrix m = { .units = units, .n_units = n_units, .weights = malloc(bytes) };

    assert_non_null(m.weights);
    memcpy(m.weights, p->w, bytes);
    OK(upg_feedback_encode(&e->context, p->lower, &m, 1, &err));
    *encoded = m.encoded;
    return m.weights;
}

/* Round to nearest is feedback through L = I. */
static double nearest_proxy(const problem *p, encode_env *e, const upg_plan_unit *unit)
{
    problem            plain = *p;
    upg_encoded_matrix encoded;
    float             *decoded;
    double             found;

    plain.lower = calloc((size_t)p->cols * p->cols, sizeof(float));
    assert_non_null(plain.lower);
    for (size_t i = 0; i < p->cols; i++)
        plain.lower[i * p->cols + i] = 1;
    decoded = run(&plain, e, unit, 1, &encoded);
    found = proxy(p, decoded);
    free(decoded);
    free(plain.lower);
    upg_encoded_deinit(&encoded);
    return found;
}

static void golden_proxies(void **state)
{
    json_t    *golden = json_load_file(UPG_TEST_DATA "/bfir_ldlq.json", 0, NULL), *entry;
    size_t     index, at = 0;
    problem    p = { 0 };
    encode_env e;

    (void)state;
    assert_non_null(golden);
    p.rows = (uint32_t)json_integer_value(json_object_get(golden, "rows"));
    p.cols = (uint32_t)json_integer_value(json_object_get(golden, "cols"));
    p.w = malloc((size_t)p.rows * p.cols * sizeof *p.w);
    p.h = malloc((size_t)p.cols * p.cols * sizeof *p.h);
    assert_true(p.w && p.h);
    for (size_t i = 0; i < (size_t)p.rows * p.cols; i++)
        p.w[i] = (float)json_number_value(json_array_get(json_object_get(golden, "w"), i));
    for (size_t i = 0; i < p.cols; i++)
        for (size_t j = 0; j <= i; j++, at++)
            p.h[i * p.cols + j] = p.h[j * p.cols + i] =
                (float)json_number_value(json_array_get(json_object_get(golden, "h"), at));
    factor(&p);
    env_open(&e, 1);
    json_array_foreach(json_object_get(golden, "results"), index, entry)
    {
        double             rate = json_number_value(json_object_get(entry, "rate"));
        double             want = json_number_value(json_object_get(entry, "proxy_ldlq"));
        double             want_nearest = json_number_value(json_object_get(entry, "proxy_rtn"));
        upg_matrix         m = dense_matrix(p.rows, p.cols, p.w);
        upg_plan_unit      unit = unit_of(&m, 0, p.rows, (uint32_t)(2 * rate));
        upg_encoded_matrix encoded;
        float             *decoded = run(&p, &e, &unit, 1, &encoded);
        double             found = proxy(&p, decoded), nearest = nearest_proxy(&p, &e, &unit);

        /* ±3 %: the order of float additions changes single paths */
        if (fabs(found / want - 1) > .03 || fabs(nearest / want_nearest - 1) > .03)
            fail_msg("rate %g: proxies %g and %g, golden %g and %g", rate, found, nearest, want,
                     want_nearest);
        free(decoded);
        upg_encoded_deinit(&encoded);
    }
    assert_true(index >= 3);
    env_close(&e);
    free_problem(&p);
    json_decref(golden);
}

static void beats_round_to_nearest(void **state)
{
    static const uint32_t shapes[][2] = { { 96, 300 }, { 130, 33 }, { 64, 128 }, { 32, 129 } };
    encode_env            e;

    (void)state;
    env_open(&e, 2);
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (uint32_t rate2 = 4; rate2 <= 8; rate2++) {
            problem            p = make_problem(shapes[s][0], shapes[s][1]);
            upg_matrix         m = dense_matrix(p.rows, p.cols, p.w);
            upg_plan_unit      unit = unit_of(&m, 0, p.rows, rate2);
            upg_encoded_matrix encoded;
            float             *decoded = run(&p, &e, &unit, 1, &encoded);

            assert_true(proxy(&p, decoded) < .6 * nearest_proxy(&p, &e, &unit));
            free(decoded);
            upg_encoded_deinit(&encoded);
            free_problem(&p);
        }
    env_close(&e);
}

static void bits_say_what_was_decoded(void **state)
{
    problem            p = make_problem(150, 131);
    upg_matrix         m = dense_matrix(p.rows, p.cols, p.w);
    upg_plan_unit      units[] = { unit_of(&m, 0, 64, 10), unit_of(&m, 64, 1, 5),
                                   unit_of(&m, 65, 85, 7) };
    upg_encoded_matrix encoded;
    upg_band           bands[3];
    upg_coded_matrix   view;
    encode_env         e;
    float             *decoded, row[131];

    (void)state;
    for (uint32_t j = 0; j < p.cols; j++)
        p.w[20 * p.cols + j] = 0; /* a zero row */
    env_open(&e, 2);
    decoded = run(&p, &e, units, 3, &encoded);
    view = upg_encoded_view(&e.context, units, 3, &encoded, bands);
    for (uint32_t r = 0; r < p.rows; r++) {
        upg_coded_row(&view, r, row); /* in the rotated basis, as is `decoded` */
        for (uint32_t j = 0; j < p.cols; j++)
            assert_true(fabsf(row[j] - decoded[r * p.cols + j]) <= 1e-6f * fabsf(row[j]));
    }
    for (uint32_t j = 0; j < p.cols; j++)
        assert_true(decoded[20 * p.cols + j] == 0);
    free(decoded);
    upg_encoded_deinit(&encoded);
    env_close(&e);
    free_problem(&p);
}

static void threads_change_nothing(void **state)
{
    problem            p = make_problem(140, 200);
    upg_matrix         m = dense_matrix(p.rows, p.cols, p.w);
    upg_plan_unit      units[] = { unit_of(&m, 0, 64, 6), unit_of(&m, 64, 64, 4),
                                   unit_of(&m, 128, 12, 8) };
    upg_encoded_matrix first, other;

    (void)state;
    for (uint32_t threads = 1; threads <= 3; threads++) {
        encode_env e;

        env_open(&e, threads);
        free(run(&p, &e, units, 3, threads == 1 ? &first : &other));
        env_close(&e);
        if (threads == 1)
            continue;
        assert_memory_equal(first.bits, other.bits, first.n_words * sizeof *first.bits);
        assert_memory_equal(first.scales, other.scales, p.rows * sizeof *first.scales);
        upg_encoded_deinit(&other);
    }
    upg_encoded_deinit(&first);
    free_problem(&p);
}

static void failures_leave_nothing(void **state)
{
    problem             p = make_problem(64, 64);
    upg_matrix          m = dense_matrix(p.rows, p.cols, p.w);
    upg_plan_unit       unit = unit_of(&m, 0, p.rows, 6);
    size_t              n = (size_t)p.rows * p.cols;
    float              *w = malloc(n * sizeof *w);
    upg_feedback_matrix work = { .units = &unit, .n_units = 1, .weights = w };
    atomic_bool         cancel = true;
    upg_status          st = UPG_E_NOMEM;
    encode_env          e;

    (void)state;
    assert_non_null(w);
    env_open(&e, 1);
    for (uint64_t k = 0; st == UPG_E_NOMEM; k++) {
        memcpy(w, p.w, n * sizeof *w);
        upg_alloc_fail_after(k);
        st = upg_feedback_encode(&e.context, p.lower, &work, 1, &err);
        upg_alloc_fail_after(UINT64_MAX);
        assert_true(st == UPG_OK ? k > 3 : work.encoded.bits == NULL);
    }
    OK(st);
    upg_encoded_deinit(&work.encoded);

    memcpy(w, p.w, n * sizeof *w);
    for (uint32_t j = 0; j < p.cols; j++)
        w[9 * p.cols + j] = 1e6f;
    assert_int_equal(upg_feedback_encode(&e.context, p.lower, &work, 1, &err), UPG_E_DATA);
    assert_non_null(strstr(err.message, "test.weight"));
    assert_non_null(strstr(err.message, "row 9"));
    assert_null(work.encoded.bits);

    memcpy(w, p.w, n * sizeof *w);
    e.listener.cancel = &cancel;
    assert_int_equal(upg_feedback_encode(&e.context, p.lower, &work, 1, &err), UPG_E_CANCELLED);
    assert_null(work.encoded.bits);
    free(w);
    env_close(&e);
    free_problem(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_proxies),
        cmocka_unit_test(beats_round_to_nearest),
        cmocka_unit_test(bits_say_what_was_decoded),
        cmocka_unit_test(threads_change_nothing),
        cmocka_unit_test(failures_leave_nothing),
    };

    return cmocka_run_group_tests(tests, open_blas, NULL);
}
