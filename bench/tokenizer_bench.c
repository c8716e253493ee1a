/* tokenizer_bench: MB/s of encoding and decoding, and the time to load.
 *
 * usage: tokenizer_bench [FOLDER [TEXT]]
 *
 * FOLDER holds tokenizer.json and tokenizer_config.json (default: the test model), TEXT is encoded
 * whole (default: the test model's validation text). The limit beside the figures is memchr over
 * the same text for a byte that it lacks: one read of it at the speed of the machine. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/cpu.h"
#include "base/file.h"
#include "tokenizer/tokenizer.h"

enum { RUNS = 15 };

static int by_size(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

/* Median and the middle half of RUNS times, as MB/s of `bytes`, or as ms when bytes is 0. */
static void report(const char *what, uint64_t ns[RUNS], size_t bytes)
{
    double q[3];

    qsort(ns, RUNS, sizeof *ns, by_size);
    for (int i = 0; i < 3; i++) {
        double t = (double)ns[RUNS * (i + 1) / 4];

        q[i] = bytes > 0 ? (double)bytes * 1e3 / t : t / 1e6;
    }
    printf("%-28s %9.1f %s  (%.1f to %.1f)\n", what, q[1], bytes > 0 ? "MB/s" : "ms  ",
           q[0] < q[2] ? q[0] : q[2], q[0] < q[2] ? q[2] : q[0]);
}

static void check(upg_status st, const upg_error *err)
{
    if (st == UPG_OK)
        return;
    fprintf(stderr, "tokenizer_bench: %s\n", err->message);
    exit(1);
}

static void open_in(const char *folder, const char *name, upg_map *map)
{
    upg_error err;
    char      path[4096];

    snprintf(path, sizeof path, "%s/%s", folder, name);
    check(upg_map_open(path, map, &err), &err);
}

/* The validation ids (a .npy of little-endian u16) as text. */
static void default_text(const upg_tokenizer *tokenizer, upg_buffer *text)
{
    upg_map   map;
    upg_error err;
    size_t    header, n;
    int32_t  *ids;

    open_in(UPG_TEST_DATA "/phi4-micro", "valid_ids.npy", &map);
    header = 10u + map.bytes.data[8] + 256u * map.bytes.data[9];
    n = (map.bytes.size - header) / 2;
    ids = calloc(n, sizeof *ids);
    for (size_t i = 0; i < n; i++)
        ids[i] = map.bytes.data[header + 2 * i] | map.bytes.data[header + 2 * i + 1] << 8;
    check(upg_tokenizer_decode(tokenizer, ids, n, false, text, &err), &err);
    free(ids);
    upg_map_close(&map);
}

static void bench_load(const upg_map *json, const upg_map *config)
{
    uint64_t       ns[RUNS];
    upg_tokenizer *tokenizer;
    upg_error      err;

    for (int r = 0; r < RUNS; r++) {
        uint64_t start = upg_now_ns();

        check(upg_tokenizer_load(json->bytes, config->bytes, &tokenizer, &err), &err);
        ns[r] = upg_now_ns() - start;
        upg_tokenizer_release(tokenizer);
    }
    report("load", ns, 0);
}

static void bench_encode(const upg_tokenizer *tokenizer, const upg_buffer *text, int32_t *ids,
                         size_t *n)
{
    uint64_t  ns[RUNS];
    upg_error err;

    for (int r = 0; r < RUNS; r++) {
        uint64_t start = upg_now_ns();

        check(
            upg_tokenizer_encode(tokenizer, text->data, text->size, true, ids, text->size, n, &err),
            &err);
        ns[r] = upg_now_ns() - start;
    }
    report("encode", ns, text->size);
}

static void bench_decode(const upg_tokenizer *tokenizer, const int32_t *ids, size_t n)
{
    uint64_t   ns[RUNS];
    upg_error  err;
    upg_buffer text;
    size_t     size = 0;

    upg_buffer_init(&text, SIZE_MAX / 2);
    for (int r = 0; r < RUNS; r++) {
        uint64_t start = upg_now_ns();

        upg_buffer_clear(&text);
        check(upg_tokenizer_decode(tokenizer, ids, n, false, &text, &err), &err);
        ns[r] = upg_now_ns() - start;
        size = text.size;
    }
    report("decode", ns, size);
    upg_buffer_deinit(&text);
}

static void bench_limit(const upg_buffer *text)
{
    uint64_t    ns[RUNS];
    const void *found = NULL;

    for (int r = 0; r < RUNS; r++) {
        uint64_t start = upg_now_ns();

        found = memchr(text->data, 0xFF, text->size);
        ns[r] = upg_now_ns() - start;
    }
    report(found == NULL ? "limit: one read of the text" : "limit: not UTF-8", ns, text->size);
}

int main(int argc, char **argv)
{
    const char    *folder = argc > 1 ? argv[1] : UPG_TEST_DATA "/phi4-micro";
    upg_map        json, config;
    upg_tokenizer *tokenizer;
    upg_buffer     text;
    upg_error      err;
    int32_t       *ids;
    size_t         n;
    char           cpu[128];

    upg_cpu_name(cpu, sizeof cpu);
    open_in(folder, "tokenizer.json", &json);
    open_in(folder, "tokenizer_config.json", &config);
    check(upg_tokenizer_load(json.bytes, config.bytes, &tokenizer, &err), &err);
    upg_buffer_init(&text, SIZE_MAX / 2);
    if (argc > 2)
        check(upg_file_read(argv[2], &text, &err), &err);
    else
        default_text(tokenizer, &text);
    ids = calloc(text.size, sizeof *ids);
    printf("%s; one thread; %s; %zu bytes of text\n", cpu, folder, text.size);
    bench_load(&json, &config);
    bench_encode(tokenizer, &text, ids, &n);
    bench_decode(tokenizer, ids, n);
    bench_limit(&text);
    printf("%zu tokens, %.2f bytes each; median of %d runs (middle half)\n", n,
           (double)text.size / (double)n, RUNS);
    free(ids);
    upg_buffer_deinit(&text);
    upg_tokenizer_release(tokenizer);
    upg_map_close(&json);
    upg_map_close(&config);
    return 0;
}
