/* generate.h: what `run`, `chat`, `eval` and `bench` share: opening a model, sampling options and
 * the loop that turns steps into text on stdout. */
#ifndef UPG_CLI_GENERATE_H
#define UPG_CLI_GENERATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "options.h"
#include "progress_bar.h"
#include "upg/upg.h"

/* ---- the model --------------------------------------------------------------------------------
 */
typedef struct cli_model_args {
    const char *device;
    uint32_t    threads;
    uint64_t    max_memory;
    bool        check, check_lazily, quiet, lut8, unfused, unpinned;
} cli_model_args;

/** Rows of an option table, for a cli_model_args. */
extern const cli_option cli_model_options[];

upg_status cli_open_model(const char *path, const cli_model_args *args, cli_progress *progress,
                          upg_model **model, upg_error *err);

/** The model's tokenizer, borrowed. Errors: E_NOT_FOUND when the checkpoint has none. */
upg_status cli_need_tokenizer(const char *path, const upg_model *model,
                              const upg_tokenizer **tokenizer, upg_error *err);

/* ---- sampling ---------------------------------------------------------------------------------
 */
typedef struct cli_sampling_args {
    float    temperature, top_p, min_p, repetition, presence, frequency;
    uint32_t top_k;
    uint64_t seed;
    cli_list stops;
    bool     shift, kv_int8, exact_prompts;
    uint32_t context, draft;
} cli_sampling_args;

/** Rows of an option table, for a cli_sampling_args. */
extern const cli_option cli_sampling_options[];

/** A session with what the options ask for; options not given follow the model's own
 * generation_config.json. *context = its tokens. */
upg_status cli_open_session(upg_model *model, const cli_sampling_args *args,
                            const cli_parsed *parsed, upg_session **session, uint32_t *context,
                            upg_sampling *sampling, upg_error *err);
/** E_CONTEXT, with both counts, when a prompt of n tokens leaves no room for an answer. */
upg_status cli_check_context(const char *what, size_t n, uint32_t context, upg_error *err);

/* ---- generation -------------------------------------------------------------------------------
 */
typedef enum cli_ending {
    CLI_END_TOKEN, /* the model's own end */
    CLI_END_STOP,  /* a stop string */
    CLI_END_LIMIT, /* as many tokens as asked for */
    CLI_END_CONTEXT,
    CLI_END_CANCELLED
} cli_ending;

typedef struct cli_generated {
    char      *text; /* what was shown; the caller frees */
    size_t     text_bytes, text_cap;
    upg_token *tokens; /* what was appended to the session; the caller frees */
    size_t     n_tokens, tokens_cap;
    size_t     prompt_tokens, guessed; /* guessed: of n_tokens, those that needed no pass */
    double     prompt_s, decode_s;
    cli_ending ending;
} cli_generated;

/** Appends `tokens` to the session, then generates up to `max_tokens`, writing text to stdout as it
 * becomes safe to show. Ctrl-C ends it as CLI_END_CANCELLED. *out must be zeroed; it holds what
 * there is even after a failure. */
upg_status cli_generate(upg_session *session, const upg_tokenizer *tokenizer, const cli_list *stops,
                        bool show_special, const upg_token *tokens, size_t n, uint64_t max_tokens,
                        cli_generated *out, upg_error *err);
void       cli_generated_free(cli_generated *generated);
/** Prints prompt and decode speed, and why it ended, to stderr. */
void cli_print_statistics(const cli_generated *generated, const upg_sampling *sampling);

/** Seconds of a clock that never goes back. */
double cli_now_s(void);

#endif
