/* cmd_eval.c: `upg eval`: perplexity of a model over text or ids, and its distance from another. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "generate.h"
#include "ids_file.h"
#include "report.h"
#include "signals.h"
#include "text_file.h"

enum { WINDOW_DEFAULT = 512 };
static const size_t file_bytes_max = (size_t)1 << 32;

typedef struct eval_args {
    const char    *text, *ids, *against;
    uint32_t       window;
    uint64_t       windows;
    bool           fast_prompts, json;
    cli_model_args model;
} eval_args;

static const cli_option options[] = {
    { .name = "text",
      .type = CLI_TEXT,
      .argument = "FILE",
      .offset = offsetof(eval_args, text),
      .help = "a UTF-8 text file" },
    { .name = "ids",
      .type = CLI_TEXT,
      .argument = "FILE.npy",
      .offset = offsetof(eval_args, ids),
      .help = "token ids: a uint16 or int32 array [windows, window]" },
    { .name = "window",
      .type = CLI_U32,
      .argument = "N",
      .offset = offsetof(eval_args, window),
      .min = 2,
      .max = UINT32_MAX,
      .help = "tokens in a window; default: 512, with --ids the array's" },
    { .name = "windows",
      .type = CLI_U64,
      .argument = "N",
      .offset = offsetof(eval_args, windows),
      .min = 1,
      .help = "at most so many windows; default: all" },
    { .name = "against",
      .type = CLI_TEXT,
      .argument = "MODEL",
      .offset = offsetof(eval_args, against),
      .help = "compares with this model: KL divergence and agreement" },
    { .name = "fast-prompts",
      .type = CLI_FLAG,
      .offset = offsetof(eval_args, fast_prompts),
      .help = "weights rounded to 8 bits, as run and chat read prompts on\n"
              "CPUs with AVX-512; MODEL against itself shows what it costs" },
    { .name = "json",
      .type = CLI_FLAG,
      .offset = offsetof(eval_args, json),
      .help = "writes one JSON object" },
    { .table = cli_model_options, .offset = offsetof(eval_args, model) },
    { 0 },
};

typedef struct token_list {
    upg_token *tokens;
    size_t     n;
    uint32_t   window;
} token_list;

static upg_status tokens_of_text(const eval_args *args, const char *path, const upg_model *model,
                                 token_list *list, upg_error *err)
{
    const upg_tokenizer *tokenizer;
    cli_bytes            file;
    upg_status           st = cli_need_tokenizer(path, model, &tokenizer, err);

    if (st == UPG_OK)
        st = cli_file_read(args->text, file_bytes_max, &file, err);
    if (st != UPG_OK)
        return st;
    st = cli_tokens_of(tokenizer, file.data, file.size, 0, &list->tokens, &list->n, err);
    if (st == UPG_E_DATA) {
        upg_error inner = *err;

        cli_error(err, st, "%s: %.440s", args->text, inner.message);
    }
    free(file.data);
    list->window = args->window ? args->window : WINDOW_DEFAULT;
    return st;
}

/* Cuts every row of the array into windows of `window` tokens; what is left of a row is dropped. */
static void cut_rows(cli_ids *array, uint32_t window)
{
    uint64_t in_row = array->window / window;
    size_t   out = 0;

    for (uint64_t row = 0; row < array->windows; row++) {
        memmove(array->tokens + out, array->tokens + row * array->window,
                in_row * window * sizeof *array->tokens);
        out += in_row * window;
    }
    array->n = out;
}

static upg_status tokens_of_ids(const eval_args *args, token_list *list, upg_error *err)
{
    cli_bytes  file;
    cli_ids    array;
    upg_status st = cli_file_read(args->ids, file_bytes_max, &file, err);

    if (st != UPG_OK)
        return st;
    st = cli_ids_parse(args->ids, (const uint8_t *)file.data, file.size, &array, err);
    free(file.data);
    if (st != UPG_OK)
        return st;
    if (array.window < 2 || array.window > UINT32_MAX || array.window < args->window) {
        free(array.tokens);
        return cli_error(err, UPG_E_UNSUPPORTED,
                         "%s: rows of %" PRIu64 " ids, needed: at least %" PRIu32, args->ids,
                         array.window, args->window ? args->window : 2);
    }
    list->window = args->window ? args->window : (uint32_t)array.window;
    cut_rows(&array, list->window);
    list->tokens = array.tokens;
    list->n = array.n;
    return UPG_OK;
}

static int print_json(const cli_command *command, const upg_eval_result *r, bool against)
{
    json_t *object = json_object();

    cli_json_real(object, "perplexity", r->perplexity);
    cli_json_real(object, "nll", r->nll);
    cli_json_u64(object, "tokens", r->tokens);
    cli_json_u64(object, "windows", r->windows);
    cli_json_real(object, "top1", r->top1);
    if (against) {
        cli_json_real(object, "kl_mean", r->kl_mean);
        cli_json_real(object, "kl_p99", r->kl_p99);
        cli_json_real(object, "top1_agreement", r->top1_agreement);
        cli_json_real(object, "ppl_ratio", r->ppl_ratio);
        cli_json_real(object, "against_perplexity", r->against_perplexity);
        cli_json_real(object, "against_nll", r->against_nll);
    }
    cli_json_real(object, "seconds", r->seconds);
    return cli_json_print(command, object);
}

static int print_table(const upg_eval_result *r, uint32_t window, bool against)
{
    printf("%-22s%.4f\n", "perplexity", r->perplexity);
    printf("%-22s%.6f nats a token\n", "nll", r->nll);
    printf("%-22s%" PRIu64 " in %" PRIu64 " windows of %" PRIu32 "\n", "tokens scored", r->tokens,
           r->windows, window);
    printf("%-22s%.2f %%\n", "top-1", 100 * r->top1);
    if (against) {
        printf("%-22s%.4f\n", "against: perplexity", r->against_perplexity);
        printf("%-22s%.6f\n", "perplexity ratio", r->ppl_ratio);
        printf("%-22s%.6f nats, 99th percentile %.6f\n", "KL(against || MODEL)", r->kl_mean,
               r->kl_p99);
        printf("%-22s%.2f %%\n", "top-1 agreement", 100 * r->top1_agreement);
    }
    printf("%-22s%.1f s, %.0f tok/s\n", "time", r->seconds,
           r->seconds > 0 ? (double)r->tokens / r->seconds : 0);
    return cli_finish_output();
}

static int run(const cli_command *command, int argc, char **argv)
{
    eval_args        args = { 0 };
    cli_parsed       parsed;
    cli_model_args   exact;
    cli_progress     progress;
    upg_error        err;
    upg_model       *model = NULL, *against = NULL;
    token_list       list = { 0 };
    upg_eval_result  result = { .struct_size = sizeof result };
    upg_eval_options how = { .struct_size = sizeof how };
    upg_status       st;
    int              exit_code = cli_parse(command, argc, argv, &args, &parsed);

    if (exit_code >= 0)
        return exit_code;
    if (!args.text == !args.ids)
        return cli_usage(command, "give the text by one of --text and --ids");
    exact = args.model;
    exact.lut8 = false; /* what MODEL is compared with is computed as the file says */
    cli_progress_init(&progress, args.model.quiet);
    st = cli_open_model(parsed.operands[0], &args.model, &progress, &model, &err);
    if (st == UPG_OK && args.against)
        st = cli_open_model(args.against, &exact, &progress, &against, &err);
    if (st == UPG_OK)
        st = args.text ? tokens_of_text(&args, parsed.operands[0], model, &list, &err)
                       : tokens_of_ids(&args, &list, &err);
    if (st == UPG_OK && list.n < list.window)
        st = cli_error(&err, UPG_E_DATA, "%s: %zu tokens are less than one window of %" PRIu32,
                       args.text ? args.text : args.ids, list.n, list.window);
    how.window = list.window;
    how.windows = args.windows;
    how.against = against;
    how.fast_prompts = args.fast_prompts;
    how.hooks = cli_progress_hooks(&progress);
    if (st == UPG_OK)
        st = upg_evaluate(model, list.tokens, list.n, &how, &result, &err);
    cli_progress_close(&progress);
    if (st == UPG_E_ARG) { /* ids or a window from outside that do not suit the model */
        upg_error inner = err;

        st = cli_error(&err, UPG_E_DATA, "%s: %.440s", args.text ? args.text : args.ids,
                       inner.message);
    }
    if (st != UPG_OK)
        exit_code = cli_report(command, st, &err);
    else if (args.json)
        exit_code = print_json(command, &result, against != NULL);
    else
        exit_code = print_table(&result, list.window, against != NULL);
    free(list.tokens);
    upg_model_close(against);
    upg_model_close(model);
    return exit_code;
}

const cli_command cli_eval = {
    .name = "eval",
    .arguments = "MODEL (--text FILE | --ids FILE.npy) [options]",
    .summary = "measures perplexity, and the distance from another model",
    .about = "Measures perplexity over windows of tokens that do not overlap. The last partial\n"
             "window is dropped, no BOS is inserted, the first token of a window is not scored.\n"
             "With --against also the KL divergence KL(against || MODEL) in nats, the share of\n"
             "tokens whose likeliest successor is the same, and the ratio of perplexities.",
    .options = options,
    .n_operands = 1,
    .run = run,
};
