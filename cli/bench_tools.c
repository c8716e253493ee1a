/* bench_tools.c: series of measurements, models to measure. */
#include "bench.h"

#include <inttypes.h>
#include <stdlib.h>

#include "report.h"

void bench_add(bench_series *series, double value)
{
    series->values[series->n++] = value;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

double bench_median(bench_series *s)
{
    if (s->n == 0)
        return 0;
    qsort(s->values, s->n, sizeof s->values[0], ascending);
    return s->n % 2 ? s->values[s->n / 2] : (s->values[s->n / 2 - 1] + s->values[s->n / 2]) / 2;
}

double bench_spread(const bench_series *s)
{
    bench_series copy = *s;
    double       middle = bench_median(&copy);

    return middle > 0 ? (copy.values[copy.n - 1] - copy.values[0]) / middle : 0;
}

upg_status bench_open(const bench_args *args, uint32_t threads, upg_model **model, upg_error *err)
{
    upg_model_options options = { .struct_size = sizeof options,
                                  .device = args->model.device,
                                  .threads = threads,
                                  .max_memory = args->model.max_memory,
                                  .lut8 = args->model.lut8,
                                  .unfused = args->model.unfused,
                                  .unpinned = args->model.unpinned };
    cli_model_args    with_threads = args->model;
    cli_progress      progress;

    if (args->synthetic)
        return upg_model_open_synthetic(args->synthetic, &options, model, err);
    with_threads.threads = threads;
    cli_progress_init(&progress, args->model.quiet);
    return cli_open_model(args->path, &with_threads, &progress, model, err);
}

upg_status bench_session(upg_model *model, const bench_args *args, uint32_t context, uint32_t draft,
                         bool exact, upg_session **session, upg_error *err)
{
    upg_session_options options = { .struct_size = sizeof options,
                                    .context_tokens = context,
                                    .draft_tokens = draft,
                                    .kv_int8 = args->kv_int8,
                                    .fast_prompts = !exact && !args->exact_prompts };
    upg_model_info      info = { .struct_size = sizeof info };
    upg_status          st = upg_model_describe(model, &info, err);

    if (st == UPG_OK && context > info.context_tokens)
        st = cli_error(err, UPG_E_CONTEXT,
                       "%" PRIu32 " tokens are more than the context of %" PRIu32, context,
                       info.context_tokens);
    return st == UPG_OK ? upg_session_create(model, &options, session, err) : st;
}

int bench_report(const cli_command *command, const bench_args *args, upg_status status,
                 const upg_error *err)
{
    if (status == UPG_E_ARG && args->synthetic) /* its own words list the shapes */
        return cli_usage(command, "%s", err->message);
    return cli_report(command, status, err);
}

upg_token *bench_tokens(uint32_t n, uint32_t vocab_size)
{
    upg_token *tokens = malloc(((size_t)n + 1) * sizeof *tokens);
    uint64_t   state = 1;

    for (uint32_t i = 0; tokens && i < n; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        tokens[i] = (upg_token)((state >> 33) % vocab_size);
    }
    return tokens;
}

upg_status bench_decode(upg_session *session, uint32_t n, upg_error *err)
{
    upg_status st = UPG_OK;

    for (uint32_t i = 0; i < n && st == UPG_OK; i++) {
        upg_step step = { 0 };

        st = upg_decode(&session, 1, &step, err);
        if (st == UPG_OK && step.status != UPG_OK)
            st = cli_error(err, step.status, "after %" PRIu32 " of %" PRIu32 " tokens: %.400s", i,
                           n, upg_session_message(session));
    }
    return st;
}
