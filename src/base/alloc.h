/* alloc.h: every allocation of the library goes through here, so that tests can make the Nth fail.
 *
 * Invariant: a NULL result means that *err is E_NOMEM and names the bytes asked for. */
#ifndef UPG_BASE_ALLOC_H
#define UPG_BASE_ALLOC_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/** n zeroed elements of `size` bytes; the product is checked. n = 0 gives a unique pointer. */
void *upg_calloc(size_t n, size_t size, upg_error *err);
/** n elements of `size` bytes, not zeroed; the product is checked. */
void *upg_malloc(size_t n, size_t size, upg_error *err);
/** Grows or shrinks as realloc does; on failure `old` is untouched. */
void *upg_realloc(void *old, size_t n, size_t size, upg_error *err);
/** `bytes` (rounded up to 64) zeroed bytes at a 64-byte boundary: for vectors that SIMD reads. */
void *upg_alloc_aligned(size_t bytes, upg_error *err);
/** The same, not zeroed: large memory lies where it is touched first. */
void *upg_alloc_untouched(size_t bytes, upg_error *err);
/** A NUL-terminated copy of `bytes` bytes of text. */
char *upg_strndup(const char *text, size_t bytes, upg_error *err);
/** Frees what any function above gave; NULL is fine. */
void upg_free(void *memory);

/** Test hook: the call after `successes` more successful allocations fails, and every later one
 * too, until the hook is set again. UINT64_MAX (the default) never fails. */
void upg_alloc_fail_after(uint64_t successes);
/** Test hook: allocations made since the process began. */
uint64_t upg_alloc_count(void);

#endif
