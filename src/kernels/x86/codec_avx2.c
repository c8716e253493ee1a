/* codec_avx2.c: the coded matrices' part of the table, and words of one group in one run. */
#include <string.h>

#include "kernels/tables.h"
#include "kernels/x86/codec_x86.h"

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

void upg_kernels_codec_avx2(upg_kernels *k)
{
    k->bitdot_prepare = upg_bitdot_prepare_avx2;
    k->bitdot = upg_bitdot_avx2;
    k->decode_group = upg_decode_group_avx2;
    k->gemm_i16 = upg_gemm_i16_avx2;
    k->hadamard = upg_hadamard_avx2;
}
