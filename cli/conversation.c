/* conversation.c: turns of a chat over one session, by rewinding to the common prefix. */
#include "conversation.h"

#include <stdlib.h>
#include <string.h>

#include "report.h"

upg_status cli_conversation_add(cli_conversation *chat, const char *role, const char *text,
                                size_t bytes, upg_error *err)
{
    char *copy = malloc(bytes + 1);

    if (copy && chat->n_messages == chat->messages_cap) {
        size_t       cap = chat->messages_cap ? 2 * chat->messages_cap : 16;
        upg_message *moved = realloc(chat->messages, cap * sizeof *moved);

        if (moved) {
            chat->messages = moved;
            chat->messages_cap = cap;
        }
    }
    if (!copy || chat->n_messages == chat->messages_cap) {
        free(copy);
        return cli_error(err, UPG_E_NOMEM, "no memory for a message of %zu bytes", bytes);
    }
    if (bytes > 0)
        memcpy(copy, text, bytes);
    copy[bytes] = '\0';
    chat->messages[chat->n_messages++] =
        (upg_message) { .role = role, .text = copy, .text_bytes = bytes };
    return UPG_OK;
}

void cli_conversation_pop(cli_conversation *chat)
{
    if (chat->n_messages > 0)
        free((char *)chat->messages[--chat->n_messages].text); /* ours: add() made it */
}

static upg_status render(const cli_conversation *chat, upg_token **tokens, size_t *n,
                         upg_error *err)
{
    size_t     cap = 256;
    upg_status st = UPG_E_BUFFER;

    *tokens = NULL;
    while (st == UPG_E_BUFFER) {
        upg_token *larger = realloc(*tokens, cap * sizeof **tokens);

        if (!larger)
            return cli_error(err, UPG_E_NOMEM, "no memory for %zu tokens", cap);
        *tokens = larger;
        st = upg_chat_tokens(chat->tokenizer, chat->messages, chat->n_messages, true, chat->flags,
                             *tokens, cap, n, err);
        cap = *n > cap ? *n : 2 * cap;
    }
    return st;
}

/* Puts the session where it shares the longest prefix with `tokens`, at least one token short of
 * the end: the last one's logits are needed. *kept = tokens that stay. */
static upg_status rewind_to_prefix(cli_conversation *chat, const upg_token *tokens, size_t n,
                                   size_t *kept, upg_error *err)
{
    size_t common = 0;

    /* After a shift or a failure the cache is not what `held` says: begin anew. */
    if (upg_session_length(chat->session) == chat->n_held)
        while (common < chat->n_held && common + 1 < n && chat->held[common] == tokens[common])
            common++;
    *kept = common;
    return upg_session_rewind(chat->session, (uint32_t)common, err);
}

static upg_status hold(cli_conversation *chat, const upg_token *tokens, size_t n,
                       const cli_generated *generated, upg_error *err)
{
    size_t need = n + generated->n_tokens;

    if (need > chat->held_cap) {
        upg_token *moved = realloc(chat->held, need * sizeof *moved);

        if (!moved)
            return cli_error(err, UPG_E_NOMEM, "no memory for %zu tokens", need);
        chat->held = moved;
        chat->held_cap = need;
    }
    if (tokens)
        memcpy(chat->held, tokens, n * sizeof *tokens);
    if (generated->tokens)
        memcpy(chat->held + n, generated->tokens, generated->n_tokens * sizeof *tokens);
    /* A cancelled prefill took only some of them. */
    chat->n_held = upg_session_length(chat->session);
    if (chat->n_held > need)
        chat->n_held = need;
    return UPG_OK;
}

upg_status cli_conversation_answer(cli_conversation *chat, const cli_list *stops,
                                   uint64_t max_tokens, cli_generated *generated, upg_error *err)
{
    upg_token *tokens = NULL;
    size_t     n = 0, kept = 0;
    upg_status st = render(chat, &tokens, &n, err);

    if (st == UPG_OK)
        st = cli_check_context("conversation", n, chat->context, err);
    if (st == UPG_OK)
        st = rewind_to_prefix(chat, tokens, n, &kept, err);
    if (st == UPG_OK) {
        chat->n_held = 0;
        st = cli_generate(chat->session, chat->tokenizer, stops, false, tokens + kept, n - kept,
                          max_tokens, generated, err);
    }
    if (st == UPG_OK)
        st = hold(chat, tokens, n, generated, err);
    if (st == UPG_OK)
        st = cli_conversation_add(chat, "assistant", generated->text, generated->text_bytes, err);
    free(tokens);
    return st;
}

void cli_conversation_deinit(cli_conversation *chat)
{
    while (chat->n_messages > 0)
        cli_conversation_pop(chat);
    free(chat->messages);
    free(chat->held);
}
