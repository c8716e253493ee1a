#include "compress/sensitivity.h"

#include <cblas.h>
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/random.h"
#include "compress/dense_rows.h"
#include "compress/layer_math.h"
#include "compress/moments.h"
#include "compress/state_store.h"

enum { FACTOR_BLOCK = 1024 };

#define DAMPING 1e-2

typedef struct probe {
    const upg_encode_context *context;
    const upg_weights        *weights;
    const int32_t            *tokens; /* i32 [n_windows][window] */
    uint32_t                  n_windows, window, n_threads;
    upg_plan                 *plan;
    upg_arena                 arena;
    upg_state_store           states;   /* slots [n_layers + 1][n_windows] of [window][hidden] */
    float                    *gradient; /* f32 [n_windows][window][hidden]: at the state at hand */
    double                   *sums;     /* f64 [n_windows][n_units] */
    float                   **row_energy; /* [n_units]: f32 [unit rows], s_r² */
    upg_layer_buffers        *buffers;    /* [n_windows] */
    upg_layer_f32             layer;
    float                    *memory[UPG_LAYER_MATRICES];
    float                    *head;    /* f32 [vocab][hidden] */
    float                    *inputs;  /* f32 [n_windows][window][widest], rotated, then L⁻¹x */
    float                    *block;   /* f32 [n_windows][window][FACTOR_BLOCK] */
    float                    *gram;    /* f32 [n_threads][window][window] */
    float                    *scratch; /* f32 [n_threads][window][widest output or vocab] */
    size_t                    scratch_size; /* of one thread's part, whatever it is used for */
    float                    *signs;
    /* at hand */
    uint32_t           layer_index, width, block_begin, block_width;
    const upg_moments *moments;
    upg_layer_input    input;
    upg_rotation       rotation;
} probe;

static size_t state_size(const probe *p)
{
    return (size_t)p->window * p->weights->config.hidden;
}

/* The state of a window before a layer; each worker has two buffers for what lies in a file. */
static float *state_of(probe *p, uint32_t layer, uint32_t window, uint32_t worker)
{
    return upg_state_get(&p->states, layer * p->n_windows + window, 2 * worker);
}

static float *input_of(const probe *p, uint32_t window)
{
    return p->inputs + (size_t)window * p->window * p->width;
}

static uint32_t first_unit(const probe *p, const upg_matrix *matrix)
{
    uint32_t u = 0;

    while (p->plan->units[u].matrix != matrix)
        u++; /* the plan has every matrix */
    return u;
}

/* ---- whitened inputs: L⁻¹x, block by block -----------------------------------------------------
 */

static void rotate_input(const probe *p, const float *x, float *out)
{
    for (uint32_t t = 0; t < p->window; t++, x += p->width, out += p->width) {
        for (uint32_t i = 0; i < p->width; i++)
            out[i] = x[i] * p->signs[i];
        p->context->kernels->hadamard(p->width, p->rotation.block, out);
    }
}

static void gather_block(void *context, size_t item, uint32_t worker)
{
    probe       *p = context;
    const float *from = input_of(p, (uint32_t)item) + p->block_begin;
    float       *to = p->block + item * p->window * p->block_width;

    (void)worker;
    for (uint32_t t = 0; t < p->window; t++)
        memcpy(to + (size_t)t * p->block_width, from + (size_t)t * p->width,
               p->block_width * sizeof *to);
}

static void solve_block(void *context, size_t item, uint32_t worker)
{
    probe *p = context;

    (void)worker;
    cblas_strsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasUnit, (int)p->window,
                (int)p->block_width, 1.0f, p->moments->sum, (int)p->block_width,
                input_of(p, (uint32_t)item) + p->block_begin, (int)p->width);
}

/* p->inputs holds rotated inputs of p->width for all windows: multiplies them by L⁻¹. */
static upg_status whiten_inputs(probe *p, upg_error *err)
{
    upg_status st = UPG_OK;

    for (uint32_t begin = 0; begin < p->width && st == UPG_OK; begin += FACTOR_BLOCK) {
        upg_moments moments;
        double      used;

        p->block_begin = begin;
        p->block_width = p->width - begin < FACTOR_BLOCK ? p->width - begin : FACTOR_BLOCK;
        st = upg_moments_init(&moments, p->block_width, false, err);
        if (st == UPG_OK) {
            p->moments = &moments;
            upg_pool_run(p->context->pool, p->n_windows, gather_block, p);
            upg_moments_add(&moments, p->context->pool, p->block, NULL, p->n_windows * p->window);
            st = upg_moments_factor(&moments, p->context->pool, DAMPING, NULL, &used, err);
        }
        if (st == UPG_OK)
            upg_pool_run(p->context->pool, p->n_windows, solve_block, p);
        upg_moments_deinit(&moments);
    }
    return st;
}

static void begin_input(probe *p, uint32_t width)
{
    p->width = width;
    p->rotation = upg_rotation_make(width, p->context->seed);
    upg_rotation_signs(&p->rotation, p->signs);
}

/* ---- sums over one matrix ---------------------------------------------------------------------
 */

/* gram = X̃·X̃ᵀ of a window. */
static float *window_gram(const probe *p, uint32_t window, uint32_t worker)
{
    float *gram = p->gram + (size_t)worker * p->window * p->window;
    float *x = input_of(p, window);

    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)p->window, (int)p->window,
                (int)p->width, 1.0f, x, (int)p->width, x, (int)p->width, 0.0f, gram,
                (int)p->window);
    return gram;
}

/* Adds Σ_r s_r²·g_rᵀ·gram·g_r to the units of a matrix; g f32 [window][n_rows]. */
static void add_matrix(const probe *p, uint32_t window, uint32_t worker, const upg_matrix *matrix,
                       const float *gram, const float *g)
{
    uint32_t first = first_unit(p, matrix), n_rows = matrix->n_rows;
    float   *m = p->scratch + worker * p->scratch_size;

    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)p->window, (int)n_rows,
                (int)p->window, 1.0f, gram, (int)p->window, g, (int)n_rows, 0.0f, m, (int)n_rows);
    for (uint32_t u = first; u < first + upg_plan_units_of(p->plan, first); u++) {
        const upg_plan_unit *unit = &p->plan->units[u];
        const float         *energy = p->row_energy[u];
        double               sum = 0;

        for (uint32_t t = 0; t < p->window; t++) {
            size_t at = (size_t)t * n_rows + unit->row0;

            for (uint32_t r = 0; r < unit->n_rows; r++)
                sum += (double)(energy[r] * g[at + r] * m[at + r]);
        }
        p->sums[(size_t)window * p->plan->n_units + u] += sum;
    }
}

static void sum_window(void *context, size_t item, uint32_t worker)
{
    probe             *p = context;
    upg_layer_weights *layer = &p->weights->layers[p->layer_index];
    const float       *gram = window_gram(p, (uint32_t)item, worker);

    for (int m = 0; m < UPG_LAYER_MATRICES; m++)
        if (upg_layer_input_of(m) == p->input)
            add_matrix(p, (uint32_t)item, worker, upg_layer_matrix_of(layer, m), gram,
                       p->buffers[item].gradient[m]);
}

/* ---- layers ------------------------------------------------------------------------------------
 */

static void load_row_item(void *context, size_t item, uint32_t worker)
{
    probe             *p = context;
    upg_layer_weights *layer = &p->weights->layers[p->layer_index];
    const upg_matrix  *matrix = upg_layer_matrix_of(layer, (upg_layer_matrix)item);

    (void)worker;
    upg_dense_load(matrix, p->memory[item]);
}

static void load_layer(probe *p, uint32_t index)
{
    upg_layer_weights *layer = &p->weights->layers[index];

    p->layer_index = index;
    upg_pool_run(p->context->pool, UPG_LAYER_MATRICES, load_row_item, p);
    p->layer.config = &p->weights->config;
    p->layer.kernels = p->context->kernels;
    p->layer.attention_norm = layer->attention_norm.values;
    p->layer.ffn_norm = layer->ffn_norm.values;
    for (int m = 0; m < UPG_LAYER_MATRICES; m++)
        p->layer.matrix[m] = p->memory[m];
}

static void forward_window(void *context, size_t item, uint32_t worker)
{
    probe       *p = context;
    uint32_t     slot = (p->layer_index + 1) * p->n_windows + (uint32_t)item;
    const float *from = state_of(p, p->layer_index, (uint32_t)item, worker);
    float       *to = upg_state_blank(&p->states, slot, 2 * worker + 1);

    memcpy(to, from, state_size(p) * sizeof *to);
    upg_layer_forward(&p->layer, &p->buffers[item], to);
    upg_state_put(&p->states, slot, to);
    if (worker == 0)
        upg_meter_tick(p->context->meter);
}

/* Forward again, for the buffers, then backward. The state after the layer is used up. */
static void backward_window(void *context, size_t item, uint32_t worker)
{
    probe       *p = context;
    const float *from = state_of(p, p->layer_index, (uint32_t)item, worker);
    float *to = upg_state_blank(&p->states, (p->layer_index + 1) * p->n_windows + (uint32_t)item,
                                2 * worker + 1);

    memcpy(to, from, state_size(p) * sizeof *to);
    upg_layer_forward(&p->layer, &p->buffers[item], to);
    if (worker == 0)
        upg_meter_tick(p->context->meter);
    upg_layer_backward(&p->layer, &p->buffers[item], from, p->gradient + item * state_size(p));
}

static void rotate_window(void *context, size_t item, uint32_t worker)
{
    probe *p = context;

    (void)worker;
    rotate_input(p, p->buffers[item].input[p->input], input_of(p, (uint32_t)item));
}

static upg_status backward_layer(probe *p, uint32_t index, upg_error *err)
{
    upg_status st = UPG_OK;

    load_layer(p, index);
    upg_pool_run(p->context->pool, p->n_windows, backward_window, p);
    for (int i = 0; i < UPG_LAYER_INPUTS && st == UPG_OK; i++) {
        p->input = i;
        begin_input(p, upg_layer_input_width(&p->weights->config, i));
        upg_pool_run(p->context->pool, p->n_windows, rotate_window, p);
        st = whiten_inputs(p, err);
        if (st == UPG_OK)
            upg_pool_run(p->context->pool, p->n_windows, sum_window, p);
    }
    return st;
}

/* ---- head and embedding -------------------------------------------------------------------------
 */

static void norm_window(void *context, size_t item, uint32_t worker)
{
    probe                  *p = context;
    const upg_model_config *config = &p->weights->config;
    float                  *x = p->buffers[item].input[UPG_INPUT_ATTENTION];

    upg_rmsnorm_forward(p->window, config->hidden,
                        state_of(p, config->n_layers, (uint32_t)item, worker),
                        p->weights->final_norm.values, config->norm_eps, x);
    rotate_input(p, x, input_of(p, (uint32_t)item));
}

/* Turns one row of logits into probabilities and draws a token. */
static uint32_t sample_row(uint32_t vocab, double uniform, float *row)
{
    float  max = row[0];
    double sum = 0, passed = 0;

    for (uint32_t r = 1; r < vocab; r++)
        max = row[r] > max ? row[r] : max;
    for (uint32_t r = 0; r < vocab; r++) {
        row[r] = expf(row[r] - max);
        sum += (double)row[r];
    }
    for (uint32_t r = 0; r < vocab; r++)
        row[r] = (float)((double)row[r] / sum);
    for (uint32_t r = 0; r < vocab; r++) {
        passed += (double)row[r];
        if (passed > uniform)
            return r;
    }
    return vocab - 1;
}

/* The head's own sums: its labels are drawn independently, so cross terms vanish and the
 * expectation over them is p·(1 − p) for each row. */
static void add_head(const probe *p, uint32_t window, uint32_t first, const float *x,
                     const float *row)
{
    double norm2 = 0;

    for (uint32_t i = 0; i < p->width; i++)
        norm2 += (double)x[i] * x[i];
    for (uint32_t u = first; u < first + upg_plan_units_of(p->plan, first); u++) {
        const upg_plan_unit *unit = &p->plan->units[u];
        double               sum = 0;

        for (uint32_t r = 0; r < unit->n_rows; r++) {
            float q = row[unit->row0 + r];

            sum += (double)(p->row_energy[u][r] * q * (1.0f - q));
        }
        p->sums[(size_t)window * p->plan->n_units + u] += norm2 * sum;
    }
}

/* Logits, sampled tokens, the head's sums, and the gradient at the last state. */
static void head_window(void *context, size_t item, uint32_t worker)
{
    probe                  *p = context;
    const upg_model_config *config = &p->weights->config;
    upg_layer_buffers      *b = &p->buffers[item];
    uint32_t                vocab = config->vocab, hidden = config->hidden;
    float                  *logits = p->scratch + worker * p->scratch_size;
    float                  *gradient = p->gradient + item * state_size(p);
    uint32_t                first =
        first_unit(p, config->tied_embeddings ? &p->weights->embed : &p->weights->head);

    upg_product(p->window, vocab, hidden, b->input[UPG_INPUT_ATTENTION], p->head, false, logits);
    for (uint32_t t = 0; t < p->window; t++) {
        float   *row = logits + (size_t)t * vocab;
        double   uniform = upg_random_unit(p->context->seed, item * p->window + t);
        uint32_t token = sample_row(vocab, uniform, row);

        add_head(p, (uint32_t)item, first, input_of(p, (uint32_t)item) + (size_t)t * p->width, row);
        for (uint32_t r = 0; r < vocab; r++)
            row[r] = -row[r];
        row[token] += 1.0f;
    }
    upg_product_backward(p->window, vocab, hidden, logits, p->head, false, b->narrow);
    memset(gradient, 0, state_size(p) * sizeof *gradient);
    upg_rmsnorm_backward(p->window, hidden, state_of(p, config->n_layers, (uint32_t)item, worker),
                         p->weights->final_norm.values, config->norm_eps, b->narrow, gradient);
    if (worker == 0)
        upg_meter_tick(p->context->meter);
}

/* Gradients of equal tokens add up before they are squared. */
static void embed_window(void *context, size_t item, uint32_t worker)
{
    probe         *p = context;
    const int32_t *tokens = p->tokens + item * p->window;
    uint32_t       hidden = p->weights->config.hidden, first = first_unit(p, &p->weights->embed);
    float         *total = p->scratch + worker * p->scratch_size;

    for (uint32_t t = 0; t < p->window; t++) {
        uint32_t row = (uint32_t)tokens[t], u = first;
        double   norm2 = 0;
        bool     seen = false;

        memset(total, 0, hidden * sizeof *total);
        for (uint32_t s = 0; s < p->window; s++) {
            const float *g = p->gradient + item * state_size(p) + (size_t)s * hidden;

            if (tokens[s] != tokens[t])
                continue;
            seen = seen || s < t;
            for (uint32_t i = 0; i < hidden; i++)
                total[i] += g[i];
        }
        if (seen)
            continue;
        for (uint32_t i = 0; i < hidden; i++)
            norm2 += (double)total[i] * total[i];
        while (row >= p->plan->units[u].row0 + p->plan->units[u].n_rows)
            u++;
        p->sums[item * p->plan->n_units + u] +=
            norm2 * (double)p->row_energy[u][row - p->plan->units[u].row0];
    }
}

/* ---- the whole ----------------------------------------------------------------------------------
 */

/* s_r² of every row of every unit. */
static upg_status measure_rows(probe *p, upg_error *err)
{
    upg_status st = UPG_OK;
    float     *row = p->scratch; /* wide enough for one row of any matrix */

    for (uint32_t u = 0; u < p->plan->n_units; u++) {
        const upg_plan_unit *unit = &p->plan->units[u];
        float               *energy = upg_arena_alloc(&p->arena, unit->n_rows, sizeof *energy, err);

        if (energy == NULL)
            return UPG_E_NOMEM;
        p->row_energy[u] = energy;
        if (unit->row0 == 0)
            upg_plan_tell_reader(p->plan, unit->matrix);
        for (uint32_t r = 0; r < unit->n_rows; r++) {
            double sum = 0;

            upg_dense_row_part(unit->matrix, unit->row0 + r, 0, unit->matrix->n_cols, row);
            for (uint32_t i = 0; i < unit->matrix->n_cols; i++)
                sum += (double)row[i] * row[i];
            energy[r] = (float)(sum / unit->matrix->n_cols);
            if (!isfinite(energy[r])) /* its own words where a weight is not, the moments' else */
                UPG_TRY(upg_matrix_check_finite(unit->matrix, err));
        }
        if (u + 1 == p->plan->n_units || p->plan->units[u + 1].matrix != unit->matrix)
            upg_dense_forget(unit->matrix);
    }
out:
    return st;
}

static float *floats(probe *p, size_t n, upg_status *st, upg_error *err)
{
    float *memory = upg_arena_alloc(&p->arena, n, sizeof *memory, err);

    if (memory == NULL)
        *st = UPG_E_NOMEM;
    return memory;
}

/* Floats of the larger buffers. */
typedef struct sizes {
    size_t widest, state, scratch, head, layer[UPG_LAYER_MATRICES], n_slots;
} sizes;

static sizes sizes_of(const upg_weights *weights, uint32_t n_windows, uint32_t window)
{
    const upg_model_config *config = &weights->config;
    size_t                  q_width = upg_layer_input_width(config, UPG_INPUT_O), outputs;
    sizes                   s = { 0 };

    s.widest = config->ffn > config->hidden ? config->ffn : config->hidden;
    s.widest = q_width > s.widest ? q_width : s.widest;
    outputs = config->vocab > s.widest ? config->vocab : s.widest;
    s.state = (size_t)window * config->hidden;
    s.n_slots = (size_t)(config->n_layers + 1) * n_windows;
    s.scratch = window * outputs;
    s.head = (size_t)config->vocab * config->hidden;
    for (int m = 0; m < UPG_LAYER_MATRICES; m++) {
        const upg_matrix *matrix = upg_layer_matrix_of(&weights->layers[0], m);

        s.layer[m] = (size_t)matrix->n_rows * matrix->n_cols;
    }
    return s;
}

uint64_t upg_sensitivity_memory(const upg_weights *weights, uint32_t n_windows, uint32_t window,
                                uint32_t threads, bool spill)
{
    sizes    s = sizes_of(weights, n_windows, window);
    uint64_t n = (uint64_t)n_windows * window, t = threads, bytes;
    uint64_t largest = upg_dense_bytes(&weights->embed), layer = 0;

    bytes = n * (weights->config.hidden + s.widest + FACTOR_BLOCK);
    bytes += t * ((uint64_t)window * window + s.scratch) + s.widest + s.head;
    bytes += 3 * (uint64_t)FACTOR_BLOCK * FACTOR_BLOCK; /* sums in f32, factor in f64 */
    for (int m = 0; m < UPG_LAYER_MATRICES; m++)
        layer += s.layer[m];
    bytes += layer;
    for (uint32_t i = 0; i < upg_weights_matrix_count(weights); i++)
        bytes += upg_weights_matrix(weights, i)->n_rows; /* row energies */
    bytes = bytes * sizeof(float) +
            n_windows * upg_layer_buffers_memory(&weights->config, window, true) +
            upg_state_store_memory((uint32_t)s.n_slots, s.state, 2 * threads, spill);
    return bytes > largest ? bytes : largest; /* rows are measured before anything is touched */
}

static upg_status allocate(probe *p, upg_error *err)
{
    const upg_model_config *config = &p->weights->config;
    upg_status              st = UPG_OK;
    size_t                  n = (size_t)p->n_windows * p->window;
    sizes                   s = sizes_of(p->weights, p->n_windows, p->window);

    UPG_TRY(upg_state_store_init(&p->states, (uint32_t)s.n_slots, s.state, 2 * p->n_threads,
                                 p->context->spill_beside, err));
    p->gradient = floats(p, n * config->hidden, &st, err);
    p->inputs = floats(p, n * s.widest, &st, err);
    p->block = floats(p, n * FACTOR_BLOCK, &st, err);
    p->gram = floats(p, (size_t)p->n_threads * p->window * p->window, &st, err);
    p->scratch_size = s.scratch;
    p->scratch = floats(p, p->n_threads * p->scratch_size, &st, err);
    p->signs = floats(p, s.widest, &st, err);
    p->head = floats(p, s.head, &st, err);
    for (int m = 0; m < UPG_LAYER_MATRICES; m++)
        p->memory[m] = floats(p, s.layer[m], &st, err);
    p->sums =
        upg_arena_alloc(&p->arena, (size_t)p->n_windows * p->plan->n_units, sizeof *p->sums, err);
    p->row_energy = upg_arena_alloc(&p->arena, p->plan->n_units, sizeof *p->row_energy, err);
    p->buffers = upg_arena_alloc(&p->arena, p->n_windows, sizeof *p->buffers, err);
    if (st != UPG_OK || p->sums == NULL || p->row_energy == NULL || p->buffers == NULL)
        return UPG_E_NOMEM;
    for (uint32_t w = 0; w < p->n_windows && st == UPG_OK; w++)
        st = upg_layer_buffers_create(config, p->window, true, &p->arena, &p->buffers[w], err);
out:
    return st;
}

static void load_states(probe *p)
{
    uint32_t hidden = p->weights->config.hidden;

    for (uint32_t w = 0; w < p->n_windows; w++) {
        float *state = upg_state_blank(&p->states, w, 0);

        for (uint32_t t = 0; t < p->window; t++)
            upg_dense_row_part(&p->weights->embed, (uint32_t)p->tokens[(size_t)w * p->window + t],
                               0, hidden, state + (size_t)t * hidden);
        upg_state_put(&p->states, w, state);
    }
    upg_dense_forget(&p->weights->embed);
}

static upg_status run_head(probe *p, upg_error *err)
{
    const upg_matrix *head = &p->weights->head;
    upg_status        st;

    upg_dense_load(head, p->head);
    begin_input(p, p->weights->config.hidden);
    upg_pool_run(p->context->pool, p->n_windows, norm_window, p);
    st = whiten_inputs(p, err);
    if (st == UPG_OK)
        upg_pool_run(p->context->pool, p->n_windows, head_window, p);
    return st;
}

static upg_status set_sensitivities(const probe *p, upg_error *err)
{
    double scale = UPG_MSE_AT_3_BITS / 2 / ((double)p->n_windows * p->window);

    for (uint32_t u = 0; u < p->plan->n_units; u++) {
        double sum = 0;

        for (uint32_t w = 0; w < p->n_windows; w++)
            sum += p->sums[(size_t)w * p->plan->n_units + u];
        if (!isfinite(sum))
            return upg_fail(err, UPG_E_DATA,
                            "tensor \"%s\": its gradient over the calibration text is not finite",
                            p->plan->units[u].matrix->name);
        p->plan->units[u].sensitivity = scale * sum;
    }
    return UPG_OK;
}

upg_status upg_sensitivity_measure(const upg_encode_context *context, const upg_weights *weights,
                                   const int32_t *tokens, uint32_t n_windows, uint32_t window,
                                   upg_plan *plan, upg_error *err)
{
    upg_status st;
    uint32_t   n_layers = weights->config.n_layers;
    probe      p = { .context = context,
                     .weights = weights,
                     .tokens = tokens,
                     .n_windows = n_windows,
                     .window = window,
                     .plan = plan };
    int        blas = upg_blas_begin();

    p.n_threads = upg_pool_size(context->pool);
    UPG_TRY(allocate(&p, err));
    UPG_TRY(measure_rows(&p, err));
    load_states(&p);
    for (uint32_t l = 0; l < n_layers; l++) {
        load_layer(&p, l);
        upg_pool_run(context->pool, n_windows, forward_window, &p);
    }
    UPG_TRY(run_head(&p, err));
    for (uint32_t l = n_layers; l-- > 0;) {
        upg_meter_part(context->meter, "layer", n_layers - l, n_layers,
                       (uint64_t)n_windows * window);
        UPG_TRY(backward_layer(&p, l, err));
        upg_meter_add(context->meter, (uint64_t)n_windows * window);
        if (upg_meter_cancelled(context->meter))
            UPG_TRY(upg_fail(err, UPG_E_CANCELLED, "plan: cancelled"));
        UPG_TRY(upg_state_store_check(&p.states, err));
    }
    upg_pool_run(context->pool, n_windows, embed_window, &p);
    UPG_TRY(set_sensitivities(&p, err));
out:
    upg_state_store_deinit(&p.states);
    upg_arena_deinit(&p.arena);
    upg_blas_end(blas);
    return st;
}
