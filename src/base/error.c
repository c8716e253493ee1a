/* error.c: formatting of upg_error, the texts of the status codes, the version. */
#include "base/error.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Cuts `text` to at most `cap` - 1 bytes without leaving half a UTF-8 character at the end. */
static void cut_at_character(char *text, size_t cap)
{
    size_t n = strnlen(text, cap);
    size_t start = n;

    if (n + 1 < cap)
        return; /* it fitted: nothing was cut */
    while (start > 0 && ((unsigned char)text[start - 1] & 0xC0u) == 0x80u)
        start--;
    if (start == 0)
        return;
    unsigned char lead = (unsigned char)text[start - 1];
    size_t        want = lead < 0x80u ? 1 : lead < 0xE0u ? 2 : lead < 0xF0u ? 3 : 4;
    if (n - (start - 1) < want)
        text[start - 1] = '\0';
}

__attribute__((format(printf, 3, 0))) static void set_message(upg_error *err, upg_status code,
                                                              const char *format, va_list args)
{
    char text[sizeof err->message];

    vsnprintf(text, sizeof text, format, args);
    cut_at_character(text, sizeof text);
    err->code = code;
    err->os_errno = 0;
    memcpy(err->message, text, sizeof text);
}

upg_status upg_fail(upg_error *err, upg_status code, const char *format, ...)
{
    if (err != NULL) {
        va_list args;
        va_start(args, format);
        set_message(err, code, format, args);
        va_end(args);
    }
    return code;
}

static upg_status code_for_errno(upg_status code, int os_errno)
{
    switch (os_errno) {
    case ENOSPC:
    case EDQUOT:
        return UPG_E_NOSPACE;
    case ENOMEM:
        return UPG_E_NOMEM;
    case ENOENT:
        return UPG_E_NOT_FOUND;
    case EEXIST:
        return UPG_E_EXISTS;
    default:
        return code;
    }
}

/* The system's text for an error number. strerror_r comes in two forms: GNU's returns the text,
 * which need not be in the buffer, POSIX's returns 0 when it filled the buffer. */
static const char *system_text(int os_errno, char *buffer, size_t cap)
{
#if defined(__GLIBC__) && defined(_GNU_SOURCE)
    return strerror_r(os_errno, buffer, cap);
#else
    if (strerror_r(os_errno, buffer, cap) != 0)
        snprintf(buffer, cap, "error %d", os_errno);
    return buffer;
#endif
}

upg_status upg_fail_os(upg_error *err, upg_status code, int os_errno, const char *format, ...)
{
    code = code_for_errno(code, os_errno);
    if (err != NULL) {
        va_list args;
        char    reason[128];
        size_t  used;

        va_start(args, format);
        set_message(err, code, format, args);
        va_end(args);
        used = strlen(err->message);
        snprintf(err->message + used, sizeof err->message - used, ": %s",
                 system_text(os_errno, reason, sizeof reason));
        cut_at_character(err->message, sizeof err->message);
        err->os_errno = os_errno;
    }
    return code;
}

void upg_error_prefix(upg_error *err, const char *format, ...)
{
    char    text[sizeof err->message];
    va_list args;
    size_t  used;

    if (err == NULL)
        return;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    used = strlen(text);
    snprintf(text + used, sizeof text - used, "%s", err->message);
    cut_at_character(text, sizeof text);
    memcpy(err->message, text, sizeof text);
}

const char *upg_status_text(upg_status status)
{
    switch (status) {
#define UPG_STATUS_CASE(name, value, text)                                                         \
    case UPG_##name:                                                                               \
        return text;
        UPG_STATUS_MAP(UPG_STATUS_CASE)
#undef UPG_STATUS_CASE
    }
    return "unknown status";
}

bool upg_status_retryable(upg_status status)
{
    return status == UPG_E_NOMEM || status == UPG_E_NOSPACE || status == UPG_E_BUSY ||
           status == UPG_E_IO;
}

const char *upg_version(void)
{
    return UPG_VERSION;
}

uint32_t upg_abi_version(void)
{
    return UPG_ABI_VERSION;
}
