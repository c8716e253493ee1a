/* One row of the encoder: every ISA's metrics, choices and survivors equal the scalar ones bit for
 * bit, for every shape of a row, with targets that clamp and metrics that saturate. */
#include "kernel_check.h"

#include "kernels/tables.h"
#include "kernels/viterbi_steps.h"

enum {
    MIDDLE = 6000,                   /* |H|, coarse */
    SLOPE = 3000,                    /* |2·N|, fine: moves a cost by at most as much */
    SQUARE = SLOPE * SLOPE / 131072, /* N² */
    EXCESS = 500,
    LOWEST = INT16_MIN + SLOPE + EXCESS /* so that no cost falls out of 16 bits */
};

typedef struct steps {
    const char                *name;
    upg_viterbi_fast_step     *fast;
    upg_viterbi_fast_survivor *survivor;
    upg_viterbi_exact_step    *exact;
} steps;

/* What this machine can run, scalar apart. */
static size_t find_steps(steps *list)
{
    uint32_t flags = upg_cpu_flags();
    size_t   n = 0;

#if defined(__x86_64__)
    if (flags & UPG_CPU_AVX2)
        list[n++] = (steps) { "avx2", upg_viterbi_fast_step_avx2, upg_viterbi_fast_survivor_avx2,
                              upg_viterbi_exact_step_avx2 };
    if ((flags & UPG_KERNELS_AVX512_NEEDS) == UPG_KERNELS_AVX512_NEEDS)
        list[n++] = (steps) { "avx512", upg_viterbi_fast_step_avx512,
                              upg_viterbi_fast_survivor_avx2, upg_viterbi_exact_step_avx512 };
#elif defined(__aarch64__)
    if (flags & UPG_CPU_NEON)
        list[n++] = (steps) { "neon", upg_viterbi_fast_step_neon, upg_viterbi_fast_survivor_neon,
                              upg_viterbi_exact_step_neon };
#else
    (void)flags;
    (void)list;
#endif
    if (n == 0)
        print_message("skipped: no SIMD on this machine\n");
    return n;
}

static int16_t *random_i16(size_t n, int32_t low, int32_t high, uint64_t *counter)
{
    int16_t *data = kc_alloc((n + 32) * sizeof *data); /* steps may read 64 bytes more */

    for (size_t i = 0; i < n + 32; i++)
        data[i] = (int16_t)kc_int(counter, low, high);
    return data;
}

/* extreme: all metrics at their largest or smallest, so that brackets saturate or choices tie. */
static void compare_fast(const steps *s, const upg_fast_row *row, int extreme, uint64_t *counter)
{
    const uint32_t  n_next = row->n_middle << row->split;
    const uint32_t  n_states = 1u << (row->shape.length - row->shape.k_now);
    int16_t        *metric = random_i16(n_states, extreme == 1 ? INT16_MAX : LOWEST,
                                 extreme == 2 ? LOWEST : INT16_MAX, counter);
    int16_t        *want = kc_alloc(n_next * sizeof *want), *got = kc_alloc(n_next * sizeof *got);
    upg_fast_target target = { .excess = (int16_t)kc_int(counter, UPG_FAST_MIN_EXCESS, EXCESS) };
    int32_t         span = kc_int(counter, 0, 1) ? INT16_MAX - MIDDLE : 4000;
    int16_t         want_least, got_least;

    for (uint32_t a = 0; a < row->n_oldest; a++)
        target.offset[a] = (int16_t)(extreme == 2 ? 100 : kc_int(counter, -span, span));
    want_least = upg_viterbi_fast_step_scalar(row, metric, &target, want);
    got_least = s->fast(row, metric, &target, got);
    assert_int_equal(want_least, got_least);
    for (uint32_t i = 0; i < n_next; i++)
        if (want[i] != got[i])
            fail_msg("%s: L %u, k %u then %u, split %u: next[%u] is %d, not %d", s->name,
                     row->shape.length, row->shape.k_now, row->shape.k_next, row->split, i, got[i],
                     want[i]);
    kc_check_guards(got, n_next * sizeof *got);
    for (uint32_t i = 0; i<n_next; i += n_next> 512 ? 37 : 1) {
        uint32_t a = upg_viterbi_fast_survivor_scalar(row, metric, &target, i);

        if (s->survivor(row, metric, &target, i) != a)
            fail_msg("%s: L %u, k %u then %u, split %u: survivor of %u is not %u", s->name,
                     row->shape.length, row->shape.k_now, row->shape.k_next, row->split, i, a);
    }
    kc_free(metric);
    kc_free(want);
    kc_free(got);
}

/* The row of a shape, as viterbi_fast.c builds it but for its numbers, which are random. */
static void compare_shape(const steps *s, uint32_t length, uint32_t k_now, uint32_t k_next,
                          uint64_t *counter)
{
    upg_fast_row row = { .shape = { length, k_now, k_next }, .n_oldest = 1u << k_next };
    int16_t     *middle;

    row.split = k_now < 3 ? k_now : k_now < 5 ? 3 : 2;
    while (row.split > 0 && length < k_next + row.split + 5)
        row.split--;
    if (length < k_next + row.split + 5 || length < k_now + k_next)
        return; /* left to float32 */
    row.repeat = k_now - row.split;
    row.n_middle = 1u << (length - k_next - row.split);
    row.top = INT16_MAX - SLOPE - SQUARE - 1;
    for (int l = 0; l < 4; l++) {
        row.slope[l] = (int16_t)kc_int(counter, -SLOPE, SLOPE);
        row.square[l] = (int16_t)kc_int(counter, 0, SQUARE);
    }
    middle = random_i16(row.n_middle, -MIDDLE, MIDDLE, counter);
    row.middle = middle;
    for (int extreme = 0; extreme < 3; extreme++)
        compare_fast(s, &row, extreme, counter);
    kc_free(middle);
}

static void int16_equals_scalar(void **state)
{
    steps    list[2];
    uint64_t counter = 0;
    size_t   n = find_steps(list);

    (void)state;
    for (size_t i = 0; i < n; i++)
        for (uint32_t length = UPG_CODE_MIN_LENGTH; length <= UPG_CODE_MAX_LENGTH; length++)
            for (uint32_t k = 2; k <= 5; k++) {
                compare_shape(&list[i], length, k, k, &counter);
                if (k < 5) {
                    compare_shape(&list[i], length, k, k + 1, &counter);
                    compare_shape(&list[i], length, k + 1, k, &counter);
                }
            }
}

/* levels: values are multiples of 1/levels; few of them make ties. */
static void compare_exact(const steps *s, const upg_trellis_row *row, int32_t levels,
                          uint64_t *counter)
{
    const uint32_t n_windows = 1u << row->length, n_next = 1u << (row->length - row->k_next);
    const uint32_t n_states = 1u << (row->length - row->k_now);
    float         *values = kc_alloc(n_windows * sizeof *values);
    float         *metric = kc_alloc(n_states * sizeof *metric + 64);
    float         *want = kc_alloc(n_next * sizeof *want), *got = kc_alloc(n_next * sizeof *got);
    uint8_t       *want_choice = kc_alloc(n_next), *got_choice = kc_alloc(n_next);

    for (uint32_t w = 0; w < n_windows; w++)
        values[w] = (float)kc_int(counter, -4 * levels, 4 * levels) / (float)levels;
    for (uint32_t i = 0; i < n_states; i++)
        metric[i] = (float)kc_int(counter, 0, 8 * levels) / (float)levels;
    upg_viterbi_exact_step_scalar(row, metric, values, 0.3f, 0.7f, want, want_choice);
    s->exact(row, metric, values, 0.3f, 0.7f, got, got_choice);
    for (uint32_t i = 0; i < n_next; i++)
        if (memcmp(&want[i], &got[i], sizeof *got) != 0 || want_choice[i] != got_choice[i])
            fail_msg("%s: L %u, k %u then %u: state %u is %.9g by %u, not %.9g by %u", s->name,
                     row->length, row->k_now, row->k_next, i, (double)got[i], got_choice[i],
                     (double)want[i], want_choice[i]);
    kc_check_guards(got, n_next * sizeof *got);
    kc_check_guards(got_choice, n_next);
    kc_free(values);
    kc_free(metric);
    kc_free(want);
    kc_free(got);
    kc_free(want_choice);
    kc_free(got_choice);
}

static void float32_equals_scalar(void **state)
{
    steps    list[2];
    uint64_t counter = 1000000;
    size_t   n = find_steps(list);

    (void)state;
    for (size_t i = 0; i < n; i++)
        for (uint32_t length = UPG_CODE_MIN_LENGTH; length <= 14; length++)
            for (uint32_t k = 2; k <= 5; k++)
                for (uint32_t k_next = k; k_next <= (k < 5 ? k + 1 : 5); k_next++) {
                    upg_trellis_row row = { length, k, k_next }, turned = { length, k_next, k };

                    compare_exact(&list[i], &row, 1, &counter);
                    compare_exact(&list[i], &turned, 1000, &counter);
                }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(int16_equals_scalar),
        cmocka_unit_test(float32_equals_scalar),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
