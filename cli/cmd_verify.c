/* cmd_verify.c: `upg verify`: every chunk of a .upg file against its hash, and every matrix against
 * the original. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "command.h"
#include "progress_bar.h"
#include "report.h"
#include "signals.h"

typedef struct verify_args {
    const char *against;
    uint32_t    threads;
    bool        quiet, json;
} verify_args;

static const cli_option options[] = {
    { .name = "against",
      .type = CLI_TEXT,
      .argument = "DIR",
      .offset = offsetof(verify_args, against),
      .help = "then measures every matrix's error against this checkpoint,\n"
              "and compares with what FILE says" },
    { .name = "json",
      .type = CLI_FLAG,
      .offset = offsetof(verify_args, json),
      .help = "one JSON object for each tensor; with --against" },
    { .name = "threads",
      .letter = 't',
      .type = CLI_U32,
      .argument = "N",
      .offset = offsetof(verify_args, threads),
      .min = 1,
      .max = 1024,
      .help = "CPU threads; default: one per physical core" },
    { .name = "quiet",
      .letter = 'q',
      .type = CLI_FLAG,
      .offset = offsetof(verify_args, quiet),
      .help = "no progress on standard error" },
    { 0 },
};

/* One line for each tensor. */
static void print_check(void *user, const upg_matrix_check *check)
{
    const bool *json = user;
    char        stored[32] = "-";

    if (*json) {
        json_t *object = json_object();

        cli_json_text(object, "name", check->name);
        cli_json_real(object, "stored", check->stored < 0 ? NAN : check->stored);
        cli_json_real(object, "measured", check->measured);
        json_object_set_new(object, "agrees", json_boolean(check->agrees));
        json_dumpf(object, stdout, JSON_COMPACT);
        putchar('\n');
        json_decref(object);
        return;
    }
    if (check->stored >= 0)
        snprintf(stored, sizeof stored, "%.6g", check->stored);
    printf("%-48s %12s %12.6g%s\n", check->name, stored, check->measured,
           check->agrees ? "" : "  differs");
}

static int against(const cli_command *command, const verify_args *args, const char *path)
{
    cli_progress        progress;
    upg_error           err;
    bool                json = args->json;
    upg_against_options how = { .struct_size = sizeof how, .threads = args->threads };
    upg_status          st;
    int                 exit_code;

    cli_progress_init(&progress, args->quiet);
    how.hooks = cli_progress_hooks(&progress);
    how.matrix = print_check;
    how.user = &json;
    if (!json)
        printf("%-48s %12s %12s\n", "relative error of", "in the file", "measured");
    st = upg_verify_against(path, args->against, &how, &err);
    cli_progress_close(&progress);
    exit_code = cli_finish_output();
    if (st == UPG_OK || exit_code != CLI_OK)
        return exit_code;
    exit_code = cli_report(command, st, &err);
    return st == UPG_E_CANCELLED ? cli_signals_exit_code() : exit_code;
}

static int run(const cli_command *command, int argc, char **argv)
{
    verify_args  args = { 0 };
    cli_parsed   parsed;
    cli_progress progress;
    upg_error    err;
    upg_hooks    hooks;
    uint64_t     bad_offset = 0;
    upg_status   st;
    int          exit_code = cli_parse(command, argc, argv, &args, &parsed);

    if (exit_code >= 0)
        return exit_code;
    if (args.json && !args.against)
        return cli_usage(command, "--json goes with --against");
    cli_progress_init(&progress, args.quiet);
    hooks = cli_progress_hooks(&progress);
    st = upg_verify(parsed.operands[0], args.threads, &hooks, &bad_offset, &err);
    cli_progress_close(&progress);
    if (st == UPG_E_CORRUPT)
        printf("damaged: first bad chunk at byte %" PRIu64 ": %s\n", bad_offset, err.message);
    else if (st == UPG_E_FORMAT) /* cut off, or not such a file at all */
        printf("damaged: %s\n", err.message);
    else if (st == UPG_OK && !args.json)
        printf("%s: every checksum matches\n", parsed.operands[0]);
    else if (st != UPG_OK)
        return cli_report(command, st, &err);
    exit_code = cli_finish_output();
    if (exit_code != CLI_OK || st != UPG_OK)
        return exit_code != CLI_OK ? exit_code : CLI_DAMAGED;
    return args.against ? against(command, &args, parsed.operands[0]) : CLI_OK;
}

const cli_command cli_verify = {
    .name = "verify",
    .arguments = "FILE [options]",
    .summary = "compares a .upg file with its checksums",
    .about = "Reads the whole file and compares every chunk with its hash. Exit code 0: whole.\n"
             "Exit code 1: damaged; the first bad chunk's offset and the tensor in it are\n"
             "printed. With --against every matrix's error is measured again.",
    .options = options,
    .n_operands = 1,
    .run = run,
};
