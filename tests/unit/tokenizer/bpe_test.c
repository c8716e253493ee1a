/* Merging: the short and the long form equal a naive one on random merges and texts, and the heap's
 * work on equal characters grows as n·log n. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/random.h"
#include "tokenizer/bpe.h"

enum { LETTERS = 3, N_MERGES = 40, MAX_TEXT = 200 };

typedef struct rules {
    uint32_t        left[N_MERGES], right[N_MERGES]; /* merge m makes the id 256 + m */
    upg_merge_table table;
} rules;

/* Random merges over three letters; ids that contain each other, as real vocabularies have. */
static void make_rules(rules *r, uint64_t seed)
{
    assert_int_equal(upg_merge_table_init(&r->table, N_MERGES, NULL), UPG_OK);
    for (uint32_t b = 0; b < 256; b++)
        r->table.byte_ids[b] = b;
    for (uint32_t m = 0; m < N_MERGES; m++) {
        uint32_t ids[2];

        for (uint32_t side = 0; side < 2; side++) {
            uint32_t k = (uint32_t)(upg_random_u64(seed, 2 * m + side) % (LETTERS + m));

            ids[side] = k < LETTERS ? 'a' + k : 256 + k - LETTERS;
        }
        r->left[m] = ids[0];
        r->right[m] = ids[1];
        for (uint32_t k = 0; k < m; k++) /* a repeated pair takes the later rank */
            if (r->left[k] == ids[0] && r->right[k] == ids[1])
                r->left[k] = UINT32_MAX;
        upg_merge_table_add(&r->table, ids[0], ids[1], m, 256 + m);
    }
}

/* By the definition: the least rank, the leftmost of it, until none is left. */
static size_t naive(const rules *r, const uint8_t *text, size_t n, int32_t *ids)
{
    for (size_t i = 0; i < n; i++)
        ids[i] = text[i];
    for (;;) {
        uint32_t best = N_MERGES;
        size_t   at = 0;

        for (size_t i = 0; i + 1 < n; i++)
            for (uint32_t m = 0; m < best; m++)
                if (r->left[m] == (uint32_t)ids[i] && r->right[m] == (uint32_t)ids[i + 1]) {
                    best = m;
                    at = i;
                }
        if (best == N_MERGES)
            return n;
        ids[at] = (int32_t)(256 + best);
        memmove(ids + at + 1, ids + at + 2, (n - at - 2) * sizeof *ids);
        n--;
    }
}

static void equal_to_naive(void **state)
{
    upg_bpe_scratch scratch = { 0 };

    (void)state;
    for (uint64_t seed = 0; seed < 400; seed++) {
        rules          r;
        uint8_t        text[MAX_TEXT];
        int32_t        want[MAX_TEXT], got[UPG_BPE_SHORT];
        const int32_t *ids;
        size_t         n, n_want, size = 1 + (size_t)(upg_random_u64(seed, 1000) % MAX_TEXT);

        if (seed % 2 == 0)
            size = 1 + size % UPG_BPE_SHORT;
        make_rules(&r, seed);
        for (size_t i = 0; i < size; i++)
            text[i] = (uint8_t)('a' + upg_random_u64(seed, 2000 + i) % LETTERS);
        n_want = naive(&r, text, size, want);
        assert_int_equal(upg_bpe_long(&r.table, &scratch, text, size, &ids, &n, NULL), UPG_OK);
        assert_int_equal(n, n_want);
        assert_memory_equal(ids, want, n * sizeof *ids);
        if (size <= UPG_BPE_SHORT) {
            assert_int_equal(upg_bpe_short(&r.table, text, size, got), n_want);
            assert_memory_equal(got, want, n_want * sizeof *want);
        }
        upg_merge_table_deinit(&r.table);
    }
    upg_bpe_scratch_deinit(&scratch);
}

/* Heap steps for n equal characters under the merges a a, aa aa, … */
static uint64_t steps_for(size_t n)
{
    upg_bpe_scratch scratch = { 0 };
    upg_merge_table table;
    uint8_t        *text = malloc(n);
    const int32_t  *ids;
    size_t          n_ids;
    uint64_t        steps;

    assert_int_equal(upg_merge_table_init(&table, 10, NULL), UPG_OK);
    for (uint32_t b = 0; b < 256; b++)
        table.byte_ids[b] = b;
    for (uint32_t m = 0; m < 10; m++)
        upg_merge_table_add(&table, m == 0 ? 'a' : 255 + m, m == 0 ? 'a' : 255 + m, m, 256 + m);
    memset(text, 'a', n);
    assert_int_equal(upg_bpe_long(&table, &scratch, text, n, &ids, &n_ids, NULL), UPG_OK);
    assert_int_equal(n_ids, n >> 10);
    steps = scratch.steps;
    upg_bpe_scratch_deinit(&scratch);
    upg_merge_table_deinit(&table);
    free(text);
    return steps;
}

static void work_is_not_quadratic(void **state)
{
    uint64_t small = steps_for(1 << 13), large = steps_for(1 << 19);

    (void)state;
    /* 64 times the text; n·log n gives 64 · 19 / 13 = 94, n² gives 4096. */
    assert_in_range(large / small, 32, 128);
    assert_in_range(large, 1, (uint64_t)2 * (1 << 19) * 19);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_to_naive),
        cmocka_unit_test(work_is_not_quadratic),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
