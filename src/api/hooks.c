/* hooks.c: see hooks.h. */
#include "api/hooks.h"

#include <stdarg.h>
#include <stdio.h>

static int pass_on(void *user, const upg_progress_report *now)
{
    const upg_hooks *hooks = user;
    upg_progress     progress = { now->stage, now->unit,      now->done,       now->total,
                                  now->rate,  now->seconds,   now->part,       now->part_index,
                                  now->parts, now->part_done, now->part_total, now->loss };

    return hooks->progress(hooks->user, &progress);
}

upg_listener upg_hooks_listener(const upg_hooks *hooks, const atomic_bool *cancel)
{
    upg_listener listener = { .cancel = cancel };

    if (hooks && hooks->progress) {
        listener.report = pass_on;
        listener.user = (void *)hooks; /* only read */
    }
    return listener;
}

void upg_hooks_log(const upg_hooks *hooks, upg_log level, const char *format, ...)
{
    char    line[512];
    va_list arguments;

    if (!hooks || !hooks->log)
        return;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    hooks->log(hooks->user, level, line);
}
