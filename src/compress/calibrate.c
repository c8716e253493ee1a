/* calibrate.c: the order of work: embedding, layers, head; streams from one to the next. */
#include "compress/calibrate.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "compress/calibrate_impl.h"
#include "compress/dense_rows.h"
#include "compress/feedback.h"
#include "compress/part.h"

/* ---- layers --------------------------------------------------------------------------------- */

/* The passes whose inputs matrices read, and which these are. */
static const struct {
    upg_pass         pass;
    upg_layer_matrix first;
    uint32_t         n;
} inputs[UPG_LAYER_INPUTS] = {
    { UPG_PASS_ATTENTION, UPG_LAYER_Q, 3 },
    { UPG_PASS_O, UPG_LAYER_O, 1 },
    { UPG_PASS_FFN, UPG_LAYER_GATE, 2 },
    { UPG_PASS_DOWN, UPG_LAYER_DOWN, 1 },
};

/* Converts a layer's matrices to f32 for every stream. */
static void load_layer(upg_calibrator *c, uint32_t index)
{
    upg_layer_weights *layer = &c->weights->layers[index];

    for (uint32_t s = 0; s < c->n_streams; s++) {
        upg_stream *to = &c->streams[s];

        for (int m = 0; m < UPG_LAYER_MATRICES; m++) {
            const upg_matrix *matrix = upg_layer_matrix_of(layer, m);

            if (s == 0) /* read once */
                upg_dense_load(matrix, to->memory[m]);
            else
                memcpy(to->memory[m], c->streams[0].memory[m],
                       (size_t)matrix->n_rows * matrix->n_cols * sizeof(float));
            to->layer.matrix[m] = to->memory[m];
        }
        to->layer.config = &c->weights->config;
        to->layer.kernels = c->context->kernels;
        to->layer.attention_norm = layer->attention_norm.values;
        to->layer.ffn_norm = layer->ffn_norm.values;
    }
}

static bool may_code(const upg_calibrator *c, const upg_matrix *first)
{
    return c->sink->claim == NULL || c->sink->claim(c->sink->user, first);
}

/* Codes the matrices that read input i of a layer, or takes them from the sink. */
static upg_status do_layer_input(upg_calibrator *c, upg_layer_weights *layer, uint32_t i,
                                 upg_error *err)
{
    const upg_matrix *matrices[3];
    float            *weights[3];
    uint32_t          n = inputs[i].n, width = upg_layer_matrix_of(layer, inputs[i].first)->n_cols;
    upg_status        st;

    for (uint32_t m = 0; m < n; m++) {
        matrices[m] = upg_layer_matrix_of(layer, inputs[i].first + m);
        weights[m] = c->streams[1].memory[inputs[i].first + m];
    }
    if (!upg_calibrate_has(c, matrices, n) && may_code(c, matrices[0]))
        UPG_TRY(upg_calibrate_input(c, inputs[i].pass, width, matrices, weights, n, err));
    else {
        UPG_TRY(upg_calibrate_windows(c, inputs[i].pass, width, NULL, err));
        if (c->n_streams == 2) /* what is decoded moves the coded stream alone */
            UPG_TRY(upg_calibrate_replay(c, matrices, weights, n, err));
    }
    UPG_TRY(upg_calibrate_device_coded(c, inputs[i].first, n, err));
out:
    return st;
}

static upg_status do_layer(upg_calibrator *c, uint32_t index, upg_error *err)
{
    upg_layer_weights *layer = &c->weights->layers[index];
    upg_status         st;

    upg_part_begin(c->context->meter, c->weights, c->plan, c->sink, &layer->q);
    load_layer(c, index);
    UPG_TRY(upg_calibrate_device_layer(c, layer, err));
    for (uint32_t i = 0; i < UPG_LAYER_INPUTS; i++)
        UPG_TRY(do_layer_input(c, layer, i, err));
    UPG_TRY(upg_calibrate_windows(c, UPG_PASS_FINISH, layer->down.n_cols, NULL, err));
out:
    return st;
}

/* ---- embedding and head --------------------------------------------------------------------- */

/* Importance of each embedding row: s²·√(frequency), relative to the geometric mean and bounded.
 * Rows are coded relative to their scale s, so s² restores what a row's error weighs; the square
 * root of the count is what measured best on the models at hand (docs/QUALITY.md). */
static float *embedding_weights(const upg_calibrator *c, upg_error *err)
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

/* One token's row. coded NULL: as it came. */
static void load_row(const upg_calibrator *c, uint32_t token, const upg_coded_matrix *coded,
                     float *row)
{
    uint32_t hidden = c->weights->config.hidden;

    if (coded == NULL) {
        upg_dense_row_part(&c->weights->embed, token, 0, hidden, row);
        return;
    }
    upg_coded_row(coded, token, row);
    c->context->kernels->hadamard(hidden, coded->rotation.block, row);
    for (uint32_t j = 0; j < hidden; j++)
        row[j] *= c->signs[j];
    if (coded->outliers != NULL)
        upg_outliers_add_row(coded->outliers, token, 1, 0, hidden, row);
}

/* Fills a stream's states with the rows of its tokens. */
static upg_status load_states(upg_calibrator *c, upg_stream *s, const upg_coded_matrix *coded,
                              upg_error *err)
{
    uint32_t hidden = c->weights->config.hidden, window = c->calibration->window;

    for (uint32_t w = 0; w < c->calibration->n_windows; w++) {
        float *state = upg_state_blank(&s->states, w, 0);

        for (uint32_t t = 0; t < window; t++)
            load_row(c, (uint32_t)c->calibration->tokens[(size_t)w * window + t], coded,
                     state + (size_t)t * hidden);
        upg_state_put(&s->states, w, state);
    }
    return upg_state_store_check(&s->states, err);
}

/* The embedding's code: from the sink, or made here and given to it. */
static upg_status code_embedding(upg_calibrator *c, const upg_plan_unit *units, uint32_t n_units,
                                 upg_encoded_matrix *encoded, upg_error *err)
{
    const upg_matrix *embed = units[0].matrix;
    float            *weights;
    upg_status        st;

    if (upg_calibrate_has(c, &embed, 1))
        return c->sink->get(c->sink->user, units, n_units, encoded, err);
    if (!may_code(c, embed))
        return UPG_OK; /* the exact stream does not need it */
    weights = embedding_weights(c, err);
    UPG_TRY(weights != NULL ? UPG_OK : UPG_E_NOMEM);
    upg_part_begin(c->context->meter, c->weights, c->plan, c->sink, embed);
    UPG_TRY(upg_encode_matrix(c->context, units, n_units, weights, encoded, err));
    upg_meter_error(c->context->meter, encoded->error2, encoded->energy2);
    UPG_TRY(c->sink->put(c->sink->user, units, n_units, encoded, err));
out:
    upg_free(weights);
    return st;
}

static upg_status do_embedding(upg_calibrator *c, upg_error *err)
{
    upg_status           st;
    uint32_t             n_units;
    const upg_plan_unit *units = upg_calibrate_units(c, &c->weights->embed, &n_units);
    upg_encoded_matrix   encoded = { 0 };
    upg_band            *bands = upg_arena_alloc(&c->arena, n_units, sizeof *bands, err);
    upg_coded_matrix     coded;

    UPG_TRY(bands != NULL ? UPG_OK : UPG_E_NOMEM);
    UPG_TRY(code_embedding(c, units, n_units, &encoded, err));
    coded = upg_encoded_view(c->context, units, n_units, &encoded, bands);
    upg_rotation_signs(&coded.rotation, c->signs);
    UPG_TRY(load_states(c, &c->streams[0], NULL, err));
    if (c->n_streams == 2)
        UPG_TRY(load_states(c, &c->streams[1], &coded, err));
    upg_dense_forget(&c->weights->embed);
out:
    upg_encoded_deinit(&encoded);
    return st;
}

static upg_status do_head(upg_calibrator *c, upg_error *err)
{
    const upg_matrix *head = &c->weights->head;
    float            *weights;
    upg_status        st;

    if (c->weights->config.tied_embeddings || upg_calibrate_has(c, &head, 1) || !may_code(c, head))
        return UPG_OK;
    weights = upg_malloc((size_t)head->n_rows * head->n_cols, sizeof *weights, err);
    if (weights == NULL)
        return UPG_E_NOMEM;
    upg_part_begin(c->context->meter, c->weights, c->plan, c->sink, head);
    st = upg_calibrate_input(c, UPG_PASS_HEAD, head->n_cols, &head, &weights, 1, err);
    upg_free(weights);
    return st;
}

/* ---- memory ---------------------------------------------------------------------------------- */

static uint32_t widest_input(const upg_model_config *config)
{
    uint32_t widest = config->ffn, q = upg_layer_input_width(config, UPG_INPUT_O);

    widest = q > widest ? q : widest;
    return config->hidden > widest ? config->hidden : widest;
}

static uint64_t max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* Bytes for the matrices of one input, their f32 form not counted. */
static uint64_t input_memory(const upg_plan *plan, const upg_matrix *const *matrices, uint32_t n,
                             bool sequential, uint32_t threads)
{
    uint32_t width = matrices[0]->n_cols;
    bool     mixed = sequential && width <= UPG_MAX_CORRECTED_WIDTH;
    uint64_t moments = upg_moments_memory(width, mixed) + width * sizeof(float);
    uint64_t rows = (uint64_t)threads * UPG_CALIBRATE_ROWS * width * sizeof(float);
    uint64_t load = 0, feedback = 0, compare = 0;

    for (uint32_t i = 0; i < n; i++) {
        uint32_t first = 0, n_units;

        while (plan->units[first].matrix != matrices[i])
            first++;
        n_units = upg_plan_units_of(plan, first);
        load = max_u64(load, rows + upg_dense_bytes(matrices[i]));
        feedback += upg_feedback_memory(&plan->units[first], n_units);
        compare += upg_encoded_memory(&plan->units[first], n_units);
    }
    return moments + max_u64(max_u64(upg_moments_factor_memory(width), feedback), load + compare);
}

/* f32 matrices of one layer, for two streams: the second is where matrices are coded. */
static uint64_t layers_memory(const upg_weights *weights)
{
    uint64_t bytes = 0;

    for (int m = 0; m < UPG_LAYER_MATRICES; m++) {
        const upg_matrix *matrix = upg_layer_matrix_of(&weights->layers[0], m);

        bytes += 2 * (uint64_t)matrix->n_rows * matrix->n_cols * sizeof(float);
    }
    return bytes;
}

uint64_t upg_calibrated_memory(const upg_weights *weights, const upg_plan *plan,
                               const upg_calibration *k, uint32_t threads, bool spill)
{
    const upg_model_config *config = &weights->config;
    uint64_t n_streams = k->sequential ? 2 : 1, slot = (uint64_t)k->window * config->hidden;
    uint64_t widest = widest_input(config);
    uint64_t states = n_streams * upg_state_store_memory(k->n_windows, slot, threads, spill);
    uint64_t passes = n_streams * UPG_GROUP_WINDOWS * k->window * widest * sizeof(float) +
                      threads * upg_layer_buffers_memory(config, k->window, false);
    uint64_t peak = upg_encode_memory(plan->units, upg_plan_units_of(plan, 0), threads) +
                    weights->embed.n_rows * sizeof(float);

    for (uint32_t i = 0; i < UPG_LAYER_INPUTS; i++) {
        const upg_matrix *matrices[3] = { 0 };
        uint32_t          m = 0;

        do
            matrices[m] = upg_layer_matrix_of(&weights->layers[0], inputs[i].first + m);
        while (++m < inputs[i].n);
        peak = max_u64(peak, passes + layers_memory(weights) +
                                 input_memory(plan, matrices, inputs[i].n, k->sequential, threads));
    }
    if (!config->tied_embeddings) {
        const upg_matrix *head = &weights->head;

        peak = max_u64(peak, passes + (uint64_t)head->n_rows * head->n_cols * sizeof(float) +
                                 input_memory(plan, &head, 1, k->sequential, threads));
    }
    return states + peak + widest * sizeof(float);
}

/* ---- the whole ------------------------------------------------------------------------------ */

static upg_status create_states(upg_calibrator *c, upg_error *err)
{
    const upg_calibration *k = c->calibration;
    size_t                 slot = (size_t)k->window * c->weights->config.hidden;
    upg_status             st = UPG_OK;

    for (uint32_t s = 0; s < c->n_streams && st == UPG_OK; s++)
        st = upg_state_store_init(&c->streams[s].states, k->n_windows, slot, c->n_threads,
                                  c->context->spill_beside, err);
    return st;
}

static upg_status create_passes(upg_calibrator *c, upg_error *err)
{
    const upg_calibration *k = c->calibration;
    size_t                 size = (size_t)UPG_GROUP_WINDOWS * k->window * c->widest;
    upg_status             st = UPG_OK;

    for (uint32_t s = 0; s < c->n_streams; s++) {
        c->streams[s].inputs = upg_malloc(size, sizeof(float), err);
        UPG_TRY(c->streams[s].inputs != NULL ? UPG_OK : UPG_E_NOMEM);
    }
    c->buffers = upg_arena_alloc(&c->arena, c->n_threads, sizeof *c->buffers, err);
    UPG_TRY(c->buffers != NULL ? UPG_OK : UPG_E_NOMEM);
    for (uint32_t i = 0; i < c->n_threads; i++)
        UPG_TRY(upg_layer_buffers_create(&c->weights->config, k->window, false, &c->arena,
                                         &c->buffers[i], err));
out:
    return st;
}

static upg_status create_matrices(upg_calibrator *c, upg_error *err)
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

static void free_matrices(upg_calibrator *c)
{
    for (int s = 0; s < 2; s++)
        for (int m = 0; m < UPG_LAYER_MATRICES; m++) {
            upg_free(c->streams[s].memory[m]);
            c->streams[s].memory[m] = NULL;
        }
}

static upg_status init(upg_calibrator *c, const upg_encode_context *context,
                       const upg_weights *weights, const upg_plan *plan,
                       const upg_calibration *calibration, const upg_encoded_sink *sink,
                       upg_error *err)
{
    upg_status st;

    *c = (upg_calibrator) { .context = context,
                            .weights = weights,
                            .plan = plan,
                            .calibration = calibration,
                            .sink = sink,
                            .n_threads = upg_pool_size(context->pool),
                            .n_streams = calibration->sequential ? 2 : 1,
                            .widest = widest_input(&weights->config),
                            .blas = upg_blas_begin() };
    c->signs = upg_malloc(c->widest, sizeof *c->signs, err);
    UPG_TRY(c->signs != NULL ? UPG_OK : UPG_E_NOMEM);
    UPG_TRY(create_states(c, err));
out:
    return st;
}

static void deinit(upg_calibrator *c)
{
    for (int s = 0; s < 2; s++) {
        upg_state_store_deinit(&c->streams[s].states);
        upg_free(c->streams[s].inputs);
    }
    free_matrices(c);
    upg_free(c->signs);
    upg_arena_deinit(&c->arena);
    upg_blas_end(c->blas);
}

/* Streams as an earlier run kept them, or from the embedding on. *layer: where to go on. */
static upg_status begin_streams(upg_calibrator *c, upg_state_store *const *streams, uint32_t *layer,
                                upg_error *err)
{
    upg_status st = UPG_OK;

    *layer = 0;
    if (c->sink->restore != NULL)
        st = c->sink->restore(c->sink->user, streams, c->n_streams, layer, err);
    return st == UPG_OK && *layer == 0 ? do_embedding(c, err) : st;
}

upg_status upg_calibrated_encode(const upg_encode_context *context, const upg_weights *weights,
                                 const upg_plan *plan, const upg_calibration *calibration,
                                 const upg_encoded_sink *sink, upg_error *err)
{
    upg_status       st;
    uint32_t         first = 0;
    upg_calibrator   c;
    upg_state_store *streams[2] = { &c.streams[0].states, &c.streams[1].states };

    UPG_TRY(init(&c, context, weights, plan, calibration, sink, err));
    UPG_TRY(begin_streams(&c, streams, &first, err));
    UPG_TRY(create_passes(&c, err));
    UPG_TRY(create_matrices(&c, err));
    UPG_TRY(upg_calibrate_device_begin(&c, err));
    for (uint32_t l = first; l < weights->config.n_layers; l++) {
        UPG_TRY(do_layer(&c, l, err));
        if (sink->keep != NULL)
            UPG_TRY(sink->keep(sink->user, l + 1, streams, c.n_streams, err));
    }
    free_matrices(&c);
    UPG_TRY(do_head(&c, err));
out:
    deinit(&c);
    return st;
}
