/* alloc.c: checked allocation with a countdown to failure (SQLite's way of testing for it). */
#include "base/alloc.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/system.h"

static atomic_uint_fast64_t n_allocations;        /* statistics only: relaxed */
static atomic_uint_fast64_t fail_at = UINT64_MAX; /* count from which on every call fails */

void upg_alloc_fail_after(uint64_t successes)
{
    uint64_t now = atomic_load(&n_allocations);
    uint64_t at;

    atomic_store(&fail_at, upg_add_u64(now, successes, &at) ? at : UINT64_MAX);
}

uint64_t upg_alloc_count(void)
{
    return atomic_load(&n_allocations);
}

/* What large pages can lie under begins at one, so that no part of it is lost: a page of Phi-4's KV
 * cache, 13.1 MB, lies on six of 2 MiB instead of five or six. */
enum { LARGE_BYTES = 4 << 20, LARGE_ALIGNMENT = 2 << 20 };

/* Counts the call; false when it has to fail. */
static bool may_allocate(void)
{
    uint64_t index = atomic_fetch_add_explicit(&n_allocations, 1, memory_order_relaxed);

    return index < atomic_load_explicit(&fail_at, memory_order_relaxed);
}

static void *report(void *memory, uint64_t bytes, upg_error *err)
{
    if (memory != NULL)
        upg_system_large_pages(memory, (size_t)bytes);
    else
        (void)upg_fail(err, UPG_E_NOMEM, "out of memory: %llu bytes were asked for",
                       (unsigned long long)bytes);
    return memory;
}

/* Bytes of n elements, or 0 when they overflow; at least 1. */
static size_t checked_bytes(size_t n, size_t size)
{
    uint64_t bytes;

    if (!upg_mul_u64(n, size, &bytes) || bytes > PTRDIFF_MAX)
        return 0;
    return bytes == 0 ? 1 : (size_t)bytes;
}

void *upg_calloc(size_t n, size_t size, upg_error *err)
{
    size_t bytes = checked_bytes(n, size);

    return report(bytes != 0 && may_allocate() ? calloc(1, bytes) : NULL, bytes, err);
}

void *upg_malloc(size_t n, size_t size, upg_error *err)
{
    size_t bytes = checked_bytes(n, size);

    return report(bytes != 0 && may_allocate() ? malloc(bytes) : NULL, bytes, err);
}

void *upg_realloc(void *old, size_t n, size_t size, upg_error *err)
{
    size_t bytes = checked_bytes(n, size);

    return report(bytes != 0 && may_allocate() ? realloc(old, bytes) : NULL, bytes, err);
}

void *upg_alloc_untouched(size_t bytes, upg_error *err)
{
    size_t   alignment = bytes >= LARGE_BYTES ? LARGE_ALIGNMENT : 64;
    uint64_t rounded;
    void    *memory = NULL;

    if (!upg_round_up_u64(bytes == 0 ? 1 : bytes, 64, &rounded) || rounded > PTRDIFF_MAX ||
        !may_allocate() || posix_memalign(&memory, alignment, (size_t)rounded) != 0)
        memory = NULL;
    return report(memory, bytes, err);
}

void *upg_alloc_aligned(size_t bytes, upg_error *err)
{
    void *memory = upg_alloc_untouched(bytes, err);

    if (memory != NULL) /* with what the rounding to 64 added */
        memset(memory, 0, bytes == 0 ? 64 : (bytes + 63) / 64 * 64);
    return memory;
}

char *upg_strndup(const char *text, size_t bytes, upg_error *err)
{
    char *copy = bytes < SIZE_MAX ? upg_malloc(bytes + 1, 1, err) : NULL;

    if (copy != NULL) {
        memcpy(copy, text, bytes);
        copy[bytes] = '\0';
    }
    return copy;
}

void upg_free(void *memory)
{
    free(memory);
}
