/* kernel_speed.c: one list of kernels, run for every ISA over the probe's buffer or over scratch.
 *
 * Kernels that stream weights get them from memory that no cache holds, as a token does, and are
 * compared with plain reads; those that compute work from L2 and are compared with the int8 peak.
 */
#include "runtime/kernel_speed.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/cpu.h"
#include "kernels/kernels.h"
#include "runtime/probe_impl.h"

enum {
    RUNS = 7,
    RUN_NS = 60000000,     /* what one run should take */
    COLUMNS = 5120,        /* Phi-4's inputs */
    GROUPS = COLUMNS / 32, /* of 32 columns */
    TILE_ROWS = 64,        /* as backend/cpu decodes */
    TILE_COLUMNS = 2048,
    BATCH = 128 /* vectors of a prompt */
};

/* Bytes of one worker's scratch, each 64-byte aligned. */
#define PREPARED_BYTES ((size_t)GROUPS * UPG_PREPARED_BYTES_PER_GROUP)
#define TILE_BYTES     ((size_t)TILE_ROWS * (TILE_COLUMNS + 32) * sizeof(int16_t))
#define INPUT_BYTES    ((size_t)BATCH * TILE_COLUMNS * sizeof(int16_t))
#define OUTPUT_BYTES   ((size_t)BATCH * TILE_ROWS * sizeof(float))
#define SCRATCH_BYTES  (2 * PREPARED_BYTES + TILE_BYTES + INPUT_BYTES + 2 * OUTPUT_BYTES)

typedef struct scratch {
    uint8_t *prepared, *lut8; /* tables of bitdot and of lut8 */
    int16_t *tile, *input;
    float   *vector, *result;
} scratch;

typedef struct measured {
    upg_probe  *probe;
    upg_kernels kernels;
    upg_band    band; /* of one part of the buffer, at 3 bits */
    uint8_t    *memory;
} measured;

static scratch scratch_of(const measured *m, uint32_t worker)
{
    uint8_t *at = m->memory + worker * SCRATCH_BYTES;
    scratch  s = { .prepared = at };

    at += PREPARED_BYTES;
    s.lut8 = at;
    at += PREPARED_BYTES;
    s.tile = (int16_t *)(void *)at;
    at += TILE_BYTES;
    s.input = (int16_t *)(void *)at;
    at += INPUT_BYTES;
    s.vector = (float *)(void *)at;
    s.result = (float *)(void *)(at + OUTPUT_BYTES);
    return s;
}

/* ---- the kernels: each does one item and says how much that was -------------------------------
 */

typedef double item_work(const measured *m, const uint8_t *part, scratch *s);

static double run_bitdot(const measured *m, const uint8_t *part, scratch *s)
{
    size_t  block = (size_t)GROUPS * UPG_BLOCK_ROWS * sizeof(uint32_t);
    size_t  n = UPG_PROBE_PART_BYTES / block;
    int32_t u[UPG_BLOCK_ROWS];

    for (size_t i = 0; i < n; i++)
        m->kernels.bitdot(GROUPS, UPG_BLOCK_ROWS,
                          (const uint32_t *)(const void *)(part + i * block), s->prepared, u);
    return (double)(n * block);
}

static double run_lut8(const measured *m, const uint8_t *part, scratch *s)
{
    size_t  block = (size_t)GROUPS * UPG_BLOCK_ROWS * sizeof(uint32_t);
    size_t  n = UPG_PROBE_PART_BYTES / block;
    int32_t u[UPG_BLOCK_ROWS];

    for (size_t i = 0; i < n; i++)
        m->kernels.lut8(GROUPS, UPG_BLOCK_ROWS, (const uint32_t *)(const void *)(part + i * block),
                        s->lut8, u);
    return (double)(n * block);
}

static double run_decode(const measured *m, const uint8_t *part, scratch *s)
{
    upg_band band = m->band;
    uint32_t tiles = band.n_rows / TILE_ROWS;

    band.bits = (const uint32_t *)(const void *)part;
    for (uint32_t t = 0; t < tiles; t++)
        for (uint32_t g = 0; g < GROUPS; g++)
            m->kernels.decode_group(&band, COLUMNS, g, t * TILE_ROWS, TILE_ROWS,
                                    s->tile + g % (TILE_COLUMNS / 32) * 32, TILE_COLUMNS + 32);
    return (double)(upg_band_words(band.n_binary, COLUMNS) * sizeof(uint32_t));
}

static double run_bf16(const measured *m, const uint8_t *part, scratch *s)
{
    size_t rows = UPG_PROBE_PART_BYTES / (COLUMNS * sizeof(uint16_t));

    m->kernels.gemm_bf16(1, rows, COLUMNS, s->vector, COLUMNS, (const uint16_t *)(const void *)part,
                         COLUMNS, s->result, COLUMNS);
    return (double)(rows * COLUMNS * sizeof(uint16_t));
}

static double run_gemm(const measured *m, const uint8_t *part, scratch *s)
{
    (void)part;
    m->kernels.gemm_i16(BATCH, TILE_ROWS, TILE_COLUMNS, s->input, TILE_COLUMNS, s->tile,
                        TILE_COLUMNS + 32, (int32_t *)(void *)s->result, TILE_ROWS);
    memset(s->result, 0, OUTPUT_BYTES); /* sums start again */
    return (double)BATCH * TILE_ROWS * TILE_COLUMNS;
}

/* The place of the i16 tile and inputs, as bytes. */
static double run_decode_i8(const measured *m, const uint8_t *part, scratch *s)
{
    upg_band band = m->band;
    uint32_t tiles = band.n_rows / TILE_ROWS;

    band.bits = (const uint32_t *)(const void *)part;
    for (uint32_t t = 0; t < tiles; t++)
        for (uint32_t g = 0; g < GROUPS; g += TILE_COLUMNS / 32)
            m->kernels.decode_i8(&band, COLUMNS, g,
                                 GROUPS - g < TILE_COLUMNS / 32 ? GROUPS - g : TILE_COLUMNS / 32,
                                 t * TILE_ROWS, TILE_ROWS, (uint8_t *)s->tile, TILE_COLUMNS + 64);
    return (double)(upg_band_words(band.n_binary, COLUMNS) * sizeof(uint32_t));
}

static double run_gemm_i8(const measured *m, const uint8_t *part, scratch *s)
{
    (void)part;
    m->kernels.gemm_i8(BATCH, TILE_ROWS, TILE_COLUMNS, (const int8_t *)s->input, TILE_COLUMNS,
                       (const uint8_t *)s->tile, TILE_COLUMNS + 64, (int32_t *)(void *)s->result,
                       TILE_ROWS);
    memset(s->result, 0, OUTPUT_BYTES);
    return (double)BATCH * TILE_ROWS * TILE_COLUMNS;
}

static double run_hadamard(const measured *m, const uint8_t *part, scratch *s)
{
    (void)part;
    for (int i = 0; i < 16; i++)
        m->kernels.hadamard(COLUMNS, UPG_ROTATION_MAX_BLOCK, s->vector);
    return 16.0 * COLUMNS * sizeof(float);
}

typedef struct kernel_row {
    const char *name, *what;
    item_work  *work;
    bool        by_int8; /* multiply-adds against the int8 peak, else bytes against reads */
} kernel_row;

static const kernel_row rows[] = {
    { "bitdot", "code bits from memory", run_bitdot, false },
    { "lut8", "the same by tables of 8 bits", run_lut8, false },
    { "decode_group", "code bits from memory, 3 bits to i16", run_decode, false },
    { "gemm_bf16", "bf16 weights from memory, one vector", run_bf16, false },
    { "decode_i8", "code bits from memory, 3 bits to u8", run_decode_i8, false },
    { "gemm_i16", "128 vectors by 64 decoded rows of i16, from L2", run_gemm, true },
    { "gemm_i8", "128 vectors by 64 decoded rows of u8, from L2", run_gemm_i8, true },
    { "hadamard", "f32 in L1, rotated in place", run_hadamard, false },
};
enum { N_ROWS = sizeof rows / sizeof rows[0] };

/* What upg_kernels_select may use: the strongest ISA last. */
#if defined(__aarch64__)
static const uint32_t levels[] = { 0, UPG_CPU_NEON, UINT32_MAX };
#else
static const uint32_t levels[] = { 0, UPG_CPU_AVX2, UINT32_MAX };
#endif
enum { N_LEVELS = sizeof levels / sizeof levels[0] };

/* Tables of this machine, weakest first; *n counts those that differ. */
static void find_tables(upg_kernels tables[N_LEVELS], size_t *n)
{
    *n = 0;
    for (size_t i = 0; i < N_LEVELS; i++) {
        upg_kernels_select(upg_cpu_flags() & levels[i], &tables[*n]);
        if (*n == 0 || strcmp(tables[*n].name, tables[*n - 1].name) != 0)
            ++*n;
    }
}

/* ---- measuring --------------------------------------------------------------------------------
 */

typedef struct pass {
    const measured   *m;
    const kernel_row *row;
    double           *done; /* [workers], 64 bytes apart */
} pass;

enum { DONE_STRIDE = 8 };

static void run_item(void *context, size_t item, uint32_t worker)
{
    pass    *p = context;
    scratch  s = scratch_of(p->m, worker);
    upg_span buffer = upg_probe_buffer(p->m->probe);
    size_t   parts = buffer.size / UPG_PROBE_PART_BYTES;

    p->done[worker * DONE_STRIDE] +=
        p->row->work(p->m, buffer.data + item % parts * UPG_PROBE_PART_BYTES, &s);
}

/* Work for each nanosecond: 1e9 a second. */
static double run_items(pass *p, size_t n_items)
{
    upg_pool *pool = upg_probe_pool(p->m->probe);
    uint32_t  workers = upg_pool_size(pool);
    uint64_t  start;
    double    done = 0;

    memset(p->done, 0, workers * DONE_STRIDE * sizeof *p->done);
    start = upg_now_ns();
    upg_pool_run(pool, n_items, run_item, p);
    start = upg_now_ns() - start;
    for (uint32_t i = 0; i < workers; i++)
        done += p->done[i * DONE_STRIDE];
    return done / (double)(start > 0 ? start : 1);
}

/* Items for a run of about RUN_NS, some for each worker. */
static size_t choose_items(pass *p)
{
    size_t   few = 2 * (size_t)upg_pool_size(upg_probe_pool(p->m->probe));
    uint64_t start = upg_now_ns();
    double   ns;

    (void)run_items(p, few);
    ns = (double)(upg_now_ns() - start);
    return ns >= RUN_NS ? few : (size_t)((double)few * RUN_NS / (ns > 1 ? ns : 1));
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double *values)
{
    qsort(values, RUNS, sizeof *values, ascending);
    return values[RUNS / 2];
}

static void measure(pass *p, upg_kernel_speed *speed)
{
    double rate[RUNS], limit[RUNS], fraction[RUNS];
    size_t n = choose_items(p);

    for (int i = 0; i < RUNS; i++) {
        limit[i] =
            p->row->by_int8 ? upg_probe_int8_pass(p->m->probe) : upg_probe_read_pass(p->m->probe);
        rate[i] = run_items(p, n);
        fraction[i] = rate[i] / limit[i];
    }
    speed->isa = p->m->kernels.name;
    speed->kernel = p->row->name;
    speed->what = p->row->what;
    speed->unit = p->row->by_int8 ? "G multiply-adds/s" : "GB/s";
    speed->limit = p->row->by_int8 ? "int8 peak" : "reads";
    speed->rate = median(rate);
    speed->limit_rate = median(limit);
    speed->fraction = median(fraction);
}

/* Inputs are what they are in a model: small integers, values near 1. */
static void fill_scratch(const measured *m, uint32_t worker)
{
    scratch s = scratch_of(m, worker);
    int8_t  x[COLUMNS];

    for (size_t i = 0; i < COLUMNS; i++)
        x[i] = (int8_t)(i * 37 % 255 - 127);
    m->kernels.bitdot_prepare(GROUPS, x, s.prepared);
    (void)m->kernels.lut8_prepare(GROUPS, x, s.lut8);
    for (size_t i = 0; i < BATCH * TILE_COLUMNS; i++)
        s.input[i] = x[i % COLUMNS];
    for (size_t i = 0; i < COLUMNS; i++)
        s.vector[i] = (float)x[i] / 64;
}

static upg_status prepare(measured *m, uint32_t workers, upg_error *err)
{
    uint32_t rows_of_part = TILE_ROWS;

    m->memory = upg_alloc_aligned(workers * SCRATCH_BYTES, err);
    if (!m->memory)
        return UPG_E_NOMEM;
    for (uint32_t i = 0; i < workers; i++)
        fill_scratch(m, i);
    m->band = (upg_band) { .code = *upg_code_find(6, UPG_CODE_DEFAULT_LENGTH) };
    while (upg_band_words((uint32_t)upg_code_binary_rows(&m->band.code, rows_of_part + TILE_ROWS),
                          COLUMNS) *
               sizeof(uint32_t) <=
           UPG_PROBE_PART_BYTES)
        rows_of_part += TILE_ROWS;
    m->band.n_rows = rows_of_part;
    m->band.n_binary = (uint32_t)upg_code_binary_rows(&m->band.code, rows_of_part);
    return UPG_OK;
}

upg_status upg_kernel_speed_measure(upg_probe *probe, size_t index, upg_kernel_speed *speed,
                                    upg_error *err)
{
    upg_kernels tables[N_LEVELS];
    uint32_t    workers = upg_probe_thread_count(probe);
    measured    m = { .probe = probe };
    pass        p = { .m = &m };
    size_t      n_tables;
    upg_status  st = UPG_OK;

    find_tables(tables, &n_tables);
    if (index >= n_tables * N_ROWS)
        return upg_fail(err, UPG_E_ARG, "kernel %zu: there are %zu", index, n_tables * N_ROWS);
    m.kernels = tables[index % n_tables];
    p.row = &rows[index / n_tables];
    UPG_TRY(prepare(&m, workers, err));
    p.done = upg_calloc((size_t)workers * DONE_STRIDE, sizeof *p.done, err);
    UPG_TRY(p.done ? UPG_OK : UPG_E_NOMEM);
    measure(&p, speed);
out:
    upg_free(p.done);
    upg_free(m.memory);
    return st;
}
