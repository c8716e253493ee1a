/* report.c: messages, exit codes and JSON output. */
#include "report.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"

static void print_name(const cli_command *command)
{
    fprintf(stderr, "upg%s%s: ", command ? " " : "", command ? command->name : "");
}

int cli_exit_code(upg_status status)
{
    switch (status) {
    case UPG_OK:
        return CLI_OK;
    case UPG_E_CORRUPT:
        return CLI_DAMAGED;
    case UPG_E_IO:
    case UPG_E_NOT_FOUND:
        return CLI_FILE;
    case UPG_E_FORMAT:
    case UPG_E_VERSION:
    case UPG_E_UNSUPPORTED:
    case UPG_E_DATA:
        return CLI_INPUT;
    case UPG_E_NOMEM:
    case UPG_E_NOSPACE:
    case UPG_E_BUSY:
        return CLI_RESOURCES;
    case UPG_E_BUDGET:
    case UPG_E_CONTEXT:
        return CLI_LIMIT;
    case UPG_E_EXISTS:
        return CLI_EXISTS;
    case UPG_E_DEVICE:
        return CLI_DEVICE;
    case UPG_E_DEVICE_LOST:
        return CLI_DEVICE_LOST;
    case UPG_E_CANCELLED:
        return CLI_INTERRUPTED;
    case UPG_E_ARG:
    case UPG_E_STATE:
    case UPG_E_BUFFER:
    case UPG_E_INTERNAL:
        break;
    }
    return CLI_BUG;
}

static bool has_option(const cli_command *command, const char *name)
{
    for (const cli_option *o = command ? command->options : NULL; o && (o->name || o->table); o++)
        if (o->name && strcmp(o->name, name) == 0)
            return true;
    return false;
}

int cli_report(const cli_command *command, upg_status status, const upg_error *err)
{
    if (status == UPG_OK)
        return CLI_OK;
    print_name(command);
    fprintf(stderr, "%s\n", err->message[0] ? err->message : upg_status_text(status));
    /* a journal is hours of work: --force leaves it alone */
    if (status == UPG_E_EXISTS && has_option(command, "force") &&
        !strstr(err->message, ".journal:"))
        fprintf(stderr, "Use --force to replace it.\n");
    return cli_exit_code(status);
}

int cli_usage(const cli_command *command, const char *format, ...)
{
    va_list arguments;

    print_name(command);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, "\nTry `upg help%s%s`.\n", command ? " " : "", command ? command->name : "");
    return CLI_USAGE;
}

int cli_fail(const cli_command *command, cli_exit exit_code, const char *format, ...)
{
    va_list arguments;

    print_name(command);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    return exit_code;
}

void cli_note(const cli_command *command, const char *format, ...)
{
    va_list arguments;

    print_name(command);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
}

upg_status cli_error(upg_error *err, upg_status status, const char *format, ...)
{
    va_list arguments;

    err->code = status;
    err->os_errno = 0;
    va_start(arguments, format);
    vsnprintf(err->message, sizeof err->message, format, arguments);
    va_end(arguments);
    return status;
}

int cli_finish_output(void)
{
    int failed = fflush(stdout) != 0 ? errno : ferror(stdout) ? EIO : 0;

    if (failed == 0)
        return CLI_OK;
    return cli_fail(NULL, failed == ENOSPC ? CLI_RESOURCES : CLI_FILE,
                    "writing to standard output failed: %s", strerror(failed));
}

void cli_log(void *user, upg_log level, const char *message)
{
    static const char *const names[] = { "", "error: ", "warning: ", "", "debug: " };

    (void)user;
    if (level <= UPG_LOG_INFO)
        fprintf(stderr, "%s%s\n", names[level], message);
}

void cli_json_real(json_t *object, const char *key, double value)
{
    json_object_set_new(object, key, isfinite(value) ? json_real(value) : json_null());
}

void cli_json_u64(json_t *object, const char *key, uint64_t value)
{
    json_object_set_new(object, key, json_integer((json_int_t)value));
}

void cli_json_text(json_t *object, const char *key, const char *text)
{
    json_object_set_new(object, key, json_string(text ? text : ""));
}

int cli_json_print(const cli_command *command, json_t *object)
{
    char *text = object ? json_dumps(object, JSON_REAL_PRECISION(12)) : NULL;

    json_decref(object);
    if (!text)
        return cli_fail(command, CLI_RESOURCES, "out of memory while writing JSON");
    puts(text);
    free(text);
    return cli_finish_output();
}

const char *cli_size_text(uint64_t bytes, char buffer[CLI_SIZE_TEXT])
{
    static const char *const units[] = { "kB", "MB", "GB", "TB" };
    double                   value = (double)bytes / 1e3;
    size_t                   unit = 0;

    if (bytes < 1000) {
        snprintf(buffer, CLI_SIZE_TEXT, "%u bytes", (unsigned)bytes);
        return buffer;
    }
    for (; value >= 999.5 && unit < 3; unit++)
        value /= 1e3;
    snprintf(buffer, CLI_SIZE_TEXT, "%.3g %s", value, units[unit]);
    return buffer;
}
