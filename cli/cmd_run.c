/* cmd_run.c: `upg run`: continues a prompt, streaming the text to standard output. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "command.h"
#include "generate.h"
#include "report.h"
#include "signals.h"
#include "text_file.h"

enum { TOKENS_DEFAULT = 256 };
static const size_t prompt_bytes_max = (size_t)1 << 28;

typedef struct run_args {
    const char       *prompt, *file;
    uint64_t          tokens;
    bool              special;
    cli_model_args    model;
    cli_sampling_args sampling;
} run_args;

static const cli_option options[] = {
    { .name = "prompt",
      .letter = 'p',
      .type = CLI_TEXT,
      .argument = "TEXT",
      .offset = offsetof(run_args, prompt),
      .help = "the text to continue" },
    { .name = "file",
      .letter = 'f',
      .type = CLI_TEXT,
      .argument = "FILE",
      .offset = offsetof(run_args, file),
      .help = "reads the prompt from FILE, or from standard input: -" },
    { .name = "tokens",
      .letter = 'n',
      .type = CLI_U64,
      .argument = "N",
      .offset = offsetof(run_args, tokens),
      .min = 1,
      .help = "generates at most N tokens; default: 256" },
    { .table = cli_sampling_options, .offset = offsetof(run_args, sampling) },
    { .name = "special",
      .type = CLI_FLAG,
      .offset = offsetof(run_args, special),
      .help = "\"<|im_start|>\" and the like in the prompt become control\n"
              "tokens, and generated ones are shown" },
    { .table = cli_model_options, .offset = offsetof(run_args, model) },
    { 0 },
};

static upg_status read_prompt(const run_args *args, const upg_tokenizer *tokenizer,
                              upg_token **tokens, size_t *n, upg_error *err)
{
    cli_bytes   file = { 0 };
    const char *text = args->prompt;
    size_t      size = text ? strlen(text) : 0;
    uint32_t    flags = args->special ? UPG_TOK_SPECIAL : 0;
    upg_status  st = UPG_OK;

    if (args->file) {
        st = cli_file_read(args->file, prompt_bytes_max, &file, err);
        text = file.data;
        size = file.size;
    }
    if (st == UPG_OK)
        st = cli_tokens_of(tokenizer, text, size, flags, tokens, n, err);
    if (st == UPG_OK && *n == 0)
        st = cli_error(err, UPG_E_DATA, "the prompt is empty");
    free(file.data);
    return st;
}

/* The exit code for a generation that ended without an error. */
static int exit_of(const cli_command *command, const cli_generated *generated, uint32_t context)
{
    int exit_code = cli_finish_output();

    if (exit_code != CLI_OK)
        return exit_code;
    if (generated->ending == CLI_END_CANCELLED)
        return cli_signals_exit_code();
    if (generated->ending == CLI_END_CONTEXT)
        return cli_fail(command, CLI_LIMIT,
                        "the context of %u tokens is full (%zu of the prompt, %zu generated)",
                        (unsigned)context, generated->prompt_tokens, generated->n_tokens);
    return CLI_OK;
}

static int run(const cli_command *command, int argc, char **argv)
{
    run_args             args = { .tokens = TOKENS_DEFAULT };
    cli_parsed           parsed;
    cli_progress         progress;
    upg_error            err;
    upg_sampling         sampling;
    upg_model           *model = NULL;
    upg_session         *session = NULL;
    const upg_tokenizer *tokenizer = NULL;
    upg_token           *tokens = NULL;
    cli_generated        generated = { 0 };
    size_t               n = 0;
    uint32_t             context = 0;
    upg_status           st;
    int                  exit_code = cli_parse(command, argc, argv, &args, &parsed);

    if (exit_code >= 0)
        return exit_code;
    if (!args.prompt == !args.file)
        return cli_usage(command, "give the prompt by one of --prompt and --file");
    cli_progress_init(&progress, args.model.quiet);
    st = cli_open_model(parsed.operands[0], &args.model, &progress, &model, &err);
    if (st == UPG_OK)
        st = cli_need_tokenizer(parsed.operands[0], model, &tokenizer, &err);
    if (st == UPG_OK)
        st = read_prompt(&args, tokenizer, &tokens, &n, &err);
    if (st == UPG_OK)
        st = cli_open_session(model, &args.sampling, &parsed, &session, &context, &sampling, &err);
    if (st == UPG_OK)
        st = cli_check_context("prompt", n, context, &err);
    if (st == UPG_OK)
        st = cli_generate(session, tokenizer, &args.sampling.stops, args.special, tokens, n,
                          args.tokens, &generated, &err);
    if (generated.text_bytes > 0 && isatty(STDOUT_FILENO))
        putchar('\n');
    if (st == UPG_OK && !args.model.quiet)
        cli_print_statistics(&generated, &sampling);
    exit_code =
        st == UPG_OK ? exit_of(command, &generated, context) : cli_report(command, st, &err);
    cli_generated_free(&generated);
    free(tokens);
    upg_session_close(session);
    upg_model_close(model);
    return exit_code;
}

const cli_command cli_run = {
    .name = "run",
    .arguments = "MODEL -p TEXT [options]",
    .summary = "continues a prompt",
    .about = "Continues a prompt and streams the continuation, and nothing else, to standard\n"
             "output. MODEL is a .upg file or a checkpoint folder. A prompt longer than the\n"
             "context is refused, never cut.",
    .options = options,
    .n_operands = 1,
    .run = run,
};
