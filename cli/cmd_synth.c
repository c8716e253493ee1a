/* cmd_synth.c: `upg synth`: a checkpoint folder of a real model's shape with random weights. */
#include <stdio.h>

#include "command.h"
#include "progress_bar.h"
#include "report.h"
#include "signals.h"

typedef struct synth_args {
    const char *architecture, *config, *tokenizer;
    uint32_t    layers, threads;
    uint64_t    seed, shard_size;
    bool        heavy_tailed, coded, quiet;
} synth_args;

static const cli_option options[] = {
    { .name = "arch",
      .letter = 'a',
      .type = CLI_TEXT,
      .argument = "NAME",
      .offset = offsetof(synth_args, architecture),
      .help = "the shape: phi4, phi4-nano or phi4-micro" },
    { .name = "config",
      .type = CLI_TEXT,
      .argument = "FILE",
      .offset = offsetof(synth_args, config),
      .help = "instead: a config.json of any supported architecture" },
    { .name = "layers",
      .letter = 'l',
      .type = CLI_U32,
      .argument = "N",
      .offset = offsetof(synth_args, layers),
      .min = 1,
      .max = 4096,
      .help = "so many layers; default: the shape's" },
    { .name = "tokenizer",
      .type = CLI_TEXT,
      .argument = "DIR",
      .offset = offsetof(synth_args, tokenizer),
      .help = "copies the tokenizer's files from this folder" },
    { .name = "heavy-tailed",
      .type = CLI_FLAG,
      .offset = offsetof(synth_args, heavy_tailed),
      .help = "weights from Student's t with 4 degrees of freedom, one\n"
              "input column in 256 eight times as large; default: Gaussian" },
    { .name = "coded",
      .type = CLI_FLAG,
      .offset = offsetof(synth_args, coded),
      .help = "not a folder, but a .upg file with random codes, as\n"
              "`upg bench --synthetic` makes them in memory" },
    { .name = "seed",
      .type = CLI_U64,
      .argument = "S",
      .offset = offsetof(synth_args, seed),
      .help = "of the weights; the same seed gives the same bytes" },
    { .name = "shard-size",
      .type = CLI_BYTES,
      .argument = "SIZE",
      .offset = offsetof(synth_args, shard_size),
      .min = 1,
      .help = "most bytes of tensors in one file; default: 5e9" },
    { .name = "threads",
      .letter = 't',
      .type = CLI_U32,
      .argument = "N",
      .offset = offsetof(synth_args, threads),
      .min = 1,
      .max = 1024,
      .help = "CPU threads; default: one per physical core" },
    { .name = "quiet",
      .letter = 'q',
      .type = CLI_FLAG,
      .offset = offsetof(synth_args, quiet),
      .help = "no progress on standard error" },
    { 0 },
};

static int run(const cli_command *command, int argc, char **argv)
{
    synth_args        args = { 0 };
    cli_parsed        parsed;
    cli_progress      progress;
    upg_error         err;
    upg_synth_options how = { .struct_size = sizeof how };
    upg_status        st;
    int               exit_code = cli_parse(command, argc, argv, &args, &parsed);

    if (exit_code >= 0)
        return exit_code;
    if (!args.architecture == !args.config)
        return cli_usage(command, "one of --arch and --config says what shape to make");
    cli_progress_init(&progress, args.quiet);
    how.architecture = args.architecture;
    how.config = args.config;
    how.tokenizer = args.tokenizer;
    how.layers = args.layers;
    how.heavy_tailed = args.heavy_tailed;
    how.coded = args.coded;
    how.seed = args.seed;
    how.shard_bytes = args.shard_size;
    how.threads = args.threads;
    how.hooks = cli_progress_hooks(&progress);
    st = upg_synthesize(parsed.operands[0], &how, &err);
    cli_progress_close(&progress);
    if (st == UPG_E_CANCELLED) {
        (void)cli_report(command, st, &err);
        return cli_signals_exit_code();
    }
    if (st == UPG_E_ARG) /* an architecture that is not there */
        return cli_usage(command, "%s", err.message);
    return st == UPG_OK ? CLI_OK : cli_report(command, st, &err);
}

const cli_command cli_synth = {
    .name = "synth",
    .arguments = "DIR --arch NAME [options]",
    .summary = "writes a checkpoint of a model's shape with random weights",
    .about =
        "Writes the folder DIR: a checkpoint with exactly the tensors, shards and config.json\n"
        "of the model named, and random bf16 weights, to try what compressing it takes. With\n"
        "--coded DIR is a .upg file instead, to try what loading it takes. Either appears only\n"
        "when it is complete.",
    .options = options,
    .n_operands = 1,
    .run = run,
};
