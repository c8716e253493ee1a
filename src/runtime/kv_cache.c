/* kv_cache.c: counted pages. The count stands in the 64 bytes before a page. */
#include "runtime/kv_cache.h"

#include <stdatomic.h>
#include <string.h>

#include "base/alloc.h"

enum { HEADER_BYTES = 64 };

_Static_assert(sizeof(atomic_uint) <= HEADER_BYTES, "the count stands before the page");

static atomic_uint *count_of(uint8_t *page)
{
    return (atomic_uint *)(void *)(page - HEADER_BYTES);
}

static uint8_t *create_page(const upg_kv_layout *layout, upg_error *err)
{
    uint8_t *memory = upg_alloc_aligned(HEADER_BYTES + layout->page_bytes, err);

    if (!memory)
        return NULL;
    atomic_init((atomic_uint *)(void *)memory, 1);
    return memory + HEADER_BYTES;
}

static void release_page(uint8_t *page)
{
    /* acq_rel: the reads of other owners happen before the last one frees */
    if (atomic_fetch_sub_explicit(count_of(page), 1, memory_order_acq_rel) == 1)
        upg_free(page - HEADER_BYTES);
}

static uint32_t pages_for(uint32_t n_tokens)
{
    return n_tokens / UPG_PAGE_TOKENS + (n_tokens % UPG_PAGE_TOKENS != 0);
}

upg_status upg_kv_cache_init(upg_kv_cache *cache, const upg_kv_layout *layout, uint32_t n_tokens,
                             upg_error *err)
{
    *cache = (upg_kv_cache) { .layout = *layout, .capacity = pages_for(n_tokens) };
    cache->pages = upg_calloc(cache->capacity, sizeof *cache->pages, err);
    cache->view.pages = cache->pages;
    return cache->pages ? UPG_OK : UPG_E_NOMEM;
}

void upg_kv_cache_deinit(upg_kv_cache *cache)
{
    if (cache->pages)
        upg_kv_cache_trim(cache, 0);
    upg_free(cache->pages);
    *cache = (upg_kv_cache) { 0 };
}

/* Page i, which exists, becomes the cache's own; its contents are kept when `keep`. */
static upg_status own_page(upg_kv_cache *cache, uint32_t i, bool keep, upg_error *err)
{
    uint8_t *shared = cache->pages[i], *own;

    /* acquire: the reads of an owner that let go happen before our writes */
    if (atomic_load_explicit(count_of(shared), memory_order_acquire) == 1)
        return UPG_OK;
    own = create_page(&cache->layout, err);
    if (!own)
        return UPG_E_NOMEM;
    if (keep)
        memcpy(own, shared, cache->layout.page_bytes);
    cache->pages[i] = own;
    release_page(shared);
    return UPG_OK;
}

upg_status upg_kv_cache_reserve(upg_kv_cache *cache, uint32_t begin, uint32_t end, upg_error *err)
{
    upg_status st = UPG_OK;

    for (uint32_t i = begin / UPG_PAGE_TOKENS; i < pages_for(end); i++) {
        if (i < cache->view.n_pages) {
            UPG_TRY(own_page(cache, i, begin > i * UPG_PAGE_TOKENS, err));
            continue;
        }
        cache->pages[i] = create_page(&cache->layout, err);
        UPG_TRY(cache->pages[i] ? UPG_OK : UPG_E_NOMEM);
        cache->view.n_pages = i + 1;
    }
out:
    return st;
}

void upg_kv_cache_trim(upg_kv_cache *cache, uint32_t n_tokens)
{
    while (cache->view.n_pages > pages_for(n_tokens)) {
        uint32_t last = --cache->view.n_pages;

        release_page(cache->pages[last]);
        cache->pages[last] = NULL;
    }
}

void upg_kv_cache_share(const upg_kv_cache *parent, uint32_t n_tokens, upg_kv_cache *child)
{
    uint32_t n = pages_for(n_tokens);

    if (n > parent->view.n_pages)
        n = parent->view.n_pages;
    for (uint32_t i = 0; i < n; i++) {
        atomic_fetch_add_explicit(count_of(parent->pages[i]), 1, memory_order_relaxed);
        child->pages[i] = parent->pages[i];
    }
    child->view.n_pages = n;
    child->view.long_rope = parent->view.long_rope;
}
