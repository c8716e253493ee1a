/* cuda_codes.c: what the kernels know of a code: its values, and the int16 forms' numbers. */
#include <string.h>

#include "backend/cuda/cuda_compress.h"
#include "base/alloc.h"
#include "kernels/viterbi_fast.h"

enum { ALIGN = 256 };

static size_t aligned(size_t bytes)
{
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

static int32_t log2_of(uint32_t power)
{
    return (int32_t)__builtin_ctz(power);
}

/* False: a shape that the kernels have no step for. */
static bool describe_row(const upg_fast_row *from, cu_fast_row *to)
{
    uint32_t lanes = CU_ENCODE_THREADS / from->n_middle, most = 1u << from->split;

    if ((from->split != 2 && from->split != 3) || from->n_middle < 32)
        return false;
    most = most < from->n_oldest ? most : from->n_oldest;
    lanes = lanes < 1 ? 1 : lanes > most ? most : lanes;
    *to = (cu_fast_row) { .k_now = (int32_t)from->shape.k_now,
                          .k_next = (int32_t)from->shape.k_next,
                          .split = (int32_t)from->split,
                          .repeat = (int32_t)from->repeat,
                          .n_oldest = (int32_t)from->n_oldest,
                          .n_middle = (int32_t)from->n_middle,
                          .top = from->top,
                          .lanes = (int32_t)lanes,
                          .pitch_log2 = log2_of(from->n_middle >> from->repeat) };
    memcpy(to->oldest, from->oldest, sizeof from->oldest);
    memcpy(to->slope, from->slope, sizeof from->slope);
    memcpy(to->square, from->square, sizeof from->square);
    return true;
}

/* A form's numbers, and its two middle tables at `tables` on the device. */
static upg_status make_form(cc_code *c, const int16_t *table, bool wide, uint8_t **tables,
                            upg_error *err)
{
    upg_viterbi_fast     *fast = NULL;
    upg_viterbi_fast_form form;
    cu_fast_form         *to = &c->trellis.forms[wide];
    upg_status            st;

    UPG_TRY(upg_viterbi_fast_create(&c->code, table, c->n_rows, wide, 0, &fast, err));
    form = upg_viterbi_fast_describe(fast);
    *to = (cu_fast_form) { .coarse = form.coarse,
                           .value_range = form.value_range,
                           .furthest = form.furthest,
                           .hopeless = form.hopeless,
                           .base = form.base,
                           .offset_limit = form.offset_limit,
                           .ring_rows = (int32_t)form.ring_rows,
                           .depth = (int32_t)form.depth,
                           .usable = c->n_rows >= form.min_rows };
    for (int parity = 0; parity < 2; parity++) {
        const upg_fast_row *row = form.rows[parity];

        to->usable = describe_row(row, &to->rows[parity]) && to->usable;
        to->rows[parity].middle = (const int16_t *)(const void *)*tables;
        UPG_TRY(cc_check(cudaMemcpy(*tables, row->middle, row->n_middle * sizeof *row->middle,
                                    cudaMemcpyHostToDevice),
                         "copying tables", err));
        *tables += aligned(row->n_middle * sizeof *row->middle);
    }
out:
    upg_viterbi_fast_close(fast);
    return st;
}

static upg_status fill_code(cc_code *c, int16_t *table, float *values, upg_error *err)
{
    size_t     n = (size_t)1 << c->code.length;
    size_t     sizes[2] = { aligned(n * sizeof *table), aligned(n * sizeof *values) };
    uint8_t   *at;
    upg_status st;

    upg_code_table(&c->code, table);
    for (size_t w = 0; w < n; w++)
        values[w] = c->code.gain * (float)table[w];
    /* a middle table has at most an eighth of 2^length values */
    UPG_TRY(cc_check(
        cudaMalloc(&c->tables, aligned(sizeof c->trellis) + 2 * sizes[0] + sizes[1] + 4 * ALIGN),
        "tables of a code", err));
    at = c->tables;
    c->on_device = c->tables;
    at += aligned(sizeof c->trellis);
    c->trellis = (cu_trellis) { .length = c->code.length,
                                .k0 = c->code.k0,
                                .k1 = c->code.k1,
                                .states = 1 << (c->code.length - c->code.k0),
                                .gain = c->code.gain,
                                .table = (const int16_t *)(const void *)at,
                                .values = (const float *)(const void *)(at + sizes[0]) };
    UPG_TRY(cc_check(cudaMemcpy(at, table, n * sizeof *table, cudaMemcpyHostToDevice),
                     "copying tables", err));
    UPG_TRY(cc_check(cudaMemcpy(at + sizes[0], values, n * sizeof *values, cudaMemcpyHostToDevice),
                     "copying tables", err));
    at += sizes[0] + sizes[1];
    for (int wide = 0; wide < 2 && upg_viterbi_fast_fits(&c->code); wide++)
        UPG_TRY(make_form(c, table, wide != 0, &at, err));
    UPG_TRY(
        cc_check(cudaMemcpy(c->on_device, &c->trellis, sizeof c->trellis, cudaMemcpyHostToDevice),
                 "copying tables", err));
out:
    return st;
}

void cc_free_codes(cc_device *d)
{
    for (uint32_t i = 0; i < d->n_codes; i++)
        (void)cudaFree(d->codes[i].tables);
    d->n_codes = 0;
}

static bool same_code(const upg_code *a, const upg_code *b)
{
    return a->rate2 == b->rate2 && a->length == b->length && a->gain == b->gain &&
           memcmp(a->taps, b->taps, sizeof a->taps) == 0;
}

/* The tables of a code for units of n_rows; made when they are first asked for. */
static upg_status find_code(cc_device *d, const upg_code *code, uint32_t n_rows, cc_code **found,
                            upg_error *err)
{
    size_t     n = (size_t)1 << code->length;
    int16_t   *table = NULL;
    float     *values = NULL;
    cc_code   *c;
    upg_status st = UPG_OK;

    for (uint32_t i = 0; i < d->n_codes; i++)
        if (d->codes[i].n_rows == n_rows && same_code(&d->codes[i].code, code)) {
            *found = &d->codes[i];
            return UPG_OK;
        }
    c = &d->codes[d->n_codes];
    *c = (cc_code) { .code = *code, .n_rows = n_rows };
    table = upg_malloc(n, sizeof *table, err);
    values = upg_malloc(n, sizeof *values, err);
    UPG_TRY(table != NULL && values != NULL ? UPG_OK : UPG_E_NOMEM);
    st = fill_code(c, table, values, err);
    if (st == UPG_OK) {
        d->n_codes++;
        *found = c;
    } else {
        (void)cudaFree(c->tables);
    }
out:
    upg_free(table);
    upg_free(values);
    return st;
}

upg_status cc_find_codes(cc_device *d, const upg_code *const *codes, const uint32_t *n_rows,
                         uint32_t n, cc_code **found, upg_error *err)
{
    if (n > CC_MAX_CODES)
        return upg_fail(err, UPG_E_UNSUPPORTED, "%u units of one input; the GPU codes %d at once",
                        n, CC_MAX_CODES);
    if (d->n_codes + n > CC_MAX_CODES)
        cc_free_codes(d);
    for (uint32_t i = 0; i < n; i++) {
        upg_status st = find_code(d, codes[i], n_rows[i], &found[i], err);

        if (st != UPG_OK)
            return st;
    }
    return UPG_OK;
}
