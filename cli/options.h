/* options.h: table-driven command lines.
 *
 * An option is one line of a table: names, argument, type, where its value goes, range and help.
 * Invariants:
 *   1. What is on the command line is obeyed or refused by name, never ignored: unknown options,
 *      values out of range, options given twice (unless lists) and stray words are usage errors.
 *   2. Values that were not given keep what the command put there before parsing. */
#ifndef UPG_CLI_OPTIONS_H
#define UPG_CLI_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum cli_type {
    CLI_FLAG,  /* bool, no argument */
    CLI_TEXT,  /* const char *, borrowed from argv */
    CLI_LIST,  /* cli_list: may be given several times */
    CLI_U32,   /* uint32_t */
    CLI_U64,   /* uint64_t */
    CLI_BYTES, /* uint64_t, with an optional suffix K, M, G or T (powers of 1024) */
    CLI_FLOAT, /* float */
    CLI_REAL   /* double */
} cli_type;

enum { CLI_LIST_MAX = 64, CLI_OPTIONS_MAX = 40 };
typedef struct cli_list {
    const char *items[CLI_LIST_MAX];
    size_t      count;
} cli_list;

typedef struct cli_option {
    const char *name;   /* long name, without the dashes */
    char        letter; /* short name, or 0 */
    cli_type    type;
    const char *argument; /* "FILE"; NULL for flags */
    size_t      offset;   /* of the value in the command's struct */
    double      min, max; /* inclusive, for numbers */
    const char *help;     /* one or more lines; says the default */

    /* Instead of all that: the rows of another table, for the struct at `offset`. */
    const struct cli_option *table;
} cli_option;

/** What a command line held besides values. */
typedef struct cli_parsed {
    cli_option options[CLI_OPTIONS_MAX + 1]; /* the table with those it refers to, made flat */
    bool       given[CLI_OPTIONS_MAX];       /* by index there */
    char     **operands;                     /* exactly as many as the command wants */
} cli_parsed;

struct cli_command;
/** Parses argv[1 ...] of a command into `values` (the struct that the table's offsets refer to).
 * Returns -1 to go on, else the exit code: 0 after --help, the usage code after a message on
 * stderr. */
int cli_parse(const struct cli_command *command, int argc, char **argv, void *values,
              cli_parsed *parsed);
/** True when the option was on the command line. */
bool cli_given(const cli_parsed *parsed, const char *name);
/** Letters to insert, delete or replace to turn one word into the other. */
size_t cli_distance(const char *a, const char *b);

#endif
