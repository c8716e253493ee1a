/* calibrate_impl.h: what calibrate.c shares with calibrate_passes.c and calibrate_code.c.
 *
 * The order of work in one layer:
 *
 *   input      pass over the windows                            then coded
 *   ATTENTION  x = norm(state)                                  q, k, v
 *   O          x = attention with the coded q, k, v             o
 *   FFN        state += o·attention, x = norm(state)            gate, up
 *   DOWN       x = swiglu with the coded gate and up            down
 *   FINISH     state += down·swiglu
 *
 * The exact stream need not wait for coded matrices and updates its state at once. The coded one
 * computes attention and swiglu a second time when o and down are there: keeping them for all
 * windows would take gigabytes. */
#ifndef UPG_COMPRESS_CALIBRATE_IMPL_H
#define UPG_COMPRESS_CALIBRATE_IMPL_H

#include "compress/calibrate.h"
#include "compress/layer_math.h"
#include "compress/moments.h"
#include "compress/state_store.h"

enum {
    UPG_GROUP_WINDOWS = UPG_CALIBRATION_GROUP,
    UPG_MAX_CORRECTED_WIDTH = 8192, /* above, the mixed moments would take too much memory */
    UPG_CALIBRATE_ROWS = 64         /* of a work item */
};

typedef enum upg_pass {
    UPG_PASS_ATTENTION,
    UPG_PASS_O,
    UPG_PASS_FFN,
    UPG_PASS_DOWN,
    UPG_PASS_FINISH,
    UPG_PASS_HEAD
} upg_pass;

/* One stream of activations through one version of the weights. */
typedef struct upg_stream {
    upg_state_store states; /* slots: windows, f32 [window][hidden] */
    upg_layer_f32   layer;  /* matrices in f32, own memory */
    float          *memory[UPG_LAYER_MATRICES];
    float          *inputs; /* f32 [UPG_GROUP_WINDOWS][window][widest], rotated */
} upg_stream;

typedef struct upg_calibrator {
    const upg_encode_context *context;
    const upg_weights        *weights;
    const upg_plan           *plan;
    const upg_calibration    *calibration;
    const upg_encoded_sink   *sink;
    uint32_t                  n_threads, n_streams, widest;
    upg_stream                streams[2]; /* exact, coded */
    upg_layer_buffers        *buffers;    /* [n_threads] */
    upg_arena                 arena;
    float                    *signs; /* f32 [widest] of the rotation at hand */
    int                       blas;
    /* the pass at hand */
    upg_pass     pass;
    uint32_t     first_window, width;
    bool         moving; /* nothing is summed: only streams whose state moves need run */
    upg_rotation rotation;
} upg_calibrator;

/* Rotates one vector of the width at hand. */
void upg_calibrate_rotate(const upg_calibrator *c, const float *from, float *to);
/* Runs the pass over all windows; moments NULL: only to move states. */
upg_status upg_calibrate_windows(upg_calibrator *c, upg_pass which, uint32_t width,
                                 upg_moments *moments, upg_error *err);
/* Sums the inputs of a pass and codes the n ≤ 3 matrices that read them; afterwards weights[i], f32
 * [n_rows][n_cols], holds the decoded matrix in the original basis. */
upg_status upg_calibrate_input(upg_calibrator *c, upg_pass which, uint32_t width,
                               const upg_matrix *const *matrices, float *const *weights, uint32_t n,
                               upg_error *err);
/* The sink has all of them: decodes into weights[i] as upg_calibrate_input left them. */
upg_status upg_calibrate_replay(upg_calibrator *c, const upg_matrix *const *matrices,
                                float *const *weights, uint32_t n, upg_error *err);
bool upg_calibrate_has(const upg_calibrator *c, const upg_matrix *const *matrices, uint32_t n);
/* calibrate_device.c: the same on the context's device. */

/* Shape, and for each layer its matrices and norms; after coding those of the coded stream. */
upg_status upg_calibrate_device_begin(upg_calibrator *c, upg_error *err);
upg_status upg_calibrate_device_layer(upg_calibrator *c, const upg_layer_weights *layer,
                                      upg_error *err);
upg_status upg_calibrate_device_coded(upg_calibrator *c, uint32_t first, uint32_t n,
                                      upg_error *err);
upg_status upg_calibrate_device_windows(upg_calibrator *c, bool mixed, upg_error *err);
/* Whether the pass changes a stream's state. */
bool upg_calibrate_moves(const upg_calibrator *c, const upg_stream *s);
/* The plan's units of a matrix. */
const upg_plan_unit *upg_calibrate_units(const upg_calibrator *c, const upg_matrix *matrix,
                                         uint32_t *n);

#endif
