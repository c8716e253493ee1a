/* calibrate.h: encoding a model layer by layer against what its matrices really read.
 *
 * Windows of calibration tokens run through two streams: `exact`, the model as it came, and
 * `coded`, the part coded so far. Before a group of matrices with one input is coded, the second
 * moments of that input are summed over the coded stream; targets are moved so that the coded layer
 * does on its own inputs what the exact layer does on the exact ones. */
#ifndef UPG_COMPRESS_CALIBRATE_H
#define UPG_COMPRESS_CALIBRATE_H

#include "compress/encode.h"
#include "compress/state_store.h"

/** Of second moments, relative to their mean diagonal. */
#define UPG_DEFAULT_DAMPING 1e-2
/** Windows whose inputs are summed by one call: part of the result, as sums are rounded. */
#define UPG_CALIBRATION_GROUP 8

typedef struct upg_calibration {
    const int32_t *tokens; /* i32 [n_windows][window], each < vocab */
    uint32_t       n_windows, window;
    bool           sequential; /* two streams and corrected targets; else the exact stream alone */
    double damping; /* of the second moments, relative to their mean diagonal; 0 = the default */
} upg_calibration;

/** Takes the results, matrix by matrix in the order in which they are coded. `encoded` is borrowed
 * for the call.
 *
 * has … restore may be NULL. They are for going on with what an earlier run left: a matrix that the
 * sink has is not coded but decoded again, and streams begin at the layer that restore gives. */
typedef struct upg_encoded_sink {
    upg_status (*put)(void *user, const upg_plan_unit *units, uint32_t n_units,
                      const upg_encoded_matrix *encoded, upg_error *err);
    void *user;
    bool (*has)(void *user, const upg_matrix *matrix);
    /* NULL, or: whether this process may code the matrices of one input, by the first of them; else
     * another does. With independent calibration alone */
    bool (*claim)(void *user, const upg_matrix *first);
    /* what put was given; *encoded becomes the caller's (error2 and energy2 too) */
    upg_status (*get)(void *user, const upg_plan_unit *units, uint32_t n_units,
                      upg_encoded_matrix *encoded, upg_error *err);
    /* streams [n_streams] stand at the input of `layer`: a good time to keep them */
    upg_status (*keep)(void *user, uint32_t layer, upg_state_store *const *streams,
                       uint32_t n_streams, upg_error *err);
    /* fills the streams as keep was given them last; *layer = 0: there are none */
    upg_status (*restore)(void *user, upg_state_store *const *streams, uint32_t n_streams,
                          uint32_t *layer, upg_error *err);
} upg_encoded_sink;

/** Encodes every matrix of the plan. Errors: E_DATA (NaN or infinity in weights or activations, by
 * name), E_NOMEM, E_CANCELLED, E_IO and E_NOSPACE (of the spilled streams), and what the sink
 * gives. */
upg_status upg_calibrated_encode(const upg_encode_context *context, const upg_weights *weights,
                                 const upg_plan *plan, const upg_calibration *calibration,
                                 const upg_encoded_sink *sink, upg_error *err);
/** Bytes that it takes at most, whatever the rates of the plan. */
uint64_t upg_calibrated_memory(const upg_weights *weights, const upg_plan *plan,
                               const upg_calibration *calibration, uint32_t threads, bool spill);

#endif
