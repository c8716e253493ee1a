/* decode_avx2.c: values of 32 columns at once: code words spread into lane masks.
 *
 * V = −Σ p_i + Σ b_i·2·p_i. A half word in every lane, each lane keeping its own bit, compares
 * equal to that bit where b_i is one. */
#include <immintrin.h>

#include "kernels/x86/codec_x86.h"

static void decode_rows(const upg_code *code, uint32_t row0, uint32_t n_rows, const uint32_t *words,
                        uint32_t first, int16_t *v, size_t stride)
{
    const __m256i bit = _mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096,
                                          8192, 16384, INT16_MIN);
    __m256i       twice[UPG_CODE_MAX_LENGTH], start = _mm256_setzero_si256();

    for (int i = 0; i < code->length; i++) {
        twice[i] = _mm256_set1_epi16((int16_t)(2 * code->taps[i]));
        start = _mm256_sub_epi16(start, _mm256_set1_epi16(code->taps[i]));
    }
    for (uint32_t r = 0; r < n_rows; r++) {
        const uint32_t *newest = words + (upg_code_newest(code, row0 + r) - first);
        __m256i         low = start, high = start;

        for (int i = 0; i < code->length; i++) {
            __m256i a = _mm256_set1_epi16((int16_t)(newest[-i] & 0xFFFFu));
            __m256i b = _mm256_set1_epi16((int16_t)(newest[-i] >> 16));

            a = _mm256_cmpeq_epi16(_mm256_and_si256(a, bit), bit);
            b = _mm256_cmpeq_epi16(_mm256_and_si256(b, bit), bit);
            low = _mm256_add_epi16(low, _mm256_and_si256(a, twice[i]));
            high = _mm256_add_epi16(high, _mm256_and_si256(b, twice[i]));
        }
        _mm256_storeu_si256((__m256i *)(v + r * stride), low);
        _mm256_storeu_si256((__m256i *)(v + r * stride + 16), high);
    }
}

void upg_decode_group_avx2(const upg_band *band, uint32_t n_cols, uint32_t group, uint32_t row0,
                           uint32_t n_rows, int16_t *v, size_t stride)
{
    const upg_code *code = &band->code;
    uint32_t        words[UPG_DECODE_WORDS];

    while (n_rows > 0) {
        uint32_t n = n_rows < UPG_DECODE_ROWS ? n_rows : UPG_DECODE_ROWS;
        uint32_t first = (uint32_t)upg_code_newest(code, row0) - (code->length - 1u);
        uint32_t last = (uint32_t)upg_code_newest(code, row0 + n - 1);

        upg_gather_words(band, n_cols, group, first, last - first + 1, words);
        decode_rows(code, row0, n, words, first, v, stride);
        row0 += n;
        n_rows -= n;
        v += n * stride;
    }
}
