/* report.h: results to stdout, everything else to stderr, and exit codes by status group. */
#ifndef UPG_CLI_REPORT_H
#define UPG_CLI_REPORT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "upg/upg.h"

/** X(name, value, retryable, text). Documented in upg(1); programs depend on the values. */
#define CLI_EXIT_MAP(X)                                                                            \
    X(OK, 0, false, "success")                                                                     \
    X(DAMAGED, 1, false, "a checksum does not match: the file is damaged")                         \
    X(USAGE, 2, false, "the command line is wrong")                                                \
    X(FILE, 3, false, "a file is missing, or cannot be read or written")                           \
    X(INPUT, 4, false, "the input is malformed, of a newer format or not supported")               \
    X(RESOURCES, 5, true, "out of memory or disk space, or the object is busy")                    \
    X(LIMIT, 6, false, "more than the context, the size or the memory budget allows")              \
    X(EXISTS, 7, false, "the output exists (--force replaces it)")                                 \
    X(DEVICE, 8, false, "no such device, or its driver failed")                                    \
    X(DEVICE_LOST, 9, true, "the device was lost while it worked")                                 \
    X(BUG, 70, false, "a bug in upg; please report it")                                            \
    X(INTERRUPTED, 130, true, "interrupted by Ctrl-C")                                             \
    X(TERMINATED, 143, true, "ended by SIGTERM")

typedef enum cli_exit {
#define CLI_EXIT_ENUM(name, value, retryable, text) CLI_##name = value,
    CLI_EXIT_MAP(CLI_EXIT_ENUM)
#undef CLI_EXIT_ENUM
} cli_exit;

struct cli_command;

/** The exit code of a status. */
int cli_exit_code(upg_status status);
/** Prints "upg COMMAND: message" to stderr, with a hint where one helps; returns the exit code. */
int cli_report(const struct cli_command *command, upg_status status, const upg_error *err);
/** A wrong command line: the message, then where help is. Returns CLI_USAGE. */
__attribute__((format(printf, 2, 3))) int cli_usage(const struct cli_command *command,
                                                    const char               *format, ...);
/** Any other failure with words of our own: prints them, returns `exit_code`. */
__attribute__((format(printf, 3, 4))) int cli_fail(const struct cli_command *command,
                                                   cli_exit exit_code, const char *format, ...);
/** A note to stderr that is no failure. */
__attribute__((format(printf, 2, 3))) void cli_note(const struct cli_command *command,
                                                    const char               *format, ...);
/** Fills *err as the library would; returns `status`. */
__attribute__((format(printf, 3, 4))) upg_status cli_error(upg_error *err, upg_status status,
                                                           const char *format, ...);
/** Flushes stdout; a full disk or a closed pipe becomes a message and an exit code, never a lost
 * result. 0 when all is written. */
int cli_finish_output(void);

/** The library's log lines, on stderr: as upg_hooks.log. */
void cli_log(void *user, upg_log level, const char *message);

/** Sets object[key] to a number; null for what JSON cannot hold (NaN, infinities). */
void cli_json_real(json_t *object, const char *key, double value);
void cli_json_u64(json_t *object, const char *key, uint64_t value);
void cli_json_text(json_t *object, const char *key, const char *text);
/** Prints one line of JSON to stdout, drops the reference and flushes; returns the exit code. */
int cli_json_print(const struct cli_command *command, json_t *object);

/** "5.86 GB": decimal units, as disks are sold. `buffer` is returned. */
enum { CLI_SIZE_TEXT = 32 };
const char *cli_size_text(uint64_t bytes, char buffer[CLI_SIZE_TEXT]);

#endif
