/* state_store.h: the residual states of windows between layers, in memory or in a file.
 *
 * For Phi-4 the two streams of a calibration are 3.4 GB: where memory is short they lie in a file
 * without a name beside the output, and a worker holds one window at a time. */
#ifndef UPG_COMPRESS_STATE_STORE_H
#define UPG_COMPRESS_STATE_STORE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "base/file.h"

typedef struct upg_state_store {
    float       *memory;    /* f32 [n_slots][slot_size], or NULL */
    upg_outfile *file;      /* or NULL */
    float       *buffers;   /* f32 [n_buffers][slot_size]: where slots of a file are worked on */
    size_t       slot_size; /* floats */
    uint32_t     n_slots, n_buffers;
    atomic_flag  failed;     /* the first failure is kept … */
    atomic_bool  has_failed; /* … release; pairs with acquire in upg_state_store_check */
    upg_status   status;
    upg_error    error;
} upg_state_store;

/** n_slots states of slot_size floats. spill_beside  NULL = in memory; else a path beside which the
 * file lies, its space reserved at once. n_buffers: of workers, at least. Errors: E_NOMEM, E_IO,
 * E_NOSPACE. The caller calls deinit, after a failure too. */
upg_status upg_state_store_init(upg_state_store *store, uint32_t n_slots, size_t slot_size,
                                uint32_t n_buffers, const char *spill_beside, upg_error *err);
void       upg_state_store_deinit(upg_state_store *store);
/** Bytes of memory that such a store takes. */
uint64_t upg_state_store_memory(uint32_t n_slots, size_t slot_size, uint32_t n_buffers, bool spill);
/** Slot `slot` to be worked on, f32 [slot_size]: itself where it is in memory, else read into
 * buffer `buffer`. Any thread, each slot and buffer by one. Failures are kept for check. */
float *upg_state_get(upg_state_store *store, uint32_t slot, uint32_t buffer);
/** A place for a slot's new content, which is not read. */
float *upg_state_blank(upg_state_store *store, uint32_t slot, uint32_t buffer);
/** Puts back what get or blank gave. */
void upg_state_put(upg_state_store *store, uint32_t slot, const float *state);
/** The first failure of a get or put since the store was made. */
upg_status upg_state_store_check(upg_state_store *store, upg_error *err);

#endif
