/* cuda_layer.c: a layer's passes on the device (compress/layer_math.h): products by TF32, the rest
 * in fp32. States come from the host and go back to it; what lies between stays. */
#include "backend/cuda/cuda_layer.h"

#include "backend/cuda/cuda_compress.h"

enum { Q, K, V, O, GATE, UP, DOWN };

static uint32_t q_width(const cc_device *d)
{
    return d->layer.n_heads * d->layer.head_dim;
}

static uint32_t kv_width(const cc_device *d)
{
    return d->layer.n_kv_heads * d->layer.head_dim;
}

/* Rows and columns of a matrix. */
static void shape_of(const cc_device *d, uint32_t which, uint32_t *rows, uint32_t *cols)
{
    const upg_device_layer *l = &d->layer;

    *rows = which == Q                     ? q_width(d)
            : which == K || which == V     ? kv_width(d)
            : which >= GATE && which <= UP ? l->ffn
                                           : l->hidden;
    *cols = which == O ? q_width(d) : which == DOWN ? l->ffn : l->hidden;
}

upg_status cc_layer_begin(upg_compress_device *device, const upg_device_layer *shape,
                          upg_error *err)
{
    cc_device *d = cc_of(device);
    size_t     angles = (size_t)shape->window * (shape->rotary_dims / 2) * sizeof(float);
    upg_status st;

    UPG_TRY(cc_check(cudaSetDevice(d->device), "choosing the device", err));
    d->layer = *shape;
    UPG_TRY(cc_room(&d->angles, 2 * angles + 1, "angles", err));
    UPG_TRY(cc_up(d, d->angles.at, shape->cosine, angles, err));
    UPG_TRY(cc_up(d, (uint8_t *)d->angles.at + angles, shape->sine, angles, err));
    d->layer.cosine = d->angles.at;
    d->layer.sine = (const float *)(const void *)((const uint8_t *)d->angles.at + angles);
out:
    return st;
}

upg_status cc_layer_matrix(upg_compress_device *device, uint32_t stream, uint32_t which,
                           const float *weights, upg_error *err)
{
    cc_device *d = cc_of(device);
    uint32_t   rows, cols;
    size_t     bytes;
    upg_status st;

    shape_of(d, which, &rows, &cols);
    bytes = (size_t)rows * cols * sizeof *weights;
    UPG_TRY(cc_check(cudaSetDevice(d->device), "choosing the device", err));
    UPG_TRY(cc_room(&d->matrix[stream][which], bytes, "a layer", err));
    UPG_TRY(cc_up(d, d->matrix[stream][which].at, weights, bytes, err));
out:
    return st;
}

upg_status cc_layer_norms(upg_compress_device *device, const float *attention, const float *ffn,
                          upg_error *err)
{
    cc_device *d = cc_of(device);
    size_t     bytes = d->layer.hidden * sizeof *attention;
    upg_status st;

    UPG_TRY(cc_check(cudaSetDevice(d->device), "choosing the device", err));
    UPG_TRY(cc_room(&d->norms, 2 * bytes, "norms", err));
    UPG_TRY(cc_up(d, d->norms.at, attention, bytes, err));
    UPG_TRY(cc_up(d, (uint8_t *)d->norms.at + bytes, ffn, bytes, err));
out:
    return st;
}

/* y = x·Wᵀ (+ y) for one of a stream's matrices. */
static upg_status apply(cc_device *d, uint32_t stream, uint32_t which, uint32_t n, const float *x,
                        bool add, float *y, upg_error *err)
{
    uint32_t rows, cols;

    shape_of(d, which, &rows, &cols);
    return cc_check(cuda_blas_gemm(&d->blas, CUDA_BLAS_TF32, false, true, n, rows, cols, 1.0f, x,
                                   cols, d->matrix[stream][which].at, cols, add ? 1.0f : 0.0f, y,
                                   rows),
                    "a product of a layer", err);
}

static upg_status norm(cc_device *d, uint32_t which, uint32_t n, upg_error *err)
{
    uint32_t hidden = d->layer.hidden;

    return cc_check(cu_launch_rmsnorm(n, hidden, d->state.at,
                                      (const float *)d->norms.at + (size_t)which * hidden,
                                      d->layer.norm_eps, d->narrow.at, d->stream),
                    "a norm", err);
}

/* narrow → wide */
static upg_status attention(cc_device *d, uint32_t stream, uint32_t n, upg_error *err)
{
    const upg_device_layer *l = &d->layer;
    uint32_t                half = l->rotary_dims / 2;
    cu_attention            a = { .q = d->q.at,
                                  .k = d->k.at,
                                  .v = d->v.at,
                                  .out = d->wide.at,
                                  .q_stride = q_width(d),
                                  .kv_stride = kv_width(d),
                                  .n_heads = l->n_heads,
                                  .n_kv_heads = l->n_kv_heads,
                                  .head_dim = l->head_dim,
                                  .window = l->window,
                                  .n_windows = n / l->window,
                                  .sliding = l->sliding_window };
    upg_status              st;

    UPG_TRY(apply(d, stream, Q, n, d->narrow.at, false, d->q.at, err));
    UPG_TRY(apply(d, stream, K, n, d->narrow.at, false, d->k.at, err));
    UPG_TRY(apply(d, stream, V, n, d->narrow.at, false, d->v.at, err));
    UPG_TRY(cc_check(cu_launch_turn(d->q.at, n, l->n_heads, l->head_dim, half, l->window, l->cosine,
                                    l->sine, d->stream),
                     "turning heads", err));
    UPG_TRY(cc_check(cu_launch_turn(d->k.at, n, l->n_kv_heads, l->head_dim, half, l->window,
                                    l->cosine, l->sine, d->stream),
                     "turning heads", err));
    UPG_TRY(cc_check(cu_launch_window_attention(&a, d->stream), "attention", err));
out:
    return st;
}

/* narrow → gate */
static upg_status feed_forward(cc_device *d, uint32_t stream, uint32_t n, upg_error *err)
{
    upg_status st;

    UPG_TRY(apply(d, stream, GATE, n, d->narrow.at, false, d->gate.at, err));
    UPG_TRY(apply(d, stream, UP, n, d->narrow.at, false, d->up.at, err));
    UPG_TRY(cc_check(cu_launch_gate((uint64_t)n * d->layer.ffn, d->up.at, d->gate.at, d->stream),
                     "a gate", err));
out:
    return st;
}

static upg_status make_room(cc_device *d, uint32_t n, upg_error *err)
{
    size_t     row = n * sizeof(float);
    upg_status st;

    UPG_TRY(cc_room(&d->state, row * d->layer.hidden, "activations", err));
    UPG_TRY(cc_room(&d->narrow, row * d->layer.hidden, "activations", err));
    UPG_TRY(cc_room(&d->q, row * q_width(d), "activations", err));
    UPG_TRY(cc_room(&d->k, row * kv_width(d), "activations", err));
    UPG_TRY(cc_room(&d->v, row * kv_width(d), "activations", err));
    UPG_TRY(cc_room(&d->wide, row * q_width(d), "activations", err));
    UPG_TRY(cc_room(&d->gate, row * d->layer.ffn, "activations", err));
    UPG_TRY(cc_room(&d->up, row * d->layer.ffn, "activations", err));
out:
    return st;
}

/* The pass's x, rotated, to the moments. */
static upg_status use_input(cc_device *d, const float *x, uint32_t n, upg_device_use use,
                            upg_error *err)
{
    cc_buffer *to = use == UPG_DEVICE_MIXED ? &d->y : &d->x;
    upg_status st;

    if (use == UPG_DEVICE_DROP || x == NULL)
        return UPG_OK;
    UPG_TRY(cc_room(to, (size_t)n * d->width * sizeof *x, "inputs", err));
    UPG_TRY(cc_check(cu_launch_rotate(n, d->width, d->signs.at, d->block, x, to->at, d->stream),
                     "rotating inputs", err));
    if (use == UPG_DEVICE_SUM)
        UPG_TRY(cc_moments_add_device(d, d->x.at, d->with_mixed ? d->y.at : NULL, n, err));
out:
    return st;
}

/* Runs the parts; *x is the last input made, by the time it was made. */
static upg_status run_parts(cc_device *d, uint32_t stream, uint32_t pass, uint32_t n, float **x,
                            upg_error *err)
{
    upg_status st = UPG_OK;

    if (pass & UPG_DEVICE_ATTENTION_INPUT) {
        UPG_TRY(norm(d, 0, n, err));
        *x = d->narrow.at;
    }
    if (pass & UPG_DEVICE_ATTENTION) {
        UPG_TRY(attention(d, stream, n, err));
        *x = d->wide.at;
    }
    if (pass & UPG_DEVICE_ATTENTION_ADD)
        UPG_TRY(apply(d, stream, O, n, d->wide.at, true, d->state.at, err));
    if (pass & UPG_DEVICE_FFN_INPUT) {
        UPG_TRY(norm(d, 1, n, err));
        *x = d->narrow.at;
    }
    if (pass & UPG_DEVICE_FFN) {
        UPG_TRY(feed_forward(d, stream, n, err));
        *x = d->gate.at;
    }
    if (pass & UPG_DEVICE_FFN_ADD)
        UPG_TRY(apply(d, stream, DOWN, n, d->gate.at, true, d->state.at, err));
out:
    return st;
}

upg_status cc_layer_pass(upg_compress_device *device, uint32_t stream, uint32_t pass,
                         uint32_t n_windows, float *state, upg_device_use use, upg_error *err)
{
    cc_device *d = cc_of(device);
    uint32_t   n = n_windows * d->layer.window;
    size_t     bytes = (size_t)n * d->layer.hidden * sizeof *state;
    float     *x = NULL;
    upg_status st;

    UPG_TRY(cc_check(cudaSetDevice(d->device), "choosing the device", err));
    UPG_TRY(make_room(d, n, err));
    UPG_TRY(cc_up(d, d->state.at, state, bytes, err));
    UPG_TRY(run_parts(d, stream, pass, n, &x, err));
    UPG_TRY(use_input(d, x, n, use, err));
    if (pass & (UPG_DEVICE_ATTENTION_ADD | UPG_DEVICE_FFN_ADD))
        UPG_TRY(cc_down(d, state, d->state.at, bytes, err));
out:
    return st;
}
