/* machine.c: names from the system, bandwidth by reading a buffer that no cache holds. */
#include "runtime/machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/cpu.h"
#include "base/error.h"
#include "base/pool.h"
#include "base/system.h"

#define BUFFER_BYTES ((size_t)512 << 20) /* larger caches than 256 MiB are not known */
#define PART_BYTES   ((size_t)1 << 20)   /* one item of the pool */

enum { PASSES = 7 };

typedef struct reading {
    const uint64_t *words;
    uint64_t       *sums; /* [parts]: keeps the compiler from leaving the reads out */
} reading;

static void read_part(void *context, size_t item, uint32_t worker)
{
    enum { LANES = 16, WORDS = PART_BYTES / sizeof(uint64_t) };
    reading        *r = context;
    const uint64_t *words = r->words + item * WORDS;
    uint64_t        lane[LANES] = { 0 }, sum = 0;

    (void)worker;
    for (size_t i = 0; i < WORDS; i += LANES)
        for (int l = 0; l < LANES; l++)
            lane[l] += words[i + l];
    for (int l = 0; l < LANES; l++)
        sum += lane[l];
    r->sums[item] = sum;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* Median of several passes, in GB/s; the first pass, which wakes the threads, does not count. */
static upg_status bandwidth(reading *r, size_t n_parts, uint32_t threads, double *gb_s,
                            upg_error *err)
{
    double     rates[PASSES];
    upg_pool  *pool = NULL;
    upg_status st = upg_pool_create(threads, &pool, err);

    if (st != UPG_OK)
        return st;
    upg_pool_run(pool, n_parts, read_part, r);
    for (int i = 0; i < PASSES; i++) {
        uint64_t start_ns = upg_now_ns();

        upg_pool_run(pool, n_parts, read_part, r);
        rates[i] = (double)(n_parts * PART_BYTES) / (double)(upg_now_ns() - start_ns);
    }
    upg_pool_close(pool);
    qsort(rates, PASSES, sizeof rates[0], compare);
    *gb_s = rates[PASSES / 2];
    return UPG_OK;
}

static upg_status measure(upg_machine_info *info, upg_error *err)
{
    size_t     bytes = BUFFER_BYTES;
    reading    r = { 0 };
    void      *buffer;
    upg_status st;

    if (info->memory_available > 0 && info->memory_available / 4 < bytes)
        bytes = (size_t)(info->memory_available / 4) + PART_BYTES;
    bytes -= bytes % PART_BYTES;
    buffer = upg_alloc_aligned(bytes, err);
    r.words = buffer;
    r.sums = upg_calloc(bytes / PART_BYTES, sizeof *r.sums, buffer ? err : NULL);
    UPG_TRY(buffer && r.sums ? UPG_OK : UPG_E_NOMEM);
    memset(buffer, 1, bytes); /* untouched pages are one page of zeros to the system */
    UPG_TRY(bandwidth(&r, bytes / PART_BYTES, 1, &info->read_gb_s_1, err));
    UPG_TRY(bandwidth(&r, bytes / PART_BYTES, 0, &info->read_gb_s_all, err));
out:
    upg_free(r.sums);
    upg_free(buffer);
    return st;
}

upg_status upg_machine_measure(upg_machine_info *info, upg_error *err)
{
    upg_cpu_name(info->cpu, sizeof info->cpu);
    upg_cpu_describe(upg_cpu_flags(), info->isa, sizeof info->isa);
    info->cores = upg_cpu_cores();
    upg_system_memory(&info->memory_total, &info->memory_available);
    upg_system_gpu(info->gpu, sizeof info->gpu);
    return measure(info, err);
}
