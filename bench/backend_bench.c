/* backend_bench: the cpu backend alone, without sessions and sampling:
 *
 *     backend_bench MODEL [threads [context [rate]]]
 *
 * MODEL is a checkpoint folder or a .upg file. With a rate (2, 2.5, … 5) the matrices are replaced
 * by random bits coded at that rate: the speed of a .upg file without the time to make one. For
 * decode (one row) and batches it prints the median and the spread of 12 repetitions, and what part
 * of the read bandwidth, measured in the same run with as many threads, decoding takes. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/cpu.h"
#include "base/pool.h"
#include "support/coded_weights.h"
#include "support/kv_sequence.h"

enum { REPETITIONS = 12, MAX_BATCH = 512 };

typedef struct bench {
    upg_weights  *weights;
    upg_program  *program;
    upg_backend  *backend;
    upg_arena     arena;
    test_sequence sequence;
    upg_batch_row rows[MAX_BATCH];
    float        *logits; /* [MAX_BATCH][vocab] */
    uint32_t      threads, context;
    upg_error     err;
} bench;

static void check(const bench *b, upg_status st)
{
    if (st == UPG_OK)
        return;
    fprintf(stderr, "backend_bench: %s\n", b->err.message);
    exit(1);
}

/* ---- read bandwidth ---------------------------------------------------------------------------
 */

enum { READ_ITEM_WORDS = 1 << 15 }; /* 256 KiB */

typedef struct reading {
    const uint64_t *memory;
    uint64_t       *sums; /* so that no read is left out */
} reading;

static void read_item(void *context, size_t item, uint32_t worker)
{
    const reading  *r = context;
    const uint64_t *at = r->memory + item * READ_ITEM_WORDS;
    uint64_t        sum[8] = { 0 };

    (void)worker;
    for (size_t i = 0; i < READ_ITEM_WORDS; i += 8)
        for (int l = 0; l < 8; l++)
            sum[l] += at[i + l];
    r->sums[item] = sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7];
}

/* Bytes per second when `bytes` are read again and again; the best of the repetitions, since other
 * load can only lower it. */
static double read_bandwidth(bench *b, size_t bytes)
{
    size_t    n = bytes / (READ_ITEM_WORDS * sizeof(uint64_t)) + 1;
    uint64_t *memory = upg_malloc(n * READ_ITEM_WORDS, sizeof *memory, &b->err);
    reading   r = { memory, upg_calloc(n, sizeof(uint64_t), &b->err) };
    upg_pool *pool;
    uint64_t  best = UINT64_MAX;

    check(b, upg_pool_create(b->threads, &pool, &b->err));
    check(b, memory && r.sums ? UPG_OK : UPG_E_NOMEM);
    memset(memory, 1, n * READ_ITEM_WORDS * sizeof *memory);
    for (int i = 0; i < REPETITIONS; i++) {
        uint64_t start = upg_now_ns(), time;

        upg_pool_run(pool, n, read_item, &r);
        time = upg_now_ns() - start;
        best = time < best ? time : best;
    }
    upg_pool_close(pool);
    upg_free(memory);
    upg_free(r.sums);
    return (double)(n * READ_ITEM_WORDS * sizeof *memory) / ((double)best * 1e-9);
}

/* ---- runs -------------------------------------------------------------------------------------
 */

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* n rows from position `from` on, all with logits. */
static void run_rows(bench *b, uint32_t from, uint32_t n)
{
    upg_batch batch = { n, b->rows, &b->sequence.layout, NULL };
    uint32_t  vocab = b->weights->config.vocab;

    for (uint32_t i = 0; i < n; i++)
        b->rows[i] = (upg_batch_row) { (int32_t)((from + i) * 31 % vocab), from + i,
                                       &b->sequence.view, b->logits + (size_t)i * vocab };
    check(b, upg_backend_cpu.run(b->backend, &batch, &b->err));
}

/* Tokens per second of batches of n rows behind `context` tokens. */
static double measure(bench *b, uint32_t n)
{
    uint32_t times = n >= 64 ? 1 : 64 / n;
    double   rate[REPETITIONS];

    run_rows(b, b->context, n);
    for (int i = 0; i < REPETITIONS; i++) {
        uint64_t start = upg_now_ns();

        for (uint32_t k = 0; k < times; k++)
            run_rows(b, b->context, n);
        rate[i] = (double)times * n / ((double)(upg_now_ns() - start) * 1e-9);
    }
    qsort(rate, REPETITIONS, sizeof *rate, ascending);
    printf("  %3u rows at %u: %8.1f tok/s  (%.1f … %.1f)\n", n, b->context, rate[REPETITIONS / 2],
           rate[0], rate[REPETITIONS - 1]);
    return rate[REPETITIONS / 2];
}

/* Bytes of matrices that one token reads. */
static uint64_t token_bytes(const upg_program *program)
{
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < program->n_ops; i++)
        for (int w = 0; w < 3 && program->ops[i].code != UPG_OP_EMBED; w++) {
            const upg_matrix *m = program->ops[i].w[w];

            if (m != NULL && m->kind == UPG_MATRIX_DENSE)
                bytes += (uint64_t)m->n_rows * m->n_cols * upg_dtype_bytes(m->dtype);
            for (uint32_t k = 0; m && m->kind == UPG_MATRIX_CODED && k < m->coded->n_bands; k++)
                bytes += 4 * upg_band_words(m->coded->bands[k].n_binary, m->n_cols) +
                         2 * (uint64_t)m->coded->bands[k].n_rows;
        }
    return bytes;
}

static void open_model(bench *b, const char *path, double rate)
{
    upg_backend_options options = { .threads = b->threads, .max_rows = MAX_BATCH };

    check(b, upg_weights_open(path, &b->weights, &b->err));
    if (rate > 0)
        check(b, test_code_weights(b->weights, (uint32_t)(2 * rate), 1, &b->arena, &b->err));
    check(b, upg_program_build(b->weights, &b->program, &b->err));
    check(b, upg_backend_cpu.create(b->program, &options, &b->backend, &b->err));
    check(b, test_sequence_init(&b->sequence, &b->weights->config, UPG_KV_F16,
                                b->context + MAX_BATCH, false, &b->err));
    b->logits =
        upg_malloc((size_t)MAX_BATCH * b->weights->config.vocab, sizeof *b->logits, &b->err);
    check(b, b->logits ? UPG_OK : UPG_E_NOMEM);
    printf("%s: %s, scratch %.1f MB\n", path, upg_backend_cpu.describe(b->backend),
           (double)upg_backend_cpu.memory(b->backend) * 1e-6);
}

int main(int argc, char **argv)
{
    static bench          b;
    static const uint32_t batches[] = { 2, 4, 8, 9, 16, 64, 512 };
    double                speed, bytes, reads;

    if (argc < 2) {
        fprintf(stderr, "usage: backend_bench MODEL [threads [context [rate]]]\n");
        return 2;
    }
    b.threads = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 0;
    b.threads = b.threads == 0 ? upg_cpu_cores() : b.threads;
    b.context = argc > 3 ? (uint32_t)strtoul(argv[3], NULL, 10) : 0;
    open_model(&b, argv[1], argc > 4 ? strtod(argv[4], NULL) : 0);
    for (uint32_t at = 0; at < b.context; at += MAX_BATCH)
        run_rows(&b, at, b.context - at < MAX_BATCH ? b.context - at : MAX_BATCH);
    speed = measure(&b, 1);
    bytes = (double)token_bytes(b.program);
    reads = read_bandwidth(&b, token_bytes(b.program));
    printf("           %.1f MB a token, %.1f GB/s, %.2f of reads of that size (%.1f GB/s)\n",
           bytes * 1e-6, bytes * speed * 1e-9, bytes * speed / reads, reads * 1e-9);
    for (size_t i = 0; i < sizeof batches / sizeof *batches; i++)
        measure(&b, batches[i]);
    upg_backend_cpu.close(b.backend);
    test_sequence_deinit(&b.sequence);
    upg_program_close(b.program);
    upg_weights_close(b.weights);
    upg_arena_deinit(&b.arena);
    upg_free(b.logits);
    return 0;
}
