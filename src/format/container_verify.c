/* container_verify.c: the whole file against its hashes. Chunks are independent; batches of them
 * give the caller a moment to report and to cancel. */
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "format/container.h"

/* 64 MiB: some 10 ms of work. */
#define BATCH_CHUNKS 64

typedef struct verify_job {
    const upg_hash_table *table;
    size_t                first; /* chunk of the batch's item 0 */
    atomic_size_t         bad;   /* least bad chunk so far; SIZE_MAX = none */
} verify_job;

static void verify_chunk(void *context, size_t item, uint32_t worker)
{
    verify_job *job = context;
    size_t      chunk = job->first + item;
    size_t      least = atomic_load_explicit(&job->bad, memory_order_relaxed);

    (void)worker;
    if (upg_hash_table_chunk_ok(job->table, chunk))
        return;
    while (chunk < least && !atomic_compare_exchange_weak(&job->bad, &least, chunk)) {
    }
}

static void run_batch(verify_job *job, size_t n, upg_pool *pool)
{
    if (pool != NULL) {
        upg_pool_run(pool, n, verify_chunk, job);
        return;
    }
    for (size_t item = 0; item < n; item++)
        verify_chunk(job, item, 0);
}

/* "header, "a.code" and 3 more": what lies in a chunk, as far as the header can be read. */
static void describe(upg_span bytes, uint64_t begin, uint64_t end, char *text, size_t cap)
{
    upg_st              *file = NULL;
    const upg_st_tensor *first = NULL;
    size_t               n = 0;

    if (upg_st_parse(bytes, "", &file, NULL) != UPG_OK) {
        snprintf(text, cap, "the header, or a tensor that the damaged header no longer names");
        return;
    }
    for (size_t i = 0; i < upg_st_count(file); i++) {
        const upg_st_tensor *t = upg_st_at(file, i);

        if (t->file_offset >= end || t->file_offset + t->bytes.size <= begin)
            continue;
        first = first ? first : t;
        n++;
    }
    if (n == 0)
        snprintf(text, cap, "the header");
    else if (n == 1)
        snprintf(text, cap, "%s\"%s\"", begin < upg_st_data_offset(file) ? "the header, " : "",
                 first->name);
    else
        snprintf(text, cap, "%s\"%s\" and %zu more",
                 begin < upg_st_data_offset(file) ? "the header, " : "", first->name, n - 1);
    upg_st_close(file);
}

upg_status upg_container_bad_chunk(upg_span bytes, const upg_hash_table *table, size_t chunk,
                                   upg_error *err)
{
    uint64_t begin = (uint64_t)chunk * UPG_HASH_CHUNK, end = begin + UPG_HASH_CHUNK;
    char     what[UPG_ST_MAX_NAME + 64];

    if (end > table->covered)
        end = table->covered;
    describe(bytes, begin, end, what, sizeof what);
    return upg_fail(err, UPG_E_CORRUPT,
                    "chunk %zu, bytes %" PRIu64 " … %" PRIu64
                    ", differs from its hash; it holds %s: get the file again",
                    chunk, begin, end - 1, what);
}

static upg_status verify_chunks(upg_span bytes, const upg_hash_table *table, upg_pool *pool,
                                const upg_listener *listener, uint64_t *bad_offset, upg_error *err)
{
    static const upg_listener nobody;
    upg_meter                 meter;
    verify_job                job = { .table = table };

    atomic_init(&job.bad, SIZE_MAX);
    upg_meter_start(&meter, listener ? listener : &nobody, "verify", "bytes", table->covered);
    for (size_t n; job.first < table->n_chunks && !upg_meter_cancelled(&meter); job.first += n) {
        uint64_t left = table->covered - (uint64_t)job.first * UPG_HASH_CHUNK;
        uint64_t most = (uint64_t)BATCH_CHUNKS * UPG_HASH_CHUNK;

        n = table->n_chunks - job.first;
        n = n < BATCH_CHUNKS ? n : BATCH_CHUNKS;
        run_batch(&job, n, pool);
        upg_meter_add(&meter, left < most ? left : most);
        upg_meter_tick(&meter);
        if (atomic_load(&job.bad) != SIZE_MAX)
            break;
    }
    if (atomic_load(&job.bad) == SIZE_MAX)
        return upg_meter_finish(&meter, err);
    *bad_offset = (uint64_t)atomic_load(&job.bad) * UPG_HASH_CHUNK;
    return upg_container_bad_chunk(bytes, table, atomic_load(&job.bad), err);
}

upg_status upg_container_verify(const char *path, upg_pool *pool, const upg_listener *listener,
                                uint64_t *bad_offset, upg_error *err)
{
    upg_map        map = { 0 };
    upg_hash_table table;
    upg_container *c = NULL;
    upg_status     st, found;

    *bad_offset = UINT64_MAX;
    UPG_TRY(upg_map_open(path, &map, err));
    found = upg_hash_table_find(map.bytes, &table, err);
    if (found == UPG_OK)
        UPG_TRY(verify_chunks(map.bytes, &table, pool, listener, bad_offset, err));
    else /* where the table is, or the end, where it should have been */
        *bad_offset = table.covered > 0 ? table.covered : map.bytes.size;
    UPG_TRY(found == UPG_OK ? upg_container_parse_verified(map.bytes, path, &c, err)
                            : upg_container_parse(map.bytes, path, &c, err)); /* fails as well */
    UPG_TRY(found);
out:
    if (upg_map_check(&map, err) != UPG_OK) /* then it is no use to say what did not match */
        st = UPG_E_IO;
    upg_container_close(c);
    upg_map_close(&map);
    if (st != UPG_OK)
        upg_error_prefix(err, "%s: ", path);
    return st;
}
