/* cmd_verify.c: `upg verify`: every chunk of a .upg file against its hash. */
#include <inttypes.h>
#include <stdio.h>

#include "command.h"
#include "progress_bar.h"
#include "report.h"

typedef struct verify_args {
    uint32_t threads;
    bool     quiet;
} verify_args;

static const cli_option options[] = {
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
    cli_progress_init(&progress, args.quiet);
    hooks = cli_progress_hooks(&progress);
    st = upg_verify(parsed.operands[0], args.threads, &hooks, &bad_offset, &err);
    cli_progress_close(&progress);
    if (st == UPG_E_CORRUPT)
        printf("damaged: first bad chunk at byte %" PRIu64 ": %s\n", bad_offset, err.message);
    else if (st == UPG_E_FORMAT) /* cut off, or not such a file at all */
        printf("damaged: %s\n", err.message);
    else if (st == UPG_OK)
        printf("%s: every checksum matches\n", parsed.operands[0]);
    else
        return cli_report(command, st, &err);
    exit_code = cli_finish_output();
    return exit_code != CLI_OK ? exit_code : st == UPG_OK ? CLI_OK : CLI_DAMAGED;
}

const cli_command cli_verify = {
    .name = "verify",
    .arguments = "FILE [options]",
    .summary = "compares a .upg file with its checksums",
    .about = "Reads the whole file and compares every chunk with its hash. Exit code 0: whole.\n"
             "Exit code 1: damaged; the first bad chunk's offset and the tensor in it are\n"
             "printed.",
    .options = options,
    .n_operands = 1,
    .run = run,
};
