/* conversation.h: a chat: its messages, and the session that holds their tokens.
 *
 * Each turn renders the whole conversation with the model's template, and computes only what the
 * session does not hold already.
 * Invariant: `held` equals the tokens in the session's cache (checked against its length). */
#ifndef UPG_CLI_CONVERSATION_H
#define UPG_CLI_CONVERSATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "generate.h"
#include "upg/upg.h"

typedef struct cli_conversation {
    const upg_tokenizer *tokenizer;
    upg_session         *session;  /* borrowed */
    uint32_t             context;  /* tokens the session can hold */
    uint32_t             flags;    /* of the messages' text: UPG_TOK_SPECIAL or 0 */
    upg_message         *messages; /* texts are ours */
    size_t               n_messages, messages_cap;
    upg_token           *held;
    size_t               n_held, held_cap;
} cli_conversation;

/** Adds a copy of a message. Errors: E_NOMEM. */
upg_status cli_conversation_add(cli_conversation *chat, const char *role, const char *text,
                                size_t bytes, upg_error *err);
/** Drops the last message. */
void cli_conversation_pop(cli_conversation *chat);
/** Renders, computes and generates the answer to the last message, streaming it to stdout, and adds
 * it to the messages. Errors: E_CONTEXT with both counts (nothing computed), as cli_generate. */
upg_status cli_conversation_answer(cli_conversation *chat, const cli_list *stops,
                                   uint64_t max_tokens, cli_generated *generated, upg_error *err);
/** Frees messages and tokens; the session is the caller's. */
void cli_conversation_deinit(cli_conversation *chat);

#endif
