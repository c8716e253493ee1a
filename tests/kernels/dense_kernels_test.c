/* The dense and attention kernels of every ISA against sums in fp64, within bounds that follow from
 * the arithmetic, and against themselves: no result depends on the batch or tile it stands in. */
#include "kernel_check.h"

#include <math.h>

#include "base/halffloat.h"

typedef enum element { BF16, F16, F32, ELEMENTS } element;

static const char *const element_names[] = { "bf16", "f16", "f32" };

static uint64_t counter;

/* In (−1, 1) times a power of two from 2^-6 to 2^6: additions of very unequal terms. */
static float random_float(void)
{
    double unit = 2 * upg_random_unit(KC_SEED, counter) - 1;

    return (float)ldexp(unit, (int)(upg_random_u64(KC_SEED + 1, counter++) % 13) - 6);
}

static float *random_floats(size_t n)
{
    float *x = kc_alloc(n * sizeof *x);

    for (size_t i = 0; i < n; i++)
        x[i] = random_float();
    return x;
}

static void *random_matrix(element type, size_t n)
{
    float    *wide = random_floats(n);
    uint16_t *narrow;

    if (type == F32)
        return wide;
    narrow = kc_alloc(n * sizeof *narrow);
    for (size_t i = 0; i < n; i++)
        narrow[i] = type == BF16 ? upg_bf16_from_f32(wide[i]) : upg_f16_from_f32(wide[i]);
    kc_free(wide);
    return narrow;
}

static double value_at(element type, const void *w, size_t i)
{
    return (double)(type == F32    ? ((const float *)w)[i]
                    : type == BF16 ? upg_f32_from_bf16(((const uint16_t *)w)[i])
                                   : upg_f32_from_f16(((const uint16_t *)w)[i]));
}

static void gemm(const upg_kernels *k, element type, size_t m, size_t rows, size_t n,
                 const float *x, size_t x_stride, const void *w, size_t w_stride, float *y,
                 size_t y_stride)
{
    if (type == F32)
        k->gemm_f32(m, rows, n, x, x_stride, w, w_stride, y, y_stride);
    else
        (type == BF16 ? k->gemm_bf16 : k->gemm_f16)(m, rows, n, x, x_stride, w, w_stride, y,
                                                    y_stride);
}

/* Any order of n additions and n products with roundings of 2^-24 each stays within
 * (n + 1)·2^-24·Σ|x·w| (Higham, "Accuracy and Stability", (3.5)), to first order. */
static void check_dot(const upg_kernels *k, element type, size_t n, const float *x, const void *w,
                      size_t w0, float got)
{
    double sum = 0, size = 0;

    for (size_t j = 0; j < n; j++) {
        sum += (double)x[j] * value_at(type, w, w0 + j);
        size += fabs((double)x[j] * value_at(type, w, w0 + j));
    }
    if (!(fabs((double)got - sum) <= (double)(n + 2) * 0x1p-24 * size))
        fail_msg("%s: %s, %zu columns: %.9g, not %.9g", k->name, element_names[type], n,
                 (double)got, sum);
}

static void check_gemm(const upg_kernels *k, element type, size_t m, size_t rows, size_t n)
{
    size_t x_stride = n + 3, w_stride = n + 5, y_stride = rows + 2;
    size_t y_bytes = ((m - 1) * y_stride + rows) * sizeof(float);
    float *x = random_floats((m - 1) * x_stride + n), *y = kc_alloc(y_bytes);
    void  *w = random_matrix(type, (rows - 1) * w_stride + n);
    size_t element_bytes = type == F32 ? 4 : 2;

    gemm(k, type, m, rows, n, x, x_stride, w, w_stride, y, y_stride);
    for (size_t i = 0; i < m; i++)
        for (size_t r = 0; r < rows; r++) {
            float single, got = y[i * y_stride + r];

            gemm(k, type, 1, 1, n, x + i * x_stride, n,
                 (const char *)w + r * w_stride * element_bytes, n, &single, 1);
            if (memcmp(&single, &got, sizeof got) != 0)
                fail_msg("%s: %s, m %zu, rows %zu, columns %zu: (%zu, %zu) is %.9g, alone %.9g",
                         k->name, element_names[type], m, rows, n, i, r, (double)got,
                         (double)single);
            check_dot(k, type, n, x + i * x_stride, w, r * w_stride, got);
        }
    kc_check_guards(y, y_bytes);
    for (size_t i = 0; i + 1 < m; i++) /* between the rows of y */
        for (size_t r = rows; r < y_stride; r++)
            assert_int_equal(upg_f32_bits(y[i * y_stride + r]), 0xA5A5A5A5u);
    kc_free(x);
    kc_free(w);
    kc_free(y);
}

static void gemm_is_exact_enough_everywhere(void **state)
{
    static const size_t columns[] = { 1, 7, 8, 9, 15, 16, 17, 31, 33, 100, 513, 1792 };
    upg_kernels         k;

    (void)state;
    for (size_t level = 0; level <= kc_level_count(); level++) {
        upg_kernels_select(level == kc_level_count() ? 0 : kc_flags(level), &k);
        for (element type = BF16; type < ELEMENTS; type++)
            for (size_t i = 0; i < sizeof columns / sizeof *columns; i++)
                for (size_t m = 1; m <= 13; m += m < 7 ? 1 : 3)
                    for (size_t rows = 1; rows <= 9; rows += rows < 5 ? 1 : 2)
                        check_gemm(&k, type, m, rows, columns[i]);
    }
}

/* ---- vectors ----------------------------------------------------------------------------------
 */

static void check_vectors(const upg_kernels *k, const upg_kernels *scalar, size_t n)
{
    float  *x = random_floats(n), max = 0, inverse;
    int8_t *q = kc_alloc(n), *want = kc_alloc(n);
    double  squares = 0, got;

    for (size_t i = 0; i < n; i++) {
        squares += (double)x[i] * (double)x[i];
        max = fmaxf(max, fabsf(x[i]));
    }
    got = k->sum_squares(n, x);
    /* positive terms, at most 1024 of them in fp32 */
    if (!(fabs(got - squares) <= 1026 * 0x1p-24 * squares))
        fail_msg("%s: sum of %zu squares is %.9g, not %.9g", k->name, n, got, squares);
    assert_true(k->max_abs(n, x) == max);
    inverse = max > 0 ? 127.0f / max : 0;
    for (size_t i = 0; i + 1 < n; i += 3) /* halves, which go to the even side */
        x[i] = ((float)(i % 250) - 124.5f) / inverse;
    k->quantise_i8(n, x, inverse, q);
    scalar->quantise_i8(n, x, inverse, want);
    if (n > 0)
        assert_memory_equal(q, want, n);
    kc_check_guards(q, n);
    kc_free(x);
    kc_free(q);
    kc_free(want);
}

/* exp within 4e-7, then a sum, a quotient and a product: 6e-7. A silu below 2^-120 may be 0. */
static void check_swiglu(const upg_kernels *k, size_t n)
{
    float *gate = random_floats(n), *up = random_floats(n), *out = kc_alloc(n * sizeof *out);

    for (size_t i = 0; i < n; i += 5)
        gate[i] *= 4; /* to ±256, where exp is infinite or 0 */
    k->swiglu(n, gate, up, out);
    for (size_t i = 0; i < n; i++) {
        double want = (double)gate[i] / (1 + exp(-(double)gate[i])) * (double)up[i];

        if (!(fabs((double)out[i] - want) <= 6e-7 * fabs(want) + 0x1p-120 * fabs((double)up[i])))
            fail_msg("%s: swiglu(%.9g, %.9g) is %.9g, not %.9g", k->name, (double)gate[i],
                     (double)up[i], (double)out[i], want);
    }
    kc_check_guards(out, n * sizeof *out);
    k->swiglu(n, gate, up, gate); /* in place */
    if (n > 0)
        assert_memory_equal(gate, out, n * sizeof *out);
    kc_free(gate);
    kc_free(up);
    kc_free(out);
}

static void check_exp_sum(const upg_kernels *k, size_t n)
{
    float *x = kc_alloc(n * sizeof *x), *longer = kc_alloc(64 * sizeof *longer), *before;
    float  max = 3.25f, sum;
    double want_sum = 0;

    before = kc_alloc(n * sizeof *before);
    for (size_t i = 0; i < 64; i++)
        longer[i] = -1000.0f;
    for (size_t i = 0; i < n; i++)
        before[i] = longer[i] = x[i] = max - 95.0f * (float)upg_random_unit(KC_SEED, counter++);
    sum = k->exp_sum(n, max, x);
    for (size_t i = 0; i < n; i++) {
        double want = exp((double)(before[i] - max));

        want_sum += want;
        if (!(fabs((double)x[i] - want) <= 4e-7 * want + 0x1p-126))
            fail_msg("%s: exp(%.9g) is %.9g, not %.9g", k->name, (double)(before[i] - max),
                     (double)x[i], want);
    }
    assert_true(fabs((double)sum - want_sum) <= (4e-7 + 66 * 0x1p-24) * want_sum + 0x1p-119);
    assert_true(k->exp_sum(64, max, longer) == sum); /* zeros behind change nothing */
    kc_check_guards(x, n * sizeof *x);
    kc_free(x);
    kc_free(longer);
    kc_free(before);
}

static void vectors(void **state)
{
    upg_kernels k, scalar;

    (void)state;
    upg_kernels_select(0, &scalar);
    for (size_t level = 0; level <= kc_level_count(); level++) {
        upg_kernels_select(level == kc_level_count() ? 0 : kc_flags(level), &k);
        for (size_t n = 0; n <= 70; n++) {
            check_vectors(&k, &scalar, n);
            check_swiglu(&k, n);
            if (n <= 64)
                check_exp_sum(&k, n);
        }
        check_vectors(&k, &scalar, 1024);
        check_vectors(&k, &scalar, 17921);
        check_swiglu(&k, 1793);
    }
}

/* What is no number stays none: the backend finds it by the sums. */
static void not_a_number_shows(void **state)
{
    upg_kernels k;

    (void)state;
    for (size_t level = 0; level <= kc_level_count(); level++) {
        upg_kernels_select(level == kc_level_count() ? 0 : kc_flags(level), &k);
        for (size_t at = 0; at < 37; at += 4) {
            float x[37] = { 0 }, gate[37] = { 0 };

            x[at] = gate[at] = NAN;
            assert_true(isnan(k.sum_squares(37, x)));
            assert_true(isnan(k.exp_sum(37, 0, x)));
            k.swiglu(37, gate, gate, gate);
            assert_true(isnan(gate[at]));
            x[at] = INFINITY;
            assert_false(isfinite(k.sum_squares(at + 1, x + 0)));
        }
    }
}

/* ---- attention --------------------------------------------------------------------------------
 */

static void check_attention(const upg_kernels *k, size_t heads, size_t dim, size_t tokens)
{
    float    *q = random_floats(heads * dim), *score = kc_alloc(heads * 64 * sizeof *score);
    uint16_t *page = random_matrix(F16, tokens * dim);
    float    *acc = random_floats(heads * dim), *before = kc_alloc(heads * dim * sizeof *before);

    memcpy(before, acc, heads * dim * sizeof *acc);
    k->attention_scores(heads, dim, tokens, q, page, 0.5f, score);
    for (size_t h = 0; h < heads; h++)
        for (size_t t = 0; t < tokens; t++) /* halving is exact */
            check_dot(k, F16, dim, q + h * dim, page, t * dim, 2 * score[64 * h + t]);
    k->attention_values(heads, dim, tokens, score, page, acc);
    for (size_t h = 0; h < heads; h++)
        for (size_t d = 0; d < dim; d++) {
            double sum = (double)before[h * dim + d], size = fabs(sum);

            for (size_t t = 0; t < tokens; t++) {
                double term = (double)score[64 * h + t] * value_at(F16, page, t * dim + d);

                sum += term;
                size += fabs(term);
            }
            if (!(fabs((double)acc[h * dim + d] - sum) <= (double)(tokens + 2) * 0x1p-24 * size))
                fail_msg("%s: %zu heads of %zu, %zu tokens: value (%zu, %zu) is %.9g, not %.9g",
                         k->name, heads, dim, tokens, h, d, (double)acc[h * dim + d], sum);
        }
    kc_check_guards(acc, heads * dim * sizeof *acc);
    for (size_t h = heads; h-- > 0;) { /* a head alone gives the same */
        k->attention_values(1, dim, tokens, score + 64 * h, page, before + h * dim);
        assert_memory_equal(before + h * dim, acc + h * dim, dim * sizeof *acc);
    }
    kc_free(q);
    kc_free(score);
    kc_free(page);
    kc_free(acc);
    kc_free(before);
}

/* The sum of tokens' or dimensions' terms, and of their magnitudes. */
typedef struct checked_sum {
    double sum, size;
} checked_sum;

static void add_term(checked_sum *s, double term)
{
    s->sum += term;
    s->size += fabs(term);
}

/* Additions, the code's scale, which is rounded into a weight first, and the head's. */
static void check_near(const upg_kernels *k, const checked_sum *s, size_t n_terms, float got,
                       const char *what, size_t h, size_t i)
{
    if (!(fabs((double)got - s->sum) <= (double)(n_terms + 4) * 0x1p-24 * s->size))
        fail_msg("%s: int8 %s (%zu, %zu) is %.9g, not %.9g", k->name, what, h, i, (double)got,
                 s->sum);
}

static void check_attention_i8(const upg_kernels *k, size_t heads, size_t dim, size_t tokens)
{
    float  *q = random_floats(heads * dim), *scales = random_floats(tokens);
    float  *score = kc_alloc(heads * 64 * sizeof *score), *acc = random_floats(heads * dim);
    float  *before = kc_alloc(heads * dim * sizeof *before);
    int8_t *page = kc_alloc(tokens * dim);

    for (size_t i = 0; i < tokens * dim; i++)
        page[i] = (int8_t)kc_int(&counter, -127, 127);
    memcpy(before, acc, heads * dim * sizeof *acc);
    k->attention_scores_i8(heads, dim, tokens, q, page, scales, 0.3f, score);
    for (size_t h = 0; h < heads; h++)
        for (size_t t = 0; t < tokens; t++) {
            checked_sum s = { 0, 0 };

            for (size_t d = 0; d < dim; d++)
                add_term(&s, (double)q[h * dim + d] * page[t * dim + d] * (double)scales[t] *
                                 (double)0.3f);
            check_near(k, &s, dim, score[64 * h + t], "score", h, t);
        }
    k->attention_values_i8(heads, dim, tokens, score, page, scales, acc);
    for (size_t h = 0; h < heads; h++)
        for (size_t d = 0; d < dim; d++) {
            checked_sum s = { 0, 0 };

            add_term(&s, (double)before[h * dim + d]);
            for (size_t t = 0; t < tokens; t++)
                add_term(&s, (double)score[64 * h + t] * page[t * dim + d] * (double)scales[t]);
            check_near(k, &s, tokens, acc[h * dim + d], "value", h, d);
        }
    kc_check_guards(acc, heads * dim * sizeof *acc);
    for (size_t h = heads; h-- > 0;) { /* a head alone gives the same */
        float alone[64];

        k->attention_scores_i8(1, dim, tokens, q + h * dim, page, scales, 0.3f, alone);
        assert_memory_equal(alone, score + 64 * h, tokens * sizeof *alone);
        k->attention_values_i8(1, dim, tokens, score + 64 * h, page, scales, before + h * dim);
        assert_memory_equal(before + h * dim, acc + h * dim, dim * sizeof *acc);
    }
    kc_free(q);
    kc_free(scales);
    kc_free(score);
    kc_free(acc);
    kc_free(before);
    kc_free(page);
}

static void attention(void **state)
{
    static const size_t dims[] = { 2, 8, 10, 16, 40, 64, 72, 96, 128 };
    static const size_t tokens[] = { 1, 2, 7, 63, 64 };
    upg_kernels         k;

    (void)state;
    for (size_t level = 0; level <= kc_level_count(); level++) {
        upg_kernels_select(level == kc_level_count() ? 0 : kc_flags(level), &k);
        for (size_t d = 0; d < sizeof dims / sizeof *dims; d++)
            for (size_t t = 0; t < sizeof tokens / sizeof *tokens; t++)
                for (size_t heads = 1; heads <= 9; heads++) {
                    check_attention(&k, heads, dims[d], tokens[t]);
                    check_attention_i8(&k, heads, dims[d], tokens[t]);
                }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gemm_is_exact_enough_everywhere),
        cmocka_unit_test(vectors),
        cmocka_unit_test(not_a_number_shows),
        cmocka_unit_test(attention),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
