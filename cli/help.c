/* help.c: `upg help`: the list of commands, one command, the exit codes. */
#include <stdio.h>
#include <string.h>

#include "command.h"
#include "report.h"

const cli_command *const cli_commands[] = { &cli_compress, &cli_plan,     &cli_run,     &cli_chat,
                                            &cli_eval,     &cli_tokenize, &cli_inspect, &cli_verify,
                                            &cli_export,   &cli_synth,    &cli_bench,   &cli_doctor,
                                            NULL };

const cli_command *cli_command_find(const char *name)
{
    for (size_t i = 0; cli_commands[i]; i++)
        if (strcmp(cli_commands[i]->name, name) == 0)
            return cli_commands[i];
    return NULL;
}

static void print_exit_codes(void)
{
    static const struct {
        int         value;
        bool        retryable;
        const char *text;
    } codes[] = {
#define CLI_EXIT_ROW(name, value, retryable, text) { value, retryable, text },
        CLI_EXIT_MAP(CLI_EXIT_ROW)
#undef CLI_EXIT_ROW
    };

    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++)
        printf("%4d  %s%s\n", codes[i].value, codes[i].text,
               codes[i].retryable ? " (retryable)" : "");
    puts("\nRetryable: the same command may succeed later. All other failures are permanent.");
}

static void print_commands(void)
{
    puts("usage: upg COMMAND ...\n\n"
         "Compresses language models to 3.2 bits per weight, and runs them.\n");
    for (size_t i = 0; cli_commands[i]; i++)
        printf("  %-10s%s\n", cli_commands[i]->name, cli_commands[i]->summary);
    puts("\n  upg help COMMAND      the options of a command\n"
         "  upg help exit-codes   what the exit codes mean\n"
         "  upg --version         the version\n\n"
         "A MODEL is a .upg file or a checkpoint folder. Results go to standard output, all\n"
         "else to standard error.");
}

int cli_help(const char *topic)
{
    const cli_command *command = topic ? cli_command_find(topic) : NULL;

    if (!topic)
        print_commands();
    else if (command)
        cli_help_command(command);
    else if (strcmp(topic, "exit-codes") == 0)
        print_exit_codes();
    else
        return cli_usage(NULL, "no help on \"%s\"", topic);
    return cli_finish_output();
}
