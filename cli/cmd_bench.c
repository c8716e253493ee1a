/* cmd_bench.c: `upg bench`: decode, prefill and tokenizer speed, beside the limit that the memory
 * sets, measured in the same run. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "generate.h"
#include "report.h"
#include "signals.h"
#include "text_file.h"

enum { REPETITIONS_DEFAULT = 10, REPETITIONS_MAX = 1000, WARM_UP_TOKENS = 4 };
static const size_t text_bytes_max = (size_t)1 << 32;

typedef struct bench_args {
    uint32_t       decode, prompt, repetitions;
    const char    *tokenizer;
    bool           json;
    cli_model_args model;
} bench_args;

static const cli_option options[] = {
    { .name = "tokens",
      .letter = 'n',
      .type = CLI_U32,
      .argument = "N",
      .offset = offsetof(bench_args, decode),
      .max = 1e6,
      .help = "decodes N tokens; 0 = leaves it out; default: 64" },
    { .name = "prompt",
      .letter = 'p',
      .type = CLI_U32,
      .argument = "N",
      .offset = offsetof(bench_args, prompt),
      .max = 1e6,
      .help = "reads a prompt of N tokens; 0 = leaves it out; default: 256" },
    { .name = "repetitions",
      .letter = 'r',
      .type = CLI_U32,
      .argument = "N",
      .offset = offsetof(bench_args, repetitions),
      .min = 5,
      .max = REPETITIONS_MAX,
      .help = "of each measurement; default: 10" },
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

/* Repeated measurements of one rate. */
typedef struct series {
    double   rates[REPETITIONS_MAX];
    uint32_t n;
} series;

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(series *s)
{
    qsort(s->rates, s->n, sizeof s->rates[0], ascending);
    return s->n % 2 ? s->rates[s->n / 2] : (s->rates[s->n / 2 - 1] + s->rates[s->n / 2]) / 2;
}

static json_t *series_json(series *s, const char *unit)
{
    json_t *object = json_object();

    cli_json_text(object, "unit", unit);
    cli_json_real(object, "median", median(s));
    cli_json_real(object, "min", s->rates[0]);
    cli_json_real(object, "max", s->rates[s->n - 1]);
    cli_json_u64(object, "repetitions", s->n);
    return object;
}

static void print_series(const char *what, series *s, const char *unit)
{
    double middle = median(s);

    printf("%-22s%10.1f %s   (%.1f to %.1f in %" PRIu32 " runs)\n", what, middle, unit, s->rates[0],
           s->rates[s->n - 1], s->n);
}

/* Ids that are spread over the vocabulary and equal in every run. */
static upg_token *made_up_tokens(uint32_t n, uint32_t vocab_size)
{
    upg_token *tokens = malloc(((size_t)n + 1) * sizeof *tokens);
    uint64_t   state = 1;

    for (uint32_t i = 0; tokens && i < n; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        tokens[i] = (upg_token)((state >> 33) % vocab_size);
    }
    return tokens;
}

static upg_status time_prefill(upg_session *session, const upg_token *tokens, uint32_t n,
                               double *rate, upg_error *err)
{
    upg_status st = upg_session_rewind(session, 0, err);
    double     start = cli_now_s();

    if (st == UPG_OK)
        st = upg_prefill(session, tokens, n, NULL, err);
    *rate = n / (cli_now_s() - start);
    return st;
}

static upg_status time_decode(upg_session *session, const upg_token *tokens, uint32_t n,
                              double *rate, upg_error *err)
{
    upg_status st = upg_session_rewind(session, 0, err);
    double     start;

    if (st == UPG_OK)
        st = upg_prefill(session, tokens, WARM_UP_TOKENS, NULL, err);
    start = cli_now_s();
    for (uint32_t i = 0; i < n && st == UPG_OK; i++) {
        upg_step step = { 0 };

        st = upg_decode(&session, 1, &step, err);
        if (st == UPG_OK && step.status != UPG_OK)
            st = cli_error(err, step.status, "after %" PRIu32 " of %" PRIu32 " tokens: %s", i, n,
                           upg_session_message(session));
    }
    *rate = n / (cli_now_s() - start);
    return st;
}

typedef upg_status timer(upg_session *session, const upg_token *tokens, uint32_t n, double *rate,
                         upg_error *err);

/* Runs once to warm up, then `repetitions` times. */
static upg_status repeat(timer *run_once, upg_session *session, const upg_token *tokens, uint32_t n,
                         uint32_t repetitions, series *s, upg_error *err)
{
    upg_status st = run_once(session, tokens, n, &s->rates[0], err);

    for (s->n = 0; st == UPG_OK && s->n < repetitions; s->n++)
        st = run_once(session, tokens, n, &s->rates[s->n], err);
    return st;
}

/* Bytes of weights read for one token: all, but for a separate embedding, of which one row is. */
static uint64_t bytes_per_token(const upg_model *model)
{
    upg_tensor_info tensor = { .struct_size = sizeof tensor };
    uint64_t        all = 0, embedding = 0;
    bool            has_head = false;
    upg_error       err;

    for (size_t i = 0; upg_model_tensor(model, i, &tensor, &err) == UPG_OK; i++) {
        all += tensor.bytes;
        if (strstr(tensor.name, "embed_tokens"))
            embedding += tensor.bytes;
        if (strstr(tensor.name, "lm_head"))
            has_head = true;
    }
    return has_head ? all - embedding : all;
}

typedef struct outcome {
    series           decode, prefill;
    uint64_t         token_bytes;
    upg_machine_info machine;
    upg_model_info   model;
} outcome;

static upg_status measure(const bench_args *args, upg_model *model, outcome *out, upg_error *err)
{
    upg_session *session = NULL;
    upg_token   *tokens = NULL;
    uint32_t     n_tokens = args->prompt > WARM_UP_TOKENS ? args->prompt : WARM_UP_TOKENS;
    upg_status   st = upg_model_describe(model, &out->model, err);

    if (st == UPG_OK && !(tokens = made_up_tokens(n_tokens, out->model.vocab_size)))
        st = cli_error(err, UPG_E_NOMEM, "no memory for %" PRIu32 " tokens", n_tokens);
    if (st == UPG_OK && (args->prompt > out->model.context_tokens ||
                         args->decode + WARM_UP_TOKENS > out->model.context_tokens))
        st = cli_error(err, UPG_E_CONTEXT,
                       "-p %" PRIu32 " or -n %" PRIu32 " is more than the context of %" PRIu32
                       " tokens",
                       args->prompt, args->decode, out->model.context_tokens);
    if (st == UPG_OK)
        st = upg_session_create(model, NULL, &session, err);
    cli_signals_watch_session(session);
    if (st == UPG_OK && args->decode > 0)
        st = repeat(time_decode, session, tokens, args->decode, args->repetitions, &out->decode,
                    err);
    if (st == UPG_OK && args->prompt > 0)
        st = repeat(time_prefill, session, tokens, args->prompt, args->repetitions, &out->prefill,
                    err);
    cli_signals_watch_session(NULL);
    if (st == UPG_OK)
        st = upg_machine_describe(&out->machine, err);
    out->token_bytes = bytes_per_token(model);
    upg_session_close(session);
    free(tokens);
    return st;
}

static int print_json(const cli_command *command, const bench_args *args, outcome *out)
{
    json_t *object = json_object(), *part;
    double  limit = 1e9 * out->machine.read_gb_s_all / (double)out->token_bytes;

    cli_json_text(object, "device", out->model.device);
    cli_json_text(object, "isa", out->machine.isa);
    cli_json_real(object, "read_gb_s", out->machine.read_gb_s_all);
    cli_json_u64(object, "bytes_per_token", out->token_bytes);
    if (out->decode.n > 0) {
        part = series_json(&out->decode, "tok/s");
        cli_json_u64(part, "tokens", args->decode);
        cli_json_real(part, "limit", limit);
        cli_json_real(part, "share_of_limit", median(&out->decode) / limit);
        json_object_set_new(object, "decode", part);
    }
    if (out->prefill.n > 0) {
        part = series_json(&out->prefill, "tok/s");
        cli_json_u64(part, "tokens", args->prompt);
        json_object_set_new(object, "prefill", part);
    }
    return cli_json_print(command, object);
}

static int print_text(const bench_args *args, outcome *out)
{
    double limit = 1e9 * out->machine.read_gb_s_all / (double)out->token_bytes;
    char   what[64], size[CLI_SIZE_TEXT];

    printf("device                %s\n", out->model.device);
    printf("instructions          %s\n", out->machine.isa);
    if (out->decode.n > 0) {
        snprintf(what, sizeof what, "decode, %" PRIu32 " tokens", args->decode);
        print_series(what, &out->decode, "tok/s");
        printf("%-22s%10.1f tok/s   (%.1f GB/s read by plain loads in this run, %s a token)\n",
               "  memory's limit", limit, out->machine.read_gb_s_all,
               cli_size_text(out->token_bytes, size));
        printf("%-22s%10.1f %%\n", "  share of it", 100 * median(&out->decode) / limit);
    }
    if (out->prefill.n > 0) {
        snprintf(what, sizeof what, "prompt, %" PRIu32 " tokens", args->prompt);
        print_series(what, &out->prefill, "tok/s");
    }
    return cli_finish_output();
}

static int bench_model(const cli_command *command, const bench_args *args, const char *path)
{
    cli_progress progress;
    upg_error    err;
    upg_model   *model = NULL;
    outcome     *out = calloc(1, sizeof *out);
    upg_status   st;
    int          exit_code;

    if (!out)
        return cli_fail(command, CLI_RESOURCES, "out of memory");
    out->machine.struct_size = sizeof out->machine;
    out->model.struct_size = sizeof out->model;
    cli_progress_init(&progress, args->model.quiet);
    st = cli_open_model(path, &args->model, &progress, &model, &err);
    if (st == UPG_OK)
        st = measure(args, model, out, &err);
    if (st == UPG_E_CANCELLED)
        exit_code = cli_signals_exit_code();
    else if (st != UPG_OK)
        exit_code = cli_report(command, st, &err);
    else
        exit_code = args->json ? print_json(command, args, out) : print_text(args, out);
    upg_model_close(model);
    free(out);
    return exit_code;
}

static upg_status time_tokenizer(const upg_tokenizer *tokenizer, const cli_bytes *text,
                                 uint32_t repetitions, series *s, size_t *n, upg_error *err)
{
    upg_token *tokens = NULL;
    upg_status st = cli_tokens_of(tokenizer, text->data, text->size, 0, &tokens, n, err);

    for (s->n = 0; st == UPG_OK && s->n < repetitions && !cli_signals_caught(); s->n++) {
        double start = cli_now_s();

        st = upg_tokenize(tokenizer, text->data, text->size, 0, tokens, *n, n, err);
        s->rates[s->n] = 1e-6 * (double)text->size / (cli_now_s() - start);
    }
    free(tokens);
    return st;
}

static int bench_tokenizer(const cli_command *command, const bench_args *args, const char *path)
{
    upg_error      err;
    upg_tokenizer *tokenizer = NULL;
    cli_bytes      text = { 0 };
    series        *s = calloc(1, sizeof *s);
    size_t         n = 0;
    upg_status     st;
    int            exit_code;

    if (!s)
        return cli_fail(command, CLI_RESOURCES, "out of memory");
    st = upg_tokenizer_open(path, &tokenizer, &err);
    if (st == UPG_OK)
        st = cli_file_read(args->tokenizer, text_bytes_max, &text, &err);
    if (st == UPG_OK)
        st = time_tokenizer(tokenizer, &text, args->repetitions, s, &n, &err);
    if (st != UPG_OK) {
        exit_code = cli_report(command, st, &err);
    } else if (cli_signals_caught()) {
        exit_code = cli_signals_exit_code();
    } else if (args->json) {
        json_t *object = json_object(), *part = series_json(s, "MB/s");

        cli_json_u64(part, "bytes", text.size);
        cli_json_u64(part, "tokens", n);
        json_object_set_new(object, "tokenizer", part);
        exit_code = cli_json_print(command, object);
    } else {
        print_series("tokenizer, one core", s, "MB/s");
        printf("%-22s%10zu bytes, %zu tokens\n", "  text", text.size, n);
        exit_code = cli_finish_output();
    }
    upg_tokenizer_close(tokenizer);
    free(text.data);
    free(s);
    return exit_code;
}

static int run(const cli_command *command, int argc, char **argv)
{
    bench_args args = { .decode = 64, .prompt = 256, .repetitions = REPETITIONS_DEFAULT };
    cli_parsed parsed;
    int        exit_code = cli_parse(command, argc, argv, &args, &parsed);

    if (exit_code >= 0)
        return exit_code;
    if (args.decode == 0 && args.prompt == 0 && !args.tokenizer)
        return cli_usage(command, "-n 0 with -p 0 leaves nothing to measure");
    return args.tokenizer ? bench_tokenizer(command, &args, parsed.operands[0])
                          : bench_model(command, &args, parsed.operands[0]);
}

const cli_command cli_bench = {
    .name = "bench",
    .arguments = "MODEL [options]",
    .summary = "measures decode, prompt and tokenizer speed",
    .about = "Measures how many tokens a second the model generates and reads, each several\n"
             "times: median and spread, beside what the memory allows, measured in the same\n"
             "run: read bandwidth / bytes of weights read for a token.",
    .options = options,
    .n_operands = 1,
    .run = run,
};
