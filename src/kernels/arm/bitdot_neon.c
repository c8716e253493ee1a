/* bitdot_neon.c: u = (2B − 1)·x by nibble tables of 16 entries (TBL).
 *
 * LD4 brings the bytes of equal position of 16 rows into one register, where they share a table. A
 * nibble of code stands for four inputs; its 16 possible sums v = Σ (2·b − 1)·x + 512 lie in
 * 0 … 1024 and are stored as v = 32·high + low, two bytes: so small that the eight nibbles of a
 * word add up in bytes (see store_table), and widening to 16 bits is done once a word. For 32 rows
 * of one group, 128 bytes of code: 32 lookups, 32 additions, 16 instructions to part the nibbles, 8
 * to widen. DotProd would add bytes without widening, but wants the four tables of a word in one
 * register group: a TBL of four registers costs more than it saves.
 *
 *     prepared  u8 [groups][nibble of the word: 8][low, high: 2][value of the nibble: 16] */
#include <arm_neon.h>

#include "kernels/arm/codec_arm.h"
#include "kernels/kernels.h"

/* CHUNK groups at a time, so that the second 32 rows of a block find their code in L1; 16-bit sums
 * would last for 260. */
enum { NIBBLE_BIAS = 512, SHIFT = 5, TABLE_BYTES = 256, CHUNK = 32 };

_Static_assert((int)TABLE_BYTES <= (int)UPG_PREPARED_BYTES_PER_GROUP, "the caller provides these");
_Static_assert(CHUNK * 252 <= UINT16_MAX, "16-bit sums of a chunk");

/* v u16 [16]. Even nibbles store 1024 as 32·32 + 0, odd ones as 31·32 + 32: the sums of a word's
 * high and of its low bytes are then at most 4·32 + 4·31 = 252 each. */
static inline void store_table(uint16x8_t v0, uint16x8_t v1, uint8x16_t largest, uint8_t *out)
{
    uint8x16_t v = vcombine_u8(vmovn_u16(v0), vmovn_u16(v1)); /* low bytes */
    uint8x16_t high = vcombine_u8(vshrn_n_u16(v0, SHIFT), vshrn_n_u16(v1, SHIFT));

    high = vminq_u8(high, largest);
    vst1q_u8(out, vsubq_u8(v, vshlq_n_u8(high, SHIFT))); /* modulo 256: low is at most 32 */
    vst1q_u8(out + 16, high);
}

void upg_bitdot_prepare_neon(size_t groups, const int8_t *x, void *prepared)
{
    static const int16_t signs[3][8] = { { -1, 1, -1, 1, -1, 1, -1, 1 },
                                         { -1, -1, 1, 1, -1, -1, 1, 1 },
                                         { -1, -1, -1, -1, 1, 1, 1, 1 } };
    const int16x8_t sign[3] = { vld1q_s16(signs[0]), vld1q_s16(signs[1]), vld1q_s16(signs[2]) };
    uint8_t        *out = prepared;

    for (size_t n = 0; n < 8 * groups; n++, x += 4, out += 32) {
        int16x8_t v = vdupq_n_s16(NIBBLE_BIAS), last = vdupq_n_s16(x[3]);

        for (int q = 0; q < 3; q++)
            v = vmlaq_n_s16(v, sign[q], x[q]);
        store_table(vreinterpretq_u16_s16(vsubq_s16(v, last)),
                    vreinterpretq_u16_s16(vaddq_s16(v, last)),
                    vdupq_n_u8(n % 2 == 0 ? 1024 >> SHIFT : (1024 >> SHIFT) - 1), out);
    }
}

/* Sums of 16 rows, low and high parts apart. */
typedef struct sums16 {
    uint16x8_t low[2], high[2];
} sums16;

/* 16·V rows of one group. */
static inline __attribute__((always_inline)) void add_group(const int V, const uint32_t *code,
                                                            const uint8_t *table, sums16 *sums)
{
    const uint8x16_t nibble = vdupq_n_u8(0x0F);
    uint8x16x4_t     bytes[2];
    uint8x16_t       low[2], high[2];

    for (int s = 0; s < V; s++) {
        bytes[s] = vld4q_u8((const uint8_t *)(code + 16 * s));
        low[s] = high[s] = vdupq_n_u8(0);
    }
    for (int n = 0; n < 8; n++) {
        uint8x16_t table_low = vld1q_u8(table + 32 * n), table_high = vld1q_u8(table + 32 * n + 16);

        for (int s = 0; s < V; s++) {
            uint8x16_t byte = bytes[s].val[n / 2];
            uint8x16_t index = n % 2 == 0 ? vandq_u8(byte, nibble) : vshrq_n_u8(byte, 4);

            low[s] = vaddq_u8(low[s], vqtbl1q_u8(table_low, index));
            high[s] = vaddq_u8(high[s], vqtbl1q_u8(table_high, index));
        }
    }
    for (int s = 0; s < V; s++) {
        sums[s].low[0] = vaddw_u8(sums[s].low[0], vget_low_u8(low[s]));
        sums[s].low[1] = vaddw_high_u8(sums[s].low[1], low[s]);
        sums[s].high[0] = vaddw_u8(sums[s].high[0], vget_low_u8(high[s]));
        sums[s].high[1] = vaddw_high_u8(sums[s].high[1], high[s]);
    }
}

/* u[0 … 7] += 32·high + low; modulo 2^32, which the bias brings back into range. */
static inline void add_out(uint16x8_t low, uint16x8_t high, int32_t *u)
{
    uint32x4_t first = vaddw_u16(vreinterpretq_u32_s32(vld1q_s32(u)), vget_low_u16(low));
    uint32x4_t second = vaddw_high_u16(vreinterpretq_u32_s32(vld1q_s32(u + 4)), low);

    first = vaddq_u32(first, vshll_n_u16(vget_low_u16(high), SHIFT));
    second = vaddq_u32(second, vshll_high_n_u16(high, SHIFT));
    vst1q_s32(u, vreinterpretq_s32_u32(first));
    vst1q_s32(u + 4, vreinterpretq_s32_u32(second));
}

static inline __attribute__((always_inline)) void add_chunk(const int V, size_t groups,
                                                            size_t stride, const uint32_t *code,
                                                            const uint8_t *table, int32_t *u)
{
    sums16 sums[2];

    for (int s = 0; s < V; s++)
        for (int i = 0; i < 2; i++)
            sums[s].low[i] = sums[s].high[i] = vdupq_n_u16(0);
    for (size_t g = 0; g < groups; g++, code += stride, table += TABLE_BYTES)
        add_group(V, code, table, sums);
    for (int s = 0; s < V; s++)
        for (int i = 0; i < 2; i++)
            add_out(sums[s].low[i], sums[s].high[i], u + 16 * s + 8 * i);
}

void upg_bitdot_neon(size_t groups, size_t rows, const uint32_t *code, const void *prepared,
                     int32_t *u)
{
    const uint8_t *table = prepared;

    for (size_t t = 0; t < rows; t++)
        u[t] = (int32_t)(0u - 8u * NIBBLE_BIAS * (uint32_t)groups);
    for (size_t g = 0; g < groups; g += CHUNK) {
        size_t n = groups - g < CHUNK ? groups - g : CHUNK, t = 0;

        for (; t + 32 <= rows; t += 32)
            add_chunk(2, n, rows, code + g * rows + t, table + g * TABLE_BYTES, u + t);
        if (t < rows)
            add_chunk(1, n, rows, code + g * rows + t, table + g * TABLE_BYTES, u + t);
    }
}
