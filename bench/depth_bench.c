/* depth_bench.c: how much slower decoding is behind many tokens, on a machine whose speed changes
 * from minute to minute: one token behind a few others and one behind DEPTH take turns, and the
 * ratio of each pair counts.
 *
 * usage: depth_bench SHAPE DEPTH PAIRS [int8]       as in: depth_bench phi4 2048 24 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "upg/upg.h"

enum { SHALLOW = 4, MAX_PAIRS = 1000 };

typedef struct series {
    double values[MAX_PAIRS];
    size_t n;
} series;

static void check(upg_status st, const upg_error *err)
{
    if (st == UPG_OK)
        return;
    fprintf(stderr, "depth_bench: %s\n", err->message);
    exit(1);
}

static int by_size(const void *a, const void *b)
{
    const double *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

static double quantile(series *s, double q)
{
    qsort(s->values, s->n, sizeof s->values[0], by_size);
    return s->values[(size_t)(q * (double)(s->n - 1))];
}

static double decode_one(upg_session *session)
{
    upg_error err;
    upg_step  step = { 0 };
    uint64_t  start = upg_now_ns();

    check(upg_decode(&session, 1, &step, &err), &err);
    return 1e-9 * (double)(upg_now_ns() - start);
}

/* A session with `length` tokens in it. */
static upg_session *open_at(upg_model *model, uint32_t length, uint32_t room, bool kv_int8)
{
    upg_session_options options = { .struct_size = sizeof options,
                                    .context_tokens = length + room,
                                    .kv_int8 = kv_int8,
                                    .fast_prompts = true };
    upg_token          *tokens = malloc(length * sizeof *tokens);
    upg_session        *session;
    upg_error           err;

    if (tokens == NULL)
        exit(1);
    for (uint32_t i = 0; i < length; i++)
        tokens[i] = (upg_token)((i * 7919 + 13) % 8000);
    check(upg_session_create(model, &options, &session, &err), &err);
    check(upg_prefill(session, tokens, length, NULL, &err), &err);
    free(tokens);
    return session;
}

int main(int argc, char **argv)
{
    static series shallow_s, deep_s, ratio, reads;
    uint32_t      depth = argc > 2 ? (uint32_t)atoi(argv[2]) : 0;
    uint32_t      n = argc > 3 ? (uint32_t)atoi(argv[3]) : 0;
    bool          kv_int8 = argc > 4 && strcmp(argv[4], "int8") == 0;
    upg_model    *model;
    upg_session  *shallow, *deep;
    upg_probe    *probe;
    upg_error     err;

    if (depth < SHALLOW || n < 1 || n > MAX_PAIRS)
        return fprintf(stderr, "usage: depth_bench SHAPE DEPTH PAIRS [int8]\n"), 2;
    check(upg_model_open_synthetic(argv[1], NULL, &model, &err), &err);
    check(upg_probe_create(0, &probe, &err), &err);
    shallow = open_at(model, SHALLOW, n + 2, kv_int8);
    deep = open_at(model, depth, n + 2, kv_int8);
    (void)decode_one(shallow);
    (void)decode_one(deep);
    for (uint32_t i = 0; i < n; i++) {
        shallow_s.values[shallow_s.n++] = decode_one(shallow);
        deep_s.values[deep_s.n++] = decode_one(deep);
        ratio.values[ratio.n++] = shallow_s.values[i] / deep_s.values[i];
        reads.values[reads.n++] = upg_probe_reads(probe);
    }
    printf("%s, %s keys and values, %u pairs\n", argv[1], kv_int8 ? "int8" : "fp16", n);
    printf("behind %d tokens %.2f tok/s, behind %u %.2f tok/s, reads %.1f GB/s\n", SHALLOW,
           1 / quantile(&shallow_s, .5), depth, 1 / quantile(&deep_s, .5), quantile(&reads, .5));
    printf("ratio of pairs: median %.3f, quartiles %.3f and %.3f\n", quantile(&ratio, .5),
           quantile(&ratio, .25), quantile(&ratio, .75));
    upg_session_close(deep);
    upg_session_close(shallow);
    upg_probe_close(probe);
    upg_model_close(model);
    return 0;
}
