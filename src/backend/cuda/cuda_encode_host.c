/* cuda_encode_host.c: tables, memory and launches of the encoder. */
#include <limits.h>
#include <string.h>

#include "backend/cuda/cuda_compress.h"
#include "base/alloc.h"
#include "base/halffloat.h"
#include "codec/coded_matrix.h"

enum { MAX_UNITS = CC_MAX_CODES, ALIGN = 256 };

static size_t aligned(size_t bytes)
{
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

static int32_t first_search(const cu_trellis *t, bool weighted)
{
    return weighted                           ? CU_SEARCH_EXACT
           : t->forms[CU_SEARCH_USUAL].usable ? CU_SEARCH_USUAL
           : t->forms[CU_SEARCH_WIDE].usable  ? CU_SEARCH_WIDE
                                              : CU_SEARCH_EXACT;
}

/* ---- launches ---------------------------------------------------------------------------------
 */

/* What the units of a launch need beside their arrays. */
typedef struct launch {
    cu_encode_args args;
    uint32_t       n_blocks;
} launch;

static size_t metric_bytes(const cu_trellis *t)
{
    size_t most = 2 * (size_t)t->states * sizeof(float);

    for (int form = 0; form < CU_SEARCH_EXACT; form++)
        for (int parity = 0; parity < 2 && t->forms[form].usable; parity++) {
            const cu_fast_row *row = &t->forms[form].rows[parity];
            size_t             pitch = ((size_t)1 << row->pitch_log2) + 8;
            size_t             bytes = 2 * (size_t)row->n_oldest * pitch * sizeof(int16_t);

            most = bytes > most ? bytes : most;
        }
    return (most + 31) / 32 * 32;
}

/* Sizes scratch and the number of blocks for `columns` columns of each of the units. */
static upg_status plan_launch(cc_device *d, cc_code *const *codes, uint32_t n, uint32_t columns,
                              bool feedback, launch *l, upg_error *err)
{
    cu_encode_args *a = &l->args;
    size_t          there = 0, total = 0, each;
    uint64_t        fronts = 0, useful;
    int             per_sm = 0;
    upg_status      st;

    a->stage_bytes = CU_ENCODE_STAGE;
    for (uint32_t i = 0; i < n; i++) {
        const cu_trellis *t = &codes[i]->trellis;
        uint64_t          choice = (uint64_t)codes[i]->n_rows * (uint64_t)t->states;
        uint32_t          metric = (uint32_t)metric_bytes(t);

        for (int form = 0; form < CU_SEARCH_EXACT; form++)
            if (t->forms[form].usable &&
                (uint64_t)t->forms[form].ring_rows * (uint64_t)t->states > choice)
                choice = (uint64_t)t->forms[form].ring_rows * (uint64_t)t->states;
        a->choice_bytes = choice > a->choice_bytes ? choice : a->choice_bytes;
        a->max_rows = codes[i]->n_rows > a->max_rows ? codes[i]->n_rows : a->max_rows;
        a->metric_bytes = metric > a->metric_bytes ? metric : a->metric_bytes;
        if ((uint32_t)t->states > a->stage_bytes)
            a->stage_bytes = (uint32_t)t->states;
        fronts += codes[i]->n_rows / 384 + 2;
    }
    a->choice_bytes = aligned(a->choice_bytes);
    UPG_TRY(cc_check(cu_encode_occupancy(a, &per_sm), "asking for shared memory", err));
    if (per_sm < 1)
        UPG_TRY(upg_fail(err, UPG_E_UNSUPPORTED,
                         "the GPU's shared memory does not hold the encoder's %u KiB",
                         (a->metric_bytes + 2 * a->stage_bytes) / 1024));
    useful = (uint64_t)columns * n;
    if (feedback && fronts < useful)
        useful = fronts > (uint64_t)d->n_sms ? fronts : (uint64_t)d->n_sms;
    l->n_blocks = (uint32_t)d->n_sms * (uint32_t)per_sm;
    l->n_blocks = useful < l->n_blocks ? (uint32_t)useful : l->n_blocks;
    UPG_TRY(cc_check(cudaMemGetInfo(&there, &total), "asking for free memory", err));
    each = a->choice_bytes + aligned(a->max_rows * sizeof(float));
    there = (there + d->choices.bytes + d->scaled.bytes) / 10 * 9;
    if (there / each < l->n_blocks)
        l->n_blocks = there / each > 0 ? (uint32_t)(there / each) : 1;
    UPG_TRY(cc_room(&d->choices, l->n_blocks * a->choice_bytes, "the encoder's paths", err));
    UPG_TRY(cc_room(&d->scaled, l->n_blocks * a->max_rows * sizeof(float), "targets", err));
    a->choices = d->choices.at;
    a->scaled = d->scaled.at;
    a->n_units = (int32_t)n;
out:
    return st;
}

/* The small numbers of a launch, as they lie on the device: ticket, failed [n], progress and search
 * [n][columns]. */
typedef struct control {
    int32_t *host, *device;
    size_t   count;
    uint32_t n, columns;
} control;

static upg_status make_control(cc_device *d, uint32_t n, uint32_t columns, control *c,
                               upg_error *err)
{
    c->n = n;
    c->columns = columns;
    c->count = 1 + n + 2 * (size_t)n * columns;
    c->host = upg_calloc(c->count, sizeof *c->host, err);
    if (c->host == NULL)
        return UPG_E_NOMEM;
    if (cc_room(&d->small, c->count * sizeof *c->host, "the order of columns", err) != UPG_OK)
        return UPG_E_NOMEM;
    c->device = d->small.at;
    return UPG_OK;
}

static size_t progress_at(const control *c, uint32_t unit)
{
    return 1 + c->n + (size_t)unit * c->columns;
}

static size_t search_at(const control *c, uint32_t unit)
{
    return progress_at(c, c->n) + (size_t)unit * c->columns;
}

static void bind_control(const control *c, cu_encode_unit *units)
{
    for (uint32_t u = 0; u < c->n; u++) {
        units[u].failed = c->device + 1 + u;
        units[u].progress = c->device + progress_at(c, u);
        units[u].search = c->device + search_at(c, u);
    }
}

static upg_status send(cc_device *d, const control *c, const cu_encode_unit *units, launch *l,
                       upg_error *err)
{
    upg_status st;

    UPG_TRY(cc_room(&d->units, MAX_UNITS * sizeof *units, "units", err));
    UPG_TRY(cc_up(d, d->units.at, units, c->n * sizeof *units, err));
    UPG_TRY(cc_up(d, c->device, c->host, c->count * sizeof *c->host, err));
    l->args.units = d->units.at;
    l->args.ticket = (uint32_t *)(void *)c->device;
    UPG_TRY(cc_check(cu_launch_encode(&l->args, l->n_blocks, d->stream), "coding columns", err));
out:
    return st;
}

/* ---- columns by themselves --------------------------------------------------------------------
 */

static upg_status fetch_windows(cc_device *d, const upg_device_columns *units, uint32_t n_units,
                                const cu_encode_unit *on_device, upg_error *err)
{
    upg_status st = UPG_OK;

    for (uint32_t u = 0; u < n_units; u++)
        UPG_TRY(cc_down(d, units[u].windows, on_device[u].windows,
                        (size_t)units[u].n_columns * units[u].n_rows * sizeof(uint16_t), err));
out:
    return st;
}

/* Room for all of a launch's targets, row weights and windows; copies the first two. */
static upg_status send_columns(cc_device *d, const upg_device_columns *units, uint32_t n_units,
                               cc_code *const *codes, cu_encode_unit *to, upg_error *err)
{
    size_t     rows = 0, at = 0, n_columns = units[0].n_columns;
    upg_status st;

    for (uint32_t u = 0; u < n_units; u++)
        rows += units[u].n_rows;
    UPG_TRY(cc_room(&d->targets, rows * n_columns * sizeof(float), "targets", err));
    UPG_TRY(cc_room(&d->windows, rows * n_columns * sizeof(uint16_t), "windows", err));
    UPG_TRY(cc_room(&d->weights, rows * sizeof(float), "row weights", err));
    for (uint32_t u = 0; u < n_units; u++) {
        const upg_device_columns *from = &units[u];
        float                    *targets = (float *)d->targets.at + at * n_columns;
        float                    *weights = (float *)d->weights.at + at;

        to[u] = (cu_encode_unit) { .trellis = codes[u]->on_device,
                                   .n_rows = (int32_t)from->n_rows,
                                   .targets = targets,
                                   .windows = (uint16_t *)d->windows.at + at * n_columns };
        UPG_TRY(
            cc_check(cudaMemcpy2DAsync(targets, from->n_rows * sizeof(float), from->targets,
                                       from->stride * sizeof(float), from->n_rows * sizeof(float),
                                       n_columns, cudaMemcpyHostToDevice, d->stream),
                     "copying targets", err));
        if (from->row_weights != NULL) {
            UPG_TRY(cc_up(d, weights, from->row_weights, from->n_rows * sizeof(float), err));
            to[u].row_weights = weights;
        }
        at += from->n_rows;
    }
out:
    return st;
}

upg_status cc_columns(upg_compress_device *device, const upg_device_columns *units,
                      uint32_t n_units, upg_error *err)
{
    cc_device      *d = cc_of(device);
    cc_code        *codes[MAX_UNITS];
    const upg_code *wanted[MAX_UNITS];
    uint32_t        n_rows[MAX_UNITS];
    cu_encode_unit  on_device[MAX_UNITS];
    control         c = { 0 };
    launch          l = { 0 };
    upg_status      st;

    UPG_TRY(cc_check(cudaSetDevice(d->device), "choosing the device", err));
    for (uint32_t u = 0; u < n_units && u < MAX_UNITS; u++) {
        wanted[u] = units[u].code;
        n_rows[u] = units[u].n_rows;
    }
    UPG_TRY(cc_find_codes(d, wanted, n_rows, n_units, codes, err));
    UPG_TRY(send_columns(d, units, n_units, codes, on_device, err));
    UPG_TRY(plan_launch(d, codes, n_units, units[0].n_columns, false, &l, err));
    UPG_TRY(make_control(d, n_units, units[0].n_columns, &c, err));
    for (uint32_t u = 0; u < n_units; u++)
        for (uint32_t p = 0; p < c.columns; p++)
            c.host[search_at(&c, u) + p] =
                first_search(&codes[u]->trellis, units[u].row_weights != NULL);
    bind_control(&c, on_device);
    l.args.n_columns = (int32_t)c.columns;
    UPG_TRY(send(d, &c, on_device, &l, err));
    UPG_TRY(fetch_windows(d, units, n_units, on_device, err));
out:
    (void)cudaStreamSynchronize(d->stream); /* the control numbers may be on their way */
    upg_free(c.host);
    return st;
}

/* ---- with feedback ----------------------------------------------------------------------------
 */

/* One call at work. */
typedef struct feedback {
    cc_device             *d;
    const upg_device_unit *units;
    uint32_t               n_units, n_cols;
    const float           *lower;  /* device */
    uint64_t               n_rows; /* of all units */
    cc_code               *codes[MAX_UNITS];
    uint64_t               at[MAX_UNITS];    /* rows of the units before */
    uint64_t               words[MAX_UNITS]; /* words of the units before */
    uint64_t               n_words;
    cu_encode_unit         on_device[MAX_UNITS]; /* of the block at hand */
    float                 *scales;               /* host, f32 [n_rows] */
    control                control;
    launch                 launch;
} feedback;

static uint32_t binary_rows(const upg_device_unit *unit)
{
    return (uint32_t)upg_code_binary_rows(unit->code, unit->n_rows);
}

static upg_status plan_feedback(feedback *f, upg_error *err)
{
    const upg_code *wanted[MAX_UNITS];
    uint32_t        n_rows[MAX_UNITS];
    uint32_t        columns = f->n_cols < CU_ENCODE_COLUMNS ? f->n_cols : CU_ENCODE_COLUMNS;
    upg_status      st;

    for (uint32_t u = 0; u < f->n_units && u < MAX_UNITS; u++) {
        wanted[u] = f->units[u].code;
        n_rows[u] = f->units[u].n_rows;
        f->at[u] = f->n_rows;
        f->words[u] = f->n_words;
        f->n_rows += f->units[u].n_rows;
        f->n_words += upg_band_words(binary_rows(&f->units[u]), f->n_cols);
    }
    UPG_TRY(cc_find_codes(f->d, wanted, n_rows, f->n_units, f->codes, err));
    UPG_TRY(cc_room(&f->d->targets, f->n_rows * f->n_cols * sizeof(float), "targets", err));
    UPG_TRY(cc_room(&f->d->originals, f->n_rows * f->n_cols * sizeof(float), "weights", err));
    UPG_TRY(cc_room(&f->d->decoded, f->n_rows * f->n_cols * sizeof(float), "decoded weights", err));
    UPG_TRY(cc_room(&f->d->errors, f->n_rows * columns * sizeof(float), "errors", err));
    UPG_TRY(cc_room(&f->d->windows, f->n_rows * columns * sizeof(uint16_t), "windows", err));
    UPG_TRY(cc_room(&f->d->weights, f->n_rows * sizeof(float), "row scales", err));
    UPG_TRY(cc_room(&f->d->bits, f->n_words * sizeof(uint32_t), "code bits", err));
    UPG_TRY(cc_clear(f->d, f->d->bits.at, f->n_words * sizeof(uint32_t), err));
    UPG_TRY(plan_launch(f->d, f->codes, f->n_units, columns, true, &f->launch, err));
    UPG_TRY(make_control(f->d, f->n_units, columns, &f->control, err));
    f->launch.args.lower_stride = f->n_cols;
out:
    return st;
}

/* Weights as [column][row], by way of `decoded`; row scales. */
static upg_status send_units(feedback *f, upg_error *err)
{
    cc_device *d = f->d;
    upg_status st = UPG_OK;

    f->scales = upg_malloc(f->n_rows, sizeof *f->scales, err);
    UPG_TRY(f->scales != NULL ? UPG_OK : UPG_E_NOMEM);
    for (uint32_t u = 0; u < f->n_units; u++) {
        const upg_device_unit *unit = &f->units[u];
        uint64_t               at = f->at[u] * f->n_cols;
        size_t                 bytes = (size_t)unit->n_rows * f->n_cols * sizeof(float);
        float                 *as_is = (float *)d->decoded.at + at;

        for (uint32_t r = 0; r < unit->n_rows; r++)
            f->scales[f->at[u] + r] = upg_f32_from_f16(unit->scales[r]);
        UPG_TRY(cc_up(d, as_is, unit->weights, bytes, err));
        UPG_TRY(cc_check(cu_launch_transpose(as_is, unit->n_rows, f->n_cols,
                                             (float *)d->originals.at + at, d->stream),
                         "turning weights", err));
    }
    UPG_TRY(cc_check(cudaMemcpyAsync(d->targets.at, d->originals.at,
                                     f->n_rows * f->n_cols * sizeof(float),
                                     cudaMemcpyDeviceToDevice, d->stream),
                     "copying targets", err));
    UPG_TRY(cc_up(d, d->weights.at, f->scales, f->n_rows * sizeof(float), err));
out:
    return st;
}

/* The units of the block of n columns that begins at `begin`, nothing done. */
static void begin_block(feedback *f, uint32_t begin, uint32_t n)
{
    const cc_device *d = f->d;

    f->launch.args.n_columns = (int32_t)n;
    f->launch.args.lower = f->lower + (size_t)begin * f->n_cols + begin;
    for (uint32_t u = 0; u < f->n_units; u++) {
        size_t rows = f->units[u].n_rows, at = f->at[u] * f->n_cols + begin * rows;

        f->on_device[u] =
            (cu_encode_unit) { .trellis = f->codes[u]->on_device,
                               .n_rows = (int32_t)rows,
                               .targets = (const float *)d->targets.at + at,
                               .windows = (uint16_t *)d->windows.at + f->at[u] * f->control.columns,
                               .originals = (const float *)d->originals.at + at,
                               .decoded = (float *)d->decoded.at + at,
                               .errors = (float *)d->errors.at + f->at[u] * f->control.columns,
                               .row_scale = (const float *)d->weights.at + f->at[u] };
    }
    bind_control(&f->control, f->on_device);
}

/* Sets what comes from column `first` of a unit on back to the beginning; `kept` is the first whose
 * search is not known. */
static void restart(feedback *f, uint32_t unit, int32_t first, int32_t kept)
{
    control *c = &f->control;
    int32_t *progress = c->host + progress_at(c, unit), *search = c->host + search_at(c, unit);

    f->on_device[unit].first = first;
    for (int32_t p = 0; p < (int32_t)c->columns; p++) {
        progress[p] = p < first ? (int32_t)f->units[unit].n_rows : 0;
        if (p >= kept)
            search[p] = first_search(&f->codes[unit]->trellis, false);
    }
}

/* Runs the block until no column has failed. */
static upg_status code_block(feedback *f, upg_error *err)
{
    control   *c = &f->control;
    upg_status st = UPG_OK;

    for (uint32_t u = 0; u < f->n_units; u++)
        restart(f, u, 0, 0);
    for (bool again = true; again;) {
        int32_t least = f->launch.args.n_columns;

        c->host[0] = 0;
        for (uint32_t u = 0; u < f->n_units; u++) {
            c->host[1 + u] = INT_MAX;
            least = f->on_device[u].first < least ? f->on_device[u].first : least;
        }
        f->launch.args.first = least;
        UPG_TRY(send(f->d, c, f->on_device, &f->launch, err));
        UPG_TRY(cc_down(f->d, c->host, c->device, c->count * sizeof *c->host, err));
        again = false;
        for (uint32_t u = 0; u < f->n_units; u++) {
            int32_t failed = c->host[1 + u];

            restart(f, u, failed == INT_MAX ? (int32_t)c->columns : failed,
                    failed == INT_MAX ? INT_MAX : failed + 1);
            again = again || failed != INT_MAX;
        }
    }
out:
    return st;
}

/* Packs a block's bits and carries its errors to all columns before it. */
static upg_status end_block(feedback *f, uint32_t begin, uint32_t n, upg_error *err)
{
    upg_status st = UPG_OK;

    for (uint32_t u = 0; u < f->n_units; u++) {
        const upg_device_unit *unit = &f->units[u];
        const cu_encode_unit  *x = &f->on_device[u];

        UPG_TRY(cc_check(cu_launch_pack(x->trellis, x->windows, unit->n_rows, binary_rows(unit),
                                        f->n_cols, begin, n,
                                        (uint32_t *)f->d->bits.at + f->words[u], f->d->stream),
                         "packing bits", err));
        if (begin > 0)
            UPG_TRY(cc_check(
                cuda_blas_gemm(&f->d->blas, CUDA_BLAS_FLOAT, true, false, begin, unit->n_rows, n,
                               1.0f, f->lower + (size_t)begin * f->n_cols, f->n_cols, x->errors,
                               unit->n_rows, 1.0f, (float *)f->d->targets.at + f->at[u] * f->n_cols,
                               unit->n_rows),
                "adding feedback", err));
    }
out:
    return st;
}

/* Bits, and decoded weights as [row][column] by way of `targets`. */
static upg_status fetch_units(feedback *f, upg_error *err)
{
    cc_device *d = f->d;
    upg_status st = UPG_OK;

    for (uint32_t u = 0; u < f->n_units; u++) {
        const upg_device_unit *unit = &f->units[u];
        uint64_t               at = f->at[u] * f->n_cols;
        size_t                 bytes = (size_t)unit->n_rows * f->n_cols * sizeof(float);
        float                 *as_was = (float *)d->targets.at + at;

        UPG_TRY(cc_check(cu_launch_transpose((const float *)d->decoded.at + at, f->n_cols,
                                             unit->n_rows, as_was, d->stream),
                         "turning weights", err));
        UPG_TRY(cc_down(d, unit->weights, as_was, bytes, err));
        UPG_TRY(cc_down(d, unit->bits, (const uint32_t *)d->bits.at + f->words[u],
                        sizeof(uint32_t) * upg_band_words(binary_rows(unit), f->n_cols), err));
    }
out:
    return st;
}

static upg_status find_lower(feedback *f, const float *lower, upg_error *err)
{
    cc_device *d = f->d;
    size_t     bytes = (size_t)f->n_cols * f->n_cols * sizeof *lower;
    upg_status st;

    if (lower == NULL) {
        f->lower = d->sum.at;
        return d->factored && d->width == f->n_cols
                   ? UPG_OK
                   : upg_fail(err, UPG_E_STATE, "no factor of this width is on the GPU");
    }
    UPG_TRY(cc_room(&d->lower, bytes, "the factor", err));
    UPG_TRY(cc_up(d, d->lower.at, lower, bytes, err));
    f->lower = d->lower.at;
out:
    return st;
}

upg_status cc_feedback(upg_compress_device *device, uint32_t n_cols, const float *lower,
                       const upg_device_unit *units, uint32_t n_units, upg_meter *meter,
                       upg_error *err)
{
    feedback   f = { .d = cc_of(device), .units = units, .n_units = n_units, .n_cols = n_cols };
    upg_status st;

    UPG_TRY(cc_check(cudaSetDevice(f.d->device), "choosing the device", err));
    UPG_TRY(find_lower(&f, lower, err));
    UPG_TRY(plan_feedback(&f, err));
    UPG_TRY(send_units(&f, err));
    for (uint32_t end = n_cols, begin; end > 0; end = begin) {
        begin = (end - 1) / CU_ENCODE_COLUMNS * CU_ENCODE_COLUMNS;
        begin_block(&f, begin, end - begin);
        UPG_TRY(code_block(&f, err));
        UPG_TRY(end_block(&f, begin, end - begin, err));
        upg_meter_add(meter, f.n_rows * (end - begin));
        upg_meter_tick(meter);
        if (upg_meter_cancelled(meter))
            UPG_TRY(upg_fail(err, UPG_E_CANCELLED, "compress: cancelled"));
    }
    UPG_TRY(fetch_units(&f, err));
out:
    (void)cudaStreamSynchronize(f.d->stream);
    upg_free(f.scales);
    upg_free(f.control.host);
    return st;
}
