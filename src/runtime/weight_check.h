/* weight_check.h: weights of a .upg file against their hashes, chunk by chunk (1 MiB), each before
 * the first pass that reads it: opening takes no time, the first token pays for what it reads, and
 * rows of the embedding are checked as their tokens come. A chunk is checked once. */
#ifndef UPG_RUNTIME_WEIGHT_CHECK_H
#define UPG_RUNTIME_WEIGHT_CHECK_H

#include "backend/backend.h"
#include "base/pool.h"
#include "model/weights.h"

typedef struct upg_weight_check upg_weight_check;

/** of the weights of a file; they outlive it. everything: all at the first pass, as for a device
 * that has a copy of them. Errors: E_NOMEM. */
upg_status upg_weight_check_create(const upg_weights *weights, uint32_t threads, bool everything,
                                   upg_weight_check **check, upg_error *err);
/** Checks what a batch of these rows reads and no earlier one did. Errors: E_CORRUPT, which names
 * the first bad chunk, its bytes and what it holds, and comes again the next time; E_NOMEM. */
upg_status upg_weight_check_rows(upg_weight_check *check, const upg_batch_row *rows,
                                 uint32_t n_rows, upg_error *err);
/** Chunks that were checked so far. */
size_t upg_weight_check_count(const upg_weight_check *check);
/** NULL is fine. */
void upg_weight_check_close(upg_weight_check *check);

#endif
