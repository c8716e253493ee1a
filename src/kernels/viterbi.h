/* viterbi.h: the encoder: the path through the trellis that lies nearest to a column of targets.
 *
 * Exact Viterbi over 2^(L−k) states, branch metric ω_r·(target_r − g·V)². Two arithmetics:
 *   float32   the reference: its squared error is the minimum to float rounding
 *   int16     saturating path metrics, for speed: less than .1 % above the minimum on average, a
 *             single column seldom more than .5 %; each SIMD form gives the path of its scalar
 *             twin, bit for bit. Columns that int16 cannot hold (row weights, few rows, targets
 *             far outside the code's values) take float32 by themselves
 * Forney, "The Viterbi algorithm", Proc. IEEE 61 (1973); the trellis runs down the rows as in
 * trellis-coded quantisation, Marcellin and Fischer, IEEE Trans. Commun. 38 (1990). */
#ifndef UPG_KERNELS_VITERBI_H
#define UPG_KERNELS_VITERBI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "codec/code.h"

typedef struct upg_viterbi upg_viterbi; /* tables and scratch for one code; one thread at a time */

typedef enum upg_viterbi_arithmetic {
    UPG_VITERBI_FAST, /* int16, the best kernel for the machine */
    UPG_VITERBI_EXACT /* float32 */
} upg_viterbi_arithmetic;

/** Scratch for sequences of up to max_rows rows. Errors: E_NOMEM. */
upg_status upg_viterbi_create(const upg_code *code, uint32_t max_rows,
                              upg_viterbi_arithmetic arithmetic, uint32_t cpu_flags,
                              upg_viterbi **viterbi, upg_error *err);
/** Encodes one column.
 * target   f32 [n_rows], in units of the row scale: W'[r] / s_r; finite
 * weights  NULL, or f32 [n_rows] > 0: importance ω_r of each row's squared error
 * windows  u16 [n_rows], out: bit i is the row's i-th newest bit
 * returns  Σ ω_r·(target_r − g·V_r)² of the path taken, computed in fp64 */
double upg_viterbi_encode(upg_viterbi *viterbi, uint32_t n_rows, const float *target,
                          const float *weights, uint16_t *windows);
/** The value table: i16 [1 << L], borrowed. */
const int16_t *upg_viterbi_table(const upg_viterbi *viterbi);
void           upg_viterbi_close(upg_viterbi *viterbi);
/** Bytes that an encoder for this code takes, whatever its arithmetic. */
uint64_t upg_viterbi_memory(const upg_code *code, uint32_t max_rows);

#endif
