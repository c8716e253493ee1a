/* cmd_plan.c: `upg plan`: what a compression would take, and whether there is room for it. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "compress_args.h"
#include "progress_bar.h"
#include "report.h"

typedef struct plan_args {
    compress_args compress;
} plan_args;

static const cli_option options[] = {
    { .table = cli_compress_options, .offset = offsetof(plan_args, compress) },
    { 0 },
};

static int print_json(const cli_command *command, const upg_estimate *e)
{
    json_t *object = json_object(), *sizes = json_object(), *time = json_object();

    cli_json_text(sizes, "kind", "computed from the plan; file_bytes is an upper bound");
    cli_json_u64(sizes, "parameters", e->parameters);
    cli_json_u64(sizes, "source_bytes", e->source_bytes);
    cli_json_u64(sizes, "weight_bytes", e->weight_bytes);
    cli_json_u64(sizes, "file_bytes", e->file_bytes);
    cli_json_real(sizes, "ratio_fp32", e->ratio_fp32);
    cli_json_real(sizes, "ratio_source", e->ratio_source);
    cli_json_u64(sizes, "memory_bytes", e->memory_bytes);
    cli_json_u64(sizes, "disk_bytes", e->disk_bytes);
    cli_json_u64(sizes, "journal_bytes", e->journal_bytes);
    cli_json_text(time, "kind", "estimate: work counted, divided by rates measured for seconds");
    cli_json_real(time, "seconds", e->seconds);
    cli_json_real(time, "plan_seconds", e->plan_seconds);
    cli_json_real(time, "text_seconds", e->text_seconds);
    cli_json_real(time, "code_seconds", e->code_seconds);
    cli_json_real(time, "measured_weights_per_second", e->code_rate);
    cli_json_real(time, "measured_flops_per_second", e->product_rate);
    cli_json_real(time, "measured_for_seconds", e->measured_seconds);
    json_object_set_new(object, "sizes", sizes);
    json_object_set_new(object, "time", time);
    cli_json_u64(object, "memory_available", e->memory_available);
    cli_json_u64(object, "disk_available", e->disk_available);
    json_object_set_new(object, "fits_memory", json_boolean(e->fits_memory));
    json_object_set_new(object, "fits_disk", json_boolean(e->fits_disk));
    return cli_json_print(command, object);
}

/* "1.4 s", "12 minutes", "9.3 hours". */
static const char *time_text(double seconds, char text[CLI_SIZE_TEXT])
{
    if (seconds < 120)
        snprintf(text, CLI_SIZE_TEXT, "%.3g s", seconds);
    else if (seconds < 7200)
        snprintf(text, CLI_SIZE_TEXT, "%.0f minutes", seconds / 60);
    else
        snprintf(text, CLI_SIZE_TEXT, "%.1f hours", seconds / 3600);
    return text;
}

static const char *available_text(uint64_t bytes, char text[CLI_SIZE_TEXT])
{
    if (bytes == 0)
        snprintf(text, CLI_SIZE_TEXT, "not known");
    else
        cli_size_text(bytes, text);
    return text;
}

static void print_time(const upg_estimate *e)
{
    char all[CLI_SIZE_TEXT], plan[CLI_SIZE_TEXT], text[CLI_SIZE_TEXT], code[CLI_SIZE_TEXT];

    printf("\nEstimated from rates measured now for %.1f s, not a measurement of the whole:\n",
           e->measured_seconds);
    printf("  time              %s: planning %s, text %s, coding %s\n", time_text(e->seconds, all),
           time_text(e->plan_seconds, plan), time_text(e->text_seconds, text),
           time_text(e->code_seconds, code));
    printf("  rates             %.2f M weights/s", e->code_rate / 1e6);
    if (e->product_rate > 0)
        printf(", %.0f Gflop/s", e->product_rate / 1e9);
    putchar('\n');
}

/* "file 5.9 GB, journal 13 GB, activations 3.4 GB": of what the disk has to hold. */
static void disk_text(const upg_estimate *e, char *text, size_t cap)
{
    uint64_t spilled = e->disk_bytes - e->file_bytes - e->journal_bytes;
    char     file[CLI_SIZE_TEXT], journal[CLI_SIZE_TEXT], states[CLI_SIZE_TEXT];
    int      n = snprintf(text, cap, "file %s", cli_size_text(e->file_bytes, file));

    if (e->journal_bytes)
        n += snprintf(text + n, cap - (size_t)n, ", journal %s",
                      cli_size_text(e->journal_bytes, journal));
    if (spilled)
        snprintf(text + n, cap - (size_t)n, ", activations %s", cli_size_text(spilled, states));
}

static void print_disk(const upg_estimate *e)
{
    char text[4 * CLI_SIZE_TEXT + 64];

    disk_text(e, text, sizeof text);
    printf("                    %s\n", text);
}

static int print_text(const upg_estimate *e, const char *output)
{
    char need[CLI_SIZE_TEXT], there[CLI_SIZE_TEXT];

    printf("Computed from the plan, not measured:\n");
    printf("  parameters        %.2f M\n", (double)e->parameters / 1e6);
    printf("  file at most      %s, %.4f bits per parameter\n", cli_size_text(e->file_bytes, need),
           8 * (double)e->file_bytes / (double)e->parameters);
    printf("  weights           %s, %.4f bits per weight\n", cli_size_text(e->weight_bytes, need),
           8 * (double)e->weight_bytes / (double)e->parameters);
    printf("  against fp32      %.2f : 1\n", e->ratio_fp32);
    printf("  against source    %.2f : 1 (as shipped)\n", e->ratio_source);
    printf("  memory at most    %s; available %s\n", cli_size_text(e->memory_bytes, need),
           available_text(e->memory_available, there));
    printf("  disk at most      %s; available %s (for %s)\n", cli_size_text(e->disk_bytes, need),
           available_text(e->disk_available, there), output);
    print_disk(e);
    print_time(e);
    return cli_finish_output();
}

/* Exit code by what does not fit, after the figures. */
static int judge(const cli_command *command, const upg_estimate *e, const char *output)
{
    char need[CLI_SIZE_TEXT], there[CLI_SIZE_TEXT], missing[CLI_SIZE_TEXT];
    char parts[4 * CLI_SIZE_TEXT + 64];

    disk_text(e, parts, sizeof parts);
    if (!e->fits_disk)
        return cli_fail(
            command, CLI_RESOURCES, "%s: the disk lacks %s: %s needed (%s), %s available%s", output,
            cli_size_text(e->disk_bytes - e->disk_available, missing),
            cli_size_text(e->disk_bytes, need), parts, cli_size_text(e->disk_available, there),
            e->journal_bytes && e->disk_bytes - e->journal_bytes <= e->disk_available
                ? "; with --no-journal it would fit, and could not be resumed"
                : "");
    if (!e->fits_memory)
        return cli_fail(command, CLI_RESOURCES,
                        "memory lacks %s: %s needed, %s available; use fewer --threads, or a "
                        "smaller --max-memory",
                        cli_size_text(e->memory_bytes - e->memory_available, missing),
                        cli_size_text(e->memory_bytes, need),
                        cli_size_text(e->memory_available, there));
    return CLI_OK;
}

static int run(const cli_command *command, int argc, char **argv)
{
    plan_args            args = { 0 };
    const compress_args *c = &args.compress;
    cli_parsed           parsed;
    cli_progress         progress;
    upg_error            err;
    upg_compress_options how = { .struct_size = sizeof how };
    upg_estimate         estimate = { .struct_size = sizeof estimate };
    const char          *output;
    upg_status           st;
    int                  exit_code = cli_parse(command, argc, argv, &args, &parsed);

    if (exit_code >= 0)
        return exit_code;
    exit_code = cli_compress_check(command, c);
    if (exit_code >= 0)
        return exit_code;
    if (c->resume || c->json_progress)
        return cli_usage(command, "%s is of `upg compress` alone",
                         c->resume ? "--resume" : "--json-progress");
    if (c->plan_only || c->evaluation)
        return cli_usage(command, "%s is of `upg compress` alone",
                         c->plan_only ? "--plan-only" : "--eval");
    output = c->output ? c->output : "model.upg";
    cli_progress_init(&progress, c->quiet);
    cli_compress_how(c, &how);
    how.hooks = cli_progress_hooks(&progress);
    st = upg_compress_estimate(parsed.operands[0], output, &how, &estimate, &err);
    cli_progress_close(&progress);
    if (st != UPG_OK)
        return cli_report(command, st, &err);
    exit_code = c->json ? print_json(command, &estimate) : print_text(&estimate, output);
    return exit_code != CLI_OK ? exit_code : judge(command, &estimate, output);
}

const cli_command cli_plan = {
    .name = "plan",
    .arguments = "DIR [options of compress]",
    .summary = "says what compressing would take: size, time, memory, disk",
    .about = "Says, in seconds, what `upg compress` with the same options would make and take:\n"
             "size and ratios, computed; time, estimated from rates measured now; memory and\n"
             "disk, and whether they are there: else exit code 5. FILE's folder is the one whose\n"
             "disk counts; it is model.upg unless -o is given. Nothing is written.",
    .options = options,
    .n_operands = 1,
    .run = run,
};
