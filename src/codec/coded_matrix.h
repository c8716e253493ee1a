/* coded_matrix.h: a coded matrix as it lies in memory and in the file, and where each bit is.
 *
 * Code bits of a band (docs/FORMAT.md, "Code bits"): little-endian u32 words
 *
 *     [block of 64 binary rows][group of 32 columns][rows of the block]
 *
 * where bit i of a word is column 32·group + i; binary row b lies in block b / 64 at place b % 64.
 * The last block stores only its remaining rows, rounded up to a multiple of 16. Columns past the
 * width and rows past the last are zero bits. Every band starts at a 64-byte boundary (its size is
 * a multiple of 64 by construction). */
#ifndef UPG_CODEC_CODED_MATRIX_H
#define UPG_CODEC_CODED_MATRIX_H

#include <stdint.h>

#include "codec/code.h"
#include "codec/outliers.h"
#include "codec/rotation.h"

enum { UPG_BLOCK_ROWS = 64, UPG_GROUP_COLUMNS = 32 };

typedef struct upg_band {
    upg_code        code;
    uint32_t        row0, n_rows; /* rows of the matrix; n_rows ≥ 1 */
    uint32_t        n_binary;     /* upg_code_binary_rows(&code, n_rows) */
    const uint32_t *bits;         /* as above, 64-byte aligned; borrowed */
    const uint16_t *scales;       /* fp16 [n_rows]; borrowed */
} upg_band;

typedef struct upg_coded_matrix {
    uint32_t            n_rows, n_cols;
    upg_rotation        rotation; /* of the input: width = n_cols */
    uint32_t            n_bands;
    const upg_band     *bands;    /* cover rows 0 … n_rows − 1 in order, without gaps */
    const upg_outliers *outliers; /* what is added to the code, or NULL; borrowed */
} upg_coded_matrix;

static inline uint32_t upg_group_count(uint32_t n_cols)
{
    return n_cols / UPG_GROUP_COLUMNS + (n_cols % UPG_GROUP_COLUMNS != 0);
}

/** Rows that block `block` of a band with n_binary rows stores: 64, or for the last 16 … 64. */
static inline uint32_t upg_block_rows(uint32_t n_binary, uint32_t block)
{
    uint32_t left = n_binary - block * UPG_BLOCK_ROWS;

    return left >= UPG_BLOCK_ROWS ? UPG_BLOCK_ROWS : (left + 15u) / 16u * 16u;
}

static inline uint32_t upg_block_count(uint32_t n_binary)
{
    return (n_binary + UPG_BLOCK_ROWS - 1) / UPG_BLOCK_ROWS;
}

/** u32 words of a band's code. No overflow for n_binary < 2^32 and n_cols < 2^32. */
static inline uint64_t upg_band_words(uint32_t n_binary, uint32_t n_cols)
{
    uint64_t full = n_binary / UPG_BLOCK_ROWS * (uint64_t)UPG_BLOCK_ROWS;

    return (full + (n_binary % UPG_BLOCK_ROWS + 15u) / 16u * 16u) * upg_group_count(n_cols);
}

/** Index of the first word of a block (its words: [group][upg_block_rows]). */
static inline uint64_t upg_block_offset(uint32_t block, uint32_t n_cols)
{
    return (uint64_t)block * UPG_BLOCK_ROWS * upg_group_count(n_cols);
}

/** Index of the word that holds binary row b, columns 32·group … + 31. */
static inline uint64_t upg_word_index(uint32_t n_binary, uint32_t n_cols, uint32_t b,
                                      uint32_t group)
{
    uint32_t block = b / UPG_BLOCK_ROWS;

    return upg_block_offset(block, n_cols) + (uint64_t)group * upg_block_rows(n_binary, block) +
           b % UPG_BLOCK_ROWS;
}

/** Stores the windows of the columns of one group: windows u16 [n_cols ≤ 32][n_rows], as an encoder
 * gives them. Writes every word of that group, padding included; groups are independent. */
void upg_band_pack_group(const upg_code *code, uint32_t n_rows, uint32_t matrix_cols,
                         uint32_t group, uint32_t n_cols, const uint16_t *windows, uint32_t *bits);

/** The band that holds a row. */
const upg_band *upg_coded_band_of(const upg_coded_matrix *matrix, uint32_t row);
/** Row `row` of the code, dequantised in the rotated basis: out f32 [n_cols]; without the outliers,
 * which lie in the original one. Plain and slow: the reference. */
void upg_coded_row(const upg_coded_matrix *matrix, uint32_t row, float *out);
/** The same as exact integers V: out i32 [n_cols]. */
void upg_band_row_values(const upg_band *band, uint32_t n_cols, uint32_t band_row, int32_t *out);

#endif
