/* Allocation, arena, buffer, spans and checked arithmetic: limits, overflow and injected failure.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/arena.h"
#include "base/buffer.h"
#include "base/checked.h"
#include "base/span.h"

static void sizes_are_checked(void **state)
{
    upg_error err;

    (void)state;
    assert_null(upg_calloc(SIZE_MAX, 2, &err));
    assert_int_equal(err.code, UPG_E_NOMEM);
    assert_null(upg_malloc(SIZE_MAX / 2 + 2, 1, &err));
    assert_null(upg_alloc_aligned(SIZE_MAX, &err));
    assert_null(upg_strndup("x", SIZE_MAX, &err));
}

static void aligned_and_zeroed(void **state)
{
    upg_error err;

    (void)state;
    for (size_t bytes = 0; bytes < 200; bytes += 7) {
        unsigned char *memory = upg_alloc_aligned(bytes, &err);

        assert_non_null(memory);
        assert_int_equal((uintptr_t)memory % 64, 0);
        for (size_t i = 0; i < (bytes + 63) / 64 * 64; i++)
            assert_int_equal(memory[i], 0);
        upg_free(memory);
    }
}

/* The Nth allocation fails, and all after it, until the hook is lifted. */
static void failure_on_demand(void **state)
{
    upg_error err;
    void     *memory[3];
    uint64_t  before = upg_alloc_count();

    (void)state;
    upg_alloc_fail_after(2);
    for (int i = 0; i < 3; i++)
        memory[i] = upg_malloc(10, 1, &err);
    assert_non_null(memory[0]);
    assert_non_null(memory[1]);
    assert_null(memory[2]);
    assert_null(upg_calloc(1, 1, NULL));
    upg_alloc_fail_after(UINT64_MAX);
    assert_int_equal(err.code, UPG_E_NOMEM);
    assert_int_equal(upg_alloc_count() - before, 4);
    upg_free(memory[0]);
    upg_free(memory[1]);
    upg_free(upg_malloc(1, 1, NULL));
}

static void arena_holds_many(void **state)
{
    upg_arena arena = { 0 };
    upg_error err;
    char     *texts[500];

    (void)state;
    for (size_t i = 0; i < 500; i++) {
        size_t n = i * 97 % 5000;
        char  *block = upg_arena_alloc(&arena, n, 1, &err);

        assert_non_null(block);
        assert_int_equal((uintptr_t)block % 16, 0);
        for (size_t j = 0; j < n; j++)
            assert_int_equal(block[j], 0);
        memset(block, 0x5A, n);
        texts[i] = upg_arena_strndup(&arena, "0123456789", i % 11, &err);
    }
    for (size_t i = 0; i < 500; i++)
        assert_int_equal(strlen(texts[i]), i % 11);
    assert_null(upg_arena_alloc(&arena, SIZE_MAX, 3, &err));
    assert_int_equal(err.code, UPG_E_NOMEM);
    upg_arena_deinit(&arena);
    upg_arena_deinit(&arena);
}

static void buffer_grows_to_its_maximum(void **state)
{
    upg_buffer buffer;
    upg_error  err;

    (void)state;
    upg_buffer_init(&buffer, 100);
    assert_null(buffer.data);
    for (int i = 0; i < 10; i++)
        assert_int_equal(upg_buffer_addf(&buffer, &err, "%03d-%05d,", i, i * i), UPG_OK);
    assert_int_equal(buffer.size, 100);
    assert_memory_equal(buffer.data + 90, "009-00081,", 11); /* with the NUL */
    assert_int_equal(upg_buffer_add(&buffer, "x", 1, &err), UPG_E_BUDGET);
    assert_int_equal(upg_buffer_addf(&buffer, &err, "%d", 7), UPG_E_BUDGET);
    assert_int_equal(buffer.size, 100);
    upg_buffer_clear(&buffer);
    assert_string_equal(buffer.data, "");
    upg_alloc_fail_after(0);
    upg_buffer_deinit(&buffer);
    assert_int_equal(upg_buffer_add(&buffer, "x", 1, &err), UPG_E_NOMEM);
    upg_alloc_fail_after(UINT64_MAX);
    upg_buffer_deinit(&buffer);
}

static void spans_never_leave_the_whole(void **state)
{
    uint8_t  bytes[10] = { 0 };
    upg_span whole = { bytes, sizeof bytes }, slice;

    (void)state;
    for (uint64_t begin = 0; begin < 14; begin++)
        for (uint64_t size = 0; size < 14; size++)
            assert_int_equal(upg_span_slice(whole, begin, size, &slice), begin + size <= 10);
    assert_false(upg_span_slice(whole, UINT64_MAX, 2, &slice));
    assert_false(upg_span_slice(whole, 2, UINT64_MAX, &slice));
}

static void arithmetic_reports_overflow(void **state)
{
    uint64_t result;

    (void)state;
    assert_true(upg_add_u64(UINT64_MAX - 1, 1, &result));
    assert_false(upg_add_u64(UINT64_MAX, 1, &result));
    assert_true(upg_mul_u64(UINT32_MAX, UINT32_MAX, &result));
    assert_false(upg_mul_u64(UINT64_C(1) << 32, UINT64_C(1) << 32, &result));
    assert_true(upg_round_up_u64(65, 64, &result));
    assert_int_equal(result, 128);
    assert_false(upg_round_up_u64(UINT64_MAX - 3, 64, &result));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_are_checked),
        cmocka_unit_test(aligned_and_zeroed),
        cmocka_unit_test(failure_on_demand),
        cmocka_unit_test(arena_holds_many),
        cmocka_unit_test(buffer_grows_to_its_maximum),
        cmocka_unit_test(spans_never_leave_the_whole),
        cmocka_unit_test(arithmetic_reports_overflow),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
