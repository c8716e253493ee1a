/* viterbi.c: the encoder's life cycle, and the float32 search from end to end.
 *
 * Forward: one metric for each state, and for each row and state the bits that its survivor forgot
 * (`choices`). Backward: from the best end state, those bits give each window in turn. */
#include "kernels/viterbi.h"

#include <string.h>

#include "base/alloc.h"
#include "kernels/tables.h"
#include "kernels/viterbi_fast.h"
#include "kernels/viterbi_steps.h"

/* Float metrics are pulled back to zero this often, so that they keep the precision of a few rows'
 * errors however long the column is. */
enum { ROWS_BETWEEN_RESETS = 16 };

struct upg_viterbi {
    upg_code                code;
    uint32_t                max_rows;
    upg_viterbi_exact_step *exact_step;
    int16_t                *table;     /* [1 << L] */
    float                  *values;    /* [1 << L]: g · table */
    float                  *metric[2]; /* [1 << (L − k0)], the rows' turns */
    uint8_t                *choices;   /* [max_rows][1 << (L − k0)] */
    upg_viterbi_fast       *fast[2];   /* for usual and for large targets; NULL: float32 alone */
};

static upg_trellis_row row_shape(const upg_code *code, uint32_t r)
{
    return (upg_trellis_row) { .length = code->length,
                               .k_now = r % 2 == 0 ? code->k0 : code->k1,
                               .k_next = r % 2 == 0 ? code->k1 : code->k0 };
}

/* k0 ≤ k1, so that no row has more states than those before an even one. */
static size_t max_states(const upg_code *code)
{
    return (size_t)1 << (code->length - code->k0);
}

static upg_viterbi_exact_step *choose_exact_step(uint32_t cpu_flags)
{
#if defined(__x86_64__)
    if ((cpu_flags & UPG_KERNELS_AVX512_NEEDS) == UPG_KERNELS_AVX512_NEEDS)
        return upg_viterbi_exact_step_avx512;
    if (cpu_flags & UPG_CPU_AVX2)
        return upg_viterbi_exact_step_avx2;
#elif defined(__aarch64__)
    if (cpu_flags & UPG_CPU_NEON)
        return upg_viterbi_exact_step_neon;
#endif
    (void)cpu_flags;
    return upg_viterbi_exact_step_scalar;
}

uint64_t upg_viterbi_memory(const upg_code *code, uint32_t max_rows)
{
    uint64_t states = max_states(code);
    uint64_t bytes = sizeof(upg_viterbi) + ((uint64_t)1 << code->length) * (2 + sizeof(float));

    bytes += 2 * (states * sizeof(float) + 64) + max_rows * states;
    return bytes + (upg_viterbi_fast_fits(code) ? 2 * upg_viterbi_fast_memory(code, max_rows) : 0);
}

static upg_status allocate(upg_viterbi *v, upg_error *err)
{
    size_t windows = (size_t)1 << v->code.length, states = max_states(&v->code);

    v->table = upg_alloc_aligned(windows * sizeof *v->table, err);
    if (v->table != NULL)
        v->values = upg_alloc_aligned(windows * sizeof *v->values, err);
    /* 64 more bytes: a step may read a vector past the last state. */
    if (v->values != NULL)
        v->metric[0] = upg_alloc_aligned(states * sizeof **v->metric + 64, err);
    if (v->metric[0] != NULL)
        v->metric[1] = upg_alloc_aligned(states * sizeof **v->metric + 64, err);
    if (v->metric[1] != NULL)
        v->choices = upg_malloc(v->max_rows, states, err);
    return v->choices != NULL ? UPG_OK : UPG_E_NOMEM;
}

upg_status upg_viterbi_create(const upg_code *code, uint32_t max_rows,
                              upg_viterbi_arithmetic arithmetic, uint32_t cpu_flags,
                              upg_viterbi **viterbi, upg_error *err)
{
    upg_status   st;
    upg_viterbi *v = upg_calloc(1, sizeof *v, err);

    UPG_TRY(v != NULL ? UPG_OK : UPG_E_NOMEM);
    v->code = *code;
    v->max_rows = max_rows;
    v->exact_step = choose_exact_step(cpu_flags);
    UPG_TRY(allocate(v, err));
    upg_code_table(code, v->table);
    for (size_t w = 0; w < (size_t)1 << code->length; w++)
        v->values[w] = code->gain * (float)v->table[w];
    if (arithmetic == UPG_VITERBI_FAST && upg_viterbi_fast_fits(code))
        for (int wide = 0; wide < 2; wide++)
            UPG_TRY(upg_viterbi_fast_create(code, v->table, max_rows, wide != 0, cpu_flags,
                                            &v->fast[wide], err));
out:
    if (st != UPG_OK) {
        upg_viterbi_close(v);
        v = NULL;
    }
    *viterbi = v;
    return st;
}

void upg_viterbi_close(upg_viterbi *v)
{
    if (v == NULL)
        return;
    upg_free(v->table);
    upg_free(v->values);
    upg_free(v->metric[0]);
    upg_free(v->metric[1]);
    upg_free(v->choices);
    upg_viterbi_fast_close(v->fast[0]);
    upg_viterbi_fast_close(v->fast[1]);
    upg_free(v);
}

const int16_t *upg_viterbi_table(const upg_viterbi *v)
{
    return v->table;
}

static size_t least_metric(const float *metric, size_t n)
{
    size_t best = 0;

    for (size_t i = 1; i < n; i++)
        if (metric[i] < metric[best])
            best = i;
    return best;
}

static void pull_to_zero(float *metric, size_t n)
{
    float least = metric[least_metric(metric, n)];

    for (size_t i = 0; i < n; i++)
        metric[i] -= least;
}

/* Returns the best state after the last row; metrics lie in v->metric[n_rows % 2]. */
static uint32_t exact_forward(upg_viterbi *v, uint32_t n_rows, const float *target,
                              const float *weights)
{
    const size_t states = max_states(&v->code);
    size_t       n_next = states;

    memset(v->metric[0], 0, states * sizeof **v->metric); /* every start state is free */
    for (uint32_t r = 0; r < n_rows; r++) {
        upg_trellis_row row = row_shape(&v->code, r);

        n_next = (size_t)1 << (row.length - row.k_next);
        v->exact_step(&row, v->metric[r % 2], v->values, target[r],
                      weights != NULL ? weights[r] : 1.0f, v->metric[(r + 1) % 2],
                      v->choices + r * states);
        if (r % ROWS_BETWEEN_RESETS == ROWS_BETWEEN_RESETS - 1)
            pull_to_zero(v->metric[(r + 1) % 2], n_next);
    }
    return (uint32_t)least_metric(v->metric[n_rows % 2], n_next);
}

static void exact_backward(const upg_viterbi *v, uint32_t n_rows, uint32_t state, uint16_t *windows)
{
    for (uint32_t r = n_rows; r-- > 0;) {
        upg_trellis_row row = row_shape(&v->code, r);
        uint32_t        forgotten = v->choices[r * max_states(&v->code) + state];
        uint32_t        window = forgotten << (row.length - row.k_next) | state;

        windows[r] = (uint16_t)window;
        state = window >> row.k_now;
    }
}

static double path_error(const upg_viterbi *v, uint32_t n_rows, const float *target,
                         const float *weights, const uint16_t *windows)
{
    double sum = 0;

    for (uint32_t r = 0; r < n_rows; r++) {
        double miss = (double)target[r] - (double)v->code.gain * v->table[windows[r]];

        sum += miss * miss * (weights != NULL ? (double)weights[r] : 1.0);
    }
    return sum;
}

/* Row weights spread over orders of magnitude; one int16 scale does not hold them. */
static bool encode_fast(upg_viterbi *v, uint32_t n_rows, const float *target, const float *weights,
                        uint16_t *windows)
{
    if (v->fast[0] == NULL || weights != NULL)
        return false;
    return upg_viterbi_fast_encode(v->fast[0], n_rows, target, windows) ||
           upg_viterbi_fast_encode(v->fast[1], n_rows, target, windows);
}

double upg_viterbi_encode(upg_viterbi *v, uint32_t n_rows, const float *target,
                          const float *weights, uint16_t *windows)
{
    if (!encode_fast(v, n_rows, target, weights, windows))
        exact_backward(v, n_rows, exact_forward(v, n_rows, target, weights), windows);
    return path_error(v, n_rows, target, weights, windows);
}
