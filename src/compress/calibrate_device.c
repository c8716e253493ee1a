/* calibrate_device.c: windows through the passes of a layer on a device, and their moments.
 *
 * States stay the host's, for the journal; groups of windows go to the device and come back. The
 * exact stream's part of mixed moments is made first, then the coded stream's over the same group.
 */
#include <string.h>

#include "compress/calibrate_impl.h"

upg_status upg_calibrate_device_begin(upg_calibrator *c, upg_error *err)
{
    const upg_model_config *config = &c->weights->config;
    upg_compress_device    *device = c->context->device;
    upg_device_layer        shape = { .hidden = config->hidden,
                                      .ffn = config->ffn,
                                      .n_heads = config->n_heads,
                                      .n_kv_heads = config->n_kv_heads,
                                      .head_dim = config->head_dim,
                                      .rotary_dims = config->rope.rotary_dims,
                                      .sliding_window = config->sliding_window,
                                      .norm_eps = config->norm_eps,
                                      .window = c->calibration->window,
                                      .cosine = c->buffers[0].cosine,
                                      .sine = c->buffers[0].sine };

    return device == NULL ? UPG_OK : device->class_->layer_begin(device, &shape, err);
}

upg_status upg_calibrate_device_layer(upg_calibrator *c, const upg_layer_weights *layer,
                                      upg_error *err)
{
    upg_compress_device *device = c->context->device;
    upg_status           st = UPG_OK;

    for (uint32_t m = 0; m < UPG_LAYER_MATRICES && device != NULL && st == UPG_OK; m++)
        st = device->class_->layer_matrix(device, 0, m, c->streams[0].memory[m], err);
    return device == NULL || st != UPG_OK
               ? st
               : device->class_->layer_norms(device, layer->attention_norm.values,
                                             layer->ffn_norm.values, err);
}

upg_status upg_calibrate_device_coded(upg_calibrator *c, uint32_t first, uint32_t n, upg_error *err)
{
    upg_compress_device *device = c->context->device;
    upg_status           st = UPG_OK;

    for (uint32_t m = first; m < first + n && device != NULL && c->n_streams == 2 && st == UPG_OK;
         m++)
        st = device->class_->layer_matrix(device, 1, m, c->streams[1].memory[m], err);
    return st;
}

/* The parts of a pass of either stream, as in calibrate_passes.c. */
static uint32_t parts_of(upg_pass pass, bool exact)
{
    static const uint32_t attention = UPG_DEVICE_ATTENTION_INPUT | UPG_DEVICE_ATTENTION;
    static const uint32_t ffn = UPG_DEVICE_FFN_INPUT | UPG_DEVICE_FFN;

    switch (pass) {
    case UPG_PASS_ATTENTION:
    case UPG_PASS_HEAD:
        return UPG_DEVICE_ATTENTION_INPUT;
    case UPG_PASS_O:
        return exact ? attention | UPG_DEVICE_ATTENTION_ADD : attention;
    case UPG_PASS_FFN:
        return exact ? (uint32_t)UPG_DEVICE_FFN_INPUT
                     : attention | UPG_DEVICE_ATTENTION_ADD | UPG_DEVICE_FFN_INPUT;
    case UPG_PASS_DOWN:
        return exact ? ffn | UPG_DEVICE_FFN_ADD : ffn;
    default: /* UPG_PASS_FINISH */
        return exact ? 0 : ffn | UPG_DEVICE_FFN_ADD;
    }
}

/* n windows from c->first_window on of one stream, by way of its inputs. */
static upg_status run_group(upg_calibrator *c, uint32_t stream, uint32_t n, upg_device_use use,
                            upg_error *err)
{
    upg_compress_device *device = c->context->device;
    upg_stream          *s = &c->streams[stream];
    size_t               size = (size_t)c->calibration->window * c->weights->config.hidden;
    bool                 moves = upg_calibrate_moves(c, s);
    uint32_t             parts = parts_of(c->pass, stream == 0);
    upg_status           st;

    if (parts == 0 || (use == UPG_DEVICE_DROP && !moves))
        return UPG_OK;
    for (uint32_t w = 0; w < n; w++)
        memcpy(s->inputs + w * size, upg_state_get(&s->states, c->first_window + w, 0),
               size * sizeof(float));
    UPG_TRY(device->class_->layer_pass(device, stream, parts, n, s->inputs, use, err));
    for (uint32_t w = 0; w < n && moves; w++) {
        float *state = upg_state_blank(&s->states, c->first_window + w, 0);

        memcpy(state, s->inputs + w * size, size * sizeof(float));
        upg_state_put(&s->states, c->first_window + w, state);
    }
    UPG_TRY(upg_state_store_check(&s->states, err));
out:
    return st;
}

upg_status upg_calibrate_device_windows(upg_calibrator *c, bool mixed, upg_error *err)
{
    uint32_t       n_windows = c->calibration->n_windows;
    upg_device_use sum = c->moving ? UPG_DEVICE_DROP : UPG_DEVICE_SUM;
    upg_status     st = UPG_OK;

    if (c->pass == UPG_PASS_HEAD)
        UPG_TRY(c->context->device->class_->layer_norms(
            c->context->device, c->weights->final_norm.values, c->weights->final_norm.values, err));
    for (uint32_t w = 0; w < n_windows && st == UPG_OK; w += UPG_GROUP_WINDOWS) {
        uint32_t n = n_windows - w < UPG_GROUP_WINDOWS ? n_windows - w : UPG_GROUP_WINDOWS;

        c->first_window = w;
        if (c->n_streams == 2)
            UPG_TRY(run_group(c, 0, n, mixed ? UPG_DEVICE_MIXED : UPG_DEVICE_DROP, err));
        UPG_TRY(run_group(c, c->n_streams - 1, n, sum, err));
        upg_meter_tick(c->context->meter);
        if (upg_meter_cancelled(c->context->meter))
            UPG_TRY(upg_fail(err, UPG_E_CANCELLED, "compress: cancelled"));
    }
out:
    return st;
}
