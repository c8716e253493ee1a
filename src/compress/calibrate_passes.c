/* calibrate_passes.c: windows through the passes of a layer, and the moments of what they give. */
#include "compress/calibrate_impl.h"

/* The stream whose inputs the moments are of. */
static upg_stream *coded_stream(upg_calibrator *c)
{
    return &c->streams[c->n_streams - 1];
}

/* ---- one window through one pass ------------------------------------------------------------ */

/* The exact stream: every product once. */
static const float *run_exact(const upg_calibrator *c, const upg_stream *s, upg_layer_buffers *b,
                              float *state)
{
    switch (c->pass) {
    case UPG_PASS_ATTENTION:
        upg_layer_attention_input(&s->layer, b, state);
        return b->input[UPG_INPUT_ATTENTION];
    case UPG_PASS_O:
        upg_layer_attention_input(&s->layer, b, state);
        upg_layer_attention(&s->layer, b);
        upg_layer_attention_add(&s->layer, b, state);
        return b->input[UPG_INPUT_O];
    case UPG_PASS_FFN:
        upg_layer_ffn_input(&s->layer, b, state);
        return b->input[UPG_INPUT_FFN];
    case UPG_PASS_DOWN:
        upg_layer_ffn_input(&s->layer, b, state);
        upg_layer_ffn(&s->layer, b);
        upg_layer_ffn_add(&s->layer, b, state);
        return b->input[UPG_INPUT_DOWN];
    default: /* UPG_PASS_FINISH: done already */
        return NULL;
    }
}

/* The coded stream: state moves on only with coded matrices. */
static const float *run_coded(const upg_calibrator *c, const upg_stream *s, upg_layer_buffers *b,
                              float *state)
{
    switch (c->pass) {
    case UPG_PASS_ATTENTION:
        upg_layer_attention_input(&s->layer, b, state);
        return b->input[UPG_INPUT_ATTENTION];
    case UPG_PASS_O:
        upg_layer_attention_input(&s->layer, b, state);
        upg_layer_attention(&s->layer, b);
        return b->input[UPG_INPUT_O];
    case UPG_PASS_FFN:
        upg_layer_attention_input(&s->layer, b, state);
        upg_layer_attention(&s->layer, b);
        upg_layer_attention_add(&s->layer, b, state);
        upg_layer_ffn_input(&s->layer, b, state);
        return b->input[UPG_INPUT_FFN];
    case UPG_PASS_DOWN:
        upg_layer_ffn_input(&s->layer, b, state);
        upg_layer_ffn(&s->layer, b);
        return b->input[UPG_INPUT_DOWN];
    default: /* UPG_PASS_FINISH */
        upg_layer_ffn_input(&s->layer, b, state);
        upg_layer_ffn(&s->layer, b);
        upg_layer_ffn_add(&s->layer, b, state);
        return NULL;
    }
}

/* Runs one window through the pass; returns the input to be summed, f32 [window][width]. */
static const float *run_pass(const upg_calibrator *c, const upg_stream *s, upg_layer_buffers *b,
                             float *state)
{
    const upg_model_config *config = &c->weights->config;

    if (c->pass == UPG_PASS_HEAD) {
        upg_rmsnorm_forward(c->calibration->window, config->hidden, state,
                            c->weights->final_norm.values, config->norm_eps,
                            b->input[UPG_INPUT_ATTENTION]);
        return b->input[UPG_INPUT_ATTENTION];
    }
    return s == &c->streams[0] ? run_exact(c, s, b, state) : run_coded(c, s, b, state);
}

bool upg_calibrate_moves(const upg_calibrator *c, const upg_stream *s)
{
    if (s == &c->streams[0])
        return c->pass == UPG_PASS_O || c->pass == UPG_PASS_DOWN;
    return c->pass == UPG_PASS_FFN || c->pass == UPG_PASS_FINISH;
}

void upg_calibrate_rotate(const upg_calibrator *c, const float *from, float *to)
{
    for (uint32_t i = 0; i < c->width; i++)
        to[i] = from[i] * c->signs[i];
    c->context->kernels->hadamard(c->width, c->rotation.block, to);
}

static void window_item(void *context, size_t item, uint32_t worker)
{
    upg_calibrator *c = context;
    upg_stream     *s = &c->streams[item % c->n_streams];
    uint32_t        in_group = (uint32_t)(item / c->n_streams);
    uint32_t        n = c->calibration->window;
    float          *state;
    const float    *x;

    if (upg_meter_cancelled(c->context->meter) || (c->moving && !upg_calibrate_moves(c, s)))
        return;
    state = upg_state_get(&s->states, c->first_window + in_group, worker);
    x = run_pass(c, s, &c->buffers[worker], state);
    if (upg_calibrate_moves(c, s))
        upg_state_put(&s->states, c->first_window + in_group, state);
    for (uint32_t t = 0; !c->moving && x != NULL && t < n; t++)
        upg_calibrate_rotate(c, x + (size_t)t * c->width,
                             s->inputs + ((size_t)in_group * n + t) * c->width);
    if (worker == 0)
        upg_meter_tick(c->context->meter);
}

upg_status upg_calibrate_windows(upg_calibrator *c, upg_pass which, uint32_t width,
                                 upg_moments *moments, upg_error *err)
{
    bool       mixed = c->n_streams == 2 && width <= UPG_MAX_CORRECTED_WIDTH;
    uint32_t   n_windows = c->calibration->n_windows;
    upg_status st = UPG_OK;

    c->pass = which;
    c->width = width;
    c->moving = moments == NULL;
    if (moments != NULL) {
        c->rotation = upg_rotation_make(width, c->context->seed);
        upg_rotation_signs(&c->rotation, c->signs);
    }
    if (c->context->device != NULL)
        return upg_calibrate_device_windows(c, moments != NULL && mixed, err);
    for (uint32_t w = 0; w < n_windows && st == UPG_OK; w += UPG_GROUP_WINDOWS) {
        uint32_t n = n_windows - w < UPG_GROUP_WINDOWS ? n_windows - w : UPG_GROUP_WINDOWS;

        c->first_window = w;
        upg_pool_run(c->context->pool, (size_t)n * c->n_streams, window_item, c);
        if (upg_meter_cancelled(c->context->meter))
            return upg_fail(err, UPG_E_CANCELLED, "compress: cancelled");
        for (uint32_t s = 0; s < c->n_streams && st == UPG_OK; s++)
            st = upg_state_store_check(&c->streams[s].states, err);
        if (moments != NULL && st == UPG_OK)
            upg_moments_add(moments, c->context->pool, coded_stream(c)->inputs,
                            moments->mixed != NULL ? c->streams[0].inputs : NULL,
                            n * c->calibration->window);
    }
    return st;
}
