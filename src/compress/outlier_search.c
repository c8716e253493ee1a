/* outlier_search.c: passes over one matrix at a time:
 *
 *   measure  by columns: energy, and what lies above the threshold
 *   choose   whole columns where that is the better buy, and σ of what remains; again, if it moved
 *   gather   by rows: the single weights above the threshold in the other columns
 *   round    to int8, dropping what does not pay any more */
#include "compress/outlier_search.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/halffloat.h"
#include "compress/dense_rows.h"

enum { COLUMNS_PER_ITEM = 128, ROWS_PER_ITEM = 64, MAX_ROUNDS = 4, SPARSE_ONE_IN = 1000 };

#define ENERGY_PER_BYTE 11.0903548889591 /* 16·ln 2, in σ² */
#define SPARSE_BYTES    2.9              /* value and place of a single weight */
/* Entries in header and manifest, as many bytes as they are at most. */
#define ENTRY_BYTES 320
/* Less is within the error of the prediction, and a second input vector costs time too. */
#define LEAST_SHARE 0.02

typedef struct search {
    const upg_matrix *matrix;
    upg_pool         *pool;
    double            sigma2; /* of the weights that stay in the code */
    float             threshold;
    /* of every column */
    double  *energy, *strong; /* f64 [n_cols]: all of it; of weights above the threshold */
    float   *largest;         /* f32 [n_cols] */
    size_t  *n_strong;        /* [n_cols] */
    uint8_t *chosen;          /* [n_cols]: dense */
    double  *row_energy;      /* f64 [n_rows] */
    double  *row_removed;     /* f64 [n_rows] */
    /* single weights */
    size_t   *row_begin; /* [n_rows + 1] */
    size_t    n_sparse;
    uint32_t *columns; /* [n_sparse] */
    float    *values;  /* [n_sparse] */
    /* dense columns */
    uint32_t  n_columns;
    uint32_t *column; /* [n_columns] */
    float    *scales; /* [n_columns], fp16 values */
    int8_t   *dense;  /* i8 [n_columns][n_rows] */
    float    *rows;   /* f32 [threads][n_cols] */
} search;

/* ---- measure -------------------------------------------------------------------------------- */

static void measure_item(void *context, size_t item, uint32_t worker)
{
    search  *s = context;
    uint32_t begin = (uint32_t)item * COLUMNS_PER_ITEM, left = s->matrix->n_cols - begin;
    uint32_t n = left < COLUMNS_PER_ITEM ? left : COLUMNS_PER_ITEM;
    float    w[COLUMNS_PER_ITEM];

    (void)worker;
    memset(s->energy + begin, 0, n * sizeof *s->energy);
    memset(s->strong + begin, 0, n * sizeof *s->strong);
    memset(s->largest + begin, 0, n * sizeof *s->largest);
    memset(s->n_strong + begin, 0, n * sizeof *s->n_strong);
    for (uint32_t r = 0; r < s->matrix->n_rows; r++) {
        upg_dense_row_part(s->matrix, r, begin, n, w);
        for (uint32_t j = 0; j < n; j++) {
            float  magnitude = fabsf(w[j]);
            double square = (double)w[j] * (double)w[j];

            s->energy[begin + j] += square;
            s->largest[begin + j] =
                magnitude > s->largest[begin + j] ? magnitude : s->largest[begin + j];
            if (magnitude > s->threshold) {
                s->strong[begin + j] += square;
                s->n_strong[begin + j]++;
            }
        }
    }
}

static void measure(search *s, double sigma2)
{
    size_t n_items = (s->matrix->n_cols + COLUMNS_PER_ITEM - 1) / COLUMNS_PER_ITEM;

    s->sigma2 = sigma2;
    s->threshold = (float)sqrt(ENERGY_PER_BYTE * SPARSE_BYTES * sigma2);
    upg_pool_run(s->pool, n_items, measure_item, s);
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* σ² to begin with: that of the middle column, which outlying ones do not move. 0 = no search. */
static double middle_sigma2(search *s)
{
    uint32_t n = s->matrix->n_cols;
    double   total = 0;

    for (uint32_t j = 0; j < n; j++)
        total += s->energy[j];
    if (!isfinite(total))
        return 0;
    memcpy(s->strong, s->energy, n * sizeof *s->strong);
    qsort(s->strong, n, sizeof *s->strong, compare_doubles);
    return s->strong[n / 2] / s->matrix->n_rows;
}

/* ---- choose --------------------------------------------------------------------------------- */

/* Chooses columns by the latest measure; returns σ² of what would remain. */
static double choose_columns(search *s)
{
    double rest = 0, price = ENERGY_PER_BYTE * s->sigma2;
    double column_bytes = s->matrix->n_rows + 6.0;

    s->n_columns = 0;
    s->n_sparse = 0;
    for (uint32_t j = 0; j < s->matrix->n_cols; j++) {
        double dense = s->energy[j] - price * column_bytes;
        double sparse = s->strong[j] - price * SPARSE_BYTES * (double)s->n_strong[j];

        s->chosen[j] = dense > 0 && dense > sparse;
        if (s->chosen[j]) {
            s->n_columns++;
        } else {
            s->n_sparse += s->n_strong[j];
            rest += s->energy[j] - s->strong[j];
        }
    }
    return rest / ((double)s->matrix->n_rows * s->matrix->n_cols);
}

/* Whether the places found can hold enough to matter. */
static bool found_enough(const search *s)
{
    double all = 0, found = 0;

    for (uint32_t j = 0; j < s->matrix->n_cols; j++) {
        all += s->energy[j];
        found += s->chosen[j] ? s->energy[j] : s->strong[j];
    }
    return found > LEAST_SHARE * all;
}

/* False when there are no outliers to speak of. */
static bool find_places(search *s)
{
    double sigma2;

    s->threshold = INFINITY;
    upg_pool_run(s->pool, (s->matrix->n_cols + COLUMNS_PER_ITEM - 1) / COLUMNS_PER_ITEM,
                 measure_item, s);
    sigma2 = middle_sigma2(s);
    for (int round = 0; round < MAX_ROUNDS && sigma2 > 0; round++) {
        measure(s, sigma2);
        sigma2 = choose_columns(s);
        if (fabs(sigma2 / s->sigma2 - 1) < 0.02)
            break;
    }
    return sigma2 > 0 && found_enough(s);
}

/* ---- gather --------------------------------------------------------------------------------- */

static uint32_t end_of_item(const search *s, size_t item)
{
    uint32_t left = s->matrix->n_rows - (uint32_t)item * ROWS_PER_ITEM;

    return (uint32_t)item * ROWS_PER_ITEM + (left < ROWS_PER_ITEM ? left : ROWS_PER_ITEM);
}

static bool is_single(const search *s, uint32_t j, float w)
{
    return fabsf(w) > s->threshold && !s->chosen[j];
}

static void count_item(void *context, size_t item, uint32_t worker)
{
    search *s = context;
    float  *w = s->rows + (size_t)worker * s->matrix->n_cols;

    for (uint32_t r = (uint32_t)item * ROWS_PER_ITEM; r < end_of_item(s, item); r++) {
        double energy = 0;
        size_t n = 0;

        upg_dense_row_part(s->matrix, r, 0, s->matrix->n_cols, w);
        for (uint32_t j = 0; j < s->matrix->n_cols; j++) {
            energy += (double)w[j] * (double)w[j];
            n += is_single(s, j, w[j]);
        }
        s->row_energy[r] = energy;
        s->row_begin[r + 1] = n;
    }
}

static int8_t rounded(float w, float scale)
{
    float v = rintf(w / scale);

    return (int8_t)(v > 127 ? 127 : v < -127 ? -127 : v);
}

/* Energy that leaves the code with value v in place of w. */
static double removed_energy(float w, float scale, int8_t v)
{
    double rest = (double)w - (double)scale * v;

    return (double)w * (double)w - rest * rest;
}

static void gather_item(void *context, size_t item, uint32_t worker)
{
    search *s = context;
    float  *w = s->rows + (size_t)worker * s->matrix->n_cols;

    for (uint32_t r = (uint32_t)item * ROWS_PER_ITEM; r < end_of_item(s, item); r++) {
        size_t k = s->row_begin[r];

        upg_dense_row_part(s->matrix, r, 0, s->matrix->n_cols, w);
        for (uint32_t j = 0; j < s->matrix->n_cols && s->n_sparse > 0; j++)
            if (is_single(s, j, w[j])) {
                s->columns[k] = j;
                s->values[k++] = w[j];
            }
        s->row_removed[r] = 0;
        for (uint32_t d = 0; d < s->n_columns; d++) {
            int8_t v = rounded(w[s->column[d]], s->scales[d]);

            s->dense[(size_t)d * s->matrix->n_rows + r] = v;
            s->row_removed[r] += removed_energy(w[s->column[d]], s->scales[d], v);
        }
    }
}

/* The least fp16 value that 127 steps of reach `largest`; 0 when there is none. */
static float scale_for(float largest)
{
    float    want = largest / 127;
    uint16_t half = upg_f16_from_f32(want);

    if (upg_f32_from_f16(half) < want)
        half++;
    return (half & 0x7C00u) == 0x7C00u ? 0 : upg_f32_from_f16(half);
}

/* Numbers and scales of the chosen columns; those without a scale stay in the code. */
static void list_columns(search *s)
{
    uint32_t n = 0;

    for (uint32_t j = 0; j < s->matrix->n_cols; j++) {
        float scale = s->chosen[j] ? scale_for(s->largest[j]) : 0;

        s->chosen[j] = scale > 0;
        if (scale > 0) {
            s->column[n] = j;
            s->scales[n++] = scale;
        }
    }
    s->n_columns = n;
}

static upg_status gather(search *s, upg_arena *arena, upg_error *err)
{
    uint32_t n_rows = s->matrix->n_rows;
    size_t   n_items = (n_rows + ROWS_PER_ITEM - 1) / ROWS_PER_ITEM;

    s->column = upg_arena_alloc(arena, s->n_columns, sizeof *s->column, err);
    s->scales = upg_arena_alloc(arena, s->n_columns, sizeof *s->scales, err);
    if (s->column == NULL || s->scales == NULL)
        return UPG_E_NOMEM;
    list_columns(s);
    upg_pool_run(s->pool, n_items, count_item, s);
    s->row_begin[0] = 0;
    for (uint32_t r = 0; r < n_rows; r++)
        s->row_begin[r + 1] += s->row_begin[r];
    s->n_sparse = s->row_begin[n_rows];
    s->columns = upg_malloc(s->n_sparse, sizeof *s->columns, err);
    s->values = upg_malloc(s->n_sparse, sizeof *s->values, err);
    s->dense = upg_arena_alloc(arena, (size_t)s->n_columns * n_rows, 1, err);
    if (s->columns == NULL || s->values == NULL || s->dense == NULL)
        return UPG_E_NOMEM;
    upg_pool_run(s->pool, n_items, gather_item, s);
    return UPG_OK;
}

/* ---- round ---------------------------------------------------------------------------------- */

static int compare_down(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;

    return (x < y) - (x > y);
}

/* Raises the threshold so that at most `most` weights lie above it. */
static upg_status keep_largest(search *s, size_t most, upg_error *err)
{
    float *sorted;

    if (s->n_sparse <= most)
        return UPG_OK;
    sorted = upg_malloc(s->n_sparse, sizeof *sorted, err);
    if (sorted == NULL)
        return UPG_E_NOMEM;
    for (size_t k = 0; k < s->n_sparse; k++)
        sorted[k] = fabsf(s->values[k]);
    qsort(sorted, s->n_sparse, sizeof *sorted, compare_down);
    s->threshold = sorted[most];
    upg_free(sorted);
    return UPG_OK;
}

/* Moves what still pays into *o. */
static upg_status round_sparse(search *s, upg_outliers *o, upg_arena *arena, upg_error *err)
{
    float     largest = 0;
    double    price = ENERGY_PER_BYTE * SPARSE_BYTES * s->sigma2;
    uint32_t *begin, *columns, n = 0;
    int8_t   *values;

    for (size_t k = 0; k < s->n_sparse; k++)
        largest = fabsf(s->values[k]) > largest ? fabsf(s->values[k]) : largest;
    o->scale = scale_for(largest);
    if (!(o->scale > 0))
        return UPG_OK;
    begin = upg_arena_alloc(arena, (size_t)s->matrix->n_rows + 1, sizeof *begin, err);
    columns = upg_arena_alloc(arena, s->n_sparse, sizeof *columns, err);
    values = upg_arena_alloc(arena, s->n_sparse, sizeof *values, err);
    if (begin == NULL || columns == NULL || values == NULL)
        return UPG_E_NOMEM;
    for (uint32_t r = 0; r < s->matrix->n_rows; r++) {
        for (size_t k = s->row_begin[r]; k < s->row_begin[r + 1]; k++) {
            int8_t v = rounded(s->values[k], o->scale);
            double removed = removed_energy(s->values[k], o->scale, v);

            if (fabsf(s->values[k]) <= s->threshold || removed < price)
                continue;
            columns[n] = s->columns[k];
            values[n++] = v;
            s->row_removed[r] += removed;
        }
        begin[r + 1] = n;
    }
    o->n_sparse = n;
    o->row_begin = begin;
    o->columns = columns;
    o->values = values;
    return UPG_OK;
}

static upg_status round_all(search *s, upg_outliers *o, upg_arena *arena, upg_error *err)
{
    size_t     total = (size_t)s->matrix->n_rows * s->matrix->n_cols;
    upg_status st = keep_largest(s, total / SPARSE_ONE_IN, err);

    *o = (upg_outliers) { .n_rows = s->matrix->n_rows,
                          .n_cols = s->matrix->n_cols,
                          .n_columns = s->n_columns,
                          .column = s->column,
                          .column_scales = s->scales,
                          .column_values = s->dense };
    return st == UPG_OK && s->n_sparse > 0 ? round_sparse(s, o, arena, err) : st;
}

/* ---- one matrix ----------------------------------------------------------------------------- */

static upg_status allocate(search *s, upg_error *err)
{
    size_t n_rows = s->matrix->n_rows, n_cols = s->matrix->n_cols;

    s->energy = upg_malloc(n_cols, sizeof *s->energy, err);
    s->strong = upg_malloc(n_cols, sizeof *s->strong, err);
    s->largest = upg_malloc(n_cols, sizeof *s->largest, err);
    s->n_strong = upg_malloc(n_cols, sizeof *s->n_strong, err);
    s->chosen = upg_malloc(n_cols, sizeof *s->chosen, err);
    s->row_energy = upg_malloc(n_rows, sizeof *s->row_energy, err);
    s->row_removed = upg_malloc(n_rows, sizeof *s->row_removed, err);
    s->row_begin = upg_malloc(n_rows + 1, sizeof *s->row_begin, err);
    s->rows = upg_malloc(upg_pool_size(s->pool) * n_cols, sizeof *s->rows, err);
    return s->energy && s->strong && s->largest && s->n_strong && s->chosen && s->row_energy &&
                   s->row_removed && s->row_begin && s->rows
               ? UPG_OK
               : UPG_E_NOMEM;
}

static void deinit(search *s)
{
    upg_free(s->energy);
    upg_free(s->strong);
    upg_free(s->largest);
    upg_free(s->n_strong);
    upg_free(s->chosen);
    upg_free(s->row_energy);
    upg_free(s->row_removed);
    upg_free(s->row_begin);
    upg_free(s->rows);
    upg_free(s->columns);
    upg_free(s->values);
}

/* What the tensor will take, entries and padding included. */
static upg_status set_size(upg_plan_candidate *c, upg_error *err)
{
    upg_buffer bytes;
    upg_status st;

    upg_buffer_init(&bytes, SIZE_MAX / 2);
    st = upg_outliers_print(c->outliers, &bytes, &c->counts, err);
    c->bytes = (bytes.size + 63) / 64 * 64 + ENTRY_BYTES;
    upg_buffer_deinit(&bytes);
    return st;
}

/* Sets what each unit would lose; whether the whole is worth its bytes. */
static bool set_removed(const search *s, upg_plan_unit *units, uint32_t n_units, uint64_t bytes)
{
    double all = 0, removed = 0;

    for (uint32_t u = 0; u < n_units; u++) {
        double unit_all = 0, unit_removed = 0;

        for (uint32_t r = units[u].row0; r < units[u].row0 + units[u].n_rows; r++) {
            unit_all += s->row_energy[r];
            unit_removed += s->row_removed[r];
        }
        units[u].removed = unit_all > 0 ? unit_removed / unit_all : 0;
        all += unit_all;
        removed += unit_removed;
    }
    return removed > LEAST_SHARE * all && removed > ENERGY_PER_BYTE * s->sigma2 * (double)bytes;
}

/* candidate->outliers stays NULL when nothing pays. */
static upg_status find_one(upg_plan_unit *units, uint32_t n_units, upg_pool *pool, upg_arena *arena,
                           upg_plan_candidate *candidate, upg_error *err)
{
    search        s = { .matrix = units[0].matrix, .pool = pool };
    upg_outliers *o;
    upg_status    st = allocate(&s, err);

    UPG_TRY(st);
    if (!find_places(&s))
        goto out;
    o = upg_arena_alloc(arena, 1, sizeof *o, err);
    UPG_TRY(o != NULL ? UPG_OK : UPG_E_NOMEM);
    UPG_TRY(gather(&s, arena, err));
    UPG_TRY(round_all(&s, o, arena, err));
    candidate->outliers = o;
    UPG_TRY(set_size(candidate, err));
    if (!set_removed(&s, units, n_units, candidate->bytes))
        candidate->outliers = NULL;
out:
    upg_dense_forget(s.matrix);
    deinit(&s);
    return st;
}

upg_status upg_outliers_find(upg_plan *plan, upg_pool *pool, upg_arena *arena, upg_error *err)
{
    upg_status st = UPG_OK;

    plan->n_candidates = 0;
    plan->candidates = upg_arena_alloc(arena, plan->n_units, sizeof *plan->candidates, err);
    if (plan->candidates == NULL)
        return UPG_E_NOMEM;
    for (uint32_t u = 0, n; u < plan->n_units && st == UPG_OK; u += n) {
        upg_plan_candidate *candidate = &plan->candidates[plan->n_candidates];

        n = upg_plan_units_of(plan, u);
        *candidate = (upg_plan_candidate) { .first_unit = u };
        upg_plan_tell_reader(plan, plan->units[u].matrix);
        st = find_one(&plan->units[u], n, pool, arena, candidate, err);
        plan->n_candidates += candidate->outliers != NULL;
    }
    return st;
}
