/* lut8_neon.c: u by nibble tables whose entries have 8 bits: one TBL for a nibble instead of
 * bitdot_neon.c's two, for the error that kernels/quantised.h derives.
 *
 * LD4 brings the bytes of equal position of 16 rows into one register, as there. Entries keep their
 * sign; two of them add up in 16 bits at once (SADDL), which hold for CHUNK groups. For 32 rows of
 * one group, 128 bytes of code: 16 lookups, 32 additions, 16 instructions to part the nibbles. */
#include <arm_neon.h>

#include "kernels/arm/codec_arm.h"
#include "kernels/kernels.h"
#include "kernels/quantised.h"

enum { TABLE_BYTES = 128, CHUNK = 32 };

_Static_assert((int)TABLE_BYTES <= (int)UPG_PREPARED_BYTES_PER_GROUP, "the caller provides these");
_Static_assert(CHUNK * 8 * 127 <= INT16_MAX, "16-bit sums of a chunk");

/* max Σ|x| of four inputs. */
static int32_t largest_sum(size_t groups, const int8_t *x)
{
    uint16x8_t most = vdupq_n_u16(0);

    for (size_t i = 0; i < 2 * groups; i++) {
        /* as unsigned bytes |−128| = 128 */
        uint8x16_t a = vreinterpretq_u8_s8(vabsq_s8(vld1q_s8(x + 16 * i)));
        uint16x8_t pairs = vpaddlq_u8(a);

        most = vmaxq_u16(most, vpaddq_u16(pairs, pairs));
    }
    return (int32_t)vmaxvq_u16(most);
}

/* Entries of eight values v: (v·M + 2^14) >> 15. |v·M| < 2^24, but both are products of 16 bits. */
static inline int8x8_t entries(int16x8_t v, int16x4_t multiplier)
{
    int32x4_t low = vmull_s16(vget_low_s16(v), multiplier);
    int32x4_t high = vmull_s16(vget_high_s16(v), multiplier);

    return vmovn_s16(vcombine_s16(vrshrn_n_s32(low, 15), vrshrn_n_s32(high, 15)));
}

/* i8 [group][nibble of the word: 8][value of the nibble: 16] */
float upg_lut8_prepare_neon(size_t groups, const int8_t *x, void *prepared)
{
    static const int16_t signs[3][8] = { { -1, 1, -1, 1, -1, 1, -1, 1 },
                                         { -1, -1, 1, 1, -1, -1, 1, 1 },
                                         { -1, -1, -1, -1, 1, 1, 1, 1 } };
    const int16x8_t sign[3] = { vld1q_s16(signs[0]), vld1q_s16(signs[1]), vld1q_s16(signs[2]) };
    const int16_t   multiplier = upg_lut8_multiplier(largest_sum(groups, x));
    int8_t         *out = prepared;

    for (size_t n = 0; n < 8 * groups; n++, x += 4, out += 16) {
        int16x8_t v = vdupq_n_s16(0), last = vdupq_n_s16(x[3]);

        for (int q = 0; q < 3; q++)
            v = vmlaq_n_s16(v, sign[q], x[q]);
        vst1_s8(out, entries(vsubq_s16(v, last), vdup_n_s16(multiplier)));
        vst1_s8(out + 8, entries(vaddq_s16(v, last), vdup_n_s16(multiplier)));
    }
    return upg_lut8_factor(multiplier);
}

/* 16·V rows of one group; sum [V][2]. */
static inline __attribute__((always_inline)) void
add_group(const int V, const uint32_t *code, const int8_t *table, int16x8_t (*sum)[2])
{
    const uint8x16_t nibble = vdupq_n_u8(0x0F);
    uint8x16x4_t     bytes[2];

    for (int s = 0; s < V; s++)
        bytes[s] = vld4q_u8((const uint8_t *)(code + 16 * s));
    for (int c = 0; c < 4; c++) {
        int8x16_t low = vld1q_s8(table + 32 * c), high = vld1q_s8(table + 32 * c + 16);

        for (int s = 0; s < V; s++) {
            uint8x16_t byte = bytes[s].val[c];
            int8x16_t  a = vqtbl1q_s8(low, vandq_u8(byte, nibble));
            int8x16_t  b = vqtbl1q_s8(high, vshrq_n_u8(byte, 4));

            sum[s][0] = vaddq_s16(sum[s][0], vaddl_s8(vget_low_s8(a), vget_low_s8(b)));
            sum[s][1] = vaddq_s16(sum[s][1], vaddl_high_s8(a, b));
        }
    }
}

static inline __attribute__((always_inline)) void add_chunk(const int V, size_t groups,
                                                            size_t stride, const uint32_t *code,
                                                            const int8_t *table, int32_t *u)
{
    int16x8_t sum[2][2];

    for (int s = 0; s < V; s++)
        sum[s][0] = sum[s][1] = vdupq_n_s16(0);
    for (size_t g = 0; g < groups; g++, code += stride, table += TABLE_BYTES)
        add_group(V, code, table, sum);
    for (int s = 0; s < V; s++)
        for (int i = 0; i < 2; i++) {
            int32_t *to = u + 16 * s + 8 * i;

            vst1q_s32(to, vaddw_s16(vld1q_s32(to), vget_low_s16(sum[s][i])));
            vst1q_s32(to + 4, vaddw_high_s16(vld1q_s32(to + 4), sum[s][i]));
        }
}

void upg_lut8_neon(size_t groups, size_t rows, const uint32_t *code, const void *prepared,
                   int32_t *u)
{
    const int8_t *table = prepared;

    for (size_t t = 0; t < rows; t++)
        u[t] = 0;
    for (size_t g = 0; g < groups; g += CHUNK) {
        size_t n = groups - g < CHUNK ? groups - g : CHUNK, t = 0;

        for (; t + 32 <= rows; t += 32)
            add_chunk(2, n, rows, code + g * rows + t, table + g * TABLE_BYTES, u + t);
        if (t < rows)
            add_chunk(1, n, rows, code + g * rows + t, table + g * TABLE_BYTES, u + t);
    }
}
