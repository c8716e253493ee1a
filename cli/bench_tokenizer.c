/* bench_tokenizer.c: `upg bench --tokenizer`: megabytes of text a second, on one core. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "bench.h"
#include "report.h"
#include "signals.h"
#include "text_file.h"

static const size_t text_bytes_max = (size_t)1 << 32;

static upg_status time_tokenizer(const upg_tokenizer *tokenizer, const cli_bytes *text,
                                 uint32_t repetitions, bench_series *s, size_t *n, upg_error *err)
{
    upg_token *tokens = NULL;
    upg_status st = cli_tokens_of(tokenizer, text->data, text->size, 0, &tokens, n, err);

    while (st == UPG_OK && s->n < repetitions && !cli_signals_caught()) {
        double start = cli_now_s();

        st = upg_tokenize(tokenizer, text->data, text->size, 0, tokens, *n, n, err);
        bench_add(s, 1e-6 * (double)text->size / (cli_now_s() - start));
    }
    free(tokens);
    return st;
}

static int print_json(const cli_command *command, bench_series *s, size_t bytes, size_t n)
{
    json_t *object = json_object(), *part = json_object();

    cli_json_text(part, "unit", "MB/s");
    cli_json_real(part, "median", bench_median(s));
    cli_json_real(part, "spread", bench_spread(s));
    cli_json_u64(part, "repetitions", s->n);
    cli_json_u64(part, "bytes", bytes);
    cli_json_u64(part, "tokens", n);
    json_object_set_new(object, "tokenizer", part);
    return cli_json_print(command, object);
}

static int print_text(bench_series *s, size_t bytes, size_t n)
{
    double middle = bench_median(s);

    printf("tokenizer, one core %10.1f MB/s   (%.1f to %.1f in %" PRIu32 " runs)\n", middle,
           s->values[0], s->values[s->n - 1], s->n);
    printf("  text              %10zu bytes, %zu tokens\n", bytes, n);
    return cli_finish_output();
}

int bench_tokenizer(const cli_command *command, const bench_args *args)
{
    upg_error      err;
    upg_tokenizer *tokenizer = NULL;
    cli_bytes      text = { 0 };
    bench_series  *s = calloc(1, sizeof *s);
    size_t         n = 0;
    upg_status     st;
    int            exit_code;

    if (!s)
        return cli_fail(command, CLI_RESOURCES, "out of memory");
    st = upg_tokenizer_open(args->path, &tokenizer, &err);
    if (st == UPG_OK)
        st = cli_file_read(args->tokenizer, text_bytes_max, &text, &err);
    if (st == UPG_OK)
        st = time_tokenizer(tokenizer, &text, args->repetitions, s, &n, &err);
    if (st != UPG_OK)
        exit_code = cli_report(command, st, &err);
    else if (cli_signals_caught())
        exit_code = cli_signals_exit_code();
    else
        exit_code = args->json ? print_json(command, s, text.size, n) : print_text(s, text.size, n);
    upg_tokenizer_close(tokenizer);
    free(text.data);
    free(s);
    return exit_code;
}
