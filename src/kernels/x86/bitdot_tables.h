/* bitdot_tables.h: the tables that bitdot looks its nibbles up in, made with AVX2.
 *
 * A nibble of code stands for four inputs; its 16 possible sums v = Σ (2·b − 1)·x + 512 lie in
 * 0 … 1024 and are stored as two bytes, v & mask and v >> shift. For each group of 32 inputs:
 *
 *     u8 [nibble of the byte: 2][low, high part: 2][byte of the word: 4][value of the nibble: 16]
 *
 * where nibble h of byte c covers inputs 8·c + 4·h … + 3. */
#ifndef UPG_KERNELS_X86_BITDOT_TABLES_H
#define UPG_KERNELS_X86_BITDOT_TABLES_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

enum { UPG_NIBBLE_BIAS = 512, UPG_TABLE_BYTES = 256 };

/* Bit q of each of the 16 lanes' numbers as a sign. */
static inline __m256i upg_nibble_signs(int q)
{
    const __m256i lane = _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m256i bit = _mm256_and_si256(_mm256_srli_epi16(lane, q), _mm256_set1_epi16(1));

    return _mm256_sub_epi16(_mm256_add_epi16(bit, bit), _mm256_set1_epi16(1));
}

static inline void upg_bitdot_tables(size_t groups, const int8_t *x, int shift, uint8_t *tables)
{
    const __m256i mask = _mm256_set1_epi16((int16_t)((1 << shift) - 1));
    __m256i       signs[4];

    for (int q = 0; q < 4; q++)
        signs[q] = upg_nibble_signs(q);
    for (size_t g = 0; g < groups; g++, x += 32, tables += UPG_TABLE_BYTES)
        for (int n = 0; n < 8; n++) { /* nibble n % 2 of byte n / 2 */
            __m256i  v = _mm256_set1_epi16(UPG_NIBBLE_BIAS), parts;
            uint8_t *out = tables + n % 2 * 128 + n / 2 * 16;

            for (int q = 0; q < 4; q++)
                v = _mm256_add_epi16(v,
                                     _mm256_sign_epi16(_mm256_set1_epi16(x[4 * n + q]), signs[q]));
            parts = _mm256_packus_epi16(_mm256_and_si256(v, mask), _mm256_srli_epi16(v, shift));
            parts = _mm256_permute4x64_epi64(parts, _MM_SHUFFLE(3, 1, 2, 0));
            _mm_store_si128((__m128i *)out, _mm256_castsi256_si128(parts));
            _mm_store_si128((__m128i *)(out + 64), _mm256_extracti128_si256(parts, 1));
        }
}

#endif
