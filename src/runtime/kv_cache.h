/* kv_cache.h: the pages of one sequence.
 *
 * Pages are counted: a fork shares those of its parent, and whoever writes to a shared page first
 * takes a copy. So a page that a batch writes to always has one owner (backend/kv_layout.h). */
#ifndef UPG_RUNTIME_KV_CACHE_H
#define UPG_RUNTIME_KV_CACHE_H

#include <stdatomic.h>

#include "backend/backend.h"

/** Where pages are: in the memory of a backend whose class has kv_allocate, else the host's. */
typedef struct upg_kv_memory {
    const upg_backend_class *class_;
    upg_backend             *backend; /* outlives the caches */
} upg_kv_memory;

typedef struct upg_kv_cache {
    upg_kv_layout layout;
    upg_kv_memory memory;
    upg_kv_view   view;     /* its address names the sequence for backends */
    uint8_t     **pages;    /* [capacity]; the first view.n_pages are there */
    atomic_uint **owners;   /* [capacity]: how many caches share a page */
    uint32_t      capacity; /* pages */
} upg_kv_cache;

/** An empty cache with a table for n_tokens; pages come later. */
upg_status upg_kv_cache_init(upg_kv_cache *cache, const upg_kv_layout *layout, upg_kv_memory memory,
                             uint32_t n_tokens, upg_error *err);
/** A zeroed cache is fine. */
void upg_kv_cache_deinit(upg_kv_cache *cache);

/** Makes positions begin … end − 1 writable: their pages exist and are this cache's own. What
 * stands before `begin` is kept, from there on it is undefined. Allocates only where a page is
 * missing or shared. Errors: E_NOMEM, E_DEVICE_LOST; then nothing before `begin` has changed. */
upg_status upg_kv_cache_reserve(upg_kv_cache *cache, uint32_t begin, uint32_t end, upg_error *err);
/** Drops the pages that hold nothing of the first n_tokens. */
void upg_kv_cache_trim(upg_kv_cache *cache, uint32_t n_tokens);
/** Shares the pages of the first n_tokens of `parent` with `child`, which is empty and of the same
 * layout and capacity. */
void upg_kv_cache_share(const upg_kv_cache *parent, uint32_t n_tokens, upg_kv_cache *child);

#endif
