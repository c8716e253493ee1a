/* child.h: another program's output, for measurements that need a process of their own. */
#ifndef UPG_CLI_CHILD_H
#define UPG_CLI_CHILD_H

#include <stdbool.h>
#include <stddef.h>

typedef struct cli_child {
    char *output, *errors; /* NUL-terminated, never NULL; free by cli_child_free */
    int   exit_code;       /* 127 = there is no such program; 128 + signal */
} cli_child;

/** Runs argv [ends with NULL] found on PATH, with `variable`=`value` in its environment (NULL =
 * none), standard input empty; waits for its end. False without memory, pipes or processes. */
bool cli_child_run(const char *const *argv, const char *variable, const char *value,
                   cli_child *child);
void cli_child_free(cli_child *child); /* a zeroed one is fine */
/** The path of this program itself into text [cap]; false when the system does not tell. */
bool cli_own_path(char *text, size_t cap);

#endif
