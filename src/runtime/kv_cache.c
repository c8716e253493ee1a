/* kv_cache.c: counted pages, in host memory or in the device's. */
#include "runtime/kv_cache.h"

#include <string.h>

#include "base/alloc.h"

static bool on_device(const upg_kv_cache *cache)
{
    return cache->memory.class_ != NULL && cache->memory.class_->kv_allocate != NULL;
}

static upg_status create_page(upg_kv_cache *cache, uint8_t **page, atomic_uint **owners,
                              upg_error *err)
{
    upg_status st;

    *page = NULL;
    *owners = upg_malloc(1, sizeof **owners, err);
    UPG_TRY(*owners ? UPG_OK : UPG_E_NOMEM);
    atomic_init(*owners, 1);
    if (on_device(cache))
        UPG_TRY(cache->memory.class_->kv_allocate(cache->memory.backend, cache->layout.page_bytes,
                                                  page, err));
    else
        UPG_TRY((*page = upg_alloc_aligned(cache->layout.page_bytes, err)) ? UPG_OK : UPG_E_NOMEM);
    if (!on_device(cache) && cache->memory.class_ != NULL && cache->memory.class_->kv_place != NULL)
        cache->memory.class_->kv_place(cache->memory.backend, *page, cache->layout.page_bytes);
out:
    if (st != UPG_OK)
        upg_free(*owners);
    return st;
}

static void release_page(upg_kv_cache *cache, uint8_t *page, atomic_uint *owners)
{
    /* acq_rel: the reads of other owners happen before the last one frees */
    if (atomic_fetch_sub_explicit(owners, 1, memory_order_acq_rel) != 1)
        return;
    if (on_device(cache))
        cache->memory.class_->kv_free(cache->memory.backend, page, cache->layout.page_bytes);
    else
        upg_free(page);
    upg_free(owners);
}

static upg_status copy_page(upg_kv_cache *cache, uint8_t *to, const uint8_t *from, upg_error *err)
{
    if (on_device(cache))
        return cache->memory.class_->kv_copy(cache->memory.backend, to, from,
                                             cache->layout.page_bytes, err);
    memcpy(to, from, cache->layout.page_bytes);
    return UPG_OK;
}

static uint32_t pages_for(uint32_t n_tokens)
{
    return n_tokens / UPG_PAGE_TOKENS + (n_tokens % UPG_PAGE_TOKENS != 0);
}

upg_status upg_kv_cache_init(upg_kv_cache *cache, const upg_kv_layout *layout, upg_kv_memory memory,
                             uint32_t n_tokens, upg_error *err)
{
    *cache =
        (upg_kv_cache) { .layout = *layout, .memory = memory, .capacity = pages_for(n_tokens) };
    cache->pages = upg_calloc(cache->capacity, sizeof *cache->pages, err);
    cache->view.pages = cache->pages;
    if (!cache->pages)
        return UPG_E_NOMEM;
    cache->owners = upg_calloc(cache->capacity, sizeof *cache->owners, err);
    return cache->owners ? UPG_OK : UPG_E_NOMEM;
}

void upg_kv_cache_deinit(upg_kv_cache *cache)
{
    if (cache->pages)
        upg_kv_cache_trim(cache, 0);
    upg_free(cache->owners);
    upg_free(cache->pages);
    *cache = (upg_kv_cache) { 0 };
}

/* Page i, which exists, becomes the cache's own; its contents are kept when `keep`. */
static upg_status own_page(upg_kv_cache *cache, uint32_t i, bool keep, upg_error *err)
{
    uint8_t     *own;
    atomic_uint *owners;
    upg_status   st = UPG_OK;

    /* acquire: the reads of an owner that let go happen before our writes */
    if (atomic_load_explicit(cache->owners[i], memory_order_acquire) == 1)
        return UPG_OK;
    UPG_TRY(create_page(cache, &own, &owners, err));
    if (keep)
        st = copy_page(cache, own, cache->pages[i], err);
    if (st != UPG_OK) {
        release_page(cache, own, owners);
        return st;
    }
    release_page(cache, cache->pages[i], cache->owners[i]);
    cache->pages[i] = own;
    cache->owners[i] = owners;
out:
    return st;
}

upg_status upg_kv_cache_reserve(upg_kv_cache *cache, uint32_t begin, uint32_t end, upg_error *err)
{
    upg_status st = UPG_OK;

    for (uint32_t i = begin / UPG_PAGE_TOKENS; i < pages_for(end); i++) {
        if (i < cache->view.n_pages) {
            UPG_TRY(own_page(cache, i, begin > i * UPG_PAGE_TOKENS, err));
            continue;
        }
        UPG_TRY(create_page(cache, &cache->pages[i], &cache->owners[i], err));
        cache->view.n_pages = i + 1;
    }
out:
    return st;
}

void upg_kv_cache_trim(upg_kv_cache *cache, uint32_t n_tokens)
{
    while (cache->view.n_pages > pages_for(n_tokens)) {
        uint32_t last = --cache->view.n_pages;

        release_page(cache, cache->pages[last], cache->owners[last]);
        cache->pages[last] = NULL;
        cache->owners[last] = NULL;
    }
}

void upg_kv_cache_share(const upg_kv_cache *parent, uint32_t n_tokens, upg_kv_cache *child)
{
    uint32_t n = pages_for(n_tokens);

    if (n > parent->view.n_pages)
        n = parent->view.n_pages;
    for (uint32_t i = 0; i < n; i++) {
        atomic_fetch_add_explicit(parent->owners[i], 1, memory_order_relaxed);
        child->pages[i] = parent->pages[i];
        child->owners[i] = parent->owners[i];
    }
    child->view.n_pages = n;
    child->view.long_rope = parent->view.long_rope;
}
