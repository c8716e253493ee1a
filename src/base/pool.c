/* pool.c: workers spin briefly for the next generation, then sleep on a condition variable.
 *
 * A run is: publish the job, bump `generation` (release), work on it, wait until `active` is 0.
 * Each worker: sees the new generation (acquire), claims items by fetch_add on `next`, and takes
 * itself off `active` (release; pairs with the caller's acquire). */
#include "base/pool.h"

#include <pthread.h>
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

/* About 20 µs on a 3 GHz core: longer than the gap between two ops of a token, shorter than what a
 * user would notice as load. */
#define SPIN_ROUNDS 2000

typedef struct worker {
    upg_pool *pool;
    pthread_t thread;
    uint32_t  index;
} worker;

struct upg_pool {
    uint32_t        n_threads; /* the caller included */
    uint32_t        n_started;
    worker         *workers; /* [n_threads - 1] */
    pthread_mutex_t lock;    /* guards sleeping only */
    pthread_cond_t  wake, done;
    atomic_uint     generation;
    atomic_uint     active; /* workers still in this run */
    atomic_bool     stop;
    atomic_size_t   next;
    size_t          n_items;
    void (*run)(void *, size_t, uint32_t);
    void *context;
};

static void work(upg_pool *pool, uint32_t index)
{
    size_t n_items = pool->n_items;

    for (;;) {
        size_t item = atomic_fetch_add_explicit(&pool->next, 1, memory_order_relaxed);

        if (item >= n_items)
            return;
        pool->run(pool->context, item, index);
    }
}

/* Waits for a generation other than `seen` and returns it. */
static unsigned wait_generation(upg_pool *pool, unsigned seen)
{
    for (int i = 0; i < SPIN_ROUNDS; i++) {
        unsigned now = atomic_load_explicit(&pool->generation, memory_order_acquire);

        if (now != seen)
            return now;
        SPIN_HINT();
    }
    pthread_mutex_lock(&pool->lock);
    while (atomic_load_explicit(&pool->generation, memory_order_acquire) == seen)
        pthread_cond_wait(&pool->wake, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
    return atomic_load_explicit(&pool->generation, memory_order_acquire);
}

static void *worker_main(void *argument)
{
    worker   *self = argument;
    upg_pool *pool = self->pool;
    unsigned  seen = 0;

    for (;;) {
        seen = wait_generation(pool, seen);
        if (atomic_load_explicit(&pool->stop, memory_order_relaxed))
            return NULL;
        work(pool, self->index);
        if (atomic_fetch_sub_explicit(&pool->active, 1, memory_order_acq_rel) == 1) {
            pthread_mutex_lock(&pool->lock);
            pthread_cond_signal(&pool->done);
            pthread_mutex_unlock(&pool->lock);
        }
    }
}

/* Publishes a new generation and wakes the sleepers. */
static void announce(upg_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    atomic_fetch_add_explicit(&pool->generation, 1, memory_order_release);
    pthread_cond_broadcast(&pool->wake);
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
    pool->n_items = n_items;
    pool->run = run;
    pool->context = context;
    atomic_store_explicit(&pool->next, 0, memory_order_relaxed);
    atomic_store_explicit(&pool->active, pool->n_started, memory_order_relaxed);
    announce(pool);
    work(pool, 0);
    for (int i = 0; i < SPIN_ROUNDS; i++) {
        if (atomic_load_explicit(&pool->active, memory_order_acquire) == 0)
            return;
        SPIN_HINT();
    }
    pthread_mutex_lock(&pool->lock);
    while (atomic_load_explicit(&pool->active, memory_order_acquire) != 0)
        pthread_cond_wait(&pool->done, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
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
        announce(pool);
        for (uint32_t i = 0; i < pool->n_started; i++)
            pthread_join(pool->workers[i].thread, NULL);
    }
    pthread_cond_destroy(&pool->wake);
    pthread_cond_destroy(&pool->done);
    pthread_mutex_destroy(&pool->lock);
    upg_free(pool->workers);
    upg_free(pool);
}
