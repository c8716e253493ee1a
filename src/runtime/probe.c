/* probe.c: reads as plain as they come, and multiply-adds on registers. */
#include "runtime/probe.h"

#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/cpu.h"
#include "base/system.h"
#include "kernels/int8_peak.h"
#include "runtime/probe_impl.h"

#define BUFFER_BYTES ((size_t)512 << 20) /* larger caches than 256 MiB are not known */
#define PART_BYTES   UPG_PROBE_PART_BYTES

enum { PEAK_PARTS = 16, CALIBRATION_ROUNDS = 20000, PEAK_NS = 50000000 };

struct upg_probe {
    upg_pool     *pool;
    uint8_t      *memory, *buffer; /* buffer: memory from its first 64-byte boundary on */
    size_t        n_parts;
    uint64_t     *sums; /* [n_parts]: keeps the compiler from leaving the work out */
    upg_int8_peak peak;
    uint32_t      rounds; /* of one part of the peak's work */
};

/* GCC's vector extension: as wide as the machine's registers allow. */
typedef uint64_t words __attribute__((vector_size(64), may_alias));

/* Four streams of additions; the prefetch brings lines into L2, where most processors read fastest
 * from (Zen 4: 28 GB/s by one thread, 25 without). */
static void read_part(void *context, size_t item, uint32_t worker)
{
    enum { AHEAD = 16384, N = PART_BYTES / sizeof(words) };
    upg_probe   *p = context;
    const words *at = (const words *)(const void *)(p->buffer + item * PART_BYTES);
    words        sum[4] = { 0 };
    uint64_t     total = 0;

    (void)worker;
    for (size_t i = 0; i < N; i += 4)
        for (size_t j = 0; j < 4; j++) {
            __builtin_prefetch((const char *)(at + i + j) + AHEAD, 0, 2);
            sum[j] += at[i + j];
        }
    sum[0] += sum[1] + sum[2] + sum[3];
    for (size_t j = 0; j < sizeof(words) / sizeof(uint64_t); j++)
        total += sum[0][j];
    p->sums[item] = total;
}

/* What is touched first by the workers is near them. 1, since untouched pages are all one page of
 * zeros to the system. */
static void fill_part(void *context, size_t item, uint32_t worker)
{
    upg_probe *p = context;

    (void)worker;
    memset(p->buffer + item * PART_BYTES, 1, PART_BYTES);
}

static void peak_part(void *context, size_t item, uint32_t worker)
{
    upg_probe *p = context;

    (void)worker;
    p->sums[item % p->n_parts] = (uint64_t)p->peak.run(p->rounds);
}

/* Enough rounds that a part takes about PEAK_NS / PEAK_PARTS. */
static void choose_rounds(upg_probe *p)
{
    uint64_t start, ns;

    p->rounds = CALIBRATION_ROUNDS;
    peak_part(p, 0, 0);
    start = upg_now_ns();
    peak_part(p, 0, 0);
    ns = upg_now_ns() - start;
    p->rounds = (uint32_t)(CALIBRATION_ROUNDS * (double)(PEAK_NS / PEAK_PARTS) /
                           (double)(ns > 0 ? ns : 1)) +
                1;
}

upg_status upg_probe_make(uint32_t threads, upg_probe **probe, upg_error *err)
{
    upg_probe *p = upg_calloc(1, sizeof *p, err);
    size_t     bytes = BUFFER_BYTES;
    uint64_t   total, available;
    upg_status st = p ? UPG_OK : UPG_E_NOMEM;

    UPG_TRY(st);
    UPG_TRY(upg_pool_create(threads, &p->pool, err));
    upg_system_memory(&total, &available);
    if (available > 0 && available / 4 < bytes)
        bytes = (size_t)(available / 4) + PART_BYTES;
    p->n_parts = bytes / PART_BYTES;
    p->memory = upg_malloc(p->n_parts * PART_BYTES + sizeof(words), 1, err);
    p->sums = upg_calloc(p->n_parts, sizeof *p->sums, p->memory ? err : NULL);
    UPG_TRY(p->memory && p->sums ? UPG_OK : UPG_E_NOMEM);
    p->buffer = p->memory + sizeof(words) - (uintptr_t)p->memory % sizeof(words);
    upg_system_large_pages(p->memory, p->n_parts * PART_BYTES); /* as weights have them */
    upg_pool_run(p->pool, p->n_parts, fill_part, p);
    p->peak = upg_int8_peak_find(upg_cpu_flags());
    choose_rounds(p);
out:
    if (st != UPG_OK) {
        upg_probe_free(p);
        p = NULL;
    }
    *probe = p;
    return st;
}

double upg_probe_read_pass(upg_probe *p)
{
    uint64_t start = upg_now_ns();

    upg_pool_run(p->pool, p->n_parts, read_part, p);
    return (double)(p->n_parts * PART_BYTES) / (double)(upg_now_ns() - start);
}

double upg_probe_int8_pass(upg_probe *p)
{
    size_t   n = (size_t)PEAK_PARTS * upg_pool_size(p->pool);
    uint64_t start = upg_now_ns();

    upg_pool_run(p->pool, n, peak_part, p);
    return (double)n * p->rounds * p->peak.per_round / (double)(upg_now_ns() - start);
}

uint32_t upg_probe_thread_count(const upg_probe *p)
{
    return upg_pool_size(p->pool);
}

upg_span upg_probe_buffer(const upg_probe *p)
{
    return (upg_span) { p->buffer, p->n_parts * PART_BYTES };
}

upg_pool *upg_probe_pool(upg_probe *p)
{
    return p->pool;
}

void upg_probe_free(upg_probe *p)
{
    if (!p)
        return;
    upg_pool_close(p->pool);
    upg_free(p->sums);
    upg_free(p->memory);
    upg_free(p);
}
