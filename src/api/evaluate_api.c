/* evaluate_api.c: upg_evaluate. */
#include "api/hooks.h"
#include "api/struct_options.h"
#include "runtime/evaluate.h"

#define DEFAULT_WINDOW 512u

UPG_API upg_status upg_evaluate(upg_model *model, const upg_token *tokens, size_t n,
                                const upg_eval_options *options, upg_eval_result *result,
                                upg_error *err)
{
    upg_eval_options o;
    upg_eval_result  known = { 0 };
    upg_listener     listener;
    upg_status       st;

    if (!model || (!tokens && n > 0))
        return upg_fail(err, UPG_E_ARG, "%s is NULL", model ? "tokens" : "model");
    UPG_TRY(upg_struct_check(result, "upg_eval_result", err));
    upg_struct_out(&known, sizeof known, result);
    UPG_TRY(upg_struct_in(options, &o, sizeof o, "upg_eval_options", err));
    if (o.window == 0)
        o.window = DEFAULT_WINDOW;
    listener = upg_hooks_listener(&o.hooks, NULL);
    UPG_TRY(upg_evaluate_run(model, tokens, n, &o, &listener, &known, err));
    upg_struct_out(&known, sizeof known, result);
out:
    return st;
}
