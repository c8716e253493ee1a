/* The encoder: every ISA takes the scalar path, int16 stays within half a percent of float32,
 * float32 reaches the minimum, and every path is a path. */
#include "kernel_check.h"

#include <math.h>

#include "base/alloc.h"
#include "kernels/viterbi.h"

typedef enum fill {
    GAUSSIAN,
    WIDE,
    EDGE,
    OUTLIERS,
    HUGE_TARGETS,
    CONSTANT,
    VALUES,
    FILL_COUNT
} fill;

static double gaussian(uint64_t *counter)
{
    double u = upg_random_unit(KC_SEED, (*counter)++), v = upg_random_unit(KC_SEED, (*counter)++);

    return sqrt(-2 * log(1 - u)) * cos(6.283185307179586 * v);
}

static double largest_value(const upg_code *code)
{
    double sum = 0;

    for (uint32_t i = 0; i < code->length; i++)
        sum += abs(code->taps[i]);
    return sum * (double)code->gain;
}

static void fill_targets(fill kind, const upg_code *code, uint32_t n, float *target,
                         uint64_t *counter)
{
    for (uint32_t r = 0; r < n; r++) {
        target[r] = (float)gaussian(counter);
        if (kind == WIDE && kc_int(counter, 0, 40) == 0)
            target[r] = (float)kc_int(counter, -500, 500) * 0.01f;
        if (kind == EDGE && r % 50 == 25) /* an end of the values, where few paths can lead */
            target[r] = (r % 100 < 50 ? -1.02f : 1.02f) * (float)largest_value(code);
        if (kind == OUTLIERS && kc_int(counter, 0, 40) == 0)
            target[r] *= (float)kc_int(counter, 1, 5); /* to about 20σ */
        if (kind == HUGE_TARGETS)
            target[r] *= 20.0f;
        if (kind == CONSTANT)
            target[r] = -4.5f;
        if (kind == VALUES) /* each a value of the code, but not of one path */
            target[r] = code->gain * (float)upg_code_value(code, (uint32_t)kc_int(counter, 0, 255));
    }
}

/* Random primes would do no better here: any taps make a code. The gain gives unit variance. */
static upg_code random_code(uint32_t rate2, uint32_t length, uint64_t *counter)
{
    upg_code code = { .rate2 = (uint8_t)rate2,
                      .k0 = (uint8_t)(rate2 / 2),
                      .k1 = (uint8_t)((rate2 + 1) / 2),
                      .length = (uint8_t)length };
    double   square = 0;

    for (uint32_t i = 0; i < length; i++) {
        code.taps[i] = (int16_t)(kc_int(counter, 11, 211) * (kc_int(counter, 0, 1) * 2 - 1));
        square += code.taps[i] * code.taps[i];
    }
    code.gain = (float)sqrt(0.97 / square);
    return code;
}

static double encode(const upg_code *code, upg_viterbi_arithmetic arithmetic, uint32_t flags,
                     uint32_t n, const float *target, const float *weights, uint16_t *windows)
{
    upg_viterbi *v;
    double       error;

    assert_int_equal(upg_viterbi_create(code, n, arithmetic, flags, &v, NULL), UPG_OK);
    error = upg_viterbi_encode(v, n, target, weights, windows);
    upg_viterbi_close(v);
    return error;
}

/* Each window continues the one above, and the error returned is the path's. */
static void check_path(const upg_code *code, uint32_t n, const float *target, const float *weights,
                       const uint16_t *windows, double error)
{
    double sum = 0;

    for (uint32_t r = 0; r < n; r++) {
        uint32_t k = r % 2 == 0 ? code->k0 : code->k1;
        double   miss = (double)target[r] - (double)code->gain * upg_code_value(code, windows[r]);

        if (r > 0)
            assert_int_equal(windows[r] >> k, windows[r - 1] & ((1u << (code->length - k)) - 1));
        sum += miss * miss * (weights != NULL ? (double)weights[r] : 1.0);
    }
    assert_true(fabs(sum - error) <= 1e-9 * (1 + sum));
}

/* All ISAs give the path of the scalar form, in both arithmetics; int16 loses at most .5 %. */
static void compare(const upg_code *code, uint32_t n, fill kind, uint64_t *counter)
{
    float    *target = kc_alloc(n * sizeof *target);
    uint16_t *want = kc_alloc(n * sizeof *want), *got = kc_alloc(n * sizeof *got);
    double    error[2];

    fill_targets(kind, code, n, target, counter);
    for (int arithmetic = UPG_VITERBI_FAST; arithmetic <= UPG_VITERBI_EXACT; arithmetic++) {
        error[arithmetic] =
            encode(code, (upg_viterbi_arithmetic)arithmetic, 0, n, target, NULL, want);
        check_path(code, n, target, NULL, want, error[arithmetic]);
        for (size_t level = 0; level < kc_level_count(); level++) {
            encode(code, (upg_viterbi_arithmetic)arithmetic, kc_flags(level), n, target, NULL, got);
            for (uint32_t r = 0; r < n; r++)
                if (want[r] != got[r])
                    fail_msg("%s, level %zu: rate2 %u, L %u, %u rows, fill %d: row %u differs",
                             arithmetic == UPG_VITERBI_FAST ? "int16" : "float32", level,
                             code->rate2, code->length, n, (int)kind, r);
            kc_check_guards(got, n * sizeof *got);
        }
    }
    if (error[UPG_VITERBI_FAST] > 1.005 * error[UPG_VITERBI_EXACT] + 1e-12)
        fail_msg("rate2 %u, L %u, %u rows, fill %d: int16 error %.9g, float32 %.9g", code->rate2,
                 code->length, n, (int)kind, error[UPG_VITERBI_FAST], error[UPG_VITERBI_EXACT]);
    kc_free(target);
    kc_free(want);
    kc_free(got);
}

static const uint8_t known[][2] = { { 4, 12 },  { 5, 12 },  { 6, 12 }, { 7, 12 }, { 8, 12 },
                                    { 10, 12 }, { 4, 14 },  { 5, 14 }, { 6, 14 }, { 7, 14 },
                                    { 8, 14 },  { 10, 14 }, { 4, 16 }, { 5, 16 }, { 6, 16 },
                                    { 7, 16 },  { 8, 16 },  { 10, 16 } };

static void known_codes_on_every_isa(void **state)
{
    static const uint32_t lengths[] = { 1, 2, 3, 4, 15, 16, 17, 33, 100, 257 };
    uint64_t              counter = 0;

    (void)state;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        for (size_t j = known[i][1] > 12 ? 5 : 0; j < sizeof lengths / sizeof lengths[0]; j++)
            for (int kind = 0; kind < FILL_COUNT; kind++)
                if (known[i][1] < 16 || lengths[j] < 100 || kind == GAUSSIAN)
                    compare(upg_code_find(known[i][0], known[i][1]), lengths[j], (fill)kind,
                            &counter);
}

/* Long enough for the ring of metrics to be settled several times. */
static void long_columns_on_every_isa(void **state)
{
    uint64_t counter = 1000000;

    (void)state;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (known[i][1] < 16 || known[i][0] == 7)
            compare(upg_code_find(known[i][0], known[i][1]), 2500, GAUSSIAN, &counter);
}

static void other_lengths_on_every_isa(void **state)
{
    static const uint8_t rates[] = { 4, 5, 6, 7, 8, 10 };
    uint64_t             counter = 2000000;

    (void)state;
    for (size_t i = 0; i < sizeof rates; i++)
        for (uint32_t length = UPG_CODE_MIN_LENGTH; length <= UPG_CODE_MAX_LENGTH; length++) {
            upg_code code = random_code(rates[i], length, &counter);

            compare(&code, length > 13 ? 40 : 120, GAUSSIAN, &counter);
            compare(&code, 21, OUTLIERS, &counter);
        }
}

/* Spread that only the wide int16 form holds, in columns long enough for it; rows where every
 * transition of a good path is dear. */
static void special_columns_on_every_isa(void **state)
{
    uint64_t counter = 6000000;

    (void)state;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (known[i][1] == 16 && known[i][0] % 4 != 0)
            continue;
        compare(upg_code_find(known[i][0], known[i][1]), 700, WIDE, &counter);
        compare(upg_code_find(known[i][0], known[i][1]), 700, EDGE, &counter);
    }
}

/* Every window sequence of a tiny column, tried one by one. */
static double least_error(const upg_code *code, uint32_t n, const float *target)
{
    uint32_t bits = (uint32_t)upg_code_binary_rows(code, n);
    double   least = INFINITY;

    for (uint32_t path = 0; path < 1u << bits; path++) {
        double sum = 0;

        for (uint32_t r = 0; r < n; r++) {
            uint32_t below = bits - 1 - (uint32_t)upg_code_newest(code, r);
            uint32_t window = path >> below & ((1u << code->length) - 1);
            double   miss = (double)target[r] - (double)code->gain * upg_code_value(code, window);

            sum += miss * miss;
        }
        least = sum < least ? sum : least;
    }
    return least;
}

static void float32_reaches_the_minimum(void **state)
{
    static const uint8_t rates[] = { 4, 5, 6, 7 };
    uint64_t             counter = 3000000;

    (void)state;
    for (size_t i = 0; i < sizeof rates; i++)
        for (uint32_t n = 1; n <= 4; n++) {
            upg_code code = random_code(rates[i], 8, &counter);
            float    target[4];
            uint16_t windows[4];
            double   least, error;

            if (upg_code_binary_rows(&code, n) > 20)
                continue;
            fill_targets(GAUSSIAN, &code, n, target, &counter);
            least = least_error(&code, n, target);
            error = encode(&code, UPG_VITERBI_EXACT, upg_cpu_flags(), n, target, NULL, windows);
            assert_true(error <= least * (1 + 1e-5) + 1e-9);
        }
}

/* Weights go to both arithmetics alike; a heavy row is met better than without. */
static void weights_count(void **state)
{
    enum { N = 200, HEAVY = 100 };
    const upg_code *code = upg_code_find(6, 12);
    float           target[N], weights[N];
    uint16_t        windows[N], other[N];
    uint64_t        counter = 4000000;
    double          plain, weighted, error;

    (void)state;
    fill_targets(GAUSSIAN, code, N, target, &counter);
    for (uint32_t r = 0; r < N; r++)
        weights[r] = r == HEAVY ? 1e6f : 1.0f;
    encode(code, UPG_VITERBI_FAST, upg_cpu_flags(), N, target, NULL, windows);
    plain = fabs((double)target[HEAVY] - (double)code->gain * upg_code_value(code, windows[HEAVY]));
    error = encode(code, UPG_VITERBI_FAST, upg_cpu_flags(), N, target, weights, windows);
    check_path(code, N, target, weights, windows, error);
    weighted =
        fabs((double)target[HEAVY] - (double)code->gain * upg_code_value(code, windows[HEAVY]));
    assert_true(weighted < plain);
    for (size_t level = 0; level < kc_level_count(); level++) {
        encode(code, UPG_VITERBI_FAST, kc_flags(level), N, target, weights, other);
        assert_memory_equal(windows, other, sizeof windows);
    }
}

/* The tap sets' known figures for unit Gaussians, within 1 %: 48 columns of 2048 keep the sample's
 * own spread near .3 %. Longer codes are compared with L = 12 on the same targets. */
static void gaussian_error_is_as_designed(void **state)
{
    enum { N = 2048, COLUMNS = 48 };
    double          usual[11] = { 0 };
    static float    target[N];
    static uint16_t windows[N];

    (void)state;
    if (!(upg_cpu_flags() & UPG_CPU_AVX2)) {
        print_message("skipped: without SIMD this takes minutes\n");
        skip();
    }
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        const upg_code *code = upg_code_find(known[i][0], known[i][1]);
        uint64_t        counter = 5000000 + code->rate2 * UINT64_C(1000000);
        double          sum = 0, power = 0, designed = upg_code_error(code);

        for (int c = 0; c < COLUMNS; c++) {
            fill_targets(GAUSSIAN, code, N, target, &counter);
            for (uint32_t r = 0; r < N; r++)
                power += (double)target[r] * (double)target[r];
            sum += encode(code, UPG_VITERBI_FAST, upg_cpu_flags(), N, target, NULL, windows);
        }
        if (code->length == 12)
            usual[code->rate2] = sum / power;
        else
            designed *= usual[code->rate2] / upg_code_error(upg_code_find(code->rate2, 12));
        if (fabs(sum / power - designed) > 0.01 * designed)
            fail_msg("rate2 %u, L %u: MSE %.6f, designed %.6f", code->rate2, code->length,
                     sum / power, designed);
    }
}

/* Each allocation of creation fails in turn: the error says so, and nothing is left behind (the
 * sanitizer build checks that). */
static void creation_survives_failing_memory(void **state)
{
    upg_viterbi *v = NULL;
    upg_error    err = { 0 };
    upg_status   st = UPG_E_NOMEM;
    uint64_t     failures = 0;

    (void)state;
    while (st != UPG_OK) {
        upg_alloc_fail_after(failures++);
        st = upg_viterbi_create(upg_code_find(6, 12), 300, UPG_VITERBI_FAST, upg_cpu_flags(), &v,
                                &err);
        upg_alloc_fail_after(UINT64_MAX);
        if (st != UPG_OK) {
            assert_int_equal(st, UPG_E_NOMEM);
            assert_int_equal(err.code, UPG_E_NOMEM);
            assert_null(v);
        }
    }
    assert_true(failures > 8);
    assert_non_null(upg_viterbi_table(v));
    upg_viterbi_close(v);
    upg_viterbi_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_codes_on_every_isa),
        cmocka_unit_test(long_columns_on_every_isa),
        cmocka_unit_test(special_columns_on_every_isa),
        cmocka_unit_test(other_lengths_on_every_isa),
        cmocka_unit_test(float32_reaches_the_minimum),
        cmocka_unit_test(weights_count),
        cmocka_unit_test(creation_survives_failing_memory),
        cmocka_unit_test(gaussian_error_is_as_designed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
