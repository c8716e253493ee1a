/* code.h: the prime-tap FIR trellis code (BFIR) as mathematics: rates, taps, indices.
 *
 * A band is a run of matrix rows coded at one rate. Each of its columns is one independent sequence
 * running down the rows. Row r of the band brings k_r new bits: k0 on even rows, k1 on odd ones
 * (k0 = k1 at whole rates, k1 = k0 + 1 at half rates; r counts from the band's first row). With the
 * binary rows numbered from 0, the first of the L − k0 start rows, row r's newest bit is
 *
 *     newest(r) = L − k0 + (bits of rows 0 … r) − 1
 *
 * and the row's value in column j, an exact integer, is
 *
 *     V[r][j] = Σ_{i<L} p_i · (2·b[newest(r) − i][j] − 1)          ŵ[r][j] = s_r · g · V[r][j]
 *
 * in the rotated basis (rotation.h). p_i are signed primes, i = 0 is the newest bit; one gain g for
 * each tap set, one fp16 scale s_r for each row. */
#ifndef UPG_CODEC_CODE_H
#define UPG_CODEC_CODE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

enum { UPG_CODE_MIN_LENGTH = 8, UPG_CODE_MAX_LENGTH = 16, UPG_CODE_DEFAULT_LENGTH = 12 };
enum { UPG_CODE_MAX_RATE2 = 10 };

typedef struct upg_code {
    uint8_t rate2;                     /* twice the rate in bits: 4, 5, 6, 7, 8, 10 */
    uint8_t k0, k1;                    /* new bits on even and on odd rows */
    uint8_t length;                    /* L, the constraint length */
    int16_t taps[UPG_CODE_MAX_LENGTH]; /* p_0 (newest) … p_{L−1}; 0 past them */
    float   gain;                      /* g */
} upg_code;

/** The library's tap set for a rate and constraint length, or NULL when it has none. Static. */
const upg_code *upg_code_find(uint32_t rate2, uint32_t length);
/** Mean squared error of the library's set of this rate and length on unit Gaussian targets, as
 * measured; 0 when it has none. */
double upg_code_error(const upg_code *code);
/** Checks a tap set from a file: rate, k0/k1, length, Σ|p_i| ≤ 32767, gain finite and positive.
 * Errors: E_FORMAT naming the field. */
upg_status upg_code_check(const upg_code *code, upg_error *err);

/** New bits of rows 0 … r − 1. */
static inline uint64_t upg_code_bits_before(const upg_code *code, uint64_t r)
{
    return (r + 1) / 2 * code->k0 + r / 2 * code->k1;
}

/** Index of row r's newest bit among the stored binary rows. */
static inline uint64_t upg_code_newest(const upg_code *code, uint64_t r)
{
    return code->length - code->k0 + upg_code_bits_before(code, r + 1) - 1u;
}

/** Stored binary rows of a band of n_rows ≥ 1 rows. */
static inline uint64_t upg_code_binary_rows(const upg_code *code, uint64_t n_rows)
{
    return code->length - code->k0 + upg_code_bits_before(code, n_rows);
}

/** Value V of a window; bit i of `window` is the i-th newest bit. */
int32_t upg_code_value(const upg_code *code, uint32_t window);
/** All values: i16 [1 << L], table[window] = upg_code_value(window). */
void upg_code_table(const upg_code *code, int16_t *table);

#endif
