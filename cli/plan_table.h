/* plan_table.h: what a compression would do, as a table. */
#ifndef UPG_CLI_PLAN_TABLE_H
#define UPG_CLI_PLAN_TABLE_H

struct cli_command;

/** Prints the JSON of upg_compress_plan as a table; returns the exit code. */
int cli_print_plan(const struct cli_command *command, const char *json);

#endif
