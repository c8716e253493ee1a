/* layer_math.h: one transformer layer in fp32 over one window of tokens, forward and backward.
 *
 * For calibration: it shows the input of every matrix, and the gradient at every output. Matrix
 * products are single BLAS calls by one thread; windows are spread over threads by the caller, so
 * that no result depends on their number. */
#ifndef UPG_COMPRESS_LAYER_MATH_H
#define UPG_COMPRESS_LAYER_MATH_H

#include "base/arena.h"
#include "kernels/kernels.h"
#include "model/weights.h"

/** The matrices that a layer has, in file order. */
typedef enum upg_layer_matrix {
    UPG_LAYER_Q,
    UPG_LAYER_K,
    UPG_LAYER_V,
    UPG_LAYER_O,
    UPG_LAYER_GATE,
    UPG_LAYER_UP,
    UPG_LAYER_DOWN,
    UPG_LAYER_MATRICES
} upg_layer_matrix;

/** The distinct inputs of those matrices. */
typedef enum upg_layer_input {
    UPG_INPUT_ATTENTION, /* of q, k, v */
    UPG_INPUT_O,
    UPG_INPUT_FFN, /* of gate, up */
    UPG_INPUT_DOWN,
    UPG_LAYER_INPUTS
} upg_layer_input;

/** One layer's weights as f32 [rows][cols]. */
typedef struct upg_layer_f32 {
    const upg_model_config *config;
    const upg_kernels      *kernels;
    const float            *matrix[UPG_LAYER_MATRICES];
    const float            *attention_norm, *ffn_norm; /* f32 [hidden] */
} upg_layer_f32;

/** Buffers for one window; f32, row t is token t. */
typedef struct upg_layer_buffers {
    uint32_t n_tokens, hidden, q_width, kv_width, ffn;
    float   *input[UPG_LAYER_INPUTS];      /* [n_tokens][input width]: what the matrices read */
    float   *gradient[UPG_LAYER_MATRICES]; /* [n_tokens][rows], or NULL: at the matrices' outputs */
    float   *q, *k, *v;                    /* [n_tokens][q_width or kv_width], after RoPE */
    float   *middle;                       /* [n_tokens][hidden]: the residual after attention */
    float   *gate, *up;                    /* [n_tokens][ffn] */
    float   *scores, *score_gradient;      /* [n_tokens][n_tokens] */
    float   *cosine, *sine;                /* [n_tokens][rotary_dims / 2] */
    float   *wide, *narrow;                /* scratch: [n_tokens][ffn or q_width], [..][hidden] */
    /* NULL, or [hidden]: upg_layer_backward leaves the gradients at ln of the norms' weights there
     */
    float *attention_norm_gradient, *ffn_norm_gradient;
} upg_layer_buffers;

upg_matrix     *upg_layer_matrix_of(upg_layer_weights *layer, upg_layer_matrix which);
upg_layer_input upg_layer_input_of(upg_layer_matrix which);
uint32_t        upg_layer_input_width(const upg_model_config *config, upg_layer_input input);

/** Buffers in `arena` for windows of n_tokens; with_gradients: for upg_layer_backward too. */
upg_status upg_layer_buffers_create(const upg_model_config *config, uint32_t n_tokens,
                                    bool with_gradients, upg_arena *arena,
                                    upg_layer_buffers *buffers, upg_error *err);
/** Bytes of such buffers. */
uint64_t upg_layer_buffers_memory(const upg_model_config *config, uint32_t n_tokens,
                                  bool with_gradients);
/** The forward pass in its parts; state f32 [n_tokens][hidden] is the residual stream.
 *   attention_input  input[ATTENTION] = rmsnorm(state)
 *   attention        input[O] = attention over q, k, v of input[ATTENTION]
 *   attention_add    state += o · input[O]
 *   ffn_input        input[FFN] = rmsnorm(state)
 *   ffn              input[DOWN] = silu(gate · input[FFN]) · (up · input[FFN])
 *   ffn_add          state += down · input[DOWN] */
void upg_layer_attention_input(const upg_layer_f32 *layer, upg_layer_buffers *b,
                               const float *state);
void upg_layer_attention(const upg_layer_f32 *layer, upg_layer_buffers *b);
void upg_layer_attention_add(const upg_layer_f32 *layer, upg_layer_buffers *b, float *state);
void upg_layer_ffn_input(const upg_layer_f32 *layer, upg_layer_buffers *b, const float *state);
void upg_layer_ffn(const upg_layer_f32 *layer, upg_layer_buffers *b);
void upg_layer_ffn_add(const upg_layer_f32 *layer, upg_layer_buffers *b, float *state);
/** All of them: state is replaced by the layer's output. */
void upg_layer_forward(const upg_layer_f32 *layer, upg_layer_buffers *buffers, float *state);
/** After a forward pass over the same window: state_in is what the layer was given; gradient f32
 * [n_tokens][hidden] holds ∂/∂output and is replaced by ∂/∂input; buffers->gradient is filled. */
void upg_layer_backward(const upg_layer_f32 *layer, upg_layer_buffers *buffers,
                        const float *state_in, float *gradient);

/** out = rmsnorm(x)·weight. x, out f32 [n][width]. */
void upg_rmsnorm_forward(uint32_t n, uint32_t width, const float *x, const float *weight, float eps,
                         float *out);
/** dx += the gradient at x, given d = the gradient at out. */
void upg_rmsnorm_backward(uint32_t n, uint32_t width, const float *x, const float *weight,
                          float eps, const float *d, float *dx);
/** sums[i] = Σ over rows t of a[t][i]·b[t][i], all f32 [n][width]: with b the gradient at a, what
 * multiplying all of column i would change. */
void upg_column_products(uint32_t n, uint32_t width, const float *a, const float *b, float *sums);
/** y = x·wᵀ (+ y when add). x f32 [n][cols], w f32 [rows][cols], y f32 [n][rows]. */
void upg_product(uint32_t n, uint32_t rows, uint32_t cols, const float *x, const float *w, bool add,
                 float *y);
/** dx = d·w (+ dx when add): the gradient at x. */
void upg_product_backward(uint32_t n, uint32_t rows, uint32_t cols, const float *d, const float *w,
                          bool add, float *dx);

#endif
