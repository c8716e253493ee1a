/* arena.h: many small things with one death. Memory is zeroed and 16-byte aligned. */
#ifndef UPG_BASE_ARENA_H
#define UPG_BASE_ARENA_H

#include <stddef.h>

#include "base/error.h"

typedef struct upg_arena {
    struct upg_arena_block *blocks; /* private */
} upg_arena;

/** n zeroed elements of `size` bytes that live until upg_arena_deinit; NULL = E_NOMEM in *err. */
void *upg_arena_alloc(upg_arena *arena, size_t n, size_t size, upg_error *err);
/** A NUL-terminated copy of text in the arena. */
char *upg_arena_strndup(upg_arena *arena, const char *text, size_t bytes, upg_error *err);
/** Frees everything. A zeroed arena is an empty one. */
void upg_arena_deinit(upg_arena *arena);

#endif
