/* bench_kernels.c: `upg bench kernels`: every kernel of every ISA that the machine has. */
#include <inttypes.h>
#include <stdio.h>

#include "bench.h"
#include "report.h"
#include "signals.h"

static void add_row(json_t *rows, const upg_kernel_speed *s, uint32_t threads)
{
    json_t *row = json_object();

    cli_json_text(row, "kernel", s->kernel);
    cli_json_text(row, "isa", s->isa);
    cli_json_u64(row, "threads", threads);
    cli_json_text(row, "unit", s->unit);
    cli_json_real(row, "rate", s->rate);
    cli_json_text(row, "limit", s->limit);
    cli_json_real(row, "limit_rate", s->limit_rate);
    cli_json_real(row, "fraction", s->fraction);
    json_array_append_new(rows, row);
}

static upg_status run_threads(const bench_args *args, uint32_t threads, json_t *rows,
                              upg_error *err)
{
    upg_kernel_speed speed = { .struct_size = sizeof speed };
    upg_probe       *probe = NULL;
    upg_status       st = upg_probe_create(threads, &probe, err);

    threads = upg_probe_threads(probe);
    for (size_t i = 0; st == UPG_OK && !cli_signals_caught(); i++) {
        st = upg_probe_kernel(probe, i, &speed, err);
        if (st != UPG_OK)
            break;
        add_row(rows, &speed, threads);
        if (!args->json)
            printf("%-14s%-12s%8" PRIu32 "%9.1f %-18s%6.1f %% of %s\n", speed.kernel, speed.isa,
                   threads, speed.rate, speed.unit, 100 * speed.fraction, speed.limit);
        fflush(stdout);
    }
    upg_probe_close(probe);
    return st == UPG_E_ARG ? UPG_OK : st; /* past the last one */
}

int bench_kernels(const cli_command *command, const bench_args *args, const bench_list *threads)
{
    json_t    *object = json_object(), *rows = json_array();
    upg_error  err;
    upg_status st = UPG_OK;

    if (!args->json)
        printf("%-14s%-12s%8s%9s\n", "kernel", "isa", "threads", "rate");
    for (uint32_t i = 0; i < threads->n && st == UPG_OK; i++)
        st = run_threads(args, threads->items[i], rows, &err);
    json_object_set_new(object, "kernels", rows);
    if (st == UPG_OK && !cli_signals_caught() && args->json)
        return cli_json_print(command, object);
    json_decref(object);
    if (st != UPG_OK)
        return cli_report(command, st, &err);
    return cli_signals_caught() ? cli_signals_exit_code() : cli_finish_output();
}
