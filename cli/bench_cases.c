/* bench_cases.c: how many tokens a second a model decodes and reads, at depths and thread counts.
 *
 * Before each run of a case the machine's limits are measured with as many threads, so that a
 * disturbance meets both. A case is
 *
 *   tgN     N tokens decoded one by one behind a few tokens; tgN@dD: behind D tokens
 *   ppN     a prompt of N tokens; ppN@dD: behind D tokens; ppN-exact: without weights of 8 bits
 *   edit    an answer that is the prompt with changes, without guesses; edit+draftN: with them */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "report.h"
#include "signals.h"

enum { FAST_FROM_TOKENS = 33 }; /* upg.h, upg_session_options.fast_prompts */

typedef struct bench_case {
    char         name[48];
    bool         prompt, exact;
    uint32_t     n, depth, threads;
    bench_series rate; /* tokens a second */
    double       token_bytes, token_macs;
    bool         edit;
    double       guessed; /* share of tokens that needed no pass */
} bench_case;

/* The limits with one number of threads. */
typedef struct limits {
    uint32_t     threads;
    bench_series reads, int8; /* GB/s; 1e9 multiply-adds a second */
} limits;

typedef struct bench_run {
    const bench_args *args;
    const bench_list *depths;
    char              device[128];
    bool              host; /* the device reads the memory that was measured */
    bench_case        cases[3 * BENCH_MAX_LIST * (BENCH_MAX_LIST + 1)];
    uint32_t          n_cases;
    limits            limits[BENCH_MAX_LIST];
    uint32_t          n_limits;
    double load_s, first_s; /* from the file to a model that runs, and from there to a token */
} bench_run;

/* What one number of threads needs. */
typedef struct stage {
    bench_run     *run;
    upg_model     *model;
    upg_probe     *probe;
    limits        *limits;
    upg_session   *session;
    upg_model_info info;
    upg_token     *tokens; /* for the deepest case */
} stage;

/* ---- one case ---------------------------------------------------------------------------------
 */

/* Bytes that a token of the case reads: weights, once a batch for prompts, and the cache. */
static double bytes_of(const stage *s, const bench_case *c)
{
    double kv = (double)(s->run->args->kv_int8 ? s->info.kv_bytes_int8 : s->info.kv_bytes);
    double rows = c->n < s->info.batch_tokens ? c->n : s->info.batch_tokens;

    if (c->prompt)
        return (double)s->info.token_bytes / rows;
    return (double)s->info.token_bytes + kv * (c->depth + c->n / 2.0);
}

/* The head is for the last token of a prompt alone. */
static double macs_of(const stage *s, const bench_case *c)
{
    double head = (double)s->info.head_macs;

    return (double)s->info.token_macs - (c->prompt ? head - head / c->n : 0);
}

/* Makes the session hold `depth` tokens, with logits for the last one. */
static upg_status go_to_depth(stage *s, uint32_t depth, upg_error *err)
{
    uint32_t   length = upg_session_length(s->session);
    upg_status st;

    if (depth == 0)
        return upg_session_rewind(s->session, 0, err);
    if (length >= depth)
        length = depth - 1; /* the last one again, for its logits */
    st = upg_session_rewind(s->session, length, err);
    if (st == UPG_OK)
        st = upg_prefill(s->session, s->tokens + length, depth - length, NULL, err);
    return st;
}

static upg_status run_once(stage *s, const bench_case *c, double *rate, upg_error *err)
{
    uint32_t   depth = c->prompt || c->depth > 0 ? c->depth : BENCH_WARM_UP_TOKENS;
    upg_status st = go_to_depth(s, depth, err);
    double     start = cli_now_s();

    if (st == UPG_OK)
        st = c->prompt ? upg_prefill(s->session, s->tokens + depth, c->n, NULL, err)
                       : bench_decode(s->session, c->n, err);
    *rate = c->n / (cli_now_s() - start);
    return st;
}

static void measure_limits(stage *s, bool with_int8)
{
    if (s->limits->reads.n < BENCH_MAX_REPETITIONS)
        bench_add(&s->limits->reads, upg_probe_reads(s->probe));
    if (with_int8 && s->limits->int8.n < BENCH_MAX_REPETITIONS)
        bench_add(&s->limits->int8, upg_probe_int8(s->probe));
}

static upg_status run_case(stage *s, bench_case what, upg_error *err)
{
    bench_case *c = &s->run->cases[s->run->n_cases];
    char        behind[24] = "";
    double      rate;
    upg_status  st;

    *c = what;
    if (c->depth > 0)
        snprintf(behind, sizeof behind, "@d%" PRIu32, c->depth);
    snprintf(c->name, sizeof c->name, "%s%" PRIu32 "%s%s", c->prompt ? "pp" : "tg", c->n, behind,
             c->exact ? "-exact" : "");
    c->threads = s->limits->threads;
    c->token_bytes = bytes_of(s, c);
    c->token_macs = macs_of(s, c);
    st = run_once(s, c, &rate, err); /* warms up */
    while (st == UPG_OK && c->rate.n < s->run->args->repetitions) {
        measure_limits(s, c->prompt || s->run->args->prompt == 0);
        st = run_once(s, c, &rate, err);
        bench_add(&c->rate, rate);
    }
    s->run->n_cases += st == UPG_OK;
    return st;
}

/* A prompt behind nothing by a session of its own, where exact products differ from what `run` and
 * `chat` do. */
static upg_status run_exact(stage *s, upg_error *err)
{
    upg_session *usual = s->session;
    uint32_t     n = s->run->args->prompt;
    upg_status   st = bench_session(s->model, s->run->args, n, 0, true, &s->session, err);

    if (st == UPG_OK) {
        cli_signals_watch_session(s->session);
        st = run_case(s, (bench_case) { .prompt = true, .exact = true, .n = n }, err);
        cli_signals_watch_session(usual);
        upg_session_close(s->session);
    }
    s->session = usual;
    return st;
}

/* ---- text editing -----------------------------------------------------------------------------
 */

enum { EDIT_TOKENS = 256, EDIT_CHANGED = 24 };

/* Decodes the prompt again with every EDIT_CHANGED-th token replaced, which a mask of one token
 * forces. */
static upg_status decode_edited(upg_session *session, const stage *s, uint32_t *guessed,
                                upg_error *err)
{
    uint32_t  *allowed = calloc(s->info.vocab_size / 32 + 1, sizeof *allowed);
    upg_status st = UPG_OK;

    *guessed = 0;
    if (!allowed)
        return cli_error(err, UPG_E_NOMEM, "no memory for a mask");
    for (uint32_t i = 0; i < EDIT_TOKENS && st == UPG_OK; i++) {
        bool      changed = i % EDIT_CHANGED == EDIT_CHANGED - 1;
        upg_token token = changed ? (upg_token)(i % s->info.vocab_size) : s->tokens[i];
        upg_step  step = { .allowed = allowed };

        allowed[token / 32] = 1u << token % 32;
        st = upg_decode(&session, 1, &step, err);
        allowed[token / 32] = 0;
        if (st == UPG_OK && step.status != UPG_OK)
            st = cli_error(err, step.status, "%.480s", upg_session_message(session));
        *guessed += step.guessed;
    }
    free(allowed);
    return st;
}

static upg_status edit_once(upg_session *session, const stage *s, double *rate, uint32_t *guessed,
                            upg_error *err)
{
    upg_status st = upg_session_rewind(session, 0, err);
    double     start;

    if (st == UPG_OK)
        st = upg_prefill(session, s->tokens, EDIT_TOKENS, NULL, err);
    start = cli_now_s();
    if (st == UPG_OK)
        st = decode_edited(session, s, guessed, err);
    *rate = EDIT_TOKENS / (cli_now_s() - start);
    return st;
}

static upg_status run_edit(stage *s, uint32_t draft, upg_error *err)
{
    bench_case  *c = &s->run->cases[s->run->n_cases];
    upg_session *session = NULL;
    uint32_t     guessed = 0;
    double       rate;
    upg_status   st =
        bench_session(s->model, s->run->args, 2 * EDIT_TOKENS, draft, false, &session, err);

    *c = (bench_case) { .name = "edit", .n = EDIT_TOKENS, .depth = EDIT_TOKENS, .edit = true };
    if (draft > 0)
        snprintf(c->name, sizeof c->name, "edit+draft%" PRIu32, draft);
    c->threads = s->limits->threads;
    c->token_bytes = bytes_of(s, c);
    cli_signals_watch_session(session);
    while (st == UPG_OK && c->rate.n < s->run->args->repetitions) {
        measure_limits(s, false);
        st = edit_once(session, s, &rate, &guessed, err);
        bench_add(&c->rate, rate);
    }
    cli_signals_watch_session(s->session);
    c->guessed = (double)guessed / EDIT_TOKENS;
    c->token_bytes *= 1 - c->guessed; /* passes for each token */
    upg_session_close(session);
    s->run->n_cases += st == UPG_OK;
    return st;
}

/* ---- one number of threads --------------------------------------------------------------------
 */

static uint32_t deepest(const bench_run *run)
{
    uint32_t most = 0;

    for (uint32_t i = 0; i < run->depths->n; i++)
        if (run->depths->items[i] > most)
            most = run->depths->items[i];
    return most;
}

static upg_status make_session(stage *s, upg_error *err)
{
    const bench_args *a = s->run->args;
    uint32_t          depth = deepest(s->run), context = s->info.context_tokens;
    uint32_t          after = a->decode + BENCH_WARM_UP_TOKENS;

    after = after > a->prompt ? after : a->prompt;
    if (depth > context || after > context - depth)
        return cli_error(err, UPG_E_CONTEXT,
                         "-n %" PRIu32 " or -p %" PRIu32 " behind %" PRIu32
                         " tokens is more than the context of %" PRIu32 " tokens",
                         a->decode, a->prompt, depth, context);
    s->tokens = bench_tokens(depth + after + EDIT_TOKENS, s->info.vocab_size);
    if (!s->tokens)
        return cli_error(err, UPG_E_NOMEM, "no memory for %" PRIu32 " tokens", depth + after);
    return bench_session(s->model, a, depth + after, 0, false, &s->session, err);
}

/* The first pass over a model: it meets every page of the file for the first time. */
static upg_status first_token(stage *s, double *seconds, upg_error *err)
{
    double     start = cli_now_s();
    upg_status st = upg_prefill(s->session, s->tokens, 1, NULL, err);

    *seconds = cli_now_s() - start;
    return st == UPG_OK ? upg_session_rewind(s->session, 0, err) : st;
}

static upg_status run_depths(stage *s, upg_error *err)
{
    const bench_args *a = s->run->args;
    upg_status        st = UPG_OK;

    for (uint32_t i = 0; i < s->run->depths->n && st == UPG_OK; i++) {
        uint32_t depth = s->run->depths->items[i];

        if (a->decode > 0)
            st = run_case(s, (bench_case) { .n = a->decode, .depth = depth }, err);
        if (st == UPG_OK && a->prompt > 0)
            st = run_case(s, (bench_case) { .prompt = true, .n = a->prompt, .depth = depth }, err);
        if (st == UPG_OK && a->prompt >= FAST_FROM_TOKENS && depth == 0 && s->info.fast_prompts &&
            !a->exact_prompts)
            st = run_exact(s, err);
    }
    if (st == UPG_OK && a->draft > 0)
        st = run_edit(s, 0, err);
    if (st == UPG_OK && a->draft > 0)
        st = run_edit(s, a->draft, err);
    return st;
}

static upg_status run_threads(bench_run *run, uint32_t threads, upg_error *err)
{
    stage      s = { .run = run, .limits = &run->limits[run->n_limits] };
    double     start = cli_now_s(), first_s = 0;
    upg_status st = bench_open(run->args, threads, &s.model, err);
    double     load_s = cli_now_s() - start;

    s.info.struct_size = sizeof s.info;
    if (st == UPG_OK)
        st = upg_model_describe(s.model, &s.info, err);
    if (st == UPG_OK)
        st = make_session(&s, err);
    if (st == UPG_OK)
        st = first_token(&s, &first_s, err);
    if (st == UPG_OK && run->n_limits == 0) {
        run->load_s = load_s;
        run->first_s = first_s;
    }
    if (st == UPG_OK)
        st = upg_probe_create(threads, &s.probe, err);
    if (st == UPG_OK) {
        s.limits->threads = upg_probe_threads(s.probe);
        run->n_limits++;
        snprintf(run->device, sizeof run->device, "%s", s.info.device);
        run->host = strncmp(s.info.device, "cpu", 3) == 0 || strncmp(s.info.device, "ref", 3) == 0;
        cli_signals_watch_session(s.session);
        st = run_depths(&s, err);
        cli_signals_watch_session(NULL);
    }
    upg_probe_close(s.probe);
    upg_session_close(s.session);
    upg_model_close(s.model);
    free(s.tokens);
    return st;
}

/* ---- results ----------------------------------------------------------------------------------
 */

static limits *limits_of(bench_run *run, const bench_case *c)
{
    for (uint32_t i = 0; i < run->n_limits; i++)
        if (run->limits[i].threads == c->threads)
            return &run->limits[i];
    return &run->limits[0];
}

/* Part of the reads that as many threads do; of no meaning where the device has its own memory. */
static double bandwidth_fraction(bench_run *run, bench_case *c)
{
    double reads = bench_median(&limits_of(run, c)->reads);

    return run->host && reads > 0 ? 1e-9 * c->token_bytes * bench_median(&c->rate) / reads : 0;
}

static double int8_fraction(bench_run *run, bench_case *c)
{
    double peak = bench_median(&limits_of(run, c)->int8);

    return run->host && peak > 0 ? 1e-9 * c->token_macs * bench_median(&c->rate) / peak : 0;
}

static json_t *case_json(bench_run *run, bench_case *c)
{
    json_t *object = json_object();

    cli_json_text(object, "name", c->name);
    cli_json_real(object, "tok_s", bench_median(&c->rate));
    cli_json_real(object, "spread", bench_spread(&c->rate));
    cli_json_real(object, "min", c->rate.values[0]);
    cli_json_real(object, "max", c->rate.values[c->rate.n - 1]);
    cli_json_u64(object, "repetitions", c->rate.n);
    cli_json_u64(object, "bytes_per_token", (uint64_t)c->token_bytes);
    if (run->host)
        cli_json_real(object, "bandwidth_fraction", bandwidth_fraction(run, c));
    else
        json_object_set_new(object, "bandwidth_fraction", json_null());
    if (c->prompt && run->host)
        cli_json_real(object, "int8_fraction", int8_fraction(run, c));
    if (c->edit)
        cli_json_real(object, "guessed", c->guessed);
    cli_json_u64(object, "threads", c->threads);
    cli_json_u64(object, "tokens", c->n);
    cli_json_u64(object, "depth", c->depth);
    return object;
}

static int print_json(const cli_command *command, bench_run *run)
{
    json_t *object = json_object(), *reads = json_object(), *peaks = json_object();
    json_t *cases = json_array();
    double  most = 0, load[1] = { 0 };
    char    key[16];

    for (uint32_t i = 0; i < run->n_limits; i++) {
        double peak = bench_median(&run->limits[i].int8);

        snprintf(key, sizeof key, "%" PRIu32, run->limits[i].threads);
        cli_json_real(reads, key, bench_median(&run->limits[i].reads));
        cli_json_real(peaks, key, peak);
        most = peak > most ? peak : most;
    }
    for (uint32_t i = 0; i < run->n_cases; i++)
        json_array_append_new(cases, case_json(run, &run->cases[i]));
    cli_json_text(object, "model", run->args->synthetic ? run->args->synthetic : run->args->path);
    cli_json_text(object, "device", run->device);
    if (getloadavg(load, 1) == 1)
        cli_json_real(object, "load", load[0]);
    cli_json_real(object, "load_s", run->load_s);
    cli_json_real(object, "first_token_s", run->first_s);
    json_object_set_new(object, "read_gb_s", reads);
    cli_json_real(object, "int8_peak", most);
    json_object_set_new(object, "int8_peak_by_threads", peaks);
    json_object_set_new(object, "cases", cases);
    return cli_json_print(command, object);
}

static void print_case(bench_run *run, bench_case *c)
{
    double middle = bench_median(&c->rate);

    printf("%-16s%8" PRIu32 "%11.2f  %8.2f … %-8.2f", c->name, c->threads, middle,
           c->rate.values[0], c->rate.values[c->rate.n - 1]);
    if (run->host)
        printf("%8.1f %%", 100 * bandwidth_fraction(run, c));
    if (run->host && c->prompt)
        printf("%8.1f %%", 100 * int8_fraction(run, c));
    if (c->guessed > 0)
        printf("   %.0f %% of the tokens guessed", 100 * c->guessed);
    putchar('\n');
}

static int print_text(bench_run *run)
{
    double load[1];

    printf("device    %s\n", run->device);
    if (getloadavg(load, 1) == 1)
        printf("load      %.1f (mean of the last minute, this run included)\n", load[0]);
    printf("%s    %.3f s, then %.3f s to the first token\n",
           run->args->synthetic ? "made  " : "opened", run->load_s, run->first_s);
    for (uint32_t i = 0; i < run->n_limits; i++)
        printf("limits    %" PRIu32 " thread%s: reads %.1f GB/s, int8 %.0f G multiply-adds/s\n",
               run->limits[i].threads, run->limits[i].threads == 1 ? "" : "s",
               bench_median(&run->limits[i].reads), bench_median(&run->limits[i].int8));
    printf("\n%-16s%8s%11s  %-19s%9s%10s\n", "case", "threads", "tok/s", "   least … most",
           "of reads", run->args->prompt > 0 ? "of int8" : "");
    for (uint32_t i = 0; i < run->n_cases; i++)
        print_case(run, &run->cases[i]);
    return cli_finish_output();
}

int bench_cases(const cli_command *command, const bench_args *args, const bench_list *depths,
                const bench_list *threads)
{
    bench_run *run = calloc(1, sizeof *run);
    upg_error  err;
    upg_status st = UPG_OK;
    int        exit_code;

    if (!run)
        return cli_fail(command, CLI_RESOURCES, "out of memory");
    run->args = args;
    run->depths = depths;
    for (uint32_t i = 0; i < threads->n && st == UPG_OK; i++)
        st = run_threads(run, threads->items[i], &err);
    if (st == UPG_E_CANCELLED)
        exit_code = cli_signals_exit_code();
    else if (st != UPG_OK)
        exit_code = bench_report(command, args, st, &err);
    else
        exit_code = args->json ? print_json(command, run) : print_text(run);
    free(run);
    return exit_code;
}
