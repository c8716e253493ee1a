/* code_words.h: code words of consecutive binary rows in one run, across the blocks they lie in. */
#ifndef UPG_KERNELS_CODE_WORDS_H
#define UPG_KERNELS_CODE_WORDS_H

#include <stdint.h>

#include "codec/coded_matrix.h"

/* Rows that decode_group handles at once, and the words of one group that they need at most. */
enum { UPG_DECODE_ROWS = 64, UPG_DECODE_WORDS = UPG_DECODE_ROWS * 5 + UPG_CODE_MAX_LENGTH };

/** Collects the words of one group for binary rows first … first + n − 1 into one run. */
void upg_gather_words(const upg_band *band, uint32_t n_cols, uint32_t group, uint32_t first,
                      uint32_t n, uint32_t *words);

#endif
