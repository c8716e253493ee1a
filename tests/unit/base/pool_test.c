/* The pool runs every item once, whatever the number of threads, items and runs, in quick
 * succession and after its workers have gone to sleep. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/pool.h"

enum { MAX_ITEMS = 1000 };

typedef struct tally {
    uint32_t n_workers;
    uint32_t times[MAX_ITEMS]; /* no atomics: each item has one owner and the run is a barrier */
    uint64_t sum;              /* written by the caller between runs */
} tally;

static void count(void *context, size_t item, uint32_t worker)
{
    tally *t = context;

    if (worker < t->n_workers)
        t->times[item] += (uint32_t)(1 + t->sum % 2);
}

static void pause_ms(long ms)
{
    struct timespec time = { 0, ms * 1000000 };

    nanosleep(&time, NULL);
}

static void check_runs(uint32_t threads, uint32_t n_runs, uint32_t step)
{
    static tally t;
    upg_pool    *pool;
    upg_error    err;

    memset(&t, 0, sizeof t);
    assert_int_equal(upg_pool_create(threads, &pool, &err), UPG_OK);
    t.n_workers = upg_pool_size(pool);
    assert_true(threads == 0 ? t.n_workers >= 1 : t.n_workers == threads);
    for (uint32_t run = 0; run < n_runs; run++) {
        uint32_t n = run * step % MAX_ITEMS;

        memset(t.times, 0, sizeof t.times);
        t.sum = run;
        upg_pool_run(pool, n, count, &t);
        for (uint32_t i = 0; i < MAX_ITEMS; i++)
            assert_int_equal(t.times[i], i < n ? 1 + run % 2 : 0);
        if (run % 512 == 7)
            pause_ms(2); /* longer than the workers spin */
    }
    upg_pool_close(pool);
}

static void every_item_once(void **state)
{
    (void)state;
    for (uint32_t threads = 0; threads <= 5; threads++)
        check_runs(threads, 3000, 7);
    check_runs(3, 20000, 1); /* most runs have few items */
}

static void closing_at_once(void **state)
{
    upg_error err;

    (void)state;
    upg_pool_close(NULL);
    for (int i = 0; i < 100; i++) {
        upg_pool *pool;

        assert_int_equal(upg_pool_create(4, &pool, &err), UPG_OK);
        if (i % 3 == 0)
            pause_ms(1);
        upg_pool_close(pool);
    }
}

static void runs_without_allocating(void **state)
{
    static tally t;
    upg_pool    *pool;
    upg_error    err;
    uint64_t     before;

    (void)state;
    assert_int_equal(upg_pool_create(2, &pool, &err), UPG_OK);
    t.n_workers = 2;
    before = upg_alloc_count();
    for (int i = 0; i < 100; i++)
        upg_pool_run(pool, MAX_ITEMS, count, &t);
    assert_int_equal(upg_alloc_count(), before);
    upg_pool_close(pool);
}

static void out_of_memory(void **state)
{
    upg_status st = UPG_E_NOMEM;
    upg_pool  *pool;
    upg_error  err;
    uint64_t   n = 0;

    (void)state;
    for (; st != UPG_OK; n++) {
        upg_alloc_fail_after(n);
        st = upg_pool_create(3, &pool, &err);
        upg_alloc_fail_after(UINT64_MAX);
        assert_true(st == UPG_OK || (st == UPG_E_NOMEM && pool == NULL));
    }
    assert_int_equal(n, 3);
    upg_pool_close(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_item_once),
        cmocka_unit_test(closing_at_once),
        cmocka_unit_test(runs_without_allocating),
        cmocka_unit_test(out_of_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
