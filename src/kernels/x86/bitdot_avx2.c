/* bitdot_avx2.c: u = (2B − 1)·x by nibble tables of 16 entries (PSHUFB).
 *
 * A PSHUFB uses one table for the 16 bytes of a lane, so bytes of equal position come together
 * first: a 4×4 transposition in registers. Sums of four int8 take two bytes, looked up apart and
 * unpacked into words. About 72 instructions for 128 bytes of code: 17 GB/s from L2 on a Zen 4
 * core. Prefetching as in bitdot_avx512.c. */
#include "kernels/x86/bitdot_tables.h"
#include "kernels/x86/codec_x86.h"

enum { SHIFT = 8, AHEAD_BYTES = 16384 };
/* Groups until the 16-bit sums are spilled: each adds at most 8 · 1024. */
enum { GROUPS_IN_16_BITS = 7 };

void upg_bitdot_prepare_avx2(size_t groups, const int8_t *x, void *prepared)
{
    upg_bitdot_tables(groups, x, SHIFT, prepared);
}

/* Words of 32 rows: v[i] holds rows 8·i … 8·i + 7. After it v[c] holds byte c of all rows: of rows
 * 8·i … + 3 at 4·i in the low lane, of rows 8·i + 4 … + 7 in the high lane. */
static inline void bytes_together(__m256i v[4])
{
    const __m256i by_place = _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15,
                                              0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m256i       a, b, c, d;

    for (int i = 0; i < 4; i++)
        v[i] = _mm256_shuffle_epi8(v[i], by_place);
    a = _mm256_unpacklo_epi32(v[0], v[1]);
    b = _mm256_unpackhi_epi32(v[0], v[1]);
    c = _mm256_unpacklo_epi32(v[2], v[3]);
    d = _mm256_unpackhi_epi32(v[2], v[3]);
    v[0] = _mm256_unpacklo_epi64(a, c);
    v[1] = _mm256_unpackhi_epi64(a, c);
    v[2] = _mm256_unpacklo_epi64(b, d);
    v[3] = _mm256_unpackhi_epi64(b, d);
}

/* Adds the looked-up sums of 32 rows to sum16[0] (the lower 8 rows of each lane) and sum16[1]. */
static inline void look_up(__m256i nibbles, const uint8_t *table, __m256i sum16[2])
{
    __m256i low = _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *)table));
    __m256i high = _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *)(table + 64)));

    low = _mm256_shuffle_epi8(low, nibbles);
    high = _mm256_shuffle_epi8(high, nibbles);
    sum16[0] = _mm256_add_epi16(sum16[0], _mm256_unpacklo_epi8(low, high));
    sum16[1] = _mm256_add_epi16(sum16[1], _mm256_unpackhi_epi8(low, high));
}

static inline void spill(__m256i sum16[2], __m256i sum[4])
{
    for (int i = 0; i < 2; i++) {
        __m128i low = _mm256_castsi256_si128(sum16[i]);
        __m128i high = _mm256_extracti128_si256(sum16[i], 1);

        sum[2 * i] = _mm256_add_epi32(sum[2 * i], _mm256_cvtepu16_epi32(low));
        sum[2 * i + 1] = _mm256_add_epi32(sum[2 * i + 1], _mm256_cvtepu16_epi32(high));
        sum16[i] = _mm256_setzero_si256();
    }
}

/* 32 rows, or 16 when !full (the rows past them count as zero bits and are not stored). */
static inline __attribute__((always_inline)) void bitdot(const int full, size_t groups,
                                                         size_t stride, const uint32_t *code,
                                                         const uint8_t *table, int32_t *u)
{
    const __m256i nibble = _mm256_set1_epi8(0x0F);
    const __m256i bias = _mm256_set1_epi32((int32_t)(8 * UPG_NIBBLE_BIAS * groups));
    __m256i       sum16[2] = { _mm256_setzero_si256(), _mm256_setzero_si256() };
    __m256i       sum[4];

    for (int i = 0; i < 4; i++)
        sum[i] = _mm256_setzero_si256();
    for (size_t g = 0; g < groups; g++, code += stride, table += UPG_TABLE_BYTES) {
        __m256i v[4];

        for (int i = 0; i < 4; i++)
            v[i] = i < 2 || full ? _mm256_load_si256((const __m256i *)(code + 8 * i))
                                 : _mm256_setzero_si256();
        _mm_prefetch((const char *)code + AHEAD_BYTES, _MM_HINT_T1);
        if (full)
            _mm_prefetch((const char *)code + AHEAD_BYTES + 64, _MM_HINT_T1);
        bytes_together(v);
        for (int c = 0; c < 4; c++) {
            look_up(_mm256_and_si256(v[c], nibble), table + 16 * c, sum16);
            look_up(_mm256_and_si256(_mm256_srli_epi16(v[c], 4), nibble), table + 128 + 16 * c,
                    sum16);
        }
        if (g % GROUPS_IN_16_BITS == GROUPS_IN_16_BITS - 1)
            spill(sum16, sum);
    }
    spill(sum16, sum);
    for (int i = 0; i < (full ? 4 : 2); i += 2) {
        __m256i low = _mm256_permute2x128_si256(sum[i], sum[i + 1], 0x20);
        __m256i high = _mm256_permute2x128_si256(sum[i], sum[i + 1], 0x31);

        _mm256_storeu_si256((__m256i *)(u + 8 * i), _mm256_sub_epi32(low, bias));
        _mm256_storeu_si256((__m256i *)(u + 8 * i + 8), _mm256_sub_epi32(high, bias));
    }
}

void upg_bitdot_avx2(size_t groups, size_t rows, const uint32_t *code, const void *prepared,
                     int32_t *u)
{
    size_t t = 0;

    for (; t + 32 <= rows; t += 32)
        bitdot(1, groups, rows, code + t, prepared, u + t);
    if (t < rows)
        bitdot(0, groups, rows, code + t, prepared, u + t);
}
