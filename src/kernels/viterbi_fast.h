/* viterbi_fast.h: the int16 search over one column (internal to viterbi.c). */
#ifndef UPG_KERNELS_VITERBI_FAST_H
#define UPG_KERNELS_VITERBI_FAST_H

#include <stdbool.h>
#include <stdint.h>

#include "codec/code.h"
#include "kernels/viterbi_steps.h"

typedef struct upg_viterbi_fast upg_viterbi_fast;

/** What the search of one form works with: units, tables, and when rows are settled; for forms that
 * run elsewhere and must find the same path. Pointers live as long as the form. */
typedef struct upg_viterbi_fast_form {
    const upg_fast_row *rows[2]; /* even, odd */
    double              coarse, value_range, furthest, hopeless;
    int32_t             base, offset_limit;
    uint32_t            min_rows, ring_rows, depth;
} upg_viterbi_fast_form;

/** True when a code has states enough for the int16 form: every code with L = 12. */
bool upg_viterbi_fast_fits(const upg_code *code);
/** Two forms: one for columns like unit Gaussians, and a wide one, whose coarser units hold larger
 * targets. table: the code's values, i16 [1 << L], borrowed for the whole life. Errors: E_NOMEM. */
upg_status upg_viterbi_fast_create(const upg_code *code, const int16_t *table, uint32_t max_rows,
                                   bool wide, uint32_t cpu_flags, upg_viterbi_fast **fast,
                                   upg_error *err);
/** Encodes one column. False when it is too short, or the targets are so far from the code's values
 * that int16 metrics may miss the promised error: the caller takes another form. */
bool upg_viterbi_fast_encode(upg_viterbi_fast *fast, uint32_t n_rows, const float *target,
                             uint16_t *windows);
upg_viterbi_fast_form upg_viterbi_fast_describe(const upg_viterbi_fast *fast);
/** Bytes that one form takes. */
uint64_t upg_viterbi_fast_memory(const upg_code *code, uint32_t max_rows);
void     upg_viterbi_fast_close(upg_viterbi_fast *fast);

#endif
