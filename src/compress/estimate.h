/* estimate.h: how long a compression will take here: work counted from its plan, divided by rates
 * that are measured for a few seconds.
 *
 * What is counted, for T tokens of text, a matrix of R rows and w columns (docs/QUALITY.md,
 * "Time"):
 *
 *   code       R·w weights through the trellis; the embedding, whose rows are weighted, by the slow
 *              search; units of one input run side by side, each by one thread
 *   attention  T·window·heads·(4·head_dim + 100) for every pass of a stream through a layer
 *   products   2·R·w·T for every pass of a stream through a matrix, w²·T to 3·w²·T for the sums of
 *              an input, w³/3 to factor them, 4·R·w² to move targets, R·w² to feed errors back
 *   tuning     2·R·w·T a pass, of the exact model one, of the coded one three for each use of a
 *              window; the head too, once for each model and once back
 *   search     R·w weights looked through for outliers
 *
 * Reading the checkpoint and writing the file are not counted: they overlap or are small unless the
 * disk is slow. */
#ifndef UPG_COMPRESS_ESTIMATE_H
#define UPG_COMPRESS_ESTIMATE_H

#include "base/pool.h"
#include "compress/plan.h"

typedef struct upg_workload {
    const upg_weights *weights;
    const upg_plan    *plan;
    uint32_t           n_windows, window; /* of the calibration text; 0 = none, round to nearest */
    uint32_t           plan_windows;      /* of them, for the sensitivities */
    uint32_t           tune_windows, tune_epochs; /* of them, for tuning; 0 = none */
    bool               sequential, outliers;
    uint64_t           seed;
} upg_workload;

typedef struct upg_time_estimate {
    double plan_seconds, text_seconds, code_seconds; /* sensitivities and outliers; streams, sums
                                                      * and tuning; trellis and feedback */
    double code_rate;    /* measured: weights a second by all threads, plan's mean rate */
    double product_rate; /* measured: floating-point operations a second by all threads; 0 when
                          * there is no text */
    double measured_seconds;
} upg_time_estimate;

/** Measures and computes. Errors: E_NOMEM. */
upg_status upg_time_estimate_make(const upg_workload *work, upg_pool *pool,
                                  upg_time_estimate *estimate, upg_error *err);

#endif
