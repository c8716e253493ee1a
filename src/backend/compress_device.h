/* compress_device.h: the dear parts of compressing on another device.
 *
 * The compress layer does everything itself where it has no device (encode.c, feedback.c,
 * moments.c, layer_math.c: the twins of what stands here). With one, the host keeps order, files
 * and memory, and hands over whole matrices:
 *
 *   columns   rows of one code, each column to its nearest path: the host's bits
 *   moments   sums of x xᵀ, their factor, targets moved (moments.h): in another order of additions
 *   feedback  matrices of one input, column by column (feedback.h); the same bits for the same
 *             targets, but the feedback's sums are in another order where n_cols > 128
 *   layer     the forward passes of a layer over windows of tokens (layer_math.h)
 *
 * One thread at a time. All pointers are the host's. Errors of each: E_NOMEM, E_DEVICE_LOST. */
#ifndef UPG_BACKEND_COMPRESS_DEVICE_H
#define UPG_BACKEND_COMPRESS_DEVICE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/progress.h"
#include "codec/code.h"

typedef struct upg_compress_device upg_compress_device; /* begins with its class */

/** Columns of one unit. */
typedef struct upg_device_columns {
    const upg_code *code;
    uint32_t        n_rows, n_columns;
    const float    *targets; /* f32 [n_columns][stride ≥ n_rows], in units of the row scales */
    uint64_t        stride;
    const float    *row_weights; /* NULL, or f32 [n_rows] > 0 */
    uint16_t       *windows;     /* u16 [n_columns][n_rows], out */
} upg_device_columns;

/** A unit to be coded with error feedback. */
typedef struct upg_device_unit {
    const upg_code *code;
    uint32_t        n_rows;
    float          *weights; /* f32 [n_rows][n_cols]: targets in, decoded Ŵ out */
    const uint16_t *scales;  /* fp16 [n_rows] */
    uint32_t       *bits;    /* out, as coded_matrix.h has them */
} upg_device_unit;

/** The shape of a layer whose passes run on the device. */
typedef struct upg_device_layer {
    uint32_t     hidden, ffn, n_heads, n_kv_heads, head_dim, rotary_dims, sliding_window;
    float        norm_eps;
    uint32_t     window;        /* tokens of a window */
    const float *cosine, *sine; /* f32 [window][rotary_dims / 2] */
} upg_device_layer;

/** A pass over windows: what is computed of the layer (calibrate_impl.h). */
typedef enum upg_device_pass {
    UPG_DEVICE_ATTENTION_INPUT = 1, /* x = norm(state) */
    UPG_DEVICE_ATTENTION = 2,       /* x = attention */
    UPG_DEVICE_ATTENTION_ADD = 4,   /* state += o · x */
    UPG_DEVICE_FFN_INPUT = 8,       /* x = norm(state) */
    UPG_DEVICE_FFN = 16,            /* x = silu(gate) · up */
    UPG_DEVICE_FFN_ADD = 32         /* state += down · x */
} upg_device_pass;

/** What becomes of a pass's last x. */
typedef enum upg_device_use {
    UPG_DEVICE_DROP,
    UPG_DEVICE_SUM,  /* the moments' x */
    UPG_DEVICE_MIXED /* the moments' y: the next pass with SUM is over the same windows */
} upg_device_use;

typedef struct upg_compress_class {
    size_t struct_size;
    /** device: as upg_backend_find takes it. */
    upg_status (*open)(const char *device, upg_compress_device **opened, upg_error *err);
    void (*close)(upg_compress_device *device);
    /** The device's name; the same name gives the same bits. */
    const char *(*describe)(const upg_compress_device *device);

    upg_status (*columns)(upg_compress_device *device, const upg_device_columns *units,
                          uint32_t n_units, upg_error *err);

    /** Begins sums for inputs of this width. signs: f32 [width] of the rotation, block: its
     * Hadamard's; x and y of passes are rotated by it, those of moments_add are already. */
    upg_status (*moments_begin)(upg_compress_device *device, uint32_t width, bool with_mixed,
                                const float *signs, uint32_t block, upg_error *err);
    /** x f32 [n][width]; y NULL, or f32 [n][width] when there are mixed sums. */
    upg_status (*moments_add)(upg_compress_device *device, const float *x, const float *y,
                              uint32_t n, upg_error *err);
    /** As upg_moments_factor, of what was summed; L and D stay on the device. spread: mean over
     * columns of Σ L_ij² below the diagonal. E_DATA as there. */
    upg_status (*moments_factor)(upg_compress_device *device, double damping, double *used,
                                 double *spread, upg_error *err);
    /** As upg_moments_correct, by the factor on the device. */
    upg_status (*moments_correct)(upg_compress_device *device, uint32_t n_rows, float *weights,
                                  upg_error *err);
    /** L, f32 [width][width], and D, f32 [width], of the factor; NULL: not wanted. */
    upg_status (*moments_read)(upg_compress_device *device, float *lower, float *diagonal,
                               upg_error *err);
    /** lower: f32 [n_cols][n_cols], or NULL: the factor on the device. meter: n_rows · n_cols are
     * added as they are done; it may cancel (E_CANCELLED). */
    upg_status (*feedback)(upg_compress_device *device, uint32_t n_cols, const float *lower,
                           const upg_device_unit *units, uint32_t n_units, upg_meter *meter,
                           upg_error *err);

    /** Memory for a layer of this shape, two streams. */
    upg_status (*layer_begin)(upg_compress_device *device, const upg_device_layer *shape,
                              upg_error *err);
    /** A matrix of a stream, by its number in upg_layer_matrix; f32 [rows][cols]. */
    upg_status (*layer_matrix)(upg_compress_device *device, uint32_t stream, uint32_t which,
                               const float *weights, upg_error *err);
    /** The two norms, f32 [hidden]. */
    upg_status (*layer_norms)(upg_compress_device *device, const float *attention, const float *ffn,
                              upg_error *err);
    /** Runs the parts of `pass` in order over n_windows; state f32 [n_windows · window][hidden] is
     * read, and written where a part adds to it. */
    upg_status (*layer_pass)(upg_compress_device *device, uint32_t stream, uint32_t pass,
                             uint32_t n_windows, float *state, upg_device_use use, upg_error *err);
} upg_compress_class;

struct upg_compress_device {
    const upg_compress_class *class_;
};

/** Opens the device: "cuda", "cuda:N", or "auto": NULL without an error where there is none.
 * "cpu" and NULL give NULL too. Errors: E_DEVICE. */
upg_status upg_compress_device_open(const char *name, upg_compress_device **device, upg_error *err);
void       upg_compress_device_close(upg_compress_device *device);

/** Symbol "upg_cuda_module_compress" of the module. */
typedef const upg_compress_class *(*upg_compress_class_function)(void);

#endif
