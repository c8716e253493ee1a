/* bench_table.c: `upg bench table`: one layer and one token of Phi-4's shape by everything that can
 * compute them, from plain Python on, all in one run.
 *
 * Every row is a process of its own (this program again, or Python), so that each begins alike and
 * an instruction set can be taken away by the environment. A row that cannot be measured says why.
 */
#include "bench_table.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "child.h"
#include "report.h"
#include "signals.h"

enum { PHI4_LAYERS = 40, READ_PASSES = 10, MATRICES_PER_LAYER = 7 };

/* A row of the C engine. */
typedef struct engine_row {
    const char *name, *what, *cpu, *device, *threads, *tokens;
    bool        few_layers; /* so slow that a token is computed from few layers */
    bool        unfused;    /* plain ops, one at a time */
} engine_row;

static const engine_row engines[] = {
    { "c_scalar", "C, scalar, 1 thread", "scalar", "cpu", "1", "3", true, false },
#if defined(__aarch64__)
    { "c_simd", "CPU engine, NEON, 1 thread", "neon", "cpu", "1", "5", true, false },
#else
    { "c_simd", "CPU engine, AVX2, 1 thread", "avx2", "cpu", "1", "5", true, false },
#endif
    { "pdvm_unfused", "PDVM, plain ops, all cores", NULL, "cpu", NULL, "20", false, true },
    { "pdvm_1", "PDVM, fully fused, 1 thread", NULL, "cpu", "1", "10", false, false },
    { "pdvm", "PDVM, fully fused, all cores", NULL, "cpu", NULL, "20", false, false },
};

enum {
    N_ENGINES = sizeof engines / sizeof engines[0],
    N_PYTHON = 2,
    GPU_ROW = N_PYTHON + N_ENGINES,
    N_TABLE_ROWS = GPU_ROW + 1
};

typedef struct table {
    const bench_args *args;
    char              program[512];
    table_row         rows[N_TABLE_ROWS];
    double            token_bytes, read_gb_s;
    bench_series      reads;
} table;

/* ---- children ---------------------------------------------------------------------------------
 */

/* The last line of what a child complained about: that is where Python puts the cause. */
static void keep_reason(table_row *row, const cli_child *child)
{
    size_t      size = strlen(child->errors);
    const char *line = child->errors;

    while (size > 0 && child->errors[size - 1] == '\n')
        size--;
    for (size_t i = 0; i < size; i++)
        if (child->errors[i] == '\n')
            line = child->errors + i + 1;
    if (child->exit_code == 127)
        snprintf(row->why, sizeof row->why, "no such program");
    else
        snprintf(row->why, sizeof row->why, "%.*s", (int)(size - (size_t)(line - child->errors)),
                 line);
}

/* Runs a child whose output is one JSON object; NULL after writing down why there is none. */
static json_t *run_json(table_row *row, const char *const *argv, const char *cpu)
{
    cli_child child;
    json_t   *object = NULL;

    if (!cli_child_run(argv, cpu ? "UPG_CPU" : NULL, cpu, &child)) {
        snprintf(row->why, sizeof row->why, "no process could be started");
        return NULL;
    }
    if (child.exit_code == 0)
        object = json_loads(child.output, 0, NULL);
    if (!object)
        keep_reason(row, &child);
    cli_child_free(&child);
    return object;
}

static double number(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

/* ---- rows -------------------------------------------------------------------------------------
 */

static void measure_python(table *t)
{
    const char *argv[] = { (t->args->python ? t->args->python : "python3"),
                           "-m",
                           "upg.baseline",
                           "--phi4",
                           "--json",
                           NULL };
    table_row  *decoding = &t->rows[0], *dense = &t->rows[1];
    json_t     *result;

    decoding->name = "python";
    decoding->what = "Python, NumPy: decode and multiply";
    dense->name = "python_dense";
    dense->what = "Python, NumPy: dense f32 matmul alone";
    decoding->launches = dense->launches = MATRICES_PER_LAYER * PHI4_LAYERS;
    decoding->computed = dense->computed = true; /* 40 layers; the head is left out */
    result = run_json(decoding, argv, NULL);
    if (!result) {
        memcpy(dense->why, decoding->why, sizeof dense->why);
        return;
    }
    decoding->layer_s = number(result, "python_s");
    dense->layer_s = number(result, "matmul_s");
    decoding->token_s = PHI4_LAYERS * decoding->layer_s;
    dense->token_s = PHI4_LAYERS * dense->layer_s;
    json_decref(result);
}

static const char *shape_given(const table *t)
{
    return t->args->synthetic ? t->args->synthetic : "phi4";
}

/* The shape, or the same with few layers. */
static void shape_of(const table *t, bool few, char text[64])
{
    const char *given = shape_given(t);

    if (few)
        snprintf(text, 64, "%.*s:2", (int)strcspn(given, ":"), given);
    else
        snprintf(text, 64, "%s", given);
}

static void measure_engine(table *t, const engine_row *e, table_row *row)
{
    char        shape[64], warm[] = "4";
    const char *argv[21] = { t->program, "bench", "--synthetic", shape, "--trace", "/dev/null" };
    int         n = 6;
    json_t     *result;

    row->name = e->name;
    row->what = e->what;
    shape_of(t, e->few_layers, shape);
    argv[n++] = "--json";
    argv[n++] = "--quiet";
    argv[n++] = "--depth";
    argv[n++] = warm;
    argv[n++] = "--device";
    argv[n++] = e->device;
    argv[n++] = "-n";
    argv[n++] = e->tokens;
    if (e->threads) {
        argv[n++] = "-t";
        argv[n++] = e->threads;
    }
    if (e->unfused)
        argv[n++] = "--unfused";
    result = run_json(row, argv, e->cpu);
    if (!result)
        return;
    row->layer_s = 1e-6 * number(result, "us_per_layer");
    row->computed = number(result, "layers") != PHI4_LAYERS;
    row->token_s = row->computed
                       ? PHI4_LAYERS * row->layer_s + 1e-6 * number(result, "us_outside_layers")
                       : 1e-6 * number(result, "us_per_token");
    row->launches =
        (uint32_t)(number(result, "ops_per_layer") * PHI4_LAYERS + number(result, "ops_outside"));
    t->token_bytes = number(result, "token_bytes") +
                     (PHI4_LAYERS - number(result, "layers")) * number(result, "layer_bytes");
    json_decref(result);
}

/* A device runs a token as a whole: a layer is the difference between two numbers of layers. */
static double token_seconds(table *t, table_row *row, char *shape)
{
    const char *argv[] = { t->program, "bench", "--synthetic", shape,     "--device",
                           "cuda",     "-n",    "64",          "-p",      "0",
                           "-r",       "5",     "--json",      "--quiet", NULL };
    json_t     *result = run_json(row, argv, NULL);
    double      rate = 0;

    if (result)
        rate = number(json_array_get(json_object_get(result, "cases"), 0), "tok_s");
    json_decref(result);
    return rate > 0 ? 1 / rate : 0;
}

static void measure_gpu(table *t, table_row *row)
{
    char   few[] = "phi4:8", all[] = "phi4";
    double some;

    row->name = "gpu";
    row->what = "PDVM, GPU, one launch a token";
    row->launches = 1;
    if (strcmp(shape_given(t), all) != 0) {
        snprintf(row->why, sizeof row->why, "only with the whole of phi4");
        return;
    }
    some = token_seconds(t, row, few);
    if (some <= 0)
        return;
    row->token_s = token_seconds(t, row, all);
    if (row->token_s > 0)
        row->layer_s = (row->token_s - some) / (PHI4_LAYERS - 8);
}

/* Reads before, between and after the rows: the limit of this run. */
static upg_status measure_reads(table *t, upg_error *err)
{
    upg_probe *probe = NULL;
    upg_status st = upg_probe_create(0, &probe, err);

    for (int i = 0; i < READ_PASSES && st == UPG_OK; i++)
        bench_add(&t->reads, upg_probe_reads(probe));
    upg_probe_close(probe);
    return st;
}

static upg_status measure_all(table *t, upg_error *err)
{
    upg_status st = measure_reads(t, err);

    for (size_t i = 0; i < N_ENGINES && st == UPG_OK && !cli_signals_caught(); i++) {
        measure_engine(t, &engines[i], &t->rows[N_PYTHON + i]);
        st = measure_reads(t, err);
    }
    if (st == UPG_OK && !cli_signals_caught())
        measure_gpu(t, &t->rows[GPU_ROW]);
    if (st == UPG_OK && !cli_signals_caught())
        measure_python(t);
    t->read_gb_s = bench_median(&t->reads);
    return st;
}

/* ---- results ----------------------------------------------------------------------------------
 */

static double limit_of(const table *t)
{
    return t->token_bytes > 0 ? 1e9 * t->read_gb_s / t->token_bytes : 0;
}

static double speed_up(const table *t, const table_row *row)
{
    return row->layer_s > 0 && t->rows[0].layer_s > 0 ? t->rows[0].layer_s / row->layer_s : 0;
}

static int print_json(const cli_command *command, table *t)
{
    json_t *object = json_object(), *rows = json_array();

    for (size_t i = 0; i < N_TABLE_ROWS; i++) {
        const table_row *r = &t->rows[i];
        json_t          *row = json_object();

        cli_json_text(row, "name", r->name);
        cli_json_text(row, "what", r->what);
        if (r->layer_s > 0) {
            cli_json_real(row, "layer_ms", 1e3 * r->layer_s);
            cli_json_real(row, "tok_s", 1 / r->token_s);
            json_object_set_new(row, "computed", json_boolean(r->computed));
            cli_json_real(row, "speed_up", speed_up(t, r) > 0 ? speed_up(t, r) : (double)NAN);
            cli_json_u64(row, "launches", r->launches);
        } else {
            cli_json_text(row, "why_not", r->why);
        }
        json_array_append_new(rows, row);
    }
    cli_json_real(object, "read_gb_s", t->read_gb_s);
    cli_json_real(object, "bytes_per_token", t->token_bytes);
    cli_json_real(object, "limit_tok_s", limit_of(t));
    json_object_set_new(object, "rows", rows);
    return cli_json_print(command, object);
}

static int print_text(table *t)
{
    printf("one token of %s, 40 layers\n\n", shape_given(t));
    printf("%-40s%12s%12s%12s%12s\n", "", "ms a layer", "tok/s", "x Python", "launches");
    for (size_t i = 0; i < N_TABLE_ROWS; i++) {
        const table_row *r = &t->rows[i];

        if (r->layer_s <= 0) {
            printf("%-40s  not measured: %s\n", r->what, r->why);
            continue;
        }
        printf("%-40s%12.3f%11.3f%c", r->what, 1e3 * r->layer_s, 1 / r->token_s,
               r->computed ? '*' : ' ');
        if (speed_up(t, r) > 0)
            printf("%12.1f", speed_up(t, r));
        else
            printf("%12s", "-");
        printf("%12" PRIu32 "\n", r->launches);
    }
    printf("\n* computed for 40 layers from the time of one; Python's without the head\n");
    if (limit_of(t) > 0)
        printf("limit: %.1f GB/s read by all cores in this run / %.2f GB a token = %.2f tok/s\n",
               t->read_gb_s, 1e-9 * t->token_bytes, limit_of(t));
    return cli_finish_output();
}

int bench_table(const cli_command *command, const bench_args *args)
{
    table     *t = calloc(1, sizeof *t);
    upg_error  err;
    upg_status st = UPG_OK;
    int        exit_code = 0;
    char       title[96];

    if (!t)
        return cli_fail(command, CLI_RESOURCES, "out of memory");
    t->args = args;
    snprintf(title, sizeof title, "One token of %.40s, 40 layers, 3.2 bits a weight",
             shape_given(t));
    if (!cli_own_path(t->program, sizeof t->program))
        exit_code = cli_fail(command, CLI_FILE, "the system does not tell where this program is");
    if (exit_code == 0)
        st = measure_all(t, &err);
    if (st != UPG_OK)
        exit_code = cli_report(command, st, &err);
    else if (cli_signals_caught())
        exit_code = cli_signals_exit_code();
    if (exit_code == 0 && args->svg && limit_of(t) > 0)
        exit_code = table_draw(command, args->svg, t->rows, N_TABLE_ROWS, limit_of(t), title);
    else if (exit_code == 0 && args->svg)
        exit_code = cli_fail(command, CLI_LIMIT, "no chart: nothing was measured to the end");
    if (exit_code == 0)
        exit_code = args->json ? print_json(command, t) : print_text(t);
    free(t);
    return exit_code;
}
