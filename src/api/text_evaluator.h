/* text_evaluator.h: what compressing a checkpoint cost: the finished file and the checkpoint run on
 * the same text, by the device that this machine runs models on. */
#ifndef UPG_API_TEXT_EVALUATOR_H
#define UPG_API_TEXT_EVALUATOR_H

#include "compress/calibration_text.h"
#include "compress/job.h"

typedef struct upg_text_evaluator {
    upg_evaluator       evaluator; /* for a job's settings; user is this struct */
    upg_token_windows   windows;
    char               *checkpoint;
    char                text_hash[33];
    uint32_t            threads;
    const upg_listener *listener;
} upg_text_evaluator;

/** Tokenizes the text, so that one that cannot be used is refused before the work begins: up to
 * max_windows windows of 512 tokens (0 = 64), evenly spread over it. `listener` outlives the
 * evaluator, which must not move. Errors: as upg_token_windows_make, upg_weights_open; then nothing
 * is allocated. */
upg_status upg_text_evaluator_init(upg_text_evaluator *evaluator, const char *checkpoint,
                                   upg_span text, const char *text_name, uint32_t max_windows,
                                   uint32_t threads, const upg_listener *listener, upg_error *err);
/** A zeroed one is fine. */
void upg_text_evaluator_deinit(upg_text_evaluator *evaluator);

#endif
