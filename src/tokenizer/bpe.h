/* bpe.h: byte-pair merging of one piece of text.
 *
 * Starting from single bytes, the adjacent pair of least rank is merged, the leftmost first, until
 * no pair is in the table (Sennrich, Haddow, Birch: "Neural machine translation of rare words with
 * subword units", 2016; Gage, 1994). Short pieces scan for the least rank; long ones keep a heap,
 * so that n bytes take n·log n steps whatever they are. */
#ifndef UPG_TOKENIZER_BPE_H
#define UPG_TOKENIZER_BPE_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

enum { UPG_BPE_SHORT = 48 }; /* bytes up to which scanning wins, measured on English words */

typedef struct upg_merge {
    uint64_t pair; /* left id << 32 | right id; UINT64_MAX: free */
    uint32_t rank; /* position in the list of merges: the least goes first */
    uint32_t id;   /* the pair's token */
} upg_merge;

typedef struct upg_merge_table {
    upg_merge *slots; /* [mask + 1], a power of two: open addressing */
    size_t     mask;
    uint32_t   byte_ids[256]; /* the token of each single byte */
} upg_merge_table;

/** Room for n merges. Errors: E_NOMEM. */
upg_status upg_merge_table_init(upg_merge_table *table, size_t n, upg_error *err);
void       upg_merge_table_deinit(upg_merge_table *table);
/** Adds a merge; a pair that is there already takes the later rank, as in the reference. */
void upg_merge_table_add(upg_merge_table *table, uint32_t left, uint32_t right, uint32_t rank,
                         uint32_t id);

/** Scratch for long pieces, reused from call to call. A zeroed one is empty. */
typedef struct upg_bpe_scratch {
    struct upg_bpe_symbol *symbols;
    uint64_t              *heap; /* rank << 32 | position */
    size_t                 symbols_cap, heap_cap, heap_size;
    uint64_t               steps; /* heap operations since the start: tests bound them */
} upg_bpe_scratch;

void upg_bpe_scratch_deinit(upg_bpe_scratch *scratch);

/** Merges a piece of at most UPG_BPE_SHORT bytes into ids[size]; returns how many. */
size_t upg_bpe_short(const upg_merge_table *table, const uint8_t *piece, size_t size, int32_t *ids);
/** Merges a piece of any size below 2^32 - 1 bytes. *ids is borrowed from the scratch.
 * Errors: E_NOMEM. */
upg_status upg_bpe_long(const upg_merge_table *table, upg_bpe_scratch *scratch,
                        const uint8_t *piece, size_t size, const int32_t **ids, size_t *n,
                        upg_error *err);

#endif
