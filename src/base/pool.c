/* pool.c: workers claim items from one ticket, spin briefly for the next run, then sleep.
 *
 * The ticket holds the run's number (high half) and how many of its items are left (low half), so
 * that claiming one is a compare-and-swap that cannot succeed for a run that is over. A run ends
 * when all its items are done, not when all workers have noticed it: a worker that another process
 * keeps off its core costs nothing while it holds no item.
 *
 *   caller   writes the job, stores the ticket, works, waits until `finished` = n_items
 *   worker   sees items left, claims, runs, adds what it did to `finished` when none is left
 *
 * The job's fields are stable while an item is claimed and not counted as finished.
 * Sleeping follows Dekker: each side announces itself and then looks at what the other one wrote
 * (sequentially consistent), so that one of them sees the other. */
#include "base/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "base/alloc.h"
#include "base/cpu.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define SPIN_HINT() _mm_pause()
#elif defined(__aarch64__)
#define SPIN_HINT() __asm__ volatile("yield")
#else
#define SPIN_HINT() ((void)0)
#endif

/* About 30 µs on a 3 GHz core: longer than the gap between two ops of a token, shorter than what a
 * user would notice as load. */
#define SPIN_ROUNDS 2000

typedef struct worker {
    upg_pool *pool;
    pthread_t thread;
    uint32_t  index;
} worker;

typedef struct each_run {
    atomic_uint done;
    void (*run)(void *, uint32_t);
    void *context;
} each_run;

struct upg_pool {
    uint32_t             n_threads; /* the caller included */
    uint32_t             n_started;
    worker              *workers; /* [n_threads - 1] */
    pthread_mutex_t      lock;    /* guards sleeping only */
    pthread_cond_t       wake, done;
    atomic_uint          sleepers; /* workers that sleep or are about to */
    atomic_bool          caller_waits;
    atomic_bool          stop;
    uint8_t              pad[64]; /* what follows is written by every claim */
    atomic_uint_fast64_t ticket;
    atomic_uint          finished; /* items of this run */
    /* the job */
    size_t   first;
    uint32_t n_items;
    void (*run)(void *, size_t, uint32_t);
    void    *context;
    each_run each; /* of upg_pool_run_each */
};

static bool has_items(uint64_t ticket)
{
    return (uint32_t)ticket != 0;
}

/* Takes one item; false when none is left. */
static bool claim(upg_pool *pool, uint32_t *left)
{
    /* acquire; pairs with the store in start_run */
    uint64_t ticket = atomic_load_explicit(&pool->ticket, memory_order_acquire);

    while (has_items(ticket))
        if (atomic_compare_exchange_weak_explicit(&pool->ticket, &ticket, ticket - 1,
                                                  memory_order_acquire, memory_order_acquire)) {
            *left = (uint32_t)ticket;
            return true;
        }
    return false;
}

static void wake_caller(upg_pool *pool)
{
    if (!atomic_load(&pool->caller_waits))
        return;
    pthread_mutex_lock(&pool->lock);
    pthread_cond_signal(&pool->done);
    pthread_mutex_unlock(&pool->lock);
}

static void work(upg_pool *pool, uint32_t index)
{
    uint32_t n_done = 0, n_items = 0, left;

    while (claim(pool, &left)) {
        n_items = pool->n_items;
        pool->run(pool->context, pool->first + (n_items - left), index);
        n_done++;
    }
    /* After the addition the job may change: n_items was read before. Pairs with wait_finished. */
    if (n_done > 0 && atomic_fetch_add(&pool->finished, n_done) + n_done == n_items)
        wake_caller(pool);
}

static bool may_go_on(upg_pool *pool)
{
    return has_items(atomic_load(&pool->ticket)) || atomic_load(&pool->stop);
}

static void wait_for_items(upg_pool *pool)
{
    for (int i = 0; i < SPIN_ROUNDS; i++) {
        if (may_go_on(pool))
            return;
        SPIN_HINT();
    }
    pthread_mutex_lock(&pool->lock);
    atomic_fetch_add(&pool->sleepers, 1);
    while (!may_go_on(pool))
        pthread_cond_wait(&pool->wake, &pool->lock);
    atomic_fetch_sub(&pool->sleepers, 1);
    pthread_mutex_unlock(&pool->lock);
}

static void *worker_main(void *argument)
{
    worker   *self = argument;
    upg_pool *pool = self->pool;

    while (!atomic_load(&pool->stop)) {
        work(pool, self->index);
        wait_for_items(pool);
    }
    return NULL;
}

static void wake_sleepers(upg_pool *pool)
{
    if (atomic_load(&pool->sleepers) == 0)
        return;
    pthread_mutex_lock(&pool->lock);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
}

/* Publishes n items under the next run's number. */
static void start_run(upg_pool *pool, uint32_t n)
{
    uint64_t number = (atomic_load_explicit(&pool->ticket, memory_order_relaxed) >> 32) + 1;

    pool->n_items = n;
    atomic_store_explicit(&pool->finished, 0, memory_order_relaxed);
    atomic_store(&pool->ticket, number << 32 | n); /* pairs with claim */
    wake_sleepers(pool);
}

static bool run_is_over(upg_pool *pool)
{
    return atomic_load(&pool->finished) == pool->n_items;
}

static void wait_finished(upg_pool *pool)
{
    for (int i = 0; i < SPIN_ROUNDS; i++) {
        if (run_is_over(pool))
            return;
        SPIN_HINT();
    }
    pthread_mutex_lock(&pool->lock);
    atomic_store(&pool->caller_waits, true);
    while (!run_is_over(pool))
        pthread_cond_wait(&pool->done, &pool->lock);
    atomic_store(&pool->caller_waits, false);
    pthread_mutex_unlock(&pool->lock);
}

upg_status upg_pool_create(uint32_t threads, upg_pool **out, upg_error *err)
{
    upg_status st = UPG_OK;
    upg_pool  *pool = upg_calloc(1, sizeof *pool, err);

    *out = NULL;
    if (pool == NULL)
        return UPG_E_NOMEM;
    pool->n_threads = threads == 0 ? upg_cpu_cores() : threads;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pthread_cond_init(&pool->done, NULL);
    pool->workers = upg_calloc(pool->n_threads, sizeof *pool->workers, err);
    UPG_TRY(pool->workers ? UPG_OK : UPG_E_NOMEM);
    for (uint32_t i = 0; i + 1 < pool->n_threads; i++) {
        worker *w = &pool->workers[i];
        int     failed;

        w->pool = pool;
        w->index = i + 1;
        failed = pthread_create(&w->thread, NULL, worker_main, w);
        if (failed != 0)
            UPG_TRY(upg_fail_os(err, UPG_E_NOMEM, failed, "cannot start thread %u of %u", i + 2,
                                pool->n_threads));
        pool->n_started++;
    }
out:
    if (st != UPG_OK) {
        upg_pool_close(pool);
        pool = NULL;
    }
    *out = pool;
    return st;
}

void upg_pool_run(upg_pool *pool, size_t n_items, void (*run)(void *, size_t, uint32_t),
                  void *context)
{
    if (pool->n_started == 0 || n_items <= 1) {
        for (size_t item = 0; item < n_items; item++)
            run(context, item, 0);
        return;
    }
    pool->run = run;
    pool->context = context;
    for (size_t first = 0; first < n_items; first += pool->n_items) {
        size_t left = n_items - first;

        pool->first = first;
        start_run(pool, left < UINT32_MAX ? (uint32_t)left : UINT32_MAX);
        work(pool, 0);
        wait_finished(pool);
    }
}

/* A thread that waits for the others cannot take a second item. */
static void run_and_wait(void *context, size_t item, uint32_t index)
{
    upg_pool *pool = context;

    (void)item;
    pool->each.run(pool->each.context, index);
    atomic_fetch_add(&pool->each.done, 1);
    while (atomic_load(&pool->each.done) < pool->n_threads)
        sched_yield();
}

void upg_pool_run_each(upg_pool *pool, void (*run)(void *, uint32_t), void *context)
{
    pool->each.run = run;
    pool->each.context = context;
    atomic_store(&pool->each.done, 0);
    upg_pool_run(pool, pool->n_threads, run_and_wait, pool);
}

uint32_t upg_pool_size(const upg_pool *pool)
{
    return pool->n_threads;
}

void upg_pool_close(upg_pool *pool)
{
    if (pool == NULL)
        return;
    if (pool->n_started > 0) {
        atomic_store(&pool->stop, true);
        wake_sleepers(pool);
        for (uint32_t i = 0; i < pool->n_started; i++)
            pthread_join(pool->workers[i].thread, NULL);
    }
    pthread_cond_destroy(&pool->wake);
    pthread_cond_destroy(&pool->done);
    pthread_mutex_destroy(&pool->lock);
    upg_free(pool->workers);
    upg_free(pool);
}
