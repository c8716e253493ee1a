/* bitdot_avx2.c: u = (2B − 1)·x by nibble tables of 16 entries (PSHUFB).
 *
 * A PSHUFB uses one table for the 16 bytes of a lane, so bytes of equal position come together
 * first: a 4×4 transposition in registers. Sums of four int8 are stored as 32·high + low, two
 * lookups: five bits each, so that the eight of a group add up in bytes. Only then are they
 * widened, without shuffles: words hold even + 256·odd bytes, the odd ones are added up apart, and
 * the even ones are the difference. 62 instructions for 128 bytes of code, 28 of them shuffles.
 * (Two bytes unpacked into words for every lookup took 72 and 44: .65 of reads by two threads of
 * Zen 4, this form .87.) Prefetching as in bitdot_avx512.c. */
#include "kernels/x86/bitdot_tables.h"
#include "kernels/x86/byte_sums_avx2.h"
#include "kernels/x86/codec_x86.h"

enum { SHIFT = 5, AHEAD_BYTES = 16384 };
/* Groups until words are widened: each adds at most 8 · 31. */
enum { GROUPS_IN_16_BITS = 256 };

void upg_bitdot_prepare_avx2(size_t groups, const int8_t *x, void *prepared)
{
    upg_bitdot_tables(groups, x, SHIFT, prepared);
}

static inline void look_up(__m256i nibbles, const uint8_t *table, upg_word_sums *part)
{
    __m256i entries = _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *)table));

    part->bytes = _mm256_add_epi8(part->bytes, _mm256_shuffle_epi8(entries, nibbles));
}

/* 32 rows, or 16 when !full (the rows past them count as zero bits and are not stored). */
static inline __attribute__((always_inline)) void bitdot(const int full, size_t groups,
                                                         size_t stride, const uint32_t *code,
                                                         const uint8_t *table, int32_t *u)
{
    const __m256i nibble = _mm256_set1_epi8(0x0F);
    const __m256i bias = _mm256_set1_epi32((int32_t)(8 * UPG_NIBBLE_BIAS * groups));
    const __m256i zero = _mm256_setzero_si256();
    upg_word_sums low = { zero, zero, zero }, high = low;
    __m256i       sum[4] = { zero, zero, zero, zero };

    for (size_t g = 0; g < groups; g++, code += stride, table += UPG_TABLE_BYTES) {
        __m256i v[4];

        for (int i = 0; i < 4; i++)
            v[i] = i < 2 || full ? _mm256_load_si256((const __m256i *)(code + 8 * i))
                                 : _mm256_setzero_si256();
        _mm_prefetch((const char *)code + AHEAD_BYTES, _MM_HINT_T1);
        if (full)
            _mm_prefetch((const char *)code + AHEAD_BYTES + 64, _MM_HINT_T1);
        upg_bytes_together(v);
        for (int c = 0; c < 4; c++) {
            __m256i even = _mm256_and_si256(v[c], nibble);
            __m256i odd = _mm256_and_si256(_mm256_srli_epi16(v[c], 4), nibble);

            look_up(even, table + 16 * c, &low);
            look_up(even, table + 64 + 16 * c, &high);
            look_up(odd, table + 128 + 16 * c, &low);
            look_up(odd, table + 192 + 16 * c, &high);
        }
        upg_end_group(&low);
        upg_end_group(&high);
        if (g % GROUPS_IN_16_BITS == GROUPS_IN_16_BITS - 1) {
            upg_spill(&low, 0, sum);
            upg_spill(&high, SHIFT, sum);
        }
    }
    upg_spill(&low, 0, sum);
    upg_spill(&high, SHIFT, sum);
    upg_store_sums(full, sum, bias, u);
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
