#include "compress/moments.h"

#include <cblas.h>
#include <math.h>
#include <string.h>

#include "base/alloc.h"

/* LAPACK's Cholesky factorisation of one diagonal block (column-major by its own convention). */
extern void dpotrf_(const char *uplo, const int *n, double *a, const int *lda, int *info);

enum { TILE = 256, MAX_DAMPING_STEPS = 6 };

int upg_blas_begin(void)
{
    int threads = openblas_get_num_threads();

    openblas_set_num_threads(1);
    return threads;
}

void upg_blas_end(int threads)
{
    openblas_set_num_threads(threads);
}

/* ---- sums ----------------------------------------------------------------------------------- */

upg_status upg_moments_init(upg_moments *moments, uint32_t width, bool with_mixed, upg_error *err)
{
    size_t size = (size_t)width * width;

    *moments = (upg_moments) { .width = width };
    moments->sum = upg_calloc(size, sizeof(float), err);
    moments->mixed = with_mixed ? upg_calloc(size, sizeof(float), err) : NULL;
    if (moments->sum == NULL || (with_mixed && moments->mixed == NULL)) {
        upg_moments_deinit(moments);
        return UPG_E_NOMEM;
    }
    return UPG_OK;
}

uint64_t upg_moments_memory(uint32_t width, bool with_mixed)
{
    return (with_mixed ? 2 : 1) * (uint64_t)width * width * sizeof(float);
}

uint64_t upg_moments_factor_memory(uint32_t width)
{
    return (uint64_t)width * width * sizeof(double);
}

void upg_moments_deinit(upg_moments *moments)
{
    upg_free(moments->sum);
    upg_free(moments->mixed);
    *moments = (upg_moments) { 0 };
}

typedef struct addition {
    upg_moments *moments;
    const float *x, *y;
    uint32_t     n, tiles;
} addition;

static uint32_t tile_size(uint32_t width, uint32_t tile)
{
    uint32_t left = width - tile * TILE;

    return left < TILE ? left : TILE;
}

/* Item `item` is one tile [i][j]: of the sum where j ≤ i, and of the mixed sum. */
static void add_tile(void *context, size_t item, uint32_t worker)
{
    addition *a = context;
    uint32_t  width = a->moments->width;
    uint32_t  i = (uint32_t)item / a->tiles, j = (uint32_t)item % a->tiles;
    int       rows = (int)tile_size(width, i), cols = (int)tile_size(width, j);
    size_t    at = (size_t)i * TILE * width + (size_t)j * TILE;

    (void)worker;
    if (j <= i)
        cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, rows, cols, (int)a->n, 1.0f,
                    a->x + (size_t)i * TILE, (int)width, a->x + (size_t)j * TILE, (int)width, 1.0f,
                    a->moments->sum + at, (int)width);
    if (a->y != NULL)
        cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, rows, cols, (int)a->n, 1.0f,
                    a->y + (size_t)i * TILE, (int)width, a->x + (size_t)j * TILE, (int)width, 1.0f,
                    a->moments->mixed + at, (int)width);
}

void upg_moments_add(upg_moments *moments, upg_pool *pool, const float *x, const float *y,
                     uint32_t n)
{
    addition a = { moments, x, y, n, (moments->width + TILE - 1) / TILE };

    upg_pool_run(pool, (size_t)a.tiles * a.tiles, add_tile, &a);
    moments->n += n;
}

/* ---- factor --------------------------------------------------------------------------------- */

/* Right-looking blocked Cholesky on the lower triangle of a row-major f64 matrix. */
typedef struct cholesky {
    double  *a; /* [width][width] */
    uint32_t width, tiles, step;
} cholesky;

static double *tile_at(const cholesky *c, uint32_t i, uint32_t j)
{
    return c->a + (size_t)i * TILE * c->width + (size_t)j * TILE;
}

/* Row tile step + 1 + item of the panel: A[i][step] := A[i][step] · C[step][step]⁻ᵀ. */
static void solve_panel(void *context, size_t item, uint32_t worker)
{
    cholesky *c = context;
    uint32_t  i = c->step + 1 + (uint32_t)item;

    (void)worker;
    cblas_dtrsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit,
                (int)tile_size(c->width, i), (int)tile_size(c->width, c->step), 1.0,
                tile_at(c, c->step, c->step), (int)c->width, tile_at(c, i, c->step), (int)c->width);
}

/* Tile (i, j), step < j ≤ i, of the trailing matrix: A[i][j] −= A[i][step] · A[j][step]ᵀ. */
static void update_tile(void *context, size_t item, uint32_t worker)
{
    cholesky *c = context;
    uint32_t  n = c->tiles - c->step - 1;
    uint32_t  i = c->step + 1 + (uint32_t)item / n, j = c->step + 1 + (uint32_t)item % n;

    (void)worker;
    if (j <= i)
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)tile_size(c->width, i),
                    (int)tile_size(c->width, j), (int)tile_size(c->width, c->step), -1.0,
                    tile_at(c, i, c->step), (int)c->width, tile_at(c, j, c->step), (int)c->width,
                    1.0, tile_at(c, i, j), (int)c->width);
}

/* Not every LAPACK tells that a pivot was NaN. */
static bool pivots_finite(const double *tile, int n, int stride)
{
    for (int i = 0; i < n; i++)
        if (!isfinite(tile[(size_t)i * (size_t)stride + (size_t)i]))
            return false;
    return true;
}

/* True when the matrix was positive definite. */
static bool factor_in_place(cholesky *c, upg_pool *pool)
{
    for (c->step = 0; c->step < c->tiles; c->step++) {
        int    n = (int)tile_size(c->width, c->step), lda = (int)c->width, info = 0;
        size_t left = c->tiles - c->step - 1;

        dpotrf_("U", &n, tile_at(c, c->step, c->step), &lda, &info); /* row-major lower */
        if (info != 0 || !pivots_finite(tile_at(c, c->step, c->step), n, lda))
            return false;
        upg_pool_run(pool, left, solve_panel, c);
        upg_pool_run(pool, left * left, update_tile, c);
    }
    return true;
}

/* Fills the lower triangle of c->a with H + δI. */
static void load_damped(cholesky *c, const upg_moments *m, double damping, double mean_diagonal)
{
    double scale = 1.0 / (double)m->n;

    for (size_t i = 0; i < m->width; i++) {
        for (size_t j = 0; j <= i; j++)
            c->a[i * m->width + j] = scale * (double)m->sum[i * m->width + j];
        c->a[i * m->width + i] += damping * mean_diagonal;
    }
}

/* lower = C · diag(C)⁻¹, D = diag(C)² */
static void unit_lower(const cholesky *c, float *lower, float *diagonal)
{
    for (size_t i = 0; i < c->width; i++) {
        float *row = lower + i * c->width;
        double d = c->a[i * c->width + i];

        for (size_t j = 0; j < i; j++)
            row[j] = (float)(c->a[i * c->width + j] / c->a[j * c->width + j]);
        row[i] = 1;
        memset(row + i + 1, 0, (c->width - i - 1) * sizeof *row);
        if (diagonal != NULL)
            diagonal[i] = (float)(d * d);
    }
}

/* mixed = E[y xᵀ] − H, before the factor takes the place of H. */
static void subtract_moments(upg_moments *m)
{
    float scale = (float)(1.0 / (double)m->n);

    for (size_t i = 0; i < m->width; i++)
        for (size_t j = 0; j < m->width; j++) {
            float h = j <= i ? m->sum[i * m->width + j] : m->sum[j * m->width + i];

            m->mixed[i * m->width + j] = scale * (m->mixed[i * m->width + j] - h);
        }
}

static double mean_diagonal(const upg_moments *m)
{
    double mean = 0;

    for (size_t i = 0; i < m->width && m->n > 0; i++)
        mean += (double)m->sum[i * m->width + i] / (double)m->n;
    return mean / m->width;
}

upg_status upg_moments_factor(upg_moments *moments, upg_pool *pool, double damping, float *diagonal,
                              double *used, upg_error *err)
{
    upg_status st = UPG_OK;
    cholesky   c = { NULL, moments->width, (moments->width + TILE - 1) / TILE, 0 };
    double     mean = mean_diagonal(moments);
    bool       done = false;

    if (!(mean > 0) || !isfinite(mean))
        return upg_fail(err, UPG_E_DATA,
                        "the mean square of its input over the calibration text is %g: feedback "
                        "needs a finite, positive one",
                        mean);
    c.a = upg_malloc((size_t)c.width * c.width, sizeof *c.a, err);
    if (c.a == NULL)
        return UPG_E_NOMEM;
    for (int step = 0; step <= MAX_DAMPING_STEPS && !done; step++, damping *= 10) {
        load_damped(&c, moments, damping, mean);
        done = factor_in_place(&c, pool);
        *used = damping;
    }
    if (done) {
        if (moments->mixed != NULL)
            subtract_moments(moments);
        unit_lower(&c, moments->sum, diagonal);
    } else {
        st = upg_fail(err, UPG_E_DATA,
                      "the second moments of its input are not positive definite, even with %g of "
                      "their mean diagonal added",
                      *used);
    }
    upg_free(c.a);
    return st;
}

void upg_moments_correct(const upg_moments *moments, const float *diagonal, uint32_t n_rows,
                         float *weights, float *scratch)
{
    int n = (int)n_rows, width = (int)moments->width;

    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, n, width, width, 1.0f, weights, width,
                moments->mixed, width, 0.0f, scratch, width);
    cblas_strsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasUnit, n, width, 1.0f,
                moments->sum, width, scratch, width);
    for (size_t r = 0; r < n_rows; r++)
        for (size_t j = 0; j < moments->width; j++)
            scratch[r * moments->width + j] /= diagonal[j];
    cblas_strsm(CblasRowMajor, CblasRight, CblasLower, CblasNoTrans, CblasUnit, n, width, 1.0f,
                moments->sum, width, scratch, width);
    cblas_saxpy(n * width, 1.0f, scratch, 1, weights, 1);
}
