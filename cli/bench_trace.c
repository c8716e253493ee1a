/* bench_trace.c: `upg bench --trace`: what each op of a token takes, as a timeline in Chrome's
 * trace format (chrome://tracing, Perfetto) and as a table. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "report.h"
#include "signals.h"

enum { MAX_KINDS = 32 };

/* All ops of one name. */
typedef struct op_kind {
    const char *name;
    uint64_t    ns, bytes, n;
} op_kind;

typedef struct trace {
    json_t      *events;
    op_kind      kinds[MAX_KINDS];
    uint32_t     n_kinds, n_tokens;
    uint64_t     first_ns, total_ns, outside_ns;
    bench_series layers; /* ns that a layer takes */
    uint32_t     n_layers, ops_outside, ops_per_layer;
    uint64_t     token_bytes, layer_bytes;
    upg_op_time *times; /* [cap] */
    size_t       cap;
} trace;

static void add_event(trace *t, const char *name, int lane, uint64_t begin, uint64_t end,
                      json_t *args)
{
    json_t *event = json_object();

    cli_json_text(event, "name", name);
    cli_json_text(event, "ph", "X"); /* a complete event: begin and duration, in microseconds */
    cli_json_real(event, "ts", 1e-3 * (double)(begin - t->first_ns));
    cli_json_real(event, "dur", 1e-3 * (double)(end - begin));
    cli_json_u64(event, "pid", 1);
    cli_json_u64(event, "tid", (uint64_t)lane);
    json_object_set_new(event, "args", args);
    json_array_append_new(t->events, event);
}

static void count_op(trace *t, const upg_op_time *op)
{
    uint32_t i = 0;

    while (i < t->n_kinds && strcmp(t->kinds[i].name, op->op) != 0)
        i++;
    if (i == MAX_KINDS)
        return;
    if (i == t->n_kinds)
        t->kinds[t->n_kinds++].name = op->op;
    t->kinds[i].ns += op->end_ns - op->begin_ns;
    t->kinds[i].bytes += op->bytes;
    t->kinds[i].n++;
}

/* The embedding, the last norm and the head stand outside the layers. */
static void count_layers(trace *t, size_t n)
{
    uint32_t n_layers = t->times[n - 1].layer;
    uint64_t ns = 0;

    t->n_layers = n_layers;
    t->ops_outside = 0;
    t->layer_bytes = 0;
    t->ops_per_layer = 0;
    for (size_t i = 0; i < n; i++) {
        const upg_op_time *op = &t->times[i];
        bool               outside = i == 0 || op->layer == n_layers;

        if (outside) {
            t->outside_ns += op->end_ns - op->begin_ns;
            t->ops_outside++;
            continue;
        }
        ns += op->end_ns - op->begin_ns;
        t->ops_per_layer += op->layer == 0;
        if (op->layer == 0 && strncmp(op->op, "ATTEN", 5) != 0)
            t->layer_bytes += op->bytes;
        if (op[1].layer != op->layer) {
            if (t->layers.n < BENCH_MAX_REPETITIONS)
                bench_add(&t->layers, (double)ns);
            ns = 0;
        }
    }
}

static void add_token(trace *t, size_t n)
{
    json_t *args = json_object();

    if (t->n_tokens == 0)
        t->first_ns = t->times[0].begin_ns;
    cli_json_u64(args, "token", t->n_tokens);
    add_event(t, "token", 1, t->times[0].begin_ns, t->times[n - 1].end_ns, args);
    for (size_t i = 0; i < n; i++) {
        const upg_op_time *op = &t->times[i];
        uint64_t           ns = op->end_ns - op->begin_ns;

        args = json_object();
        cli_json_u64(args, "layer", op->layer);
        cli_json_u64(args, "bytes", op->bytes);
        cli_json_real(args, "gb_s", ns > 0 ? (double)op->bytes / (double)ns : 0);
        add_event(t, op->op, 2, op->begin_ns, op->end_ns, args);
        count_op(t, op);
    }
    count_layers(t, n);
    t->total_ns += t->times[n - 1].end_ns - t->times[0].begin_ns;
    t->n_tokens++;
}

/* One token; the buffer grows to the number of ops at the first call. */
static upg_status trace_token(trace *t, upg_session *session, upg_error *err)
{
    upg_step   step = { 0 };
    size_t     n;
    upg_status st = upg_decode_timed(session, &step, t->times, t->cap, &n, err);

    if (st == UPG_E_BUFFER && t->cap == 0) {
        t->times = calloc(n, sizeof *t->times);
        if (!t->times)
            return cli_error(err, UPG_E_NOMEM, "no memory for %zu ops", n);
        t->cap = n;
        return trace_token(t, session, err);
    }
    if (st == UPG_OK && step.status != UPG_OK)
        st = cli_error(err, step.status, "%.480s", upg_session_message(session));
    if (st == UPG_OK && n > 0 && t->times)
        add_token(t, n);
    return st;
}

static upg_status run_trace(const bench_args *args, uint32_t depth, trace *t, upg_error *err)
{
    upg_model     *model = NULL;
    upg_session   *session = NULL;
    upg_token     *tokens = NULL;
    upg_model_info info = { .struct_size = sizeof info };
    upg_status     st = bench_open(args, args->model.threads, &model, err);

    depth = depth > BENCH_WARM_UP_TOKENS ? depth : BENCH_WARM_UP_TOKENS;
    if (st == UPG_OK)
        st = upg_model_describe(model, &info, err);
    if (st == UPG_OK && !(tokens = bench_tokens(depth, info.vocab_size)))
        st = cli_error(err, UPG_E_NOMEM, "no memory for %" PRIu32 " tokens", depth);
    if (st == UPG_OK)
        t->token_bytes = info.token_bytes;
    if (st == UPG_OK)
        st = bench_session(model, args, depth + args->decode + 2, 0, false, &session, err);
    cli_signals_watch_session(session);
    if (st == UPG_OK)
        st = upg_prefill(session, tokens, depth, NULL, err);
    if (st == UPG_OK)
        st = bench_decode(session, 2, err); /* warms up */
    for (uint32_t i = 0; i < args->decode && st == UPG_OK; i++)
        st = trace_token(t, session, err);
    cli_signals_watch_session(NULL);
    upg_session_close(session);
    upg_model_close(model);
    free(tokens);
    return st;
}

static int write_trace(const cli_command *command, const bench_args *args, trace *t)
{
    json_t *root = json_object();
    FILE   *file = fopen(args->trace, "w");
    bool    written;

    json_object_set(root, "traceEvents", t->events);
    cli_json_text(root, "displayTimeUnit", "ms");
    written = file && json_dumpf(root, file, JSON_COMPACT | JSON_REAL_PRECISION(12)) == 0;
    if (file && fclose(file) != 0)
        written = false;
    json_decref(root);
    return written ? 0 : cli_fail(command, CLI_FILE, "%s: cannot be written", args->trace);
}

static int by_time(const void *a, const void *b)
{
    const op_kind *x = a, *y = b;

    return (x->ns < y->ns) - (x->ns > y->ns);
}

static int print_kinds(const cli_command *command, const bench_args *args, trace *t)
{
    json_t *object = json_object(), *list = json_array();
    double  tokens = t->n_tokens;

    qsort(t->kinds, t->n_kinds, sizeof t->kinds[0], by_time);
    if (!args->json)
        printf("%-14s%8s%14s%8s%10s\n", "op", "a token", "us a token", "share", "GB/s");
    for (uint32_t i = 0; i < t->n_kinds; i++) {
        const op_kind *k = &t->kinds[i];
        json_t        *row = json_object();
        double         rate = k->ns > 0 ? (double)k->bytes / (double)k->ns : 0;

        cli_json_text(row, "op", k->name);
        cli_json_u64(row, "per_token", k->n / t->n_tokens);
        cli_json_real(row, "us_per_token", 1e-3 * (double)k->ns / tokens);
        cli_json_real(row, "share", (double)k->ns / (double)t->total_ns);
        cli_json_real(row, "gb_s", rate);
        json_array_append_new(list, row);
        if (!args->json)
            printf("%-14s%8" PRIu64 "%14.1f%6.1f %%%10.2f\n", k->name, k->n / t->n_tokens,
                   1e-3 * (double)k->ns / tokens, 100 * (double)k->ns / (double)t->total_ns, rate);
    }
    cli_json_u64(object, "tokens", t->n_tokens);
    cli_json_real(object, "us_per_token", 1e-3 * (double)t->total_ns / tokens);
    cli_json_u64(object, "layers", t->n_layers);
    cli_json_real(object, "us_per_layer", 1e-3 * bench_median(&t->layers));
    cli_json_real(object, "us_outside_layers", 1e-3 * (double)t->outside_ns / tokens);
    cli_json_u64(object, "ops_outside", t->ops_outside);
    cli_json_u64(object, "ops_per_layer", t->ops_per_layer);
    cli_json_u64(object, "token_bytes", t->token_bytes);
    cli_json_u64(object, "layer_bytes", t->layer_bytes);
    json_object_set_new(object, "ops", list);
    if (args->json)
        return cli_json_print(command, object);
    json_decref(object);
    return cli_finish_output();
}

int bench_trace(const cli_command *command, const bench_args *args, uint32_t depth)
{
    trace     *t = calloc(1, sizeof *t);
    upg_error  err;
    upg_status st;
    int        exit_code;

    if (!t)
        return cli_fail(command, CLI_RESOURCES, "out of memory");
    t->events = json_array();
    st = run_trace(args, depth, t, &err);
    if (st == UPG_E_CANCELLED)
        exit_code = cli_signals_exit_code();
    else if (st != UPG_OK)
        exit_code = bench_report(command, args, st, &err);
    else if ((exit_code = write_trace(command, args, t)) == 0)
        exit_code = print_kinds(command, args, t);
    json_decref(t->events);
    free(t->times);
    free(t);
    return exit_code;
}
