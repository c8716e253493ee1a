#include "base/arena.h"

#include <stdalign.h>
#include <stdint.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"

#define BLOCK_BYTES 16384u

struct upg_arena_block {
    struct upg_arena_block *next;
    size_t                  used, cap;
    alignas(16) uint8_t data[];
};

void *upg_arena_alloc(upg_arena *arena, size_t n, size_t size, upg_error *err)
{
    struct upg_arena_block *block = arena->blocks;
    uint64_t                bytes;
    void                   *memory;

    if (!upg_mul_u64(n, size, &bytes) || !upg_round_up_u64(bytes, 16, &bytes) ||
        bytes > PTRDIFF_MAX / 2) {
        (void)upg_fail(err, UPG_E_NOMEM, "out of memory: %zu times %zu bytes were asked for", n,
                       size);
        return NULL;
    }
    if (block == NULL || bytes > block->cap - block->used) {
        size_t cap = bytes > BLOCK_BYTES ? (size_t)bytes : BLOCK_BYTES;

        block = upg_calloc(1, sizeof *block + cap, err);
        if (block == NULL)
            return NULL;
        block->cap = cap;
        block->next = arena->blocks;
        arena->blocks = block;
    }
    memory = block->data + block->used;
    block->used += (size_t)bytes;
    return memory;
}

char *upg_arena_strndup(upg_arena *arena, const char *text, size_t bytes, upg_error *err)
{
    char *copy = bytes < SIZE_MAX ? upg_arena_alloc(arena, bytes + 1, 1, err) : NULL;

    if (copy != NULL)
        memcpy(copy, text, bytes);
    return copy;
}

void upg_arena_deinit(upg_arena *arena)
{
    while (arena->blocks != NULL) {
        struct upg_arena_block *next = arena->blocks->next;

        upg_free(arena->blocks);
        arena->blocks = next;
    }
}
