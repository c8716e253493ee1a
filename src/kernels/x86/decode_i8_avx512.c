/* decode_i8_avx512.c: values of a tile rounded to 8 bits, by table lookups.
 *
 * A row brings 2 to 5 new bits. As an index in 16-bit lanes, 32 columns at once, they are made once
 * and then looked up (VPERMW, 32 entries) by every row whose window they lie in: at 3 bits 4
 * lookups a row instead of 12 masked additions. Entries past the window's end are 0, so that a
 * window may begin inside a row's bits. */
#include <immintrin.h>
#include <string.h>

#include "kernels/quantised.h"
#include "kernels/x86/codec_x86.h"

enum {
    MAX_PARTS = 8,          /* rows whose bits a window reaches: 16 bits at 2 a row */
    ENTRIES = 32,           /* values of one row's bits */
    AHEAD = 6,              /* groups that are fetched before they are decoded */
    EARLIER = MAX_PARTS * 5 /* binary rows before a chunk's first window that an index may name */
};

typedef struct lookups {
    uint32_t n_parts[2]; /* for rows of each parity */
    int16_t  table[2][MAX_PARTS][ENTRIES];
} lookups;

static uint32_t bits_of_row(const upg_code *code, uint32_t row)
{
    return row % 2 == 0 ? code->k0 : code->k1;
}

static void make_lookups(const upg_code *code, lookups *l)
{
    for (uint32_t parity = 0; parity < 2; parity++) {
        uint32_t tap = 0, part = 0;

        for (; tap < code->length; part++) {
            uint32_t bits = bits_of_row(code, parity + part); /* backwards: the same parities */

            for (uint32_t entry = 0; entry < ENTRIES; entry++) {
                int32_t sum = 0;

                for (uint32_t i = 0; i < bits && tap + i < code->length; i++)
                    sum += entry >> i & 1 ? code->taps[tap + i] : -code->taps[tap + i];
                l->table[parity][part][entry] = (int16_t)sum;
            }
            tap += bits;
        }
        l->n_parts[parity] = part;
    }
}

/* The bits of one row as indices; `newest` is its newest word. */
static inline __m512i row_index(const uint32_t *newest, uint32_t bits)
{
    __m512i index = _mm512_maskz_set1_epi16(newest[0], 1);

    for (uint32_t i = 1; i < bits; i++)
        index = _mm512_mask_or_epi32(index, 0xFFFF, index,
                                     _mm512_maskz_set1_epi16(*(newest - i), (int16_t)(1 << i)));
    return index;
}

static inline __m256i rounded(__m512i v, __m512i multiplier)
{
    __m256i bytes = _mm512_cvtepi16_epi8(_mm512_mulhrs_epi16(v, multiplier));

    return _mm256_xor_si256(bytes, _mm256_set1_epi8((char)0x80)); /* + 128 */
}

/* Rows of a chunk, 32 columns; newest = the word of the first row's newest bit. `parts` (a
 * constant) for rows of the first one's parity, next_parts for the others. */
static inline __attribute__((always_inline)) void
decode_rows(const uint32_t even_parts, const uint32_t odd_parts, const upg_code *code,
            const lookups *l, uint32_t row0, uint32_t n_rows, const uint32_t *newest,
            __m512i multiplier, uint8_t *v, size_t stride)
{
    const uint32_t  most = even_parts > odd_parts ? even_parts : odd_parts;
    __m512i         index[MAX_PARTS + UPG_DECODE_ROWS];
    __m512i         table[2][MAX_PARTS];
    const uint32_t *word = newest;

    for (uint32_t i = 0; i < even_parts; i++)
        table[0][i] = _mm512_loadu_si512(l->table[0][i]);
    for (uint32_t i = 0; i < odd_parts; i++)
        table[1][i] = _mm512_loadu_si512(l->table[1][i]);
    for (uint32_t i = 1; i < most; i++) { /* rows before the first one */
        word -= bits_of_row(code, row0 - i + 1);
        index[most - 1 - i] = row_index(word, bits_of_row(code, row0 - i));
    }
    word = newest;
    for (uint32_t r = 0; r < n_rows; r++) {
        const __m512i *at = &index[most - 1 + r];
        const uint32_t parity = (row0 + r) % 2;
        __m512i        sum;

        index[most - 1 + r] = row_index(word, bits_of_row(code, row0 + r));
        sum = _mm512_permutexvar_epi16(at[0], table[parity][0]);
        if (parity == 0)
            for (uint32_t i = 1; i < even_parts; i++)
                sum = _mm512_add_epi16(sum, _mm512_permutexvar_epi16(*(at - i), table[0][i]));
        else
            for (uint32_t i = 1; i < odd_parts; i++)
                sum = _mm512_add_epi16(sum, _mm512_permutexvar_epi16(*(at - i), table[1][i]));
        _mm256_storeu_si256((__m256i *)(void *)(v + r * stride), rounded(sum, multiplier));
        word += bits_of_row(code, row0 + r + 1);
    }
}

static void decode_chunk(const upg_code *code, const lookups *l, uint32_t row0, uint32_t n,
                         const uint32_t *newest, __m512i multiplier, uint8_t *v, size_t stride)
{
    switch (l->n_parts[0] * 16 + l->n_parts[1]) {
    case 0x33: /* 4 and 5 bits */
        decode_rows(3, 3, code, l, row0, n, newest, multiplier, v, stride);
        break;
    case 0x44: /* 3 and 3.5 bits */
        decode_rows(4, 4, code, l, row0, n, newest, multiplier, v, stride);
        break;
    case 0x66: /* 2 bits */
        decode_rows(6, 6, code, l, row0, n, newest, multiplier, v, stride);
        break;
    default:
        decode_rows(l->n_parts[0], l->n_parts[1], code, l, row0, n, newest, multiplier, v, stride);
    }
}

/* The words of a group AHEAD groups on: each block of 64 rows has them elsewhere. */
static void prefetch_words(const upg_band *band, uint32_t n_cols, uint32_t group, uint32_t first,
                           uint32_t last)
{
    enum { WORDS = 64 / sizeof(uint32_t) };

    for (uint32_t row = first / WORDS * WORDS; row <= last; row += WORDS)
        _mm_prefetch(
            (const char *)(band->bits + upg_word_index(band->n_binary, n_cols, row, group)),
            _MM_HINT_T0);
}

void upg_decode_i8_avx512(const upg_band *band, uint32_t n_cols, uint32_t group, uint32_t n_groups,
                          uint32_t row0, uint32_t n_rows, uint8_t *v, size_t stride)
{
    const upg_code *code = &band->code;
    const __m512i   multiplier = _mm512_set1_epi16(upg_int8_multiplier(code));
    uint32_t        words[EARLIER + UPG_DECODE_WORDS];
    lookups         l;

    make_lookups(code, &l);
    memset(words, 0, EARLIER * sizeof *words);
    for (; n_rows > 0;) {
        uint32_t n = n_rows < UPG_DECODE_ROWS ? n_rows : UPG_DECODE_ROWS;
        uint32_t newest = (uint32_t)upg_code_newest(code, row0);
        uint32_t first = newest - (code->length - 1u); /* of the first window */
        uint32_t last = (uint32_t)upg_code_newest(code, row0 + n - 1);

        for (uint32_t g = 0; g < n_groups; g++) {
            if (g + AHEAD < n_groups)
                prefetch_words(band, n_cols, group + g + AHEAD, first, last);
            upg_gather_words(band, n_cols, group + g, first, last - first + 1, words + EARLIER);
            decode_chunk(code, &l, row0, n, words + EARLIER + (newest - first), multiplier,
                         v + (size_t)g * UPG_GROUP_COLUMNS, stride);
        }
        row0 += n;
        n_rows -= n;
        v += n * stride;
    }
}
