/* verify_bench.c: how fast a file is compared with its hashes, beside plain reads of the same file
 * (pread into one buffer for each thread, 1 MiB at a time) by as many threads, in turn.
 *
 * usage: verify_bench FILE.upg [THREADS [RUNS]]. The file should be in the page cache and larger
 * than the processor's caches. */
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/pool.h"
#include "format/container.h"

enum { CHUNK = 1 << 20, MAX_RUNS = 1000 };

typedef struct reading {
    int         fd;
    uint64_t    size;
    char       *buffers; /* [threads][CHUNK] */
    atomic_bool failed;
} reading;

static void read_chunk(void *context, size_t item, uint32_t worker)
{
    reading *r = context;
    uint64_t left = r->size - (uint64_t)item * CHUNK;
    size_t   n = left < CHUNK ? (size_t)left : CHUNK;

    if (pread(r->fd, r->buffers + (size_t)worker * CHUNK, n, (off_t)item * CHUNK) != (ssize_t)n)
        atomic_store(&r->failed, true);
}

static int by_value(const void *a, const void *b)
{
    const double *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

static void print_rates(const char *what, double *rates, int n)
{
    qsort(rates, (size_t)n, sizeof *rates, by_value);
    printf("%-8s median %6.2f GB/s, %6.2f ... %6.2f\n", what, rates[n / 2], rates[0], rates[n - 1]);
}

static int measure(const char *path, upg_pool *pool, int n_runs)
{
    static const upg_listener nobody;
    static double             reads[MAX_RUNS], verifies[MAX_RUNS], shares[MAX_RUNS];
    reading                   r = { .fd = open(path, O_RDONLY | O_CLOEXEC) };
    upg_error                 err = { 0 };
    uint64_t                  bad, start;

    r.buffers = malloc((size_t)upg_pool_size(pool) * CHUNK);
    r.size = r.fd >= 0 ? (uint64_t)lseek(r.fd, 0, SEEK_END) : 0;
    for (int i = -1; i < n_runs && r.size > 0 && r.buffers && !atomic_load(&r.failed); i++) {
        int at = i < 0 ? 0 : i; /* the first one warms up */

        start = upg_now_ns();
        upg_pool_run(pool, (size_t)((r.size + CHUNK - 1) / CHUNK), read_chunk, &r);
        reads[at] = (double)r.size / (double)(upg_now_ns() - start);
        start = upg_now_ns();
        if (upg_container_verify(path, pool, &nobody, &bad, &err) != UPG_OK) {
            fprintf(stderr, "verify_bench: %s\n", err.message);
            return 1;
        }
        verifies[at] = (double)r.size / (double)(upg_now_ns() - start);
        shares[at] = verifies[at] / reads[at];
    }
    free(r.buffers);
    close(r.fd);
    if (r.size == 0 || atomic_load(&r.failed)) {
        fprintf(stderr, "verify_bench: %s cannot be read\n", path);
        return 1;
    }
    printf("%s: %.2f GB, %u threads, %d runs\n", path, (double)r.size * 1e-9, upg_pool_size(pool),
           n_runs);
    print_rates("reads", reads, n_runs);
    print_rates("verify", verifies, n_runs);
    qsort(shares, (size_t)n_runs, sizeof *shares, by_value);
    printf("share    median %6.3f of plain reads, run by run\n", shares[n_runs / 2]);
    return 0;
}

int main(int argc, char **argv)
{
    long       threads = argc > 2 ? strtol(argv[2], NULL, 10) : 0;
    long       runs = argc > 3 ? strtol(argv[3], NULL, 10) : 11;
    upg_pool  *pool = NULL;
    upg_error  err = { 0 };
    upg_status st;
    int        rc;

    if (argc < 2 || threads < 0 || threads > 1024 || runs < 1 || runs > MAX_RUNS) {
        fprintf(stderr, "usage: verify_bench FILE.upg [THREADS [RUNS]]\n");
        return 2;
    }
    st = upg_pool_create((uint32_t)threads, &pool, &err);
    if (st != UPG_OK) {
        fprintf(stderr, "verify_bench: %s\n", err.message);
        return 1;
    }
    rc = measure(argv[1], pool, (int)runs);
    upg_pool_close(pool);
    return rc;
}
