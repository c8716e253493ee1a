/* decode_avx512.c: values of 32 columns at once: the code words are the lane masks.
 *
 * V = −Σ p_i + Σ b_i·2·p_i, and b_i of 32 columns is one word: one masked addition for each tap. */
#include <immintrin.h>

#include "kernels/x86/codec_x86.h"

static inline __attribute__((always_inline)) void
decode_rows(const int length, const upg_code *code, uint32_t row0, uint32_t n_rows,
            const uint32_t *words, uint32_t first, int16_t *v, size_t stride)
{
    __m512i twice[UPG_CODE_MAX_LENGTH], start = _mm512_setzero_si512();

    for (int i = 0; i < length; i++) {
        twice[i] = _mm512_set1_epi16((int16_t)(2 * code->taps[i]));
        start = _mm512_sub_epi16(start, _mm512_set1_epi16(code->taps[i]));
    }
    for (uint32_t r = 0; r < n_rows; r++) {
        const uint32_t *newest = words + (upg_code_newest(code, row0 + r) - first);
        __m512i         sum = start;

        for (int i = 0; i < length; i++)
            sum = _mm512_mask_add_epi16(sum, newest[-i], sum, twice[i]);
        _mm512_storeu_si512(v + r * stride, sum);
    }
}

void upg_decode_group_avx512(const upg_band *band, uint32_t n_cols, uint32_t group, uint32_t row0,
                             uint32_t n_rows, int16_t *v, size_t stride)
{
    const upg_code *code = &band->code;
    uint32_t        words[UPG_DECODE_WORDS];

    while (n_rows > 0) {
        uint32_t n = n_rows < UPG_DECODE_ROWS ? n_rows : UPG_DECODE_ROWS;
        uint32_t first = (uint32_t)upg_code_newest(code, row0) - (code->length - 1u);
        uint32_t last = (uint32_t)upg_code_newest(code, row0 + n - 1);

        upg_gather_words(band, n_cols, group, first, last - first + 1, words);
        if (code->length == UPG_CODE_DEFAULT_LENGTH)
            decode_rows(UPG_CODE_DEFAULT_LENGTH, code, row0, n, words, first, v, stride);
        else
            decode_rows(code->length, code, row0, n, words, first, v, stride);
        row0 += n;
        n_rows -= n;
        v += n * stride;
    }
}
