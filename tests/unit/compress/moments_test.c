/* Second moments, their factor, and the correction of targets, against plain loops in double. */
#include "compress_fixture.h"

#include "compress/moments.h"

static upg_pool *pool;

static int open_pool(void **state)
{
    (void)state;
    upg_blas_begin();
    return upg_pool_create(2, &pool, &err) == UPG_OK ? 0 : -1;
}

static int close_pool(void **state)
{
    (void)state;
    upg_pool_close(pool);
    return 0;
}

/* Moments of n vectors x whose components go together, given in two calls. */
static void make_moments(upg_moments *m, uint32_t width, uint32_t n, uint64_t seed, bool mixed,
                         float **x_out, float **y_out)
{
    float *z = gaussian((size_t)n * width, seed), *x = malloc((size_t)n * width * sizeof *x);
    float *y = gaussian((size_t)n * width, seed + 1);

    assert_non_null(x);
    for (uint32_t t = 0; t < n; t++)
        for (uint32_t i = 0; i < width; i++) {
            size_t at = (size_t)t * width + i;

            x[at] = z[at] + (i > 0 ? .8f * z[at - 1] : 0);
            y[at] = x[at] + .3f * y[at] - (i > 1 ? .2f * z[at - 2] : 0);
        }
    free(z);
    OK(upg_moments_init(m, width, mixed, &err));
    upg_moments_add(m, pool, x, mixed ? y : NULL, n / 3);
    upg_moments_add(m, pool, x + (size_t)(n / 3) * width,
                    mixed ? y + (size_t)(n / 3) * width : NULL, n - n / 3);
    *x_out = x;
    *y_out = y;
}

static void sums_are_sums(void **state)
{
    static const uint32_t widths[] = { 1, 5, 64, 300 }; /* the last: tiles of 256 and 44 */
    enum { N = 50 };

    (void)state;
    for (size_t k = 0; k < sizeof widths / sizeof *widths; k++) {
        uint32_t    width = widths[k];
        upg_moments m;
        float      *x, *y;

        make_moments(&m, width, N, k, true, &x, &y);
        assert_int_equal(m.n, N);
        for (uint32_t i = 0; i < width; i++)
            for (uint32_t j = 0; j < width; j++) {
                double sum = 0, mixed = 0;

                for (size_t t = 0; t < N; t++) {
                    sum += (double)x[t * width + i] * x[t * width + j];
                    mixed += (double)y[t * width + i] * x[t * width + j];
                }
                /* 50 products of size ≤ 15 in f32 */
                if (j <= i)
                    assert_true(fabs(sum - (double)m.sum[(size_t)i * width + j]) < 1e-3);
                assert_true(fabs(mixed - (double)m.mixed[(size_t)i * width + j]) < 1e-3);
            }
        upg_moments_deinit(&m);
        free(x);
        free(y);
    }
}

/* H + δI from the sums, f64 [width][width]. */
static double *damped(const upg_moments *m, double damping)
{
    uint32_t width = m->width;
    double  *h = malloc((size_t)width * width * sizeof *h), mean = 0;

    assert_non_null(h);
    for (uint32_t i = 0; i < width; i++)
        for (uint32_t j = 0; j <= i; j++)
            h[i * width + j] = h[j * width + i] = (double)m->sum[i * width + j] / (double)m->n;
    for (uint32_t i = 0; i < width; i++)
        mean += h[i * width + i] / width;
    for (uint32_t i = 0; i < width; i++)
        h[i * width + i] += damping * mean;
    return h;
}

static void factor_gives_back_the_matrix(void **state)
{
    static const uint32_t widths[] = { 1, 7, 256, 300, 520 };

    (void)state;
    for (size_t k = 0; k < sizeof widths / sizeof *widths; k++) {
        uint32_t    width = widths[k];
        upg_moments m;
        float      *x, *y, *d = malloc(width * sizeof *d);
        double     *h, used;

        make_moments(&m, width, 2 * width + 10, k, false, &x, &y);
        h = damped(&m, 1e-2);
        OK(upg_moments_factor(&m, pool, 1e-2, d, &used, &err));
        assert_true(used == 1e-2);
        for (uint32_t i = 0; i < width; i++) {
            assert_true(m.sum[(size_t)i * width + i] == 1 && d[i] > 0);
            for (uint32_t j = i + 1; j < width; j++)
                assert_true(m.sum[(size_t)i * width + j] == 0);
        }
        for (uint32_t i = 0; i < width; i++)
            for (uint32_t j = 0; j <= i; j++) {
                double sum = 0;

                for (uint32_t c = 0; c <= j; c++)
                    sum += (double)m.sum[(size_t)i * width + c] * (double)d[c] *
                           (double)m.sum[(size_t)j * width + c];
                /* L and D are rounded to f32; entries are about 1 */
                assert_true(fabs(sum - h[i * width + j]) < 2e-6);
            }
        upg_moments_deinit(&m);
        free(h);
        free(d);
        free(x);
        free(y);
    }
}

/* A matrix given as it is, as one vector's moments would be. */
static void set_moments(upg_moments *m, uint32_t width, const float *h)
{
    OK(upg_moments_init(m, width, false, &err));
    memcpy(m->sum, h, (size_t)width * width * sizeof *h);
    m->n = 1;
}

static void damping_grows_where_it_must(void **state)
{
    /* eigenvalues 1, -.01; mean diagonal .495: δ > .01 needs a damping above .0202 */
    const float slightly[] = { 1, 0, 0, -.01f }, wildly[] = { 1, 0, 0, -.99f };
    upg_moments m;
    double      used = 0;
    float       d[2];

    (void)state;
    set_moments(&m, 2, slightly);
    OK(upg_moments_factor(&m, pool, 1e-4, d, &used, &err));
    assert_true(fabs(used - .1) < 1e-9);
    assert_true(fabs((double)d[1] - (.0495 - .01)) < 1e-6);
    upg_moments_deinit(&m);
    /* mean diagonal .005: even 1e-4 · 10^6 = 100 of it, .5, does not reach .99 */
    set_moments(&m, 2, wildly);
    assert_int_equal(upg_moments_factor(&m, pool, 1e-4, d, &used, &err), UPG_E_DATA);
    assert_non_null(strstr(err.message, "positive definite"));
    upg_moments_deinit(&m);
}

static void useless_moments_are_refused(void **state)
{
    const float zero[] = { 0, 0, 0, 0 }, nan_d[] = { NAN, 0, 0, 1 },
                inf_d[] = { 1, 0, 0, INFINITY };
    const float        nan_off[] = { 1, 0, NAN, 1 };
    const float *const all[] = { zero, nan_d, inf_d, nan_off };
    upg_moments        m;
    double             used;

    (void)state;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        set_moments(&m, 2, all[i]);
        assert_int_equal(upg_moments_factor(&m, pool, 1e-2, NULL, &used, &err), UPG_E_DATA);
        upg_moments_deinit(&m);
    }
}

/* Solves a·x = b in place by elimination with pivots; a f64 [n][n]. */
static void solve(double *a, double *b, uint32_t n)
{
    for (uint32_t k = 0; k < n; k++) {
        uint32_t p = k;

        for (uint32_t i = k + 1; i < n; i++)
            if (fabs(a[i * n + k]) > fabs(a[p * n + k]))
                p = i;
        for (uint32_t j = 0; j < n; j++) {
            double t = a[k * n + j];

            a[k * n + j] = a[p * n + j];
            a[p * n + j] = t;
        }
        {
            double t = b[k];

            b[k] = b[p];
            b[p] = t;
        }
        for (uint32_t i = k + 1; i < n; i++) {
            double f = a[i * n + k] / a[k * n + k];

            for (uint32_t j = k; j < n; j++)
                a[i * n + j] -= f * a[k * n + j];
            b[i] -= f * b[k];
        }
    }
    for (uint32_t k = n; k-- > 0;) {
        for (uint32_t j = k + 1; j < n; j++)
            b[k] -= a[k * n + j] * b[j];
        b[k] /= a[k * n + k];
    }
}

static void correction_solves_what_it_says(void **state)
{
    enum { WIDTH = 40, N = 200, ROWS = 6 };
    upg_moments m;
    float      *x, *y, *w = gaussian(ROWS * WIDTH, 4), *was = gaussian(ROWS * WIDTH, 4);
    float       d[WIDTH], scratch[ROWS * WIDTH];
    double     *h, mixed[WIDTH][WIDTH], used, before = 0, after = 0;

    (void)state;
    make_moments(&m, WIDTH, N, 9, true, &x, &y);
    h = damped(&m, 0);
    for (size_t i = 0; i < WIDTH; i++)
        for (size_t j = 0; j < WIDTH; j++)
            mixed[i][j] = (double)m.mixed[i * WIDTH + j] / N - h[i * WIDTH + j];
    free(h);
    h = damped(&m, 1e-2);
    OK(upg_moments_factor(&m, pool, 1e-2, d, &used, &err));
    upg_moments_correct(&m, d, ROWS, w, scratch);
    for (size_t r = 0; r < ROWS; r++) {
        double a[WIDTH * WIDTH], b[WIDTH] = { 0 };

        for (size_t j = 0; j < WIDTH; j++)
            for (size_t i = 0; i < WIDTH; i++)
                b[j] += (double)was[r * WIDTH + i] * mixed[i][j];
        memcpy(a, h, sizeof a); /* symmetric: (H + δI)·Δᵀ = (W·M)ᵀ */
        solve(a, b, WIDTH);
        for (size_t j = 0; j < WIDTH; j++) {
            double want = (double)was[r * WIDTH + j] + b[j];

            assert_true(fabs(want - (double)w[r * WIDTH + j]) < 1e-4 * (1 + fabs(want)));
        }
        /* and so the moved row does on x what the old one does on y, as well as a row can */
        for (size_t t = 0; t < N; t++) {
            double want = 0, old = 0, moved = 0;

            for (size_t j = 0; j < WIDTH; j++) {
                want += (double)was[r * WIDTH + j] * y[t * WIDTH + j];
                old += (double)was[r * WIDTH + j] * x[t * WIDTH + j];
                moved += (double)w[r * WIDTH + j] * x[t * WIDTH + j];
            }
            before += (want - old) * (want - old);
            after += (want - moved) * (want - moved);
        }
    }
    assert_true(after < .9 * before);
    upg_moments_deinit(&m);
    free(h);
    free(w);
    free(was);
    free(x);
    free(y);
}

static void threads_change_nothing(void **state)
{
    enum { WIDTH = 600, N = 90 };
    float *x = gaussian(N * WIDTH, 1), *y = gaussian(N * WIDTH, 2), *sum = NULL, *mixed = NULL;
    size_t bytes = (size_t)WIDTH * WIDTH * sizeof *x;

    (void)state;
    for (uint32_t threads = 1; threads <= 3; threads++) {
        upg_moments m;
        upg_pool   *p;
        double      used;

        OK(upg_pool_create(threads, &p, &err));
        OK(upg_moments_init(&m, WIDTH, true, &err));
        upg_moments_add(&m, p, x, y, N);
        OK(upg_moments_factor(&m, p, 1e-2, NULL, &used, &err));
        if (threads == 1) {
            sum = malloc(bytes);
            mixed = malloc(bytes);
            assert_true(sum && mixed);
            memcpy(sum, m.sum, bytes);
            memcpy(mixed, m.mixed, bytes);
        }
        assert_memory_equal(sum, m.sum, bytes);
        assert_memory_equal(mixed, m.mixed, bytes);
        upg_moments_deinit(&m);
        upg_pool_close(p);
    }
    free(sum);
    free(mixed);
    free(x);
    free(y);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_are_sums),
        cmocka_unit_test(factor_gives_back_the_matrix),
        cmocka_unit_test(damping_grows_where_it_must),
        cmocka_unit_test(useless_moments_are_refused),
        cmocka_unit_test(correction_solves_what_it_says),
        cmocka_unit_test(threads_change_nothing),
    };

    return cmocka_run_group_tests(tests, open_pool, close_pool);
}
