/* tune.h: what costs no bytes, tuned end to end once everything is coded.
 *
 * Row scales (not those of an embedding that is not the head too) and norms are real numbers that
 * the file stores anyway. With the code fixed they are moved, by their logarithms, so that KL(exact
 * ‖ coded) falls on calibration text: a forward and a backward pass over a few windows a step,
 * gradients of these factors alone, steps by Adam. Windows that were held back say at the end
 * whether it helped; where it did not, nothing is changed. */
#ifndef UPG_COMPRESS_TUNE_H
#define UPG_COMPRESS_TUNE_H

#include "compress/encode.h"

enum {
    UPG_TUNE_BATCH = 4, /* windows of a step */
    UPG_TUNE_HELD = 8,  /* windows held back at most; of few windows one in four */
    UPG_TUNE_LEAST = 8  /* fewer windows than these tune nothing */
};

typedef struct upg_tune_input {
    const upg_encode_context *context; /* its meter counts tokens: upg_tune_work */
    const upg_weights        *exact;   /* the model as it came */
    const upg_weights        *coded;   /* the same, every matrix coded */
    const int32_t            *tokens;  /* i32 [n_windows][window] */
    uint32_t                  n_windows, window;
    uint32_t                  epochs;       /* how often each window is used */
    bool                      keep_decoded; /* all matrices as f32 in memory; else decoded anew */
} upg_tune_input;

typedef struct upg_tuning {
    float   **rows;  /* [matrix count]: f32 [n_rows], factors of the row scales */
    float   **norms; /* [2 · n_layers + 1], in file order: f32 [hidden], factors of the weights */
    double    kl_before, kl_after; /* over the windows held back */
    bool      helped;              /* false: all factors are 1 */
    upg_arena arena;
} upg_tuning;

/** Finds the factors. The caller calls upg_tuning_deinit, after a failure too. Errors: E_NOMEM,
 * E_DATA (activations or gradients are not finite), E_CANCELLED; of a spill file E_IO, E_NOSPACE.
 */
upg_status upg_tune(const upg_tune_input *input, upg_tuning *tuning, upg_error *err);
void       upg_tuning_deinit(upg_tuning *tuning);
/** Bytes that it takes at most. */
uint64_t upg_tune_memory(const upg_weights *exact, uint32_t n_windows, uint32_t window,
                         uint32_t threads, bool keep_decoded, bool spill);
/** Passes of a token through a layer, all together: what the meter counts. */
uint64_t upg_tune_work(const upg_weights *exact, uint32_t n_windows, uint32_t window,
                       uint32_t epochs);
/** States of windows that it keeps, in memory or in files. */
uint64_t upg_tune_slots(const upg_weights *exact, uint32_t n_windows);
/** Windows of n that are held back. */
uint32_t upg_tune_held(uint32_t n_windows);

#endif
