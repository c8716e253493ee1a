/* main.c: finds the command and runs it. */
#include <stdio.h>
#include <string.h>

#include "command.h"
#include "report.h"
#include "signals.h"

static int unknown(const char *word)
{
    const char *best = NULL;
    size_t      best_distance = 4;

    for (size_t i = 0; cli_commands[i]; i++) {
        size_t distance = cli_distance(word, cli_commands[i]->name);

        if (distance < best_distance && distance < strlen(word)) {
            best = cli_commands[i]->name;
            best_distance = distance;
        }
    }
    if (best)
        return cli_usage(NULL, "unknown command \"%s\"; did you mean `upg %s`?", word, best);
    return cli_usage(NULL, "unknown command \"%s\"", word);
}

int main(int argc, char **argv)
{
    const cli_command *command;

    cli_signals_install();
    if (argc < 2)
        return cli_usage(NULL, "a command is missing");
    if (strcmp(argv[1], "help") == 0) {
        if (argc > 3)
            return cli_usage(NULL, "unexpected argument \"%s\"", argv[3]);
        return cli_help(argc == 3 ? argv[2] : NULL);
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)
        return cli_help(NULL);
    if (strcmp(argv[1], "--version") == 0) {
        printf("upg %s\n", upg_version());
        return cli_finish_output();
    }
    command = cli_command_find(argv[1]);
    return command ? command->run(command, argc - 1, argv + 1) : unknown(argv[1]);
}
