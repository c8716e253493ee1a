#include "support/random_outliers.h"

#include "base/random.h"

static int8_t random_value(uint64_t seed, uint64_t i)
{
    return (int8_t)upg_random_u64(seed, i);
}

/* 1/64 … 2/64 in steps that fp16 has. */
static float random_scale(uint64_t seed, uint64_t i)
{
    return (float)(64 + upg_random_u64(seed, i) % 64) / 4096;
}

static bool add_sparse(upg_outliers *o, uint32_t one_in, uint64_t seed, upg_arena *arena,
                       upg_error *err)
{
    uint64_t  total = (uint64_t)o->n_rows * o->n_cols;
    uint32_t *begin = upg_arena_alloc(arena, (size_t)o->n_rows + 1, sizeof *begin, err);
    uint32_t *columns = upg_arena_alloc(arena, (size_t)total, sizeof *columns, err);
    int8_t   *values = upg_arena_alloc(arena, (size_t)total, sizeof *values, err);

    if (!begin || !columns || !values)
        return false;
    for (uint64_t at = 0; at < total; at++) {
        if (at % o->n_cols == 0)
            begin[at / o->n_cols] = o->n_sparse;
        if (upg_random_u64(seed, at) % one_in != 0 && !(o->n_sparse == 0 && at + 1 == total))
            continue;
        columns[o->n_sparse] = (uint32_t)(at % o->n_cols);
        values[o->n_sparse++] = random_value(seed + 1, at);
    }
    begin[o->n_rows] = o->n_sparse;
    o->row_begin = begin;
    o->columns = columns;
    o->values = values;
    o->scale = random_scale(seed + 2, 0);
    return true;
}

static bool add_columns(upg_outliers *o, uint32_t n, uint64_t seed, upg_arena *arena,
                        upg_error *err)
{
    uint32_t *column = upg_arena_alloc(arena, n, sizeof *column, err);
    float    *scales = upg_arena_alloc(arena, n, sizeof *scales, err);
    int8_t   *values = upg_arena_alloc(arena, (size_t)n * o->n_rows, sizeof *values, err);

    if (!column || !scales || !values)
        return false;
    for (uint32_t d = 0; d < n; d++) { /* one in each n-th of the columns */
        uint32_t begin = d * o->n_cols / n, end = (d + 1) * o->n_cols / n;

        column[d] = begin + (uint32_t)(upg_random_u64(seed + 3, d) % (end - begin));
        scales[d] = random_scale(seed + 4, d);
    }
    for (size_t i = 0; i < (size_t)n * o->n_rows; i++)
        values[i] = random_value(seed + 5, i);
    o->n_columns = n;
    o->column = column;
    o->column_scales = scales;
    o->column_values = values;
    return true;
}

const upg_outliers *test_random_outliers(uint32_t n_rows, uint32_t n_cols, uint32_t one_in,
                                         uint32_t n_columns, uint64_t seed, upg_arena *arena,
                                         upg_error *err)
{
    upg_outliers *o = upg_arena_alloc(arena, 1, sizeof *o, err);

    if (!o)
        return NULL;
    o->n_rows = n_rows;
    o->n_cols = n_cols;
    if (one_in > 0 && !add_sparse(o, one_in, seed, arena, err))
        return NULL;
    if (n_columns > 0 && !add_columns(o, n_columns, seed, arena, err))
        return NULL;
    return o;
}
