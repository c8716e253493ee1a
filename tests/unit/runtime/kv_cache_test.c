/* Pages are shared, copied and given back exactly as counted. Leaks show under ASan. */
#include "runtime/kv_cache.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"

static const upg_kv_layout layout = { UPG_KV_F16, 1, 1, 8, 1024, 2048 };

/* A class without pages of its own: they lie in host memory. */
static const upg_kv_memory host = { &upg_backend_ref, NULL };

static upg_kv_cache make(uint32_t n_tokens)
{
    upg_kv_cache cache;

    assert_int_equal(upg_kv_cache_init(&cache, &layout, host, n_tokens, NULL), UPG_OK);
    return cache;
}

static void reserve(upg_kv_cache *cache, uint32_t begin, uint32_t end)
{
    assert_int_equal(upg_kv_cache_reserve(cache, begin, end, NULL), UPG_OK);
}

static void test_pages_come_as_needed(void **state)
{
    upg_kv_cache cache = make(200);
    uint64_t     before;

    (void)state;
    assert_int_equal(cache.capacity, 4);
    reserve(&cache, 0, 0);
    assert_int_equal(cache.view.n_pages, 0);
    reserve(&cache, 0, 1);
    assert_int_equal(cache.view.n_pages, 1);
    assert_int_equal((uintptr_t)cache.pages[0] % 64, 0);
    before = upg_alloc_count();
    reserve(&cache, 1, 64);
    assert_int_equal(upg_alloc_count(), before);
    reserve(&cache, 64, 200);
    assert_int_equal(cache.view.n_pages, 4);
    upg_kv_cache_trim(&cache, 65);
    assert_int_equal(cache.view.n_pages, 2);
    upg_kv_cache_trim(&cache, 64);
    assert_int_equal(cache.view.n_pages, 1);
    upg_kv_cache_deinit(&cache);
}

static void test_copy_on_write(void **state)
{
    upg_kv_cache parent = make(200), child = make(200);

    (void)state;
    reserve(&parent, 0, 130);
    for (uint32_t p = 0; p < 3; p++)
        memset(parent.pages[p], (int)p + 1, layout.page_bytes);
    upg_kv_cache_share(&parent, 70, &child);
    assert_int_equal(child.view.n_pages, 2);
    assert_ptr_equal(child.pages[0], parent.pages[0]);
    reserve(&child, 70, 71); /* the second page holds six of the child's tokens: copied */
    assert_ptr_not_equal(child.pages[1], parent.pages[1]);
    assert_memory_equal(child.pages[1], parent.pages[1], layout.page_bytes);
    assert_ptr_equal(child.pages[0], parent.pages[0]);
    {
        uint8_t *own = parent.pages[1];

        reserve(&parent, 70, 71); /* alone again: nothing to copy */
        assert_ptr_equal(parent.pages[1], own);
    }
    reserve(&child, 0, 64); /* all of the first page is new: nothing is kept */
    assert_ptr_not_equal(child.pages[0], parent.pages[0]);
    assert_int_equal(parent.pages[0][0], 1);
    upg_kv_cache_deinit(&parent);
    assert_int_equal(child.pages[1][5], 2); /* outlives the parent */
    upg_kv_cache_deinit(&child);
}

static void test_no_memory(void **state)
{
    upg_kv_cache parent = make(200), child = make(200);
    upg_error    err;

    (void)state;
    reserve(&parent, 0, 64);
    upg_kv_cache_share(&parent, 64, &child);
    upg_alloc_fail_after(1);
    assert_int_equal(upg_kv_cache_reserve(&child, 10, 200, &err), UPG_E_NOMEM);
    upg_alloc_fail_after(UINT64_MAX);
    assert_int_equal(child.view.n_pages, 1); /* what there is, is whole */
    upg_kv_cache_deinit(&child);
    upg_kv_cache_deinit(&parent);
    upg_kv_cache_deinit(&parent); /* a zeroed one is fine */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pages_come_as_needed),
        cmocka_unit_test(test_copy_on_write),
        cmocka_unit_test(test_no_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
