/* calibration_text.h: text as windows of tokens. */
#ifndef UPG_COMPRESS_CALIBRATION_TEXT_H
#define UPG_COMPRESS_CALIBRATION_TEXT_H

#include "base/error.h"
#include "base/span.h"
#include "model/weights.h"

enum { UPG_CALIBRATION_WINDOW = 512, UPG_CALIBRATION_WINDOWS = 160 };

typedef struct upg_token_windows {
    int32_t *tokens; /* i32 [n_windows][window] */
    uint32_t n_windows, window;
    uint64_t n_tokens; /* of the whole text */
} upg_token_windows;

/** Tokenizes text with the model's tokenizer and takes up to max_windows whole windows, evenly
 * spread over it. Windows are no longer than the model's context. Errors: E_DATA (not UTF-8: at
 * which byte; fewer tokens than one window: how many are needed), E_UNSUPPORTED (no tokenizer),
 * E_NOMEM. The caller calls upg_token_windows_deinit, after a failure too. */
upg_status upg_token_windows_make(const upg_weights *weights, upg_span text, uint32_t window,
                                  uint32_t max_windows, upg_token_windows *windows, upg_error *err);
void       upg_token_windows_deinit(upg_token_windows *windows);
/** XXH3-128 of the text as 32 hexadecimal digits: names it in reports. */
void upg_text_hash(upg_span text, char hash[33]);

#endif
