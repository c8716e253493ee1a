/* command.h: what every command of the program is, and the list of all of them.
 *
 * A command declares its options in a table (options.h); parsing, --help and the check of the man
 * page all come from that table. */
#ifndef UPG_CLI_COMMAND_H
#define UPG_CLI_COMMAND_H

#include "options.h"

typedef struct cli_command {
    const char       *name;
    const char       *arguments;         /* what stands after the name: "MODEL -p TEXT" */
    const char       *summary;           /* one line, for `upg help` */
    const char       *about;             /* paragraphs, for `upg help NAME` */
    const cli_option *options;           /* ends with an entry without a name */
    int               n_operands;        /* file names and the like: exactly so many */
    bool              operands_optional; /* or none at all: operands[0] is then NULL */
    /** Runs the command; argv[0] is its name. Returns the exit code. */
    int (*run)(const struct cli_command *command, int argc, char **argv);
} cli_command;

extern const cli_command cli_compress, cli_plan, cli_run, cli_chat, cli_eval, cli_tokenize,
    cli_inspect, cli_verify, cli_export, cli_synth, cli_bench, cli_doctor;
/** All of the above in the order of `upg help`; ends with NULL. */
extern const cli_command *const cli_commands[];

/** The command of that name, or NULL. */
const cli_command *cli_command_find(const char *name);
/** `upg help [TOPIC]` and `upg --help`: to stdout. Returns the exit code. */
int cli_help(const char *topic);
/** Prints a command's help to stdout. */
void cli_help_command(const cli_command *command);

#endif
