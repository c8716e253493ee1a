/* cmd_compress.c: `upg compress`: a checkpoint folder into one .upg file. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "command.h"
#include "compress_args.h"
#include "plan_table.h"
#include "progress_bar.h"
#include "quality.h"
#include "report.h"
#include "signals.h"

const cli_option cli_compress_options[] = {
    { .name = "output",
      .letter = 'o',
      .type = CLI_TEXT,
      .argument = "FILE",
      .offset = offsetof(compress_args, output),
      .help = "the .upg file to write; it appears only when complete" },
    { .name = "bpw",
      .letter = 'b',
      .type = CLI_REAL,
      .argument = "BITS",
      .offset = offsetof(compress_args, bpw),
      .min = .1,
      .max = 16,
      .help = "bits per weight, of all weight tensors together; default:\n"
              "3.2, above 1e9 parameters also the file <= fp32 / 10" },
    { .name = "size",
      .type = CLI_BYTES,
      .argument = "SIZE",
      .offset = offsetof(compress_args, size),
      .min = 1,
      .help = "the whole file takes at most so much, such as 3500K; with\n"
              "--bpw both bounds hold" },
    { .name = "force",
      .type = CLI_FLAG,
      .offset = offsetof(compress_args, force),
      .help = "replaces FILE if it exists" },
    { .name = "resume",
      .type = CLI_FLAG,
      .offset = offsetof(compress_args, resume),
      .help = "goes on with FILE.journal, which a run that was killed,\n"
              "interrupted or short of disk left; afresh without one" },
    { .name = "join",
      .type = CLI_TEXT,
      .argument = "FOLDER",
      .offset = offsetof(compress_args, join),
      .help = "works together with others that name this folder; with\n"
              "--independent or --no-calibration" },
    { .name = "no-journal",
      .type = CLI_FLAG,
      .offset = offsetof(compress_args, no_journal),
      .help = "keeps nothing to resume from" },
    { .name = "calibration",
      .type = CLI_TEXT,
      .argument = "TEXTFILE",
      .offset = offsetof(compress_args, calibration),
      .help = "text to calibrate on; default: the one that ships with upg" },
    { .name = "no-calibration",
      .type = CLI_FLAG,
      .offset = offsetof(compress_args, no_calibration),
      .help = "rounds to nearest instead: faster, and worse" },
    { .name = "independent",
      .type = CLI_FLAG,
      .offset = offsetof(compress_args, independent),
      .help = "calibrates every layer on the unquantised model alone" },
    { .name = "effort",
      .letter = 'e',
      .type = CLI_TEXT,
      .argument = "LEVEL",
      .offset = offsetof(compress_args, effort),
      .help = "fast, default, high or max: time for quality at equal size" },
    { .name = "device",
      .type = CLI_TEXT,
      .argument = "DEVICE",
      .offset = offsetof(compress_args, device),
      .help = "what encodes: cpu (the default), cuda, cuda:N, or auto;\n"
              "a GPU adds in another order and makes another file" },
    { .name = "no-outliers",
      .type = CLI_FLAG,
      .offset = offsetof(compress_args, no_outliers),
      .help = "keeps no single weights or columns beside the code" },
    { .name = "no-tune",
      .type = CLI_FLAG,
      .offset = offsetof(compress_args, no_tune),
      .help = "leaves row scales and norms as coding left them: faster,\n"
              "and worse; at --effort fast or on a GPU they always\n"
              "are" },
    { .name = "plan-only",
      .type = CLI_FLAG,
      .offset = offsetof(compress_args, plan_only),
      .help = "prints rates and predicted loss, and writes nothing" },
    { .name = "eval",
      .type = CLI_TEXT,
      .argument = "TEXTFILE",
      .offset = offsetof(compress_args, evaluation),
      .help = "runs FILE and the checkpoint on this text, and puts the\n"
              "figures into FILE's report" },
    { .name = "eval-windows",
      .type = CLI_U32,
      .argument = "N",
      .offset = offsetof(compress_args, evaluation_windows),
      .min = 1,
      .max = 1000000,
      .help = "windows of 512 tokens for --eval; default: 64" },
    { .name = "seed",
      .type = CLI_U64,
      .argument = "S",
      .offset = offsetof(compress_args, seed),
      .help = "of the rotations; the same seed gives the same bytes" },
    { .name = "json",
      .type = CLI_FLAG,
      .offset = offsetof(compress_args, json),
      .help = "the last line on standard output is a JSON object" },
    { .name = "json-progress",
      .type = CLI_FLAG,
      .offset = offsetof(compress_args, json_progress),
      .help = "progress as lines of JSON on standard error" },
    { .name = "threads",
      .letter = 't',
      .type = CLI_U32,
      .argument = "N",
      .offset = offsetof(compress_args, threads),
      .min = 1,
      .max = 1024,
      .help = "CPU threads; default: one per physical core" },
    { .name = "max-memory",
      .type = CLI_BYTES,
      .argument = "SIZE",
      .offset = offsetof(compress_args, max_memory),
      .min = 1,
      .help = "resident memory, such as 8G (the default)" },
    { .name = "quiet",
      .letter = 'q',
      .type = CLI_FLAG,
      .offset = offsetof(compress_args, quiet),
      .help = "no progress or notes on standard error" },
    { 0 },
};

static double number_of(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

/* The result as text: what was written, how much smaller it is, and how good. */
static int print_table(const cli_command *command, const char *path, const char *result)
{
    json_t        *object = json_loads(result, 0, NULL);
    char           size[CLI_SIZE_TEXT], weights[CLI_SIZE_TEXT];
    upg_model     *model = NULL;
    upg_error      err;
    upg_model_info info = { .struct_size = sizeof info };
    double         parameters = number_of(object, "parameters");
    uint64_t       weight_bytes = (uint64_t)number_of(object, "weight_bytes");

    if (!object)
        return cli_fail(command, CLI_BUG, "the library's result is no JSON object");
    printf("%s: %s, %.2f M parameters\n", path,
           cli_size_text((uint64_t)number_of(object, "file_bytes"), size), parameters / 1e6);
    printf("  weights           %s, %.4f bits per weight\n", cli_size_text(weight_bytes, weights),
           8 * (double)weight_bytes / parameters);
    printf("  whole file        %.4f bits per parameter\n",
           number_of(object, "bits_per_parameter"));
    printf("  against fp32      %.2f : 1\n", number_of(object, "ratio_fp32"));
    printf("  against source    %.2f : 1 (as shipped)\n", number_of(object, "ratio_source"));
    printf("  time              %.1f s\n", number_of(object, "seconds"));
    json_decref(object);
    if (upg_model_open(path, NULL, &model, &err) == UPG_OK &&
        upg_model_describe(model, &info, &err) == UPG_OK && info.quality_json[0])
        cli_print_quality(info.quality_json);
    upg_model_close(model);
    return cli_finish_output();
}

/* Says where compression goes without the default text, which costs quality. */
static void note_calibration(const cli_command *command, const compress_args *args,
                             const upg_compress *job)
{
    json_t *plan;

    if (args->no_calibration || args->quiet)
        return;
    plan = json_loads(upg_compress_plan(job), 0, NULL);
    if (json_integer_value(json_object_get(plan, "calibration_windows")) == 0)
        cli_note(command, "no calibration, since the checkpoint has no tokenizer.json: weights are "
                          "rounded to nearest, which costs quality");
    json_decref(plan);
}

static upg_status work(upg_compress *job, upg_error *err)
{
    upg_status st;

    cli_signals_watch_job(job);
    st = cli_signals_caught() ? cli_error(err, UPG_E_CANCELLED, "interrupted")
                              : upg_compress_run(job, err);
    cli_signals_watch_job(NULL);
    return st;
}

static int finish(const cli_command *command, const compress_args *args, const upg_compress *job)
{
    const char *result = args->plan_only ? upg_compress_plan(job) : upg_compress_result(job);

    if (!result)
        return cli_fail(command, CLI_BUG, "the library gave no result");
    if (!args->json)
        return args->plan_only ? cli_print_plan(command, result)
                               : print_table(command, args->output, result);
    puts(result);
    return cli_finish_output();
}

/* After a failure: what is there to go on with. */
static void note_journal(const compress_args *args, upg_status st)
{
    char        folder[4096];
    struct stat info;

    if (args->quiet || args->plan_only || args->no_journal || st == UPG_E_EXISTS ||
        snprintf(folder, sizeof folder, "%s.journal/head.json", args->output) >=
            (int)sizeof folder ||
        stat(folder, &info) != 0)
        return;
    fprintf(stderr, "What is done is kept in %s.journal; the same command with --resume goes on.\n",
            args->output);
}

static bool find_effort(const char *name, upg_effort *effort)
{
    static const char *const names[] = { [UPG_EFFORT_DEFAULT] = "default",
                                         [UPG_EFFORT_FAST] = "fast",
                                         [UPG_EFFORT_HIGH] = "high",
                                         [UPG_EFFORT_MAX] = "max" };

    *effort = UPG_EFFORT_DEFAULT;
    for (size_t i = 0; name && i < sizeof names / sizeof names[0]; i++)
        if (strcmp(name, names[i]) == 0) {
            *effort = (upg_effort)i;
            return true;
        }
    return !name;
}

int cli_compress_check(const cli_command *command, const compress_args *args)
{
    upg_effort effort;

    if (!find_effort(args->effort, &effort))
        return cli_usage(command, "--effort %s: levels are fast, default, high and max",
                         args->effort);
    if (args->evaluation_windows && !args->evaluation)
        return cli_usage(command, "--eval-windows goes with --eval");
    if (args->no_calibration && (args->calibration || args->independent))
        return cli_usage(command,
                         "--no-calibration goes with neither --calibration nor --independent");
    if (args->plan_only && args->resume)
        return cli_usage(command, "--plan-only does not go with --resume");
    if (args->join && (args->plan_only || args->no_journal || args->resume || !args->join[0]))
        return cli_usage(command, "--join FOLDER resumes by itself, and goes with none of "
                                  "--plan-only, --no-journal, --resume");
    if (args->no_journal && args->resume)
        return cli_usage(command, "--no-journal does not go with --resume");
    if (args->quiet && args->json_progress)
        return cli_usage(command, "--quiet does not go with --json-progress");
    if (args->calibration && !args->calibration[0])
        return cli_usage(command, "--calibration \"\": no file name");
    return -1;
}

void cli_compress_how(const compress_args *args, upg_compress_options *how)
{
    how->bits_per_parameter = args->bpw;
    how->max_file_bytes = args->size;
    how->evaluation = args->evaluation;
    how->evaluation_windows = args->evaluation_windows;
    how->calibration = args->no_calibration ? "" : args->calibration;
    how->independent = args->independent;
    (void)find_effort(args->effort, &how->effort); /* cli_compress_check looked */
    how->without_outliers = args->no_outliers;
    how->without_tuning = args->no_tune;
    how->threads = args->threads;
    how->max_memory = args->max_memory;
    how->seed = args->seed;
    how->overwrite = args->force;
    how->journal = !args->plan_only && !args->no_journal;
    how->resume = !args->plan_only && args->resume;
    how->join = args->join;
    how->device = args->device;
}

static int run(const cli_command *command, int argc, char **argv)
{
    compress_args        args = { 0 };
    cli_parsed           parsed;
    cli_progress         progress;
    upg_error            err;
    upg_compress        *job = NULL;
    upg_compress_options how = { .struct_size = sizeof how };
    upg_status           st;
    int                  exit_code = cli_parse(command, argc, argv, &args, &parsed);

    if (exit_code >= 0)
        return exit_code;
    if (!args.output)
        return cli_usage(command, "the output is missing: -o FILE");
    exit_code = cli_compress_check(command, &args);
    if (exit_code >= 0)
        return exit_code;
    cli_progress_init(&progress, args.quiet);
    progress.is_json = args.json_progress;
    cli_compress_how(&args, &how);
    how.hooks = cli_progress_hooks(&progress);
    st = upg_compress_open(parsed.operands[0], args.output, &how, &job, &err);
    if (st == UPG_OK)
        note_calibration(command, &args, job);
    if (st == UPG_OK && !args.plan_only)
        st = work(job, &err);
    cli_progress_close(&progress);
    if (st == UPG_OK) {
        exit_code = finish(command, &args, job);
    } else {
        exit_code = cli_report(command, st, &err);
        note_journal(&args, st);
        if (st == UPG_E_CANCELLED)
            exit_code = cli_signals_exit_code();
    }
    upg_compress_close(job);
    return exit_code;
}

const cli_command cli_compress = {
    .name = "compress",
    .arguments = "DIR -o FILE [options]",
    .summary = "turns a checkpoint folder into one .upg file",
    .about = "Compresses the checkpoint in DIR (config.json, safetensors, tokenizer.json) into\n"
             "FILE. The file is written beside its final name and takes that name only when it\n"
             "is complete, synced and verified. What is done is kept in FILE.journal meanwhile:\n"
             "after a failure, kill -9 or Ctrl-C, --resume goes on to the same bytes.",
    .options = cli_compress_options,
    .n_operands = 1,
    .run = run,
};
