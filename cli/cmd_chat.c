/* cmd_chat.c: `upg chat`: a conversation, on a terminal or from a pipe. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "command.h"
#include "conversation.h"
#include "generate.h"
#include "line_editor.h"
#include "report.h"
#include "signals.h"

typedef struct chat_args {
    const char       *system;
    cli_list          messages;
    uint64_t          tokens;
    bool              special;
    cli_model_args    model;
    cli_sampling_args sampling;
} chat_args;

static const cli_option options[] = {
    { .name = "system",
      .letter = 's',
      .type = CLI_TEXT,
      .argument = "TEXT",
      .offset = offsetof(chat_args, system),
      .help = "the system message; default: none" },
    { .name = "message",
      .letter = 'm',
      .type = CLI_LIST,
      .argument = "TEXT",
      .offset = offsetof(chat_args, messages),
      .help = "says TEXT instead of reading standard input; may be given\n"
              "several times" },
    { .name = "tokens",
      .letter = 'n',
      .type = CLI_U64,
      .argument = "N",
      .offset = offsetof(chat_args, tokens),
      .min = 1,
      .help = "at most N tokens in an answer; default: until it ends" },
    { .table = cli_sampling_options, .offset = offsetof(chat_args, sampling) },
    { .name = "special",
      .type = CLI_FLAG,
      .offset = offsetof(chat_args, special),
      .help = "\"<|im_start|>\" and the like in messages become control\n"
              "tokens; default: plain text" },
    { .table = cli_model_options, .offset = offsetof(chat_args, model) },
    { 0 },
};

static const char interactive_help[] = "/new starts anew, /exit or Ctrl-D ends, Ctrl-C stops an "
                                       "answer; all else goes to the model.\n";

typedef struct chat {
    const cli_command *command;
    const chat_args   *args;
    upg_sampling       sampling;
    cli_conversation   conversation;
    bool               interactive;
} chat;

/* Says one message and streams the answer. Returns -1 to go on, else the exit code. */
static int say(chat *c, const char *text, size_t bytes)
{
    cli_generated generated = { 0 };
    upg_error     err;
    upg_status    st = cli_conversation_add(&c->conversation, "user", text, bytes, &err);
    int           exit_code = -1;

    if (st == UPG_OK) {
        st = cli_conversation_answer(&c->conversation, &c->args->sampling.stops, c->args->tokens,
                                     &generated, &err);
        if (st != UPG_OK)
            cli_conversation_pop(&c->conversation);
        if (st == UPG_OK || generated.text_bytes > 0)
            putchar('\n');
        exit_code = cli_finish_output();
        exit_code = exit_code == CLI_OK ? -1 : exit_code;
    }
    if (st == UPG_OK && !c->args->model.quiet)
        cli_print_statistics(&generated, &c->sampling);
    if (st != UPG_OK) {
        exit_code = cli_report(c->command, st, &err);
        if (c->interactive && (st == UPG_E_CONTEXT || st == UPG_E_DATA))
            exit_code = -1; /* the user may start anew, or say it in other words */
    } else if (exit_code < 0 && generated.ending == CLI_END_CANCELLED) {
        if (c->interactive)
            cli_signals_take();
        else
            exit_code = cli_signals_exit_code();
    } else if (exit_code < 0 && generated.ending == CLI_END_CONTEXT) {
        cli_note(c->command, "the context of %u tokens is full", (unsigned)c->conversation.context);
        exit_code = c->interactive ? -1 : CLI_LIMIT;
    }
    cli_generated_free(&generated);
    return exit_code;
}

static upg_status start(chat *c, upg_error *err)
{
    const char *text = c->args->system;

    while (c->conversation.n_messages > 0)
        cli_conversation_pop(&c->conversation);
    return text ? cli_conversation_add(&c->conversation, "system", text, strlen(text), err)
                : UPG_OK;
}

/* A line that begins with '/' on a terminal. Returns as say(). */
static int obey(chat *c, const char *line, size_t bytes)
{
    upg_error  err;
    upg_status st = UPG_OK;

    if (bytes == 5 && memcmp(line, "/exit", 5) == 0)
        return CLI_OK;
    if (bytes == 4 && memcmp(line, "/new", 4) == 0)
        st = start(c, &err);
    else
        fputs(interactive_help, stderr);
    return st == UPG_OK ? -1 : cli_report(c->command, st, &err);
}

static int talk(chat *c)
{
    cli_editor *editor = cli_editor_open("> ");
    int         exit_code = -1;
    const char *line;
    size_t      bytes;

    if (!editor)
        return cli_fail(c->command, CLI_RESOURCES, "out of memory");
    if (c->interactive && !c->args->model.quiet)
        fputs(interactive_help, stderr);
    while (exit_code < 0 && (line = cli_editor_read(editor, &bytes)) != NULL) {
        if (c->interactive && bytes > 0 && line[0] == '/')
            exit_code = obey(c, line, bytes);
        else if (bytes > 0)
            exit_code = say(c, line, bytes);
    }
    cli_editor_close(editor);
    if (c->interactive && exit_code < 0)
        fputc('\n', stderr);
    if (cli_signals_caught())
        return cli_signals_exit_code();
    return exit_code < 0 ? CLI_OK : exit_code;
}

static int run(const cli_command *command, int argc, char **argv)
{
    chat_args    args = { .tokens = UINT64_MAX };
    chat         c = { .command = command, .args = &args };
    cli_parsed   parsed;
    cli_progress progress;
    upg_error    err;
    upg_model   *model = NULL;
    upg_status   st;
    int          exit_code = cli_parse(command, argc, argv, &args, &parsed);

    if (exit_code >= 0)
        return exit_code;
    cli_progress_init(&progress, args.model.quiet);
    st = cli_open_model(parsed.operands[0], &args.model, &progress, &model, &err);
    if (st == UPG_OK)
        st = cli_need_tokenizer(parsed.operands[0], model, &c.conversation.tokenizer, &err);
    if (st == UPG_OK)
        st = cli_open_session(model, &args.sampling, &parsed, &c.conversation.session,
                              &c.conversation.context, &c.sampling, &err);
    if (st == UPG_OK) {
        c.conversation.flags = args.special ? UPG_TOK_SPECIAL : 0;
        c.interactive = args.messages.count == 0 && isatty(STDIN_FILENO);
        st = start(&c, &err);
    }
    if (st != UPG_OK) {
        exit_code = cli_report(command, st, &err);
    } else if (args.messages.count > 0) {
        for (size_t i = 0; i < args.messages.count && exit_code < 0; i++)
            exit_code = say(&c, args.messages.items[i], strlen(args.messages.items[i]));
        exit_code = exit_code < 0 ? CLI_OK : exit_code;
    } else {
        exit_code = talk(&c);
    }
    upg_session_close(c.conversation.session);
    cli_conversation_deinit(&c.conversation);
    upg_model_close(model);
    return exit_code;
}

const cli_command cli_chat = {
    .name = "chat",
    .arguments = "MODEL [options]",
    .summary = "talks with a model",
    .about = "Talks with a model by its own chat template. On a terminal lines can be edited;\n"
             "otherwise every line of standard input is one message. Answers go to standard\n"
             "output, each followed by a line end. Special-token text in messages is plain\n"
             "text, so that nobody can inject a control token. Without --temp and the like the\n"
             "model's generation_config.json decides how tokens are chosen.",
    .options = options,
    .n_operands = 1,
    .run = run,
};
