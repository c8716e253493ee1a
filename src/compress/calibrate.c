/* calibrate.c: the order of work in one layer:
 *
 *   input      pass over the windows                            then coded
 *   ATTENTION  x = norm(state)                                  q, k, v
 *   O          x = attention with the coded q, k, v             o
 *   FFN        state += o·attention, x = norm(state)            gate, up
 *   DOWN       x = swiglu with the coded gate and up            down
 *   FINISH     state += down·swiglu
 *
 * The exact stream need not wait for coded matrices and updates its state at once. The coded one
 * computes attention and swiglu a second time when o and down are there: keeping them for all
 * windows would take gigabytes. */
#include "compress/calibrate.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "compress/dense_rows.h"
#include "compress/feedback.h"
#include "compress/layer_math.h"
#include "compress/moments.h"

enum {
    GROUP_WINDOWS = 8,          /* windows whose inputs are summed by one call */
    MAX_CORRECTED_WIDTH = 8192, /* above, the mixed moments would take too much memory */
    ROWS_PER_ITEM = 64
};

typedef enum pass { PASS_ATTENTION, PASS_O, PASS_FFN, PASS_DOWN, PASS_FINISH, PASS_HEAD } pass;

/* One stream of activations through one version of the weights. */
typedef struct stream {
    float             *state; /* f32 [n_windows][window][hidden] */
    upg_layer_f32      layer; /* matrices in f32, own memory */
    float             *memory[UPG_LAYER_MATRICES];
    upg_layer_buffers *buffers; /* [threads] */
    float             *inputs;  /* f32 [GROUP_WINDOWS][window][widest], rotated */
} stream;

typedef struct calibrator {
    const upg_encode_context *context;
    const upg_weights        *weights;
    const upg_plan           *plan;
    const upg_calibration    *calibration;
    const upg_encoded_sink   *sink;
    uint32_t                  n_threads, n_streams;
    stream                    streams[2]; /* exact, coded */
    upg_arena                 arena;
    float                    *signs; /* f32 [widest] of the rotation at hand */
    /* the pass at hand */
    pass         pass;
    uint32_t     first_window, width;
    upg_rotation rotation;
} calibrator;

/* The stream whose inputs the moments are of. */
static stream *coded_stream(calibrator *c)
{
    return &c->streams[c->n_streams - 1];
}

static size_t window_size(const calibrator *c)
{
    return (size_t)c->calibration->window * c->weights->config.hidden;
}

/* ---- one window through one pass ------------------------------------------------------------ */

/* The exact stream: every product once. */
static const float *run_exact(const calibrator *c, const stream *s, upg_layer_buffers *b,
                              float *state)
{
    switch (c->pass) {
    case PASS_ATTENTION:
        upg_layer_attention_input(&s->layer, b, state);
        return b->input[UPG_INPUT_ATTENTION];
    case PASS_O:
        upg_layer_attention_input(&s->layer, b, state);
        upg_layer_attention(&s->layer, b);
        upg_layer_attention_add(&s->layer, b, state);
        return b->input[UPG_INPUT_O];
    case PASS_FFN:
        upg_layer_ffn_input(&s->layer, b, state);
        return b->input[UPG_INPUT_FFN];
    case PASS_DOWN:
        upg_layer_ffn_input(&s->layer, b, state);
        upg_layer_ffn(&s->layer, b);
        upg_layer_ffn_add(&s->layer, b, state);
        return b->input[UPG_INPUT_DOWN];
    default: /* PASS_FINISH: done already */
        return NULL;
    }
}

/* The coded stream: state moves on only with coded matrices. */
static const float *run_coded(const calibrator *c, const stream *s, upg_layer_buffers *b,
                              float *state)
{
    switch (c->pass) {
    case PASS_ATTENTION:
        upg_layer_attention_input(&s->layer, b, state);
        return b->input[UPG_INPUT_ATTENTION];
    case PASS_O:
        upg_layer_attention_input(&s->layer, b, state);
        upg_layer_attention(&s->layer, b);
        return b->input[UPG_INPUT_O];
    case PASS_FFN:
        upg_layer_attention_input(&s->layer, b, state);
        upg_layer_attention(&s->layer, b);
        upg_layer_attention_add(&s->layer, b, state);
        upg_layer_ffn_input(&s->layer, b, state);
        return b->input[UPG_INPUT_FFN];
    case PASS_DOWN:
        upg_layer_ffn_input(&s->layer, b, state);
        upg_layer_ffn(&s->layer, b);
        return b->input[UPG_INPUT_DOWN];
    default: /* PASS_FINISH */
        upg_layer_ffn_input(&s->layer, b, state);
        upg_layer_ffn(&s->layer, b);
        upg_layer_ffn_add(&s->layer, b, state);
        return NULL;
    }
}

/* Runs one window through the pass; returns the input to be summed, f32 [window][width]. */
static const float *run_pass(const calibrator *c, const stream *s, uint32_t window, uint32_t worker)
{
    const upg_model_config *config = &c->weights->config;
    upg_layer_buffers      *b = &s->buffers[worker];
    float                  *state = s->state + window * window_size(c);

    if (c->pass == PASS_HEAD) {
        upg_rmsnorm_forward(c->calibration->window, config->hidden, state,
                            c->weights->final_norm.values, config->norm_eps,
                            b->input[UPG_INPUT_ATTENTION]);
        return b->input[UPG_INPUT_ATTENTION];
    }
    return s == &c->streams[0] ? run_exact(c, s, b, state) : run_coded(c, s, b, state);
}

static void rotate(const calibrator *c, const float *from, float *to)
{
    for (uint32_t i = 0; i < c->width; i++)
        to[i] = from[i] * c->signs[i];
    c->context->kernels->hadamard(c->width, c->rotation.block, to);
}

static void window_item(void *context, size_t item, uint32_t worker)
{
    calibrator  *c = context;
    stream      *s = &c->streams[item % c->n_streams];
    uint32_t     in_group = (uint32_t)(item / c->n_streams);
    uint32_t     n = c->calibration->window;
    const float *x;

    if (upg_meter_cancelled(c->context->meter))
        return;
    x = run_pass(c, s, c->first_window + in_group, worker);
    for (uint32_t t = 0; x != NULL && t < n; t++)
        rotate(c, x + (size_t)t * c->width, s->inputs + ((size_t)in_group * n + t) * c->width);
    if (worker == 0)
        upg_meter_tick(c->context->meter);
}

/* Runs the pass over all windows; sums its inputs where there are any to sum. */
static upg_status run_windows(calibrator *c, pass which, uint32_t width, upg_moments *moments,
                              upg_error *err)
{
    uint32_t n_windows = c->calibration->n_windows;

    c->pass = which;
    c->width = width;
    if (moments != NULL) {
        c->rotation = upg_rotation_make(width, c->context->seed);
        upg_rotation_signs(&c->rotation, c->signs);
    }
    for (uint32_t w = 0; w < n_windows; w += GROUP_WINDOWS) {
        uint32_t n = n_windows - w < GROUP_WINDOWS ? n_windows - w : GROUP_WINDOWS;

        c->first_window = w;
        upg_pool_run(c->context->pool, (size_t)n * c->n_streams, window_item, c);
        if (upg_meter_cancelled(c->context->meter))
            return upg_fail(err, UPG_E_CANCELLED, "compress: cancelled");
        if (moments != NULL)
            upg_moments_add(moments, c->context->pool, coded_stream(c)->inputs,
                            moments->mixed != NULL ? c->streams[0].inputs : NULL,
                            n * c->calibration->window);
    }
    return UPG_OK;
}

/* ---- coding the matrices of one input ---------------------------------------------------------
 */

/* Rows of one matrix being loaded, corrected or compared. */
typedef struct row_work {
    calibrator         *c;
    const upg_matrix   *matrix;
    const upg_moments  *moments;
    const float        *diagonal;         /* NULL: no correction */
    const upg_outliers *outliers;         /* NULL: none */
    float              *weights;          /* f32 [n_rows][n_cols] */
    float              *scratch;          /* f32 [n_threads][ROWS_PER_ITEM][n_cols] */
    double             *error2, *energy2; /* [row items] */
} row_work;

static uint32_t rows_of_item(const row_work *w, size_t item)
{
    uint32_t left = w->matrix->n_rows - (uint32_t)item * ROWS_PER_ITEM;

    return left < ROWS_PER_ITEM ? left : ROWS_PER_ITEM;
}

static float *scratch_of(const row_work *w, uint32_t worker)
{
    return w->scratch + (size_t)worker * ROWS_PER_ITEM * w->matrix->n_cols;
}

/* Takes a row's outliers out of its rotated target. */
static void subtract_outliers(const row_work *w, uint32_t row, float *target, float *scratch)
{
    uint32_t n_cols = w->matrix->n_cols;

    memset(scratch, 0, n_cols * sizeof *scratch);
    upg_outliers_add_row(w->outliers, row, 1, 0, n_cols, scratch);
    rotate(w->c, scratch, scratch);
    for (uint32_t j = 0; j < n_cols; j++)
        target[j] -= scratch[j];
}

/* Loads rows, rotates them, moves them to their targets; then outliers leave them, so that the
 * correction is that of the whole matrix. */
static void load_item(void *context, size_t item, uint32_t worker)
{
    row_work *w = context;
    uint32_t  n = rows_of_item(w, item), n_cols = w->matrix->n_cols;
    float    *rows = w->weights + item * ROWS_PER_ITEM * n_cols;

    for (uint32_t r = 0; r < n; r++) {
        float *row = rows + (size_t)r * n_cols;

        upg_dense_row_part(w->matrix, (uint32_t)item * ROWS_PER_ITEM + r, 0, n_cols, row);
        rotate(w->c, row, row);
    }
    if (w->diagonal != NULL)
        upg_moments_correct(w->moments, w->diagonal, n, rows, scratch_of(w, worker));
    for (uint32_t r = 0; r < n && w->outliers != NULL; r++)
        subtract_outliers(w, (uint32_t)item * ROWS_PER_ITEM + r, rows + (size_t)r * n_cols,
                          scratch_of(w, worker));
}

/* Compares the decoded rows with the originals, then turns them back to the original basis. */
static void compare_item(void *context, size_t item, uint32_t worker)
{
    row_work *w = context;
    uint32_t  n = rows_of_item(w, item), n_cols = w->matrix->n_cols;
    float    *original = scratch_of(w, worker);
    double    error2 = 0, energy2 = 0;

    for (uint32_t r = 0; r < n; r++) {
        uint32_t row = (uint32_t)item * ROWS_PER_ITEM + r;
        float   *decoded = w->weights + (size_t)row * n_cols;

        w->c->context->kernels->hadamard(n_cols, w->c->rotation.block, decoded);
        for (uint32_t j = 0; j < n_cols; j++)
            decoded[j] *= w->c->signs[j];
        if (w->outliers != NULL)
            upg_outliers_add_row(w->outliers, row, 1, 0, n_cols, decoded);
        upg_dense_row_part(w->matrix, row, 0, n_cols, original);
        for (uint32_t j = 0; j < n_cols; j++) {
            double x, e;

            x = (double)original[j];
            e = x - (double)decoded[j];
            error2 += e * e;
            energy2 += x * x;
        }
    }
    w->error2[item] = error2;
    w->energy2[item] = energy2;
}

/* Loads and rotates a matrix into `weights`, or measures the decoded one. */
static upg_status for_rows(row_work *w, void (*run)(void *, size_t, uint32_t), upg_error *err)
{
    size_t n_items = (w->matrix->n_rows + ROWS_PER_ITEM - 1) / ROWS_PER_ITEM;

    w->scratch = upg_malloc((size_t)w->c->n_threads * ROWS_PER_ITEM * w->matrix->n_cols,
                            sizeof *w->scratch, err);
    w->error2 = upg_calloc(n_items, sizeof *w->error2, err);
    w->energy2 = upg_calloc(n_items, sizeof *w->energy2, err);
    if (w->scratch == NULL || w->error2 == NULL || w->energy2 == NULL)
        return UPG_E_NOMEM;
    upg_pool_run(w->c->context->pool, n_items, run, w);
    return UPG_OK;
}

static void end_rows(row_work *w)
{
    upg_free(w->scratch);
    upg_free(w->error2);
    upg_free(w->energy2);
    w->scratch = NULL;
    w->error2 = w->energy2 = NULL;
}

static upg_status load_matrix(calibrator *c, const upg_moments *moments, const float *diagonal,
                              const upg_feedback_matrix *m, upg_error *err)
{
    row_work   w = { .c = c,
                     .matrix = m->units[0].matrix,
                     .moments = moments,
                     .weights = m->weights,
                     .outliers = m->units[0].outliers };
    upg_status st;

    w.diagonal = moments->mixed != NULL ? diagonal : NULL;
    st = for_rows(&w, load_item, err);
    end_rows(&w);
    return st;
}

static upg_status finish_matrix(calibrator *c, upg_feedback_matrix *m, upg_error *err)
{
    row_work   w = { .c = c,
                     .matrix = m->units[0].matrix,
                     .weights = m->weights,
                     .outliers = m->units[0].outliers };
    upg_status st = for_rows(&w, compare_item, err);

    for (size_t i = 0; st == UPG_OK && i * ROWS_PER_ITEM < w.matrix->n_rows; i++) {
        m->encoded.error2 += w.error2[i];
        m->encoded.energy2 += w.energy2[i];
    }
    end_rows(&w);
    return st == UPG_OK ? c->sink->put(c->sink->user, m->units, m->n_units, &m->encoded, err) : st;
}

static const upg_plan_unit *units_of(const calibrator *c, const upg_matrix *matrix, uint32_t *n)
{
    for (uint32_t u = 0; u < c->plan->n_units; u++)
        if (c->plan->units[u].matrix == matrix) {
            *n = upg_plan_units_of(c->plan, u);
            return &c->plan->units[u];
        }
    *n = 0;
    return NULL; /* not reached: the plan has every matrix */
}

/* Codes n matrices that read the input of the pass just summed; afterwards weights[i] holds the
 * decoded matrix in the original basis. */
static upg_status code_matrices(calibrator *c, upg_moments *moments,
                                const upg_matrix *const *matrices, float *const *weights,
                                uint32_t n, upg_error *err)
{
    upg_status          st;
    upg_feedback_matrix work[3] = { 0 };
    uint32_t            n_coded = 0;
    double              used = 0;
    double damping = c->calibration->damping > 0 ? c->calibration->damping : UPG_DEFAULT_DAMPING;
    float *diagonal = upg_malloc(moments->width, sizeof *diagonal, err);

    UPG_TRY(diagonal != NULL ? UPG_OK : UPG_E_NOMEM);
    st = upg_moments_factor(moments, c->context->pool, damping, diagonal, &used, err);
    if (st != UPG_OK) {
        upg_error_prefix(err, "tensor \"%s\": ", matrices[0]->name);
        goto out;
    }
    for (uint32_t i = 0; i < n; i++) {
        work[i].units = units_of(c, matrices[i], &work[i].n_units);
        work[i].weights = weights[i];
        UPG_TRY(upg_matrix_check_finite(matrices[i], err));
        UPG_TRY(load_matrix(c, moments, diagonal, &work[i], err));
    }
    UPG_TRY(upg_feedback_encode(c->context, moments->sum, work, n, err));
    n_coded = n;
    for (uint32_t i = 0; i < n; i++)
        UPG_TRY(finish_matrix(c, &work[i], err));
out:
    for (uint32_t i = 0; i < n_coded; i++)
        upg_encoded_deinit(&work[i].encoded);
    upg_free(diagonal);
    return st;
}

/* Sums the inputs of a pass and codes the matrices that read them. */
static upg_status do_input(calibrator *c, pass which, uint32_t width,
                           const upg_matrix *const *matrices, float *const *weights, uint32_t n,
                           upg_error *err)
{
    upg_moments moments;
    bool        mixed = c->n_streams == 2 && width <= MAX_CORRECTED_WIDTH;
    upg_status  st = upg_moments_init(&moments, width, mixed, err);

    if (st == UPG_OK)
        st = run_windows(c, which, width, &moments, err);
    if (st == UPG_OK)
        st = code_matrices(c, &moments, matrices, weights, n, err);
    upg_moments_deinit(&moments);
    return st;
}

/* ---- layers --------------------------------------------------------------------------------- */

/* Converts a layer's matrices to f32 for every stream. */
static void load_layer(calibrator *c, uint32_t index)
{
    upg_layer_weights *layer = &c->weights->layers[index];

    for (uint32_t s = 0; s < c->n_streams; s++) {
        stream *to = &c->streams[s];

        for (int m = 0; m < UPG_LAYER_MATRICES; m++) {
            const upg_matrix *matrix = upg_layer_matrix_of(layer, m);

            for (uint32_t r = 0; r < matrix->n_rows; r++)
                upg_dense_row_part(matrix, r, 0, matrix->n_cols,
                                   to->memory[m] + (size_t)r * matrix->n_cols);
            to->layer.matrix[m] = to->memory[m];
        }
        to->layer.config = &c->weights->config;
        to->layer.kernels = c->context->kernels;
        to->layer.attention_norm = layer->attention_norm.values;
        to->layer.ffn_norm = layer->ffn_norm.values;
    }
}

/* Codes the matrices first … first + n − 1 of a layer, which read the input of pass `which`. */
static upg_status do_layer_input(calibrator *c, upg_layer_weights *layer, pass which,
                                 upg_layer_matrix first, uint32_t n, upg_error *err)
{
    const upg_matrix *matrices[3];
    float            *weights[3];

    for (uint32_t i = 0; i < n; i++) {
        matrices[i] = upg_layer_matrix_of(layer, first + i);
        weights[i] = c->streams[1].memory[first + i];
    }
    return do_input(c, which, matrices[0]->n_cols, matrices, weights, n, err);
}

static upg_status do_layer(calibrator *c, uint32_t index, upg_error *err)
{
    upg_layer_weights *layer = &c->weights->layers[index];
    upg_status         st;

    load_layer(c, index);
    UPG_TRY(do_layer_input(c, layer, PASS_ATTENTION, UPG_LAYER_Q, 3, err));
    UPG_TRY(do_layer_input(c, layer, PASS_O, UPG_LAYER_O, 1, err));
    UPG_TRY(do_layer_input(c, layer, PASS_FFN, UPG_LAYER_GATE, 2, err));
    UPG_TRY(do_layer_input(c, layer, PASS_DOWN, UPG_LAYER_DOWN, 1, err));
    UPG_TRY(run_windows(c, PASS_FINISH, layer->down.n_cols, NULL, err));
out:
    return st;
}

/* ---- embedding and head --------------------------------------------------------------------- */

/* Importance of each embedding row: s²·√(frequency), relative to the geometric mean and bounded.
 * Rows are coded relative to their scale s, so s² restores what a row's error weighs; the square
 * root of the count is what measured best on the models at hand (docs/QUALITY.md). */
static float *embedding_weights(const calibrator *c, upg_error *err)
{
    const upg_matrix *embed = &c->weights->embed;
    size_t            n_tokens = (size_t)c->calibration->n_windows * c->calibration->window;
    double            mean = 0;
    float            *weights = upg_calloc(embed->n_rows, sizeof *weights, err);
    float            *row = upg_malloc(embed->n_cols, sizeof *row, err);

    if (weights == NULL || row == NULL) {
        upg_free(weights);
        upg_free(row);
        return NULL;
    }
    for (size_t i = 0; i < n_tokens; i++)
        weights[c->calibration->tokens[i]] += 1;
    for (uint32_t r = 0; r < embed->n_rows; r++) {
        double energy = 1e-30;

        upg_dense_row_part(embed, r, 0, embed->n_cols, row);
        for (uint32_t j = 0; j < embed->n_cols; j++)
            energy += (double)row[j] * row[j];
        weights[r] = (float)(log(energy) + 0.5 * log((double)weights[r] + 0.5));
        mean += (double)weights[r];
    }
    mean /= embed->n_rows;
    for (uint32_t r = 0; r < embed->n_rows; r++) {
        double w = exp((double)weights[r] - mean);

        weights[r] = (float)(w < 1.0 / 64 ? 1.0 / 64 : w > 64 ? 64 : w);
    }
    upg_free(row);
    return weights;
}

/* Fills a stream's state with the rows of its tokens. coded NULL: the rows as they came. */
static void load_states(calibrator *c, stream *s, const upg_coded_matrix *coded)
{
    uint32_t hidden = c->weights->config.hidden;
    size_t   n_tokens = (size_t)c->calibration->n_windows * c->calibration->window;

    for (size_t i = 0; i < n_tokens; i++) {
        uint32_t token = (uint32_t)c->calibration->tokens[i];
        float   *row = s->state + i * hidden;

        if (coded == NULL) {
            upg_dense_row_part(&c->weights->embed, token, 0, hidden, row);
        } else {
            upg_coded_row(coded, token, row);
            c->context->kernels->hadamard(hidden, coded->rotation.block, row);
            for (uint32_t j = 0; j < hidden; j++)
                row[j] *= c->signs[j];
            if (coded->outliers != NULL)
                upg_outliers_add_row(coded->outliers, token, 1, 0, hidden, row);
        }
    }
}

static upg_status do_embedding(calibrator *c, upg_error *err)
{
    upg_status           st;
    uint32_t             n_units;
    const upg_matrix    *embed = &c->weights->embed;
    const upg_plan_unit *units = units_of(c, embed, &n_units);
    upg_encoded_matrix   encoded = { 0 };
    upg_band            *bands = upg_arena_alloc(&c->arena, n_units, sizeof *bands, err);
    float               *weights = embedding_weights(c, err);
    upg_coded_matrix     coded;

    UPG_TRY(bands != NULL && weights != NULL ? UPG_OK : UPG_E_NOMEM);
    UPG_TRY(upg_encode_matrix(c->context, units, n_units, weights, &encoded, err));
    coded = upg_encoded_view(c->context, units, n_units, &encoded, bands);
    upg_rotation_signs(&coded.rotation, c->signs);
    load_states(c, &c->streams[0], NULL);
    if (c->n_streams == 2)
        load_states(c, &c->streams[1], &coded);
    UPG_TRY(c->sink->put(c->sink->user, units, n_units, &encoded, err));
out:
    upg_encoded_deinit(&encoded);
    upg_free(weights);
    return st;
}

static upg_status do_head(calibrator *c, upg_error *err)
{
    const upg_matrix *head = &c->weights->head;
    float            *weights;
    upg_status        st;

    if (c->weights->config.tied_embeddings)
        return UPG_OK;
    weights = upg_malloc((size_t)head->n_rows * head->n_cols, sizeof *weights, err);
    if (weights == NULL)
        return UPG_E_NOMEM;
    st = do_input(c, PASS_HEAD, head->n_cols, &head, &weights, 1, err);
    upg_free(weights);
    return st;
}

/* ---- the whole ------------------------------------------------------------------------------ */

static upg_status create_stream(calibrator *c, stream *s, uint32_t widest, upg_error *err)
{
    const upg_model_config *config = &c->weights->config;
    const upg_calibration  *k = c->calibration;
    upg_status              st = UPG_OK;

    s->state = upg_malloc(k->n_windows * window_size(c), sizeof *s->state, err);
    s->inputs = upg_malloc((size_t)GROUP_WINDOWS * k->window * widest, sizeof *s->inputs, err);
    s->buffers = upg_arena_alloc(&c->arena, c->n_threads, sizeof *s->buffers, err);
    UPG_TRY(s->state && s->inputs && s->buffers ? UPG_OK : UPG_E_NOMEM);
    for (uint32_t i = 0; i < c->n_threads; i++)
        UPG_TRY(upg_layer_buffers_create(config, k->window, false, &c->arena, &s->buffers[i], err));
out:
    return st;
}

static upg_status create_matrices(calibrator *c, upg_error *err)
{
    for (int s = 0; s < 2; s++)
        for (int m = 0; m < UPG_LAYER_MATRICES; m++) {
            const upg_matrix *matrix = upg_layer_matrix_of(&c->weights->layers[0], m);
            float            *memory;

            memory = upg_malloc((size_t)matrix->n_rows * matrix->n_cols, sizeof *memory, err);
            if (memory == NULL)
                return UPG_E_NOMEM;
            c->streams[s].memory[m] = memory;
        }
    return UPG_OK;
}

static void deinit(calibrator *c)
{
    for (int s = 0; s < 2; s++) {
        upg_free(c->streams[s].state);
        upg_free(c->streams[s].inputs);
        for (int m = 0; m < UPG_LAYER_MATRICES; m++)
            upg_free(c->streams[s].memory[m]);
    }
    upg_free(c->signs);
    upg_arena_deinit(&c->arena);
}

upg_status upg_calibrated_encode(const upg_encode_context *context, const upg_weights *weights,
                                 const upg_plan *plan, const upg_calibration *calibration,
                                 const upg_encoded_sink *sink, upg_error *err)
{
    upg_status st;
    calibrator c = { .context = context,
                     .weights = weights,
                     .plan = plan,
                     .calibration = calibration,
                     .sink = sink };
    int        blas = upg_blas_begin();
    uint32_t   widest = weights->config.ffn;

    c.n_threads = upg_pool_size(context->pool);
    c.n_streams = calibration->sequential ? 2 : 1;
    if (upg_layer_input_width(&weights->config, UPG_INPUT_O) > widest)
        widest = upg_layer_input_width(&weights->config, UPG_INPUT_O);
    if (weights->config.hidden > widest)
        widest = weights->config.hidden;
    c.signs = upg_malloc(widest, sizeof *c.signs, err);
    UPG_TRY(c.signs != NULL ? UPG_OK : UPG_E_NOMEM);
    UPG_TRY(create_matrices(&c, err));
    for (uint32_t s = 0; s < c.n_streams; s++)
        UPG_TRY(create_stream(&c, &c.streams[s], widest, err));
    UPG_TRY(do_embedding(&c, err));
    for (uint32_t l = 0; l < weights->config.n_layers; l++)
        UPG_TRY(do_layer(&c, l, err));
    UPG_TRY(do_head(&c, err));
out:
    deinit(&c);
    upg_blas_end(blas);
    return st;
}
