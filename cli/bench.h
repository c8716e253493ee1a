/* bench.h: what the files of `upg bench` share: its arguments, repeated measurements, and a model
 * with the machine's limits beside it. */
#ifndef UPG_CLI_BENCH_H
#define UPG_CLI_BENCH_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "command.h"
#include "generate.h"

enum { BENCH_MAX_REPETITIONS = 1000, BENCH_MAX_LIST = 16, BENCH_WARM_UP_TOKENS = 4 };

typedef struct bench_args {
    uint32_t       decode, prompt, repetitions;
    const char    *depths, *sweep; /* lists, as text */
    const char    *synthetic, *tokenizer;
    const char    *trace, *svg; /* files to write */
    const char    *python;      /* the interpreter for the table; NULL = python3 */
    const char    *path;        /* of the model; NULL with `synthetic` */
    uint32_t       draft;
    bool           kv_int8, exact_prompts, json;
    cli_model_args model;
} bench_args;

/** Numbers of a list "0,2048,16384". */
typedef struct bench_list {
    uint32_t items[BENCH_MAX_LIST], n;
} bench_list;

/* ---- repeated measurements --------------------------------------------------------------------
 */

typedef struct bench_series {
    double   values[BENCH_MAX_REPETITIONS];
    uint32_t n;
} bench_series;

/** Adds one value; there is room for BENCH_MAX_REPETITIONS. */
void bench_add(bench_series *series, double value);
/** Sorts the series; 0 when it is empty. */
double bench_median(bench_series *series);
/** (most − least) / median, after bench_median. */
double bench_spread(const bench_series *series);

/* ---- models -----------------------------------------------------------------------------------
 */

/** Opens the file or makes the synthetic model, for `threads` threads (0 = the default). */
upg_status bench_open(const bench_args *args, uint32_t threads, upg_model **model, upg_error *err);
/** A session for `context` tokens that guesses up to `draft`, with what the arguments ask for;
 * `exact` goes for prompts. */
upg_status bench_session(upg_model *model, const bench_args *args, uint32_t context, uint32_t draft,
                         bool exact, upg_session **session, upg_error *err);
/** cli_report, where a wrong --synthetic is the command line's fault. */
int bench_report(const cli_command *command, const bench_args *args, upg_status status,
                 const upg_error *err);
/** Ids that are spread over the vocabulary and equal in every run; free() them. NULL = no memory.
 */
upg_token *bench_tokens(uint32_t n, uint32_t vocab_size);
/** Decodes n tokens; sampled ones are forgotten by the next rewind. */
upg_status bench_decode(upg_session *session, uint32_t n, upg_error *err);

/* ---- what is measured -------------------------------------------------------------------------
 */

/** Decode and prompts at all depths and thread counts. Returns the exit code. */
int bench_cases(const cli_command *command, const bench_args *args, const bench_list *depths,
                const bench_list *threads);
/** Each op of -n tokens behind `depth` others, into the file of --trace. Returns the exit code. */
int bench_trace(const cli_command *command, const bench_args *args, uint32_t depth);
/** One layer and token by everything that can compute them. Returns the exit code. */
int bench_table(const cli_command *command, const bench_args *args);
/** Every kernel of every ISA. Returns the exit code. */
int bench_kernels(const cli_command *command, const bench_args *args, const bench_list *threads);
/** The tokenizer on a text. Returns the exit code. */
int bench_tokenizer(const cli_command *command, const bench_args *args);

#endif
