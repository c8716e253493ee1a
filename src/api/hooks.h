/* hooks.h: upg.h's hooks as the listeners of base/progress.h, and the log. */
#ifndef UPG_API_HOOKS_H
#define UPG_API_HOOKS_H

#include "base/progress.h"
#include "upg/upg.h"

/** A listener that passes reports on to hooks->progress; *hooks outlives it. cancel may be NULL. */
upg_listener upg_hooks_listener(const upg_hooks *hooks, const atomic_bool *cancel);
/** Formats one line for hooks->log, if there is one. */
__attribute__((format(printf, 3, 4))) void upg_hooks_log(const upg_hooks *hooks, upg_log level,
                                                         const char *format, ...);

#endif
