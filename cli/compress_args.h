/* compress_args.h: the command line of `upg compress`, which `upg plan` takes too. */
#ifndef UPG_CLI_COMPRESS_ARGS_H
#define UPG_CLI_COMPRESS_ARGS_H

#include "command.h"
#include "upg/upg.h"

typedef struct compress_args {
    const char *output, *calibration, *evaluation, *join, *effort, *device;
    double      bpw;
    uint32_t    threads, evaluation_windows;
    uint64_t    size, max_memory, seed;
    bool        force, json, plan_only, quiet, no_calibration, independent, no_outliers, no_tune;
    bool        resume, no_journal, json_progress;
} compress_args;

extern const cli_option cli_compress_options[];
/** Options that do not go together: -1 to go on, else the exit code after a message. */
int cli_compress_check(const cli_command *command, const compress_args *args);
/** All but struct_size and hooks. */
void cli_compress_how(const compress_args *args, upg_compress_options *how);

#endif
