/* cpu_shares.c: items of a region cut into a run of consecutive ones for each thread.
 *
 * A thread takes its own from the front; when none is left, it takes from the back of the others'.
 * So consecutive items mostly run on one core, which reads memory front to back and finds again in
 * its caches what it left there in an earlier region that was cut alike, and yet nobody waits while
 * there is work. */
#include "backend/cpu/cpu_backend.h"

void upg_cpu_give(cpu_backend *b, uint32_t thread, uint32_t begin, uint32_t end)
{
    atomic_store_explicit(&b->shares[thread].left, (uint64_t)begin << 32 | end,
                          memory_order_relaxed);
}

/* Takes the first or the last item of what is left of a share; false when nothing is. */
static bool take(cpu_share *share, bool first, uint32_t *item)
{
    /* Relaxed: the pool's barriers order the items' data. */
    uint64_t left = atomic_load_explicit(&share->left, memory_order_relaxed), rest;

    do {
        uint32_t begin = (uint32_t)(left >> 32), end = (uint32_t)left;

        if (begin == end)
            return false;
        *item = first ? begin : end - 1;
        rest = first ? left + (UINT64_C(1) << 32) : left - 1;
    } while (!atomic_compare_exchange_weak_explicit(&share->left, &left, rest, memory_order_relaxed,
                                                    memory_order_relaxed));
    return true;
}

bool upg_cpu_take(cpu_backend *b, uint32_t own, uint32_t *item)
{
    bool taken = take(&b->shares[own], true, item);

    for (uint32_t t = 1; !taken && t < b->threads; t++)
        taken = take(&b->shares[(own + t) % b->threads], false, item);
    return taken;
}

typedef struct region {
    cpu_backend *b;
    void (*run)(void *context, size_t item, uint32_t worker);
    void *context;
} region;

static void run_share(void *context, size_t share, uint32_t worker)
{
    const region *r = context;
    uint32_t      item;

    while (upg_cpu_take(r->b, (uint32_t)share, &item))
        r->run(r->context, item, worker);
}

void upg_cpu_run_shares(cpu_backend *b, uint32_t                                        n_items,
                        void (*run)(void *context, size_t item, uint32_t worker), void *context)
{
    region r = { b, run, context };

    for (uint32_t t = 0; t < b->threads; t++)
        upg_cpu_give(b, t, (uint32_t)((uint64_t)n_items * t / b->threads),
                     (uint32_t)((uint64_t)n_items * (t + 1) / b->threads));
    upg_pool_run(b->pool, b->threads, run_share, &r);
}
