/* cuda_compress.h: what the host files of the compressor on CUDA share.
 *
 * Buffers grow when they must and stay until the device is closed. All work is in one stream. */
#ifndef UPG_BACKEND_CUDA_CUDA_COMPRESS_H
#define UPG_BACKEND_CUDA_CUDA_COMPRESS_H

#include <cuda_runtime_api.h>

#include "backend/compress_device.h"
#include "backend/cuda/cuda_blas.h"
#include "backend/cuda/cuda_encode.h"

enum { CC_LAYER_MATRICES = 7, CC_MAX_CODES = 32 };

typedef struct cc_buffer {
    void  *at;
    size_t bytes;
} cc_buffer;

/* A code's tables on the device, for units of n_rows. */
typedef struct cc_code {
    upg_code    code;
    uint32_t    n_rows;
    cu_trellis  trellis; /* as the device has it */
    cu_trellis *on_device;
    void       *tables; /* one allocation */
} cc_code;

typedef struct cc_device {
    upg_compress_device base;
    int                 device, n_sms;
    cudaStream_t        stream;
    cuda_blas           blas;
    char                description[160];
    cc_code             codes[CC_MAX_CODES];
    uint32_t            n_codes;

    /* cuda_encode_host.c */
    cc_buffer units, choices, scaled, small, weights, targets, originals, decoded, errors, windows;
    cc_buffer bits, lower;

    /* cuda_moments.c */
    uint32_t  width, block;
    uint64_t  n_summed;
    bool      with_mixed, factored;
    cc_buffer sum, mixed, square, diagonal, sums, signs, info, x, y, correct, moved;

    /* cuda_layer.c */
    upg_device_layer layer;
    cc_buffer matrix[2][CC_LAYER_MATRICES], norms, angles, state, q, k, v, wide, gate, up, narrow;
} cc_device;

static inline cc_device *cc_of(upg_compress_device *device)
{
    return (cc_device *)(void *)device;
}

/** OK, E_NOMEM for memory, else E_DEVICE_LOST. */
upg_status cc_check(int cuda_error, const char *what, upg_error *err);
/** Room for `bytes`; what was there is lost when the buffer grows. */
upg_status cc_room(cc_buffer *buffer, size_t bytes, const char *what, upg_error *err);
void       cc_release(cc_buffer *buffer);
upg_status cc_up(cc_device *d, void *to, const void *from, size_t bytes, upg_error *err);
/** Waits for the stream. */
upg_status cc_down(cc_device *d, void *to, const void *from, size_t bytes, upg_error *err);
upg_status cc_clear(cc_device *d, void *to, size_t bytes, upg_error *err);

/* ---- cuda_codes.c ---- */

/** The tables of each unit's code and rows. Errors: E_UNSUPPORTED (more than CC_MAX_CODES). */
upg_status cc_find_codes(cc_device *d, const upg_code *const *codes, const uint32_t *n_rows,
                         uint32_t n, cc_code **found, upg_error *err);
void       cc_free_codes(cc_device *d);

/* ---- cuda_encode_host.c ---- */

upg_status cc_columns(upg_compress_device *device, const upg_device_columns *units,
                      uint32_t n_units, upg_error *err);
upg_status cc_feedback(upg_compress_device *device, uint32_t n_cols, const float *lower,
                       const upg_device_unit *units, uint32_t n_units, upg_meter *meter,
                       upg_error *err);

/* ---- cuda_moments.c ---- */

upg_status cc_moments_begin(upg_compress_device *device, uint32_t width, bool with_mixed,
                            const float *signs, uint32_t block, upg_error *err);
upg_status cc_moments_add(upg_compress_device *device, const float *x, const float *y, uint32_t n,
                          upg_error *err);
/** Of vectors that are on the device: x alone, or y for the x that comes next. */
upg_status cc_moments_add_device(cc_device *d, const float *x, const float *y, uint32_t n,
                                 upg_error *err);
upg_status cc_moments_factor(upg_compress_device *device, double damping, double *used,
                             double *spread, upg_error *err);
upg_status cc_moments_correct(upg_compress_device *device, uint32_t n_rows, float *weights,
                              upg_error *err);
upg_status cc_moments_read(upg_compress_device *device, float *lower, float *diagonal,
                           upg_error *err);

/* ---- cuda_layer.c ---- */

upg_status cc_layer_begin(upg_compress_device *device, const upg_device_layer *shape,
                          upg_error *err);
upg_status cc_layer_matrix(upg_compress_device *device, uint32_t stream, uint32_t which,
                           const float *weights, upg_error *err);
upg_status cc_layer_norms(upg_compress_device *device, const float *attention, const float *ffn,
                          upg_error *err);
upg_status cc_layer_pass(upg_compress_device *device, uint32_t stream, uint32_t pass,
                         uint32_t n_windows, float *state, upg_device_use use, upg_error *err);

#endif
