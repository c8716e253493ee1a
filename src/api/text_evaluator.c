/* text_evaluator.c: see text_evaluator.h. */
#include "api/text_evaluator.h"

#include <string.h>

#include "base/alloc.h"
#include "runtime/evaluate.h"

enum { WINDOW = 512, DEFAULT_WINDOWS = 64 };

/* upg_evaluator.measure. Both models are opened for this alone: they take no memory while the file
 * is made. */
static upg_status measure(void *user, const char *path, upg_evaluation *result, upg_error *err)
{
    const upg_text_evaluator *e = user;
    upg_engine_settings       how = { .threads = e->threads, .listener = e->listener };
    upg_eval_options          options = { .window = e->windows.window };
    upg_eval_result           figures = { 0 };
    upg_model                *coded = NULL, *original = NULL;
    upg_status                st;

    UPG_TRY(upg_engine_load(path, &how, &coded, err));
    UPG_TRY(upg_engine_load(e->checkpoint, &how, &original, err));
    options.against = original;
    UPG_TRY(upg_evaluate_run(coded, e->windows.tokens,
                             (size_t)e->windows.n_windows * e->windows.window, &options,
                             e->listener, &figures, err));
    *result = (upg_evaluation) { .windows = figures.windows,
                                 .tokens = figures.tokens,
                                 .window = e->windows.window,
                                 .perplexity = figures.perplexity,
                                 .against_perplexity = figures.against_perplexity,
                                 .top1 = figures.top1,
                                 .kl_mean = figures.kl_mean,
                                 .kl_p99 = figures.kl_p99,
                                 .top1_agreement = figures.top1_agreement };
    memcpy(result->text_hash, e->text_hash, sizeof result->text_hash);
out:
    upg_engine_release(original);
    upg_engine_release(coded);
    return st;
}

upg_status upg_text_evaluator_init(upg_text_evaluator *e, const char *checkpoint, upg_span text,
                                   const char *text_name, uint32_t max_windows, uint32_t threads,
                                   const upg_listener *listener, upg_error *err)
{
    upg_weights *weights = NULL;
    upg_status   st;

    *e = (upg_text_evaluator) { .evaluator = { measure, e },
                                .threads = threads,
                                .listener = listener };
    upg_text_hash(text, e->text_hash);
    e->checkpoint = upg_strndup(checkpoint, strlen(checkpoint), err);
    UPG_TRY(e->checkpoint ? UPG_OK : UPG_E_NOMEM);
    UPG_TRY(upg_weights_open(checkpoint, &weights, err));
    st = upg_token_windows_make(weights, text, WINDOW,
                                max_windows > 0 ? max_windows : DEFAULT_WINDOWS, &e->windows, err);
    if (st != UPG_OK)
        upg_error_prefix(err, "evaluation: %s: ", text_name);
out:
    upg_weights_close(weights);
    if (st != UPG_OK)
        upg_text_evaluator_deinit(e);
    return st;
}

void upg_text_evaluator_deinit(upg_text_evaluator *e)
{
    upg_token_windows_deinit(&e->windows);
    upg_free(e->checkpoint);
    *e = (upg_text_evaluator) { 0 };
}
