/* cmd_bench.c: `upg bench`: arguments, and which part of the suite they ask for. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "report.h"

enum { REPETITIONS_DEFAULT = 10, DECODE_DEFAULT = 32, PROMPT_DEFAULT = 128, THREADS_MAX = 1024 };

static const cli_option options[] = {
    { .name = "tokens",
      .letter = 'n',
      .type = CLI_U32,
      .argument = "N",
      .offset = offsetof(bench_args, decode),
      .max = 1e6,
      .help = "decodes N tokens; 0 = leaves it out; default: 32" },
    { .name = "prompt",
      .letter = 'p',
      .type = CLI_U32,
      .argument = "N",
      .offset = offsetof(bench_args, prompt),
      .max = 1e6,
      .help = "reads a prompt of N tokens; 0 = leaves it out; default: 128" },
    { .name = "depth",
      .letter = 'd',
      .type = CLI_TEXT,
      .argument = "LIST",
      .offset = offsetof(bench_args, depths),
      .help = "behind so many tokens, as in 0,2048,16384; default: 0" },
    { .name = "sweep",
      .type = CLI_TEXT,
      .argument = "LIST",
      .offset = offsetof(bench_args, sweep),
      .help = "with these numbers of threads in turn, as in 1,2,4; all =\n"
              "1, 2, 4, ... up to the number of cores; default: --threads" },
    { .name = "repetitions",
      .letter = 'r',
      .type = CLI_U32,
      .argument = "N",
      .offset = offsetof(bench_args, repetitions),
      .min = 5,
      .max = BENCH_MAX_REPETITIONS,
      .help = "of each measurement; default: 10" },
    { .name = "synthetic",
      .type = CLI_TEXT,
      .argument = "SHAPE",
      .offset = offsetof(bench_args, synthetic),
      .help = "a model with random weights in memory instead of MODEL:\n"
              "phi4 (5.9 GB), phi4-nano, phi4-micro, or with another\n"
              "number of layers, as in phi4:4" },
    { .name = "kv-int8",
      .type = CLI_FLAG,
      .offset = offsetof(bench_args, kv_int8),
      .help = "keys and values in 8 bits" },
    { .name = "exact-prompts",
      .type = CLI_FLAG,
      .offset = offsetof(bench_args, exact_prompts),
      .help = "reads prompts as exactly as answers only; otherwise both\n"
              "ways where they differ: with weights rounded to 8 bits\n"
              "(ppN) and, behind nothing, exactly (ppN-exact)" },
    { .name = "draft",
      .type = CLI_U32,
      .argument = "N",
      .offset = offsetof(bench_args, draft),
      .min = 1,
      .max = 7,
      .help = "measures the gain of guessing up to N tokens too, where\n"
              "the answer is the prompt with changes" },
    { .name = "trace",
      .type = CLI_TEXT,
      .argument = "FILE",
      .offset = offsetof(bench_args, trace),
      .help = "writes a timeline of each op of -n tokens instead, in\n"
              "Chrome's trace format, and prints what each kind takes" },
    { .name = "unfused",
      .type = CLI_FLAG,
      .offset = offsetof(bench_args, model.unfused),
      .help = "runs plain ops one by one instead of fused ones (CPU)" },
    { .name = "svg",
      .type = CLI_TEXT,
      .argument = "FILE",
      .offset = offsetof(bench_args, svg),
      .help = "writes the table as a chart too" },
    { .name = "python",
      .type = CLI_TEXT,
      .argument = "PROGRAM",
      .offset = offsetof(bench_args, python),
      .help = "the interpreter that has the package upg and NumPy, for\n"
              "the table; default: python3" },
    { .name = "tokenizer",
      .type = CLI_TEXT,
      .argument = "FILE",
      .offset = offsetof(bench_args, tokenizer),
      .help = "measures the tokenizer on this text instead, on one core;\n"
              "MODEL may be a tokenizer.json" },
    { .name = "json",
      .type = CLI_FLAG,
      .offset = offsetof(bench_args, json),
      .help = "writes one JSON object" },
    { .table = cli_model_options, .offset = offsetof(bench_args, model) },
    { 0 },
};

/* Reads "0,2048"; false when it is no list of numbers from `min` to `max`. */
static bool read_list(const char *text, uint32_t min, uint32_t max, bench_list *list)
{
    list->n = 0;
    for (;;) {
        char         *end;
        unsigned long value;

        if (*text < '0' || *text > '9' || list->n == BENCH_MAX_LIST)
            return false;
        errno = 0;
        value = strtoul(text, &end, 10);
        if (errno || value < min || value > max)
            return false;
        list->items[list->n++] = (uint32_t)value;
        if (*end == '\0')
            return true;
        if (*end != ',')
            return false;
        text = end + 1;
    }
}

/* 1, 2, 4, … and the number of cores. */
static upg_status all_threads(bench_list *list, upg_error *err)
{
    upg_probe *probe = NULL;
    uint32_t   cores;
    upg_status st = upg_probe_create(0, &probe, err);

    if (st != UPG_OK)
        return st;
    cores = upg_probe_threads(probe);
    upg_probe_close(probe);
    list->n = 0;
    for (uint32_t n = 1; n < cores && list->n < BENCH_MAX_LIST - 1; n *= 2)
        list->items[list->n++] = n;
    list->items[list->n++] = cores;
    return UPG_OK;
}

/* Returns -1 to go on. */
static int read_lists(const cli_command *command, const bench_args *args, bench_list *depths,
                      bench_list *threads)
{
    upg_error err;

    *depths = (bench_list) { .n = 1 };
    *threads = (bench_list) { .items = { args->model.threads }, .n = 1 };
    if (args->depths && !read_list(args->depths, 0, UINT32_MAX - 1, depths))
        return cli_usage(command, "--depth \"%s\": not a list such as 0,2048,16384", args->depths);
    if (!args->sweep)
        return -1;
    if (args->model.threads > 0)
        return cli_usage(command, "--sweep with --threads: one of them");
    if (strcmp(args->sweep, "all") == 0) {
        upg_status st = all_threads(threads, &err);

        return st == UPG_OK ? -1 : cli_report(command, st, &err);
    }
    if (!read_list(args->sweep, 1, THREADS_MAX, threads))
        return cli_usage(command, "--sweep \"%s\": not a list such as 1,2,4, nor all", args->sweep);
    return -1;
}

static int check(const cli_command *command, const bench_args *args)
{
    bool is_table = args->path && strcmp(args->path, "table") == 0;

    if ((args->svg || args->python) && !is_table)
        return cli_usage(command, "--svg and --python are for `upg bench table`");
    if (args->model.unfused && args->path && (is_table || strcmp(args->path, "kernels") == 0))
        return cli_usage(command, "--unfused is for models");
    if (args->synthetic && args->path && !is_table)
        return cli_usage(command, "--synthetic with MODEL: one of them");
    if (!args->synthetic && !args->path)
        return cli_usage(command, "an argument is missing: upg %s %s", command->name,
                         command->arguments);
    if (args->synthetic && args->tokenizer)
        return cli_usage(command, "--tokenizer with --synthetic: such a model has no tokenizer");
    if (args->synthetic && args->model.check)
        return cli_usage(command, "--check with --synthetic: such a model has no checksums");
    if (args->trace && (args->decode == 0 || args->sweep || args->tokenizer))
        return cli_usage(command, "--trace takes neither -n 0 nor --sweep nor --tokenizer");
    if (args->decode == 0 && args->prompt == 0 && !args->tokenizer)
        return cli_usage(command, "-n 0 with -p 0 leaves nothing to measure");
    return -1;
}

static int run(const cli_command *command, int argc, char **argv)
{
    bench_args args = { .decode = DECODE_DEFAULT,
                        .prompt = PROMPT_DEFAULT,
                        .repetitions = REPETITIONS_DEFAULT };
    cli_parsed parsed;
    bench_list depths, threads;
    int        exit_code = cli_parse(command, argc, argv, &args, &parsed);

    if (exit_code >= 0)
        return exit_code;
    args.path = parsed.operands[0];
    exit_code = check(command, &args);
    if (exit_code < 0 && args.tokenizer)
        return bench_tokenizer(command, &args);
    if (exit_code < 0)
        exit_code = read_lists(command, &args, &depths, &threads);
    if (exit_code < 0 && args.path && strcmp(args.path, "table") == 0)
        return bench_table(command, &args);
    if (exit_code < 0 && args.path && strcmp(args.path, "kernels") == 0)
        return bench_kernels(command, &args, &threads);
    if (exit_code < 0 && args.trace)
        return bench_trace(command, &args, depths.items[0]);
    return exit_code < 0 ? bench_cases(command, &args, &depths, &threads) : exit_code;
}

const cli_command cli_bench = {
    .name = "bench",
    .arguments = "MODEL | kernels | table [options]",
    .summary = "measures decode, prompt and tokenizer speed",
    .about = "Measures how many tokens a second the model decodes (tg) and reads (pp), each\n"
             "several times: median, least and most, beside the machine's limits, measured in\n"
             "turn with them: of read bandwidth by bytes read for a token, of the int8 peak by\n"
             "multiply-adds. `upg bench kernels` lists the inner loops instead, for every\n"
             "instruction set of this machine. `upg bench table` takes one token of Phi-4's\n"
             "shape through everything that can compute it, from plain Python on. (Files of\n"
             "these names are ./kernels and ./table.)",
    .options = options,
    .n_operands = 1,
    .operands_optional = true,
    .run = run,
};
