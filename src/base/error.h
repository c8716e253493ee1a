/* error.h: how a layer reports failure. Messages go into the caller's upg_error; nothing global. */
#ifndef UPG_BASE_ERROR_H
#define UPG_BASE_ERROR_H

#include <stdarg.h>

#include "upg/status.h"

_Static_assert(sizeof(upg_error) == 512, "part of the ABI");

/** Runs an expression that yields a upg_status; on failure jumps to `out` with it in `st`. */
#define UPG_TRY(expression)                                                                        \
    do {                                                                                           \
        if ((st = (expression)) != UPG_OK)                                                         \
            goto out;                                                                              \
    } while (0)

/** Formats the message into *err (may be NULL) and returns `code`. */
__attribute__((format(printf, 3, 4))) upg_status upg_fail(upg_error *err, upg_status code,
                                                          const char *format, ...);
/** As upg_fail, with ": " and the system's text for `os_errno` appended. ENOSPC and EDQUOT become
 * E_NOSPACE, ENOMEM E_NOMEM, ENOENT E_NOT_FOUND, EEXIST E_EXISTS, whatever `code` says. */
__attribute__((format(printf, 4, 5))) upg_status upg_fail_os(upg_error *err, upg_status code,
                                                             int os_errno, const char *format, ...);
/** Puts formatted text before the message: the name of the file, tensor or stage. */
__attribute__((format(printf, 2, 3))) void upg_error_prefix(upg_error *err, const char *format,
                                                            ...);

#endif
