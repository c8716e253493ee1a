/* decode_neon.c: values of 32 columns at once: code words spread into lane masks.
 *
 * V = −Σ p_i + Σ b_i·2·p_i. A half word in every lane, tested against each lane's own bit, gives −1
 * where b_i is one; subtracting its product with 2·p_i is one instruction. */
#include <arm_neon.h>

#include "kernels/arm/codec_arm.h"
#include "kernels/code_words.h"

static void decode_rows(const upg_code *code, uint32_t row0, uint32_t n_rows, const uint32_t *words,
                        uint32_t first, int16_t *v, size_t stride)
{
    static const uint16_t bits[16] = { 1u << 0,  1u << 1,  1u << 2,  1u << 3, 1u << 4,  1u << 5,
                                       1u << 6,  1u << 7,  1u << 8,  1u << 9, 1u << 10, 1u << 11,
                                       1u << 12, 1u << 13, 1u << 14, 1u << 15 };
    const uint16x8_t      bit[2] = { vld1q_u16(bits), vld1q_u16(bits + 8) };
    uint16_t              start = 0;

    for (int i = 0; i < code->length; i++)
        start = (uint16_t)(start - code->taps[i]);
    for (uint32_t r = 0; r < n_rows; r++) {
        const uint32_t *newest = words + (upg_code_newest(code, row0 + r) - first);
        uint16x8_t      sum[4]; /* unsigned: wraps around */

        for (int c = 0; c < 4; c++)
            sum[c] = vdupq_n_u16(start);
        for (int i = 0; i < code->length; i++) {
            uint16_t   twice = (uint16_t)(2 * code->taps[i]);
            uint16x8_t half[2] = { vdupq_n_u16((uint16_t)newest[-i]),
                                   vdupq_n_u16((uint16_t)(newest[-i] >> 16)) };

            for (int c = 0; c < 4; c++) {
                uint16x8_t mask = vtstq_u16(half[c / 2], bit[c % 2]);

                sum[c] = vmlsq_n_u16(sum[c], mask, twice);
            }
        }
        for (int c = 0; c < 4; c++)
            vst1q_s16(v + r * stride + 8 * c, vreinterpretq_s16_u16(sum[c]));
    }
}

void upg_decode_group_neon(const upg_band *band, uint32_t n_cols, uint32_t group, uint32_t row0,
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
