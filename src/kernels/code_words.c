/* code_words.c: see code_words.h. */
#include "kernels/code_words.h"

#include <string.h>

void upg_gather_words(const upg_band *band, uint32_t n_cols, uint32_t group, uint32_t first,
                      uint32_t n, uint32_t *words)
{
    while (n > 0) {
        uint32_t left = UPG_BLOCK_ROWS - first % UPG_BLOCK_ROWS; /* of this block */
        uint32_t take = n < left ? n : left;

        memcpy(words, band->bits + upg_word_index(band->n_binary, n_cols, first, group),
               take * sizeof *words);
        words += take;
        first += take;
        n -= take;
    }
}
