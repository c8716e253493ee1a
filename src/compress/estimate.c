#include "compress/estimate.h"

#include <math.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/cpu.h"
#include "base/halffloat.h"
#include "base/random.h"
#include "compress/encode.h"
#include "compress/layer_math.h"
#include "compress/moments.h"
#include "compress/outlier_search.h"
#include "compress/tune.h"

enum {
    SAMPLE_ROWS = 2048,
    SAMPLE_COLUMNS = 1024, /* at least; first fewer of them */
    MAX_CODES = 16,
    MAX_CORRECTED_WIDTH = 8192, /* as in calibration */
    PRODUCT_TOKENS = 512,
    PRODUCT_MOST = 4096, /* rows and columns: the model's, but no more */
    SCORE_COST = 100     /* operations of the softmax for one score */
};

#define ENOUGH_NS     UINT64_C(100000000) /* of one measurement */
#define BACKWARD_COST 3                   /* forward and backward, in forward passes */

/* Seconds a weight takes by all threads, for one code. */
typedef struct code_cost {
    const upg_code *code;
    bool            weighted; /* rows count unlike: the slow search */
    double          seconds;
} code_cost;

typedef struct estimator {
    const upg_workload *work;
    upg_pool           *pool;
    uint16_t           *sample; /* bf16 [SAMPLE_ROWS][columns]: Gaussian, near enough */
    uint32_t            columns, first_columns; /* with a group of 32 for each thread */
    code_cost           costs[2 * MAX_CODES];
    size_t              n_costs;
    double              flop_seconds;   /* by all threads together */
    double              search_seconds; /* of a weight */
} estimator;

/* ---- measuring ------------------------------------------------------------------------------ */

static double seconds_since(uint64_t start)
{
    return (double)(upg_now_ns() - start) * 1e-9;
}

/* Sums of four uniform numbers: the shape hardly matters to the time. */
static void fill_sample(uint16_t *sample, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint64_t bits = upg_random_u64(7, i);
        double   sum = 0;

        for (int part = 0; part < 4; part++, bits >>= 16)
            sum += (double)(bits & 0xFFFFu) - 32767.5;
        sample[i] = upg_bf16_from_f32((float)(sum * (0.02 / 37837)));
    }
}

static upg_matrix sample_matrix(const estimator *e, uint32_t n_cols)
{
    return (upg_matrix) { .name = "sample",
                          .role = UPG_ROLE_GATE,
                          .n_rows = SAMPLE_ROWS,
                          .n_cols = n_cols,
                          .kind = UPG_MATRIX_DENSE,
                          .dtype = UPG_BF16,
                          .dense = e->sample,
                          .file = "sample" };
}

static upg_status code_once(const estimator *e, const upg_code *code, const float *row_weights,
                            uint32_t n_cols, double *seconds, upg_error *err)
{
    static const upg_listener nobody;
    upg_matrix                matrix = sample_matrix(e, n_cols);
    upg_plan_unit             unit = { .matrix = &matrix, .n_rows = SAMPLE_ROWS, .code = code };
    upg_kernels               kernels;
    upg_meter                 meter;
    upg_encode_context        context = { e->pool, &kernels, upg_cpu_flags(), 0, &meter };
    upg_encoded_matrix        encoded;
    uint64_t                  start;
    upg_status                st;

    upg_kernels_select(context.cpu_flags, &kernels);
    upg_meter_start(&meter, &nobody, "measure", "weights", 0);
    start = upg_now_ns();
    st = upg_encode_matrix(&context, &unit, 1, row_weights, &encoded, err);
    *seconds = seconds_since(start) / ((double)SAMPLE_ROWS * n_cols);
    upg_encoded_deinit(&encoded);
    return st;
}

/* A few columns first, which also warms up; all of them where that is quick. */
static upg_status measure_code(estimator *e, code_cost *cost, upg_error *err)
{
    float     *weights = NULL;
    uint64_t   start = upg_now_ns();
    upg_status st = UPG_OK;

    if (cost->weighted) {
        weights = upg_malloc(SAMPLE_ROWS, sizeof *weights, err);
        UPG_TRY(weights ? UPG_OK : UPG_E_NOMEM);
        for (uint32_t r = 0; r < SAMPLE_ROWS; r++)
            weights[r] = 0.5f + (float)upg_random_unit(1, r);
    }
    UPG_TRY(code_once(e, cost->code, weights, e->first_columns, &cost->seconds, err));
    if (upg_now_ns() - start < ENOUGH_NS)
        UPG_TRY(code_once(e, cost->code, weights, e->columns, &cost->seconds, err));
out:
    upg_free(weights);
    return st;
}

static code_cost *find_cost(estimator *e, const upg_code *code, bool weighted)
{
    for (size_t i = 0; i < e->n_costs; i++)
        if (e->costs[i].code == code && e->costs[i].weighted == weighted)
            return &e->costs[i];
    return NULL;
}

static bool is_weighted(const estimator *e, const upg_plan_unit *unit)
{
    return e->work->n_windows > 0 && unit->matrix->role == UPG_ROLE_EMBED;
}

static upg_status measure_codes(estimator *e, upg_error *err)
{
    const upg_plan *plan = e->work->plan;
    upg_status      st = UPG_OK;

    for (uint32_t u = 0; u < plan->n_units; u++) {
        bool weighted = is_weighted(e, &plan->units[u]);

        if (find_cost(e, plan->units[u].code, weighted) || e->n_costs == 2 * MAX_CODES)
            continue;
        e->costs[e->n_costs] = (code_cost) { plan->units[u].code, weighted, 0 };
        UPG_TRY(measure_code(e, &e->costs[e->n_costs], err));
        e->n_costs++;
    }
out:
    return st;
}

typedef struct product_work {
    uint32_t     rows, cols;
    const float *x, *w;
    float       *y; /* [threads][PRODUCT_TOKENS][rows] */
} product_work;

static void run_product(void *context, size_t item, uint32_t worker)
{
    const product_work *p = context;

    (void)item;
    upg_product(PRODUCT_TOKENS, p->rows, p->cols, p->x, p->w, false,
                p->y + (size_t)worker * PRODUCT_TOKENS * p->rows);
}

static float *random_floats(size_t n, uint64_t seed, upg_error *err)
{
    float *x = upg_malloc(n, sizeof *x, err);

    for (size_t i = 0; x != NULL && i < n; i++)
        x[i] = (float)upg_random_unit(seed, i) - 0.5f;
    return x;
}

/* Products of the model's own width, as its layers have them. */
static upg_status measure_products(estimator *e, upg_error *err)
{
    const upg_model_config *c = &e->work->weights->config;
    size_t                  n = upg_pool_size(e->pool);
    uint32_t                rows = c->ffn < PRODUCT_MOST ? c->ffn : PRODUCT_MOST;
    uint32_t                cols = c->hidden < PRODUCT_MOST ? c->hidden : PRODUCT_MOST;
    float                  *x = random_floats((size_t)PRODUCT_TOKENS * cols, 2, err);
    float                  *w = random_floats((size_t)rows * cols, 3, err);
    float                  *y = random_floats(n * PRODUCT_TOKENS * rows, 4, err);
    product_work            work = { rows, cols, x, w, y };
    double                  items = 0;
    uint64_t                start;
    int                     blas = upg_blas_begin();
    upg_status              st = UPG_OK;

    UPG_TRY(x && w && y ? UPG_OK : UPG_E_NOMEM);
    upg_pool_run(e->pool, n, run_product, &work); /* pages and threads are there */
    start = upg_now_ns();
    do {
        upg_pool_run(e->pool, 2 * n, run_product, &work);
        items += 2 * (double)n;
    } while (upg_now_ns() - start < 5 * ENOUGH_NS);
    e->flop_seconds = seconds_since(start) / (2 * items * PRODUCT_TOKENS * rows * cols);
out:
    upg_blas_end(blas);
    upg_free(x);
    upg_free(w);
    upg_free(y);
    return st;
}

static upg_status measure_search(estimator *e, upg_error *err)
{
    upg_arena     arena = { 0 };
    upg_matrix    matrix = sample_matrix(e, e->columns);
    upg_plan_unit unit = { .matrix = &matrix,
                           .n_rows = SAMPLE_ROWS,
                           .code = e->work->plan->units[0].code };
    upg_plan      plan = { .n_units = 1, .units = &unit };
    uint64_t      start = upg_now_ns();
    upg_status    st = upg_outliers_find(&plan, e->pool, &arena, err);

    e->search_seconds = seconds_since(start) / ((double)SAMPLE_ROWS * e->columns);
    upg_arena_deinit(&arena);
    return st;
}

/* ---- counting ------------------------------------------------------------------------------- */

static double weights_of(const upg_plan_unit *unit)
{
    return (double)unit->n_rows * unit->matrix->n_cols;
}

static double cost_of(estimator *e, const upg_plan_unit *unit)
{
    const code_cost *cost = find_cost(e, unit->code, is_weighted(e, unit));

    return cost ? cost->seconds : e->costs[0].seconds; /* MAX_CODES codes differ little */
}

/* One unit with error feedback, by one thread. */
static double feedback_seconds(estimator *e, const upg_plan_unit *unit)
{
    return weights_of(unit) * upg_pool_size(e->pool) *
           (cost_of(e, unit) + unit->matrix->n_cols * e->flop_seconds);
}

/* Which matrices read one input: equal numbers run side by side. */
static int input_of(upg_role role)
{
    switch (role) {
    case UPG_ROLE_Q:
    case UPG_ROLE_K:
    case UPG_ROLE_V:
        return 1;
    case UPG_ROLE_GATE:
    case UPG_ROLE_UP:
        return 2;
    case UPG_ROLE_O:
        return 3;
    case UPG_ROLE_DOWN:
        return 4;
    default:
        return 5;
    }
}

/* The units first … of one input by all threads, each taken by whoever is free; *next is the first
 * one after them. */
static double group_seconds(estimator *e, uint32_t first, uint32_t *next)
{
    const upg_plan *plan = e->work->plan;
    uint32_t        n = upg_pool_size(e->pool), u = first;
    double          busy[64] = { 0 }, last = 0;

    n = n < 64 ? n : 64;
    for (; u < plan->n_units; u++) {
        const upg_matrix *m = plan->units[u].matrix, *m0 = plan->units[first].matrix;
        uint32_t          free_first = 0;

        if (input_of(m->role) != input_of(m0->role) || m->layer != m0->layer)
            break;
        for (uint32_t t = 1; t < n; t++)
            if (busy[t] < busy[free_first])
                free_first = t;
        busy[free_first] += feedback_seconds(e, &plan->units[u]);
        last = busy[free_first] > last ? busy[free_first] : last;
    }
    *next = u;
    return last;
}

static double code_seconds(estimator *e)
{
    const upg_plan *plan = e->work->plan;
    double          seconds = 0;

    for (uint32_t u = 0, next; u < plan->n_units; u = next) {
        next = u + 1;
        if (e->work->n_windows == 0 || plan->units[u].matrix->role == UPG_ROLE_EMBED)
            seconds += weights_of(&plan->units[u]) * cost_of(e, &plan->units[u]);
        else
            seconds += group_seconds(e, u, &next);
    }
    return seconds;
}

/* Passes of the streams through a matrix: the exact one goes through each once, the coded one again
 * through what the next input depends on (calibrate.c). */
static int passes_through(upg_role role, bool sequential)
{
    switch (role) {
    case UPG_ROLE_Q:
    case UPG_ROLE_K:
    case UPG_ROLE_V:
    case UPG_ROLE_GATE:
    case UPG_ROLE_UP:
        return sequential ? 3 : 1;
    case UPG_ROLE_O:
    case UPG_ROLE_DOWN:
        return sequential ? 2 : 1;
    default: /* the embedding is looked up, the head only coded */
        return 0;
    }
}

/* Operations of an input's sums and their factors, for T tokens. */
static double moment_flops(uint32_t width, double tokens, bool mixed)
{
    double w = width;

    return w * w * tokens * (mixed ? 3 : 1) + w * w * w / 3;
}

/* Attention of one layer, one pass over all tokens. */
static double attention_flops(const upg_workload *work, double tokens)
{
    const upg_model_config *c = &work->weights->config;

    return tokens * work->window * c->n_heads * (4.0 * c->head_dim + SCORE_COST);
}

/* Streams, sums of inputs, and moving the targets. */
static double text_flops(const upg_workload *work)
{
    double tokens = (double)work->n_windows * work->window, flops = 0;

    for (uint32_t i = 0; i < upg_weights_matrix_count(work->weights); i++) {
        const upg_matrix *m = upg_weights_matrix(work->weights, i);
        bool              mixed = work->sequential && m->n_cols <= MAX_CORRECTED_WIDTH;
        double            weights = (double)m->n_rows * m->n_cols;

        if (m->role == UPG_ROLE_EMBED)
            continue;
        if (m->role == UPG_ROLE_Q)
            flops += attention_flops(work, tokens) * passes_through(m->role, work->sequential);
        flops += 2 * weights * tokens * passes_through(m->role, work->sequential);
        if (mixed)
            flops += 4 * weights * m->n_cols;
        if (m->role != UPG_ROLE_K && m->role != UPG_ROLE_V && m->role != UPG_ROLE_UP)
            flops += moment_flops(m->n_cols, tokens, mixed);
    }
    return flops;
}

/* The sensitivities: forward and backward, and whitened inputs. */
static double plan_flops(const upg_workload *work)
{
    double tokens = (double)work->plan_windows * work->window, flops = 0;

    for (uint32_t i = 0; i < upg_weights_matrix_count(work->weights); i++) {
        const upg_matrix *m = upg_weights_matrix(work->weights, i);

        if (m->role == UPG_ROLE_EMBED)
            continue;
        if (m->role == UPG_ROLE_Q)
            flops += attention_flops(work, tokens) * BACKWARD_COST;
        flops += 2 * (double)m->n_rows * m->n_cols * tokens * BACKWARD_COST;
        if (m->role != UPG_ROLE_K && m->role != UPG_ROLE_V && m->role != UPG_ROLE_UP)
            flops +=
                moment_flops(m->n_cols, tokens, false) + (double)m->n_cols * m->n_cols * tokens;
    }
    return flops;
}

/* Passes of tokens through the exact model once, the coded one forward twice (its activations are
 * not kept) and backward; windows held back twice forward. */
static double tune_flops(const upg_workload *work)
{
    uint32_t held = upg_tune_held(work->tune_windows);
    double   window = work->window, flops = 0, layers, head;

    if (work->tune_windows == 0)
        return 0;
    head = window * (2.0 * work->tune_windows +
                     (2.0 + 3.0 * work->tune_epochs) * (work->tune_windows - held));
    layers = window * (work->tune_windows + 2.0 * held +
                       3.0 * work->tune_epochs * (work->tune_windows - held));
    for (uint32_t i = 0; i < upg_weights_matrix_count(work->weights); i++) {
        const upg_matrix *m = upg_weights_matrix(work->weights, i);
        bool is_head = m == (work->weights->config.tied_embeddings ? &work->weights->embed
                                                                   : &work->weights->head);

        if (m->role == UPG_ROLE_Q)
            flops += attention_flops(work, layers);
        if (is_head)
            flops += 2 * (double)m->n_rows * m->n_cols * head;
        else if (m->role != UPG_ROLE_EMBED)
            flops += 2 * (double)m->n_rows * m->n_cols * layers;
    }
    return flops;
}

static double all_weights(const upg_plan *plan)
{
    double weights = 0;

    for (uint32_t u = 0; u < plan->n_units; u++)
        weights += weights_of(&plan->units[u]);
    return weights;
}

static void compute(estimator *e, upg_time_estimate *t)
{
    const upg_plan *plan = e->work->plan;
    double          nearest = 0;

    for (uint32_t u = 0; u < plan->n_units; u++)
        nearest += weights_of(&plan->units[u]) * cost_of(e, &plan->units[u]);
    t->code_rate = all_weights(plan) / nearest;
    t->code_seconds = code_seconds(e);
    t->plan_seconds = e->work->outliers ? all_weights(plan) * e->search_seconds : 0;
    if (e->work->n_windows == 0)
        return;
    t->product_rate = 1 / e->flop_seconds;
    t->plan_seconds += plan_flops(e->work) * e->flop_seconds;
    t->text_seconds = (text_flops(e->work) + tune_flops(e->work)) * e->flop_seconds;
}

upg_status upg_time_estimate_make(const upg_workload *work, upg_pool *pool,
                                  upg_time_estimate *estimate, upg_error *err)
{
    estimator  e = { .work = work, .pool = pool };
    uint64_t   start = upg_now_ns();
    upg_status st;

    *estimate = (upg_time_estimate) { 0 };
    e.first_columns = UPG_GROUP_COLUMNS * (upg_pool_size(pool) > 1 ? upg_pool_size(pool) : 2);
    e.columns = e.first_columns > SAMPLE_COLUMNS ? e.first_columns : SAMPLE_COLUMNS;
    e.sample = upg_malloc((size_t)SAMPLE_ROWS * e.columns, sizeof *e.sample, err);
    UPG_TRY(e.sample ? UPG_OK : UPG_E_NOMEM);
    fill_sample(e.sample, (size_t)SAMPLE_ROWS * e.columns);
    UPG_TRY(measure_codes(&e, err));
    if (work->outliers)
        UPG_TRY(measure_search(&e, err));
    if (work->n_windows > 0)
        UPG_TRY(measure_products(&e, err));
    compute(&e, estimate);
    estimate->measured_seconds = seconds_since(start);
out:
    upg_free(e.sample);
    return st;
}
