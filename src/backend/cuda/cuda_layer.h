/* cuda_layer.h: kernels of a layer's forward pass over windows of tokens, fp32, row t is token t.
 */
#ifndef UPG_BACKEND_CUDA_CUDA_LAYER_H
#define UPG_BACKEND_CUDA_CUDA_LAYER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* One attention: rows of q and out have q_stride floats, of k and v kv_stride. */
typedef struct cu_attention {
    const float *q, *k, *v;
    float       *out;
    uint32_t     q_stride, kv_stride, n_heads, n_kv_heads, head_dim;
    uint32_t     window, n_windows;
    uint32_t     sliding; /* keys that a query sees at most; 0 = all before it */
} cu_attention;

int cu_launch_rmsnorm(uint32_t n, uint32_t width, const float *x, const float *weight, float eps,
                      float *out, void *stream);
/** Turns all heads in place; cosine, sine f32 [window][half]. */
int cu_launch_turn(float *x, uint32_t n, uint32_t n_heads, uint32_t head_dim, uint32_t half,
                   uint32_t window, const float *cosine, const float *sine, void *stream);
/** Shared memory that it takes: (window + head_dim)·128 bytes. */
int cu_launch_window_attention(const cu_attention *a, void *stream);
/** gate = silu(gate)·up */
int cu_launch_gate(uint64_t n, const float *up, float *gate, void *stream);
/** Signs, then the Hadamard transform of each block of `block` ≤ 1024 inputs. */
int cu_launch_rotate(uint32_t n, uint32_t width, const float *signs, uint32_t block,
                     const float *from, float *to, void *stream);

#ifdef __cplusplus
}
#endif
#endif
