/* cmd_export.c: `upg export`: a file's weights as a checkpoint folder again. */
#include <stdio.h>
#include <string.h>

#include "command.h"
#include "progress_bar.h"
#include "report.h"
#include "signals.h"

typedef struct export_args {
    const char *form;
    uint32_t    threads;
    uint64_t    shard_size;
    bool        quiet;
} export_args;

static const cli_option options[] = {
    { .name = "to",
      .type = CLI_TEXT,
      .argument = "FORM",
      .offset = offsetof(export_args, form),
      .help = "safetensors: a folder of bf16 weights (the default)" },
    { .name = "shard-size",
      .type = CLI_BYTES,
      .argument = "SIZE",
      .offset = offsetof(export_args, shard_size),
      .min = 1,
      .help = "most bytes of tensors in one file; default: 5e9" },
    { .name = "threads",
      .letter = 't',
      .type = CLI_U32,
      .argument = "N",
      .offset = offsetof(export_args, threads),
      .min = 1,
      .max = 1024,
      .help = "CPU threads; default: one per physical core" },
    { .name = "quiet",
      .letter = 'q',
      .type = CLI_FLAG,
      .offset = offsetof(export_args, quiet),
      .help = "no progress on standard error" },
    { 0 },
};

static int run(const cli_command *command, int argc, char **argv)
{
    export_args        args = { 0 };
    cli_parsed         parsed;
    cli_progress       progress;
    upg_error          err;
    upg_export_options how = { .struct_size = sizeof how };
    upg_status         st;
    int                exit_code = cli_parse(command, argc, argv, &args, &parsed);

    if (exit_code >= 0)
        return exit_code;
    if (args.form && strcmp(args.form, "safetensors") != 0)
        return cli_usage(command, "--to %s: only safetensors can be written", args.form);
    cli_progress_init(&progress, args.quiet);
    how.shard_bytes = args.shard_size;
    how.threads = args.threads;
    how.hooks = cli_progress_hooks(&progress);
    st = upg_export(parsed.operands[0], parsed.operands[1], &how, &err);
    cli_progress_close(&progress);
    if (st == UPG_OK)
        return CLI_OK;
    exit_code = cli_report(command, st, &err);
    return st == UPG_E_CANCELLED ? cli_signals_exit_code() : exit_code;
}

const cli_command cli_export = {
    .name = "export",
    .arguments = "FILE DIR [options]",
    .summary = "writes a file's weights as a checkpoint folder of bf16",
    .about = "Writes the folder DIR: the weights of FILE decoded, rotated back and rounded to\n"
             "bf16, with config.json and the tokenizer's files, as transformers and upg read it.\n"
             "The folder appears only when it is complete.",
    .options = options,
    .n_operands = 2,
    .run = run,
};
