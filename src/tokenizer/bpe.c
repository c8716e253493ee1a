/* bpe.c: see bpe.h.
 *
 * Invariants of the long form:
 *   1. symbols[p].rank is the rank of the pair that begins at p, NONE without one or when p was
 *      merged into its left neighbour.
 *   2. Every p with a rank has an entry rank << 32 | p in the heap. An entry whose rank differs
 *      from symbols[p].rank is stale and skipped; a rank names one pair, so a fresh entry never
 *      stands for another pair. */
#include "tokenizer/bpe.h"

#include <string.h>

#include "base/alloc.h"
#include "tokenizer/hash.h"

#define NONE UINT32_MAX

struct upg_bpe_symbol {
    uint32_t id, rank, merged; /* merged: the id that the pair becomes */
    uint32_t previous, next;   /* positions; NONE at the ends */
};

upg_status upg_merge_table_init(upg_merge_table *table, size_t n, upg_error *err)
{
    size_t n_slots = 16;

    while (n_slots < 2 * n)
        n_slots *= 2;
    table->mask = n_slots - 1;
    table->slots = upg_malloc(n_slots, sizeof *table->slots, err);
    if (table->slots == NULL)
        return UPG_E_NOMEM;
    memset(table->slots, 0xFF, n_slots * sizeof *table->slots);
    return UPG_OK;
}

void upg_merge_table_deinit(upg_merge_table *table)
{
    upg_free(table->slots);
    table->slots = NULL;
}

/* The pair's slot, or the free one where it belongs. */
static inline upg_merge *find(const upg_merge_table *table, uint64_t pair)
{
    size_t slot = (size_t)upg_hash_u64(pair ^ pair >> 29) & table->mask;

    while (table->slots[slot].pair != pair && table->slots[slot].pair != UINT64_MAX)
        slot = (slot + 1) & table->mask;
    return &table->slots[slot];
}

void upg_merge_table_add(upg_merge_table *table, uint32_t left, uint32_t right, uint32_t rank,
                         uint32_t id)
{
    uint64_t pair = (uint64_t)left << 32 | right;

    *find(table, pair) = (upg_merge) { .pair = pair, .rank = rank, .id = id };
}

size_t upg_bpe_short(const upg_merge_table *table, const uint8_t *piece, size_t size, int32_t *ids)
{
    uint32_t id[UPG_BPE_SHORT], rank[UPG_BPE_SHORT], merged[UPG_BPE_SHORT];
    size_t   n = size;

    for (size_t i = 0; i < n; i++)
        id[i] = table->byte_ids[piece[i]];
    for (size_t i = 0; i + 1 < n; i++) {
        const upg_merge *m = find(table, (uint64_t)id[i] << 32 | id[i + 1]);

        rank[i] = m->rank; /* a free slot's rank is NONE */
        merged[i] = m->id;
    }
    while (n > 1) {
        size_t best = 0;

        for (size_t i = 1; i + 1 < n; i++)
            best = rank[i] < rank[best] ? i : best;
        if (rank[best] == NONE)
            break;
        id[best] = merged[best];
        n--;
        for (size_t i = best + 1; i < n; i++) {
            id[i] = id[i + 1];
            rank[i - 1 + 1] = i + 1 < n ? rank[i + 1] : NONE;
            merged[i] = i + 1 < n ? merged[i + 1] : NONE;
        }
        for (size_t i = best > 0 ? best - 1 : 0; i <= best && i + 1 < n; i++) {
            const upg_merge *m = find(table, (uint64_t)id[i] << 32 | id[i + 1]);

            rank[i] = m->rank;
            merged[i] = m->id;
        }
    }
    for (size_t i = 0; i < n; i++)
        ids[i] = (int32_t)id[i];
    return n;
}

void upg_bpe_scratch_deinit(upg_bpe_scratch *scratch)
{
    upg_free(scratch->symbols);
    upg_free(scratch->heap);
    scratch->symbols = NULL;
    scratch->heap = NULL;
    scratch->symbols_cap = scratch->heap_cap = scratch->heap_size = 0;
}

static upg_status reserve(upg_bpe_scratch *scratch, size_t n, upg_error *err)
{
    if (n > scratch->symbols_cap) {
        struct upg_bpe_symbol *symbols;

        upg_free(scratch->symbols);
        scratch->symbols_cap = 0;
        scratch->symbols = symbols = upg_malloc(n, sizeof *symbols, err);
        if (symbols == NULL)
            return UPG_E_NOMEM;
        scratch->symbols_cap = n;
    }
    /* Each of the n - 1 merges takes one entry and brings at most two: n - 1 + n - 1 suffice. */
    if (2 * n > scratch->heap_cap) {
        upg_free(scratch->heap);
        scratch->heap_cap = 0;
        scratch->heap = upg_malloc(2 * n, sizeof *scratch->heap, err);
        if (scratch->heap == NULL)
            return UPG_E_NOMEM;
        scratch->heap_cap = 2 * n;
    }
    return UPG_OK;
}

static void sift_down(upg_bpe_scratch *scratch, size_t hole, uint64_t entry)
{
    uint64_t *heap = scratch->heap;
    size_t    size = scratch->heap_size;

    for (size_t child; (child = 2 * hole + 1) < size; hole = child) {
        if (child + 1 < size && heap[child + 1] < heap[child])
            child++;
        if (entry <= heap[child])
            break;
        heap[hole] = heap[child];
        scratch->steps++;
    }
    heap[hole] = entry;
}

static void heap_push(upg_bpe_scratch *scratch, uint64_t entry)
{
    uint64_t *heap = scratch->heap;
    size_t    hole = scratch->heap_size++;

    for (; hole > 0 && entry < heap[(hole - 1) / 2]; hole = (hole - 1) / 2) {
        heap[hole] = heap[(hole - 1) / 2];
        scratch->steps++;
    }
    heap[hole] = entry;
}

static uint64_t heap_pop(upg_bpe_scratch *scratch)
{
    uint64_t top = scratch->heap[0];

    if (--scratch->heap_size > 0)
        sift_down(scratch, 0, scratch->heap[scratch->heap_size]);
    scratch->steps++;
    return top;
}

/* Looks up the pair that begins at p. */
static void rank_pair(const upg_merge_table *table, struct upg_bpe_symbol *symbols, uint32_t p)
{
    uint32_t next = symbols[p].next;

    symbols[p].rank = NONE;
    if (next != NONE) {
        const upg_merge *m = find(table, (uint64_t)symbols[p].id << 32 | symbols[next].id);

        symbols[p].rank = m->rank;
        symbols[p].merged = m->id;
    }
}

static void push_pair(const upg_merge_table *table, upg_bpe_scratch *scratch, uint32_t p)
{
    rank_pair(table, scratch->symbols, p);
    if (scratch->symbols[p].rank != NONE)
        heap_push(scratch, (uint64_t)scratch->symbols[p].rank << 32 | p);
}

/* The symbols of single bytes and the heap of their pairs. */
static void start(const upg_merge_table *table, upg_bpe_scratch *scratch, const uint8_t *piece,
                  size_t size)
{
    struct upg_bpe_symbol *symbols = scratch->symbols;

    for (size_t i = 0; i < size; i++) {
        symbols[i].id = table->byte_ids[piece[i]];
        symbols[i].previous = i > 0 ? (uint32_t)i - 1 : NONE;
        symbols[i].next = i + 1 < size ? (uint32_t)i + 1 : NONE;
    }
    scratch->heap_size = 0;
    for (size_t i = 0; i < size; i++) {
        rank_pair(table, symbols, (uint32_t)i);
        if (symbols[i].rank != NONE)
            scratch->heap[scratch->heap_size++] = (uint64_t)symbols[i].rank << 32 | i;
    }
    for (size_t i = scratch->heap_size / 2; i-- > 0;)
        sift_down(scratch, i, scratch->heap[i]);
}

upg_status upg_bpe_long(const upg_merge_table *table, upg_bpe_scratch *scratch,
                        const uint8_t *piece, size_t size, const int32_t **ids, size_t *n,
                        upg_error *err)
{
    upg_status             st;
    struct upg_bpe_symbol *symbols;
    int32_t               *out;

    *n = 0;
    UPG_TRY(reserve(scratch, size, err));
    symbols = scratch->symbols;
    start(table, scratch, piece, size);
    while (scratch->heap_size > 0) {
        uint64_t entry = heap_pop(scratch);
        uint32_t p = (uint32_t)entry, gone;

        if (symbols[p].rank != entry >> 32)
            continue; /* stale */
        gone = symbols[p].next;
        symbols[p].id = symbols[p].merged;
        symbols[p].next = symbols[gone].next;
        symbols[gone].rank = NONE;
        if (symbols[p].next != NONE)
            symbols[symbols[p].next].previous = p;
        push_pair(table, scratch, p);
        if (symbols[p].previous != NONE)
            push_pair(table, scratch, symbols[p].previous);
    }
    out = (int32_t *)scratch->heap; /* empty now, and large enough */
    for (uint32_t p = 0; p != NONE && size > 0; p = symbols[p].next)
        out[(*n)++] = (int32_t)symbols[p].id;
    *ids = out;
out:
    return st;
}
