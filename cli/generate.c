/* generate.c: sessions and the generation loop, by the public API alone. */
#include "generate.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "report.h"
#include "signals.h"

const cli_option cli_model_options[] = {
    { .name = "device",
      .type = CLI_TEXT,
      .argument = "DEVICE",
      .offset = offsetof(cli_model_args, device),
      .help = "where to run: cpu, ref, cuda:0, ...; default: the best\nthere is" },
    { .name = "threads",
      .letter = 't',
      .type = CLI_U32,
      .argument = "N",
      .offset = offsetof(cli_model_args, threads),
      .min = 1,
      .max = 1024,
      .help = "CPU threads; default: one per physical core" },
    { .name = "max-memory",
      .type = CLI_BYTES,
      .argument = "SIZE",
      .offset = offsetof(cli_model_args, max_memory),
      .min = 1,
      .help = "for weights and scratch, such as 8G; default: what\nthere is" },
    { .name = "lut8",
      .type = CLI_FLAG,
      .offset = offsetof(cli_model_args, lut8),
      .help = "few tokens by tables of 8 bits: a little faster on CPUs\n"
              "with AVX2 alone, a little less exact" },
    { .name = "no-pin",
      .type = CLI_FLAG,
      .offset = offsetof(cli_model_args, unpinned),
      .help = "leaves threads to the system instead of binding them to\n"
              "cores, as is better where others use these too" },
    { .name = "check",
      .type = CLI_FLAG,
      .offset = offsetof(cli_model_args, check),
      .help = "compares all checksums of the file before the start" },
    { .name = "check-lazily",
      .type = CLI_FLAG,
      .offset = offsetof(cli_model_args, check_lazily),
      .help = "compares the checksum of each MiB before it is read first" },
    { .name = "quiet",
      .letter = 'q',
      .type = CLI_FLAG,
      .offset = offsetof(cli_model_args, quiet),
      .help = "no progress, notes or statistics on standard error" },
    { 0 },
};

const cli_option cli_sampling_options[] = {
    { .name = "temp",
      .type = CLI_FLOAT,
      .argument = "T",
      .offset = offsetof(cli_sampling_args, temperature),
      .max = 100,
      .help = "temperature; 0 = always the likeliest token; default: the\n"
              "model's generation_config.json, else 0" },
    { .name = "top-k",
      .type = CLI_U32,
      .argument = "K",
      .offset = offsetof(cli_sampling_args, top_k),
      .max = 1e9,
      .help = "chooses among the K likeliest; 0 = off" },
    { .name = "top-p",
      .type = CLI_FLOAT,
      .argument = "P",
      .offset = offsetof(cli_sampling_args, top_p),
      .max = 1,
      .help = "chooses among the likeliest that sum to P; 0 = off" },
    { .name = "min-p",
      .type = CLI_FLOAT,
      .argument = "P",
      .offset = offsetof(cli_sampling_args, min_p),
      .max = 1,
      .help = "drops tokens below P times the likeliest; 0 = off" },
    { .name = "repeat-penalty",
      .type = CLI_FLOAT,
      .argument = "R",
      .offset = offsetof(cli_sampling_args, repetition),
      .max = 100,
      .help = "weakens tokens seen before; 0 or 1 = off" },
    { .name = "presence-penalty",
      .type = CLI_FLOAT,
      .argument = "R",
      .offset = offsetof(cli_sampling_args, presence),
      .max = 100,
      .help = "taken once from the logit of tokens seen before" },
    { .name = "frequency-penalty",
      .type = CLI_FLOAT,
      .argument = "R",
      .offset = offsetof(cli_sampling_args, frequency),
      .max = 100,
      .help = "taken from the logit for every time seen before" },
    { .name = "seed",
      .type = CLI_U64,
      .argument = "S",
      .offset = offsetof(cli_sampling_args, seed),
      .help = "the same seed gives the same text; default: 0" },
    { .name = "stop",
      .type = CLI_LIST,
      .argument = "TEXT",
      .offset = offsetof(cli_sampling_args, stops),
      .help = "ends the text before TEXT; may be given several times" },
    { .name = "context",
      .type = CLI_U32,
      .argument = "N",
      .offset = offsetof(cli_sampling_args, context),
      .letter = 'c',
      .min = 1,
      .max = UINT32_MAX,
      .help = "tokens of context; default: the model's" },
    { .name = "shift",
      .type = CLI_FLAG,
      .offset = offsetof(cli_sampling_args, shift),
      .help = "when the context is full, drops its oldest half and\n"
              "goes on; default: stops" },
    { .name = "kv-int8",
      .type = CLI_FLAG,
      .offset = offsetof(cli_sampling_args, kv_int8),
      .help = "keys and values in 8 bits: half the memory" },
    { .name = "exact-prompts",
      .type = CLI_FLAG,
      .offset = offsetof(cli_sampling_args, exact_prompts),
      .help = "reads prompts as exactly as answers; otherwise GPUs and\n"
              "CPUs with AVX-512 round weights to 8 bits: faster" },
    { .name = "draft",
      .type = CLI_U32,
      .argument = "N",
      .offset = offsetof(cli_sampling_args, draft),
      .max = 7,
      .help = "guesses up to N tokens from what followed the last ones\n"
              "before: the same text, faster where it repeats itself;\n"
              "default: 0, off" },
    { 0 },
};

double cli_now_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

upg_status cli_open_model(const char *path, const cli_model_args *args, cli_progress *progress,
                          upg_model **model, upg_error *err)
{
    upg_model_options options = {
        .struct_size = sizeof options,
        .device = args->device,
        .threads = args->threads,
        .verify = args->check          ? 2
                  : args->check_lazily ? 1
                                       : 0,
        .max_memory = args->max_memory,
        .hooks = cli_progress_hooks(progress),
        .lut8 = args->lut8,
        .unfused = args->unfused,
        .unpinned = args->unpinned,
    };
    upg_status st = upg_model_open(path, &options, model, err);

    cli_progress_close(progress);
    return st;
}

upg_status cli_need_tokenizer(const char *path, const upg_model *model,
                              const upg_tokenizer **tokenizer, upg_error *err)
{
    *tokenizer = upg_model_tokenizer(model);
    if (*tokenizer)
        return UPG_OK;
    return cli_error(err, UPG_E_NOT_FOUND, "%s: the model has no tokenizer.json", path);
}

/* What is on the command line goes before the model's own file. */
static void apply_sampling(const cli_sampling_args *args, const cli_parsed *parsed,
                           upg_sampling *sampling)
{
    if (cli_given(parsed, "temp"))
        sampling->temperature = args->temperature;
    if (cli_given(parsed, "top-k"))
        sampling->top_k = args->top_k;
    if (cli_given(parsed, "top-p"))
        sampling->top_p = args->top_p;
    if (cli_given(parsed, "min-p"))
        sampling->min_p = args->min_p;
    if (cli_given(parsed, "repeat-penalty"))
        sampling->repetition_penalty = args->repetition;
    if (cli_given(parsed, "presence-penalty"))
        sampling->presence_penalty = args->presence;
    if (cli_given(parsed, "frequency-penalty"))
        sampling->frequency_penalty = args->frequency;
    if (cli_given(parsed, "seed"))
        sampling->seed = args->seed;
}

upg_status cli_open_session(upg_model *model, const cli_sampling_args *args,
                            const cli_parsed *parsed, upg_session **session, uint32_t *context,
                            upg_sampling *sampling, upg_error *err)
{
    upg_session_options options = { .struct_size = sizeof options,
                                    .context_tokens = args->context,
                                    .draft_tokens = args->draft,
                                    .kv_int8 = args->kv_int8,
                                    .fast_prompts = !args->exact_prompts,
                                    .shift_when_full = args->shift };
    upg_model_info      info = { .struct_size = sizeof info };
    upg_status          st;

    *session = NULL;
    *sampling = (upg_sampling) { .struct_size = sizeof *sampling };
    st = upg_model_describe(model, &info, err);
    if (st == UPG_OK)
        st = upg_model_sampling(model, sampling, err);
    if (st != UPG_OK)
        return st;
    apply_sampling(args, parsed, sampling);
    *context = args->context ? args->context : info.context_tokens;
    st = upg_session_create(model, &options, session, err);
    if (st == UPG_OK)
        st = upg_session_set_sampling(*session, sampling, err);
    if (st != UPG_OK) {
        upg_session_close(*session);
        *session = NULL;
    }
    return st;
}

upg_status cli_check_context(const char *what, size_t n, uint32_t context, upg_error *err)
{
    if (n < context)
        return UPG_OK;
    if (n == context)
        return cli_error(err, UPG_E_CONTEXT,
                         "the %s has %zu tokens and fills the context of %" PRIu32
                         ": no room for an answer",
                         what, n, context);
    return cli_error(err, UPG_E_CONTEXT,
                     "the %s has %zu tokens, the context holds %" PRIu32
                     ": nothing was cut off; shorten it or raise --context",
                     what, n, context);
}

/* Doubles an array until it holds `need` elements; false without memory. */
static bool make_room(void **data, size_t *cap, size_t need, size_t size)
{
    size_t larger = *cap ? *cap : 256;
    void  *moved;

    while (larger < need)
        larger *= 2;
    if (larger == *cap)
        return true;
    moved = realloc(*data, larger * size);
    if (!moved)
        return false;
    *data = moved;
    *cap = larger;
    return true;
}

static upg_status show(cli_generated *out, const char *text, size_t bytes, upg_error *err)
{
    void *data = out->text;

    if (bytes == 0)
        return UPG_OK;
    if (!make_room(&data, &out->text_cap, out->text_bytes + bytes, 1))
        return cli_error(err, UPG_E_NOMEM, "no memory for the text");
    out->text = data;
    memcpy(out->text + out->text_bytes, text, bytes);
    out->text_bytes += bytes;
    if (fwrite(text, 1, bytes, stdout) != bytes || fflush(stdout) != 0)
        return cli_error(err, errno == ENOSPC ? UPG_E_NOSPACE : UPG_E_IO,
                         "writing to standard output failed: %s", strerror(errno));
    return UPG_OK;
}

static upg_status keep_token(cli_generated *out, upg_token token, upg_error *err)
{
    void *data = out->tokens;

    if (!make_room(&data, &out->tokens_cap, out->n_tokens + 1, sizeof token))
        return cli_error(err, UPG_E_NOMEM, "no memory for the tokens");
    out->tokens = data;
    out->tokens[out->n_tokens++] = token;
    return UPG_OK;
}

/* One token; *done says that the generation has ended. */
static upg_status generate_step(upg_session *session, upg_stream *stream, bool *done,
                                cli_generated *out, upg_error *err)
{
    upg_step    step = { 0 };
    const char *text;
    size_t      bytes;
    bool        stopped = false;
    upg_status  st = upg_decode(&session, 1, &step, err);

    *done = true;
    if (st == UPG_OK && step.status != UPG_OK) {
        out->ending = step.status == UPG_E_CONTEXT ? CLI_END_CONTEXT : CLI_END_CANCELLED;
        if (step.status == UPG_E_CONTEXT || step.status == UPG_E_CANCELLED)
            return UPG_OK;
        return cli_error(err, step.status, "%.480s", upg_session_message(session));
    }
    out->guessed += step.guessed;
    if (st == UPG_OK)
        st = keep_token(out, step.token, err);
    if (st != UPG_OK)
        return st;
    if (step.end) {
        out->ending = CLI_END_TOKEN;
        return UPG_OK;
    }
    st = upg_stream_push(stream, step.token, &text, &bytes, &stopped, err);
    if (st == UPG_OK)
        st = show(out, text, bytes, err);
    if (stopped)
        out->ending = CLI_END_STOP;
    *done = st != UPG_OK || stopped;
    return st;
}

static upg_status generate_text(upg_session *session, upg_stream *stream, uint64_t max_tokens,
                                cli_generated *out, upg_error *err)
{
    double      start = cli_now_s();
    upg_status  st = UPG_OK;
    bool        done = false, stopped = false;
    const char *text;
    size_t      bytes;

    out->ending = CLI_END_LIMIT;
    for (uint64_t i = 0; i < max_tokens && !done && st == UPG_OK; i++)
        st = generate_step(session, stream, &done, out, err);
    out->decode_s = cli_now_s() - start;
    if (st == UPG_OK && out->ending != CLI_END_STOP) {
        st = upg_stream_push(stream, -1, &text, &bytes, &stopped, err);
        if (st == UPG_OK)
            st = show(out, text, bytes, err);
    }
    return st;
}

upg_status cli_generate(upg_session *session, const upg_tokenizer *tokenizer, const cli_list *stops,
                        bool show_special, const upg_token *tokens, size_t n, uint64_t max_tokens,
                        cli_generated *out, upg_error *err)
{
    upg_stream_options options = { .struct_size = sizeof options,
                                   .stops = stops->items,
                                   .stop_count = stops->count,
                                   .show_special = show_special };
    upg_stream        *stream = NULL;
    double             start = cli_now_s();
    upg_status         st = upg_stream_create(tokenizer, &options, &stream, err);

    cli_signals_watch_session(session);
    if (st == UPG_OK && cli_signals_caught()) /* it came before there was a session to cancel */
        st = cli_error(err, UPG_E_CANCELLED, "interrupted");
    if (st == UPG_OK)
        st = upg_prefill(session, tokens, n, NULL, err);
    out->prompt_tokens = n;
    out->prompt_s = cli_now_s() - start;
    if (st == UPG_E_CANCELLED) {
        out->ending = CLI_END_CANCELLED;
        st = UPG_OK;
    } else if (st == UPG_OK) {
        st = generate_text(session, stream, max_tokens, out, err);
    }
    cli_signals_watch_session(NULL);
    upg_stream_close(stream);
    return st;
}

void cli_generated_free(cli_generated *generated)
{
    free(generated->text);
    free(generated->tokens);
    *generated = (cli_generated) { 0 };
}

void cli_print_statistics(const cli_generated *g, const upg_sampling *sampling)
{
    static const char *const endings[] = { "end token", "stop string", "token limit",
                                           "context full", "interrupted" };
    double prompt_rate = g->prompt_s > 0 ? (double)g->prompt_tokens / g->prompt_s : 0;
    double rate = g->decode_s > 0 ? (double)g->n_tokens / g->decode_s : 0;

    fprintf(stderr, "prompt %zu tokens, %.1f tok/s; decode %zu tokens, %.1f tok/s; %s",
            g->prompt_tokens, prompt_rate, g->n_tokens, rate, endings[g->ending]);
    if (g->guessed > 0)
        fprintf(stderr, "; %zu guessed", g->guessed);
    if (sampling->temperature > 0)
        fprintf(stderr,
                "; temperature %g, top-k %" PRIu32 ", top-p %g, min-p %g, seed %" PRIu64 "\n",
                (double)sampling->temperature, sampling->top_k, (double)sampling->top_p,
                (double)sampling->min_p, sampling->seed);
    else
        fprintf(stderr, "; greedy\n");
}
