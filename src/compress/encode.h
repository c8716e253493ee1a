/* encode.h: one matrix into code bits and row scales, round to nearest through the trellis.
 *
 * Per column of the rotated matrix: targets W'[r][j] / s_r with s_r the row's root mean square go
 * through the Viterbi encoder; afterwards each scale becomes the least-squares fit of its row, in
 * fp16. Work is cut by columns and rows so that no result depends on the number of threads. */
#ifndef UPG_COMPRESS_ENCODE_H
#define UPG_COMPRESS_ENCODE_H

#include "backend/compress_device.h"
#include "base/pool.h"
#include "base/progress.h"
#include "compress/plan.h"
#include "kernels/kernels.h"

typedef struct upg_encoded_matrix {
    uint32_t *bits; /* the bands' code one after the other; 64-byte aligned */
    uint64_t  n_words;
    uint16_t *scales;          /* fp16 [n_rows] */
    double    error2, energy2; /* |W − Ŵ|² with the stored scales and outliers; |W|² */
} upg_encoded_matrix;

typedef struct upg_encode_context {
    upg_pool          *pool;
    const upg_kernels *kernels;
    uint32_t           cpu_flags;
    uint64_t           seed;  /* of the rotation */
    upg_meter         *meter; /* counts weights */
    const char
        *spill_beside; /* NULL: states of windows in memory; else in files beside this path */
    upg_compress_device *device; /* NULL: the host does it all */
} upg_encode_context;

/** Bytes that encoding this matrix takes at most, source, code and scratch together, when the units
 * have their least rates or more. */
uint64_t upg_encode_memory(const upg_plan_unit *units, uint32_t n_units, uint32_t threads);
/** Bytes of an encoded matrix at the most that any rate makes them. */
uint64_t upg_encoded_memory(const upg_plan_unit *units, uint32_t n_units);
/** Encodes the matrix that `units` (all of its units, rows ascending) cover, less its outliers.
 * row_weights: NULL, or f32 [n_rows] > 0, how much each row's squared error counts. Errors: E_DATA
 * (NaN or infinite weights, rows too large for fp16 scales; by name), E_NOMEM, E_CANCELLED. The
 * caller calls upg_encoded_deinit, after a failure too. */
upg_status upg_encode_matrix(const upg_encode_context *context, const upg_plan_unit *units,
                             uint32_t n_units, const float *row_weights,
                             upg_encoded_matrix *encoded, upg_error *err);
/** The encoded matrix for decoding; bands [n_units] is the caller's, everything is borrowed. */
upg_coded_matrix upg_encoded_view(const upg_encode_context *context, const upg_plan_unit *units,
                                  uint32_t n_units, const upg_encoded_matrix *encoded,
                                  upg_band *bands);
void             upg_encoded_deinit(upg_encoded_matrix *encoded);

#endif
