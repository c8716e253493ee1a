/* cmd_tokenize.c: `upg tokenize`: JSON lines in, JSON lines out, one by one, so that a program can
 * keep it running and talk with it through pipes. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "report.h"
#include "signals.h"
#include "text_file.h"

typedef struct tokenize_args {
    bool decode, skip_special, chat, plain;
} tokenize_args;

static const cli_option options[] = {
    { .name = "decode",
      .type = CLI_FLAG,
      .offset = offsetof(tokenize_args, decode),
      .help = "the reverse: {\"ids\": [...]} to {\"text\": ...}" },
    { .name = "skip-special",
      .type = CLI_FLAG,
      .offset = offsetof(tokenize_args, skip_special),
      .help = "with --decode: leaves special tokens out of the text" },
    { .name = "chat",
      .type = CLI_FLAG,
      .offset = offsetof(tokenize_args, chat),
      .help = "{\"messages\": [{\"role\", \"content\"}, ...],\n"
              "\"add_generation_prompt\": true} to {\"text\", \"ids\"}" },
    { .name = "plain",
      .type = CLI_FLAG,
      .offset = offsetof(tokenize_args, plain),
      .help = "special-token text such as \"<|im_end|>\" is plain text" },
    { 0 },
};

static void print_ids(const upg_token *tokens, size_t n)
{
    fputs("\"ids\": [", stdout);
    for (size_t i = 0; i < n; i++)
        printf("%s%" PRId32, i ? ", " : "", tokens[i]);
    putchar(']');
}

/* Prints bytes of UTF-8 as a JSON string. */
static upg_status print_text(const char *text, size_t bytes, upg_error *err)
{
    json_t *string = json_stringn(text, bytes);
    int     failed = -1;

    fputs("\"text\": ", stdout);
    if (string)
        failed = json_dumpf(string, stdout, JSON_ENCODE_ANY);
    json_decref(string);
    return failed ? cli_error(err, UPG_E_IO, "the text cannot be written as JSON") : UPG_OK;
}

static upg_status encode_line(const upg_tokenizer *tokenizer, const json_t *line, uint32_t flags,
                              upg_error *err)
{
    const json_t *text = json_object_get(line, "text");
    upg_token    *tokens;
    size_t        n;
    upg_status    st;

    if (!json_is_string(text))
        return cli_error(err, UPG_E_FORMAT, "\"text\" is missing or no string");
    st = cli_tokens_of(tokenizer, json_string_value(text), json_string_length(text), flags, &tokens,
                       &n, err);
    if (st != UPG_OK)
        return st;
    putchar('{');
    print_ids(tokens, n);
    puts("}");
    free(tokens);
    return UPG_OK;
}

static upg_status ids_of(const json_t *line, upg_token **tokens, size_t *n, upg_error *err)
{
    const json_t *ids = json_object_get(line, "ids");

    if (!json_is_array(ids))
        return cli_error(err, UPG_E_FORMAT, "\"ids\" is missing or no array");
    *n = json_array_size(ids);
    *tokens = malloc((*n + 1) * sizeof **tokens);
    if (!*tokens)
        return cli_error(err, UPG_E_NOMEM, "no memory for %zu tokens", *n);
    for (size_t i = 0; i < *n; i++) {
        const json_t *id = json_array_get(ids, i);
        json_int_t    value = json_integer_value(id);

        if (!json_is_integer(id) || value < 0 || value > INT32_MAX) {
            free(*tokens);
            *tokens = NULL;
            return cli_error(err, UPG_E_FORMAT, "\"ids\"[%zu] is no token id", i);
        }
        (*tokens)[i] = (upg_token)value;
    }
    return UPG_OK;
}

static upg_status decode_line(const upg_tokenizer *tokenizer, const json_t *line, bool skip_special,
                              upg_error *err)
{
    upg_token *tokens = NULL;
    char      *text = NULL;
    size_t     n = 0, bytes = 0;
    upg_status st = ids_of(line, &tokens, &n, err);

    if (st == UPG_OK) {
        st = upg_detokenize(tokenizer, tokens, n, skip_special, NULL, 0, &bytes, err);
        if (st == UPG_OK || st == UPG_E_BUFFER)
            st = (text = malloc(bytes + 1)) ? UPG_OK
                                            : cli_error(err, UPG_E_NOMEM, "no memory for the text");
    }
    if (st == UPG_OK)
        st = upg_detokenize(tokenizer, tokens, n, skip_special, text, bytes, &bytes, err);
    if (st == UPG_E_ARG) /* an id out of range, from outside */
        st = UPG_E_DATA;
    if (st == UPG_OK) {
        putchar('{');
        st = print_text(text, bytes, err);
        puts("}");
    }
    free(text);
    free(tokens);
    return st;
}

static upg_status messages_of(const json_t *line, upg_message **messages, size_t *n, upg_error *err)
{
    const json_t *array = json_object_get(line, "messages");

    if (!json_is_array(array))
        return cli_error(err, UPG_E_FORMAT, "\"messages\" is missing or no array");
    *n = json_array_size(array);
    *messages = calloc(*n + 1, sizeof **messages);
    if (!*messages)
        return cli_error(err, UPG_E_NOMEM, "no memory for %zu messages", *n);
    for (size_t i = 0; i < *n; i++) {
        const json_t *message = json_array_get(array, i);
        const json_t *role = json_object_get(message, "role");
        const json_t *content = json_object_get(message, "content");

        if (!json_is_string(role) || strlen(json_string_value(role)) != json_string_length(role))
            return cli_error(err, UPG_E_FORMAT, "messages[%zu]: \"role\" is missing or no string",
                             i);
        if (!json_is_string(content))
            return cli_error(err, UPG_E_FORMAT,
                             "messages[%zu]: \"content\" is missing or no string", i);
        (*messages)[i] = (upg_message) { .role = json_string_value(role),
                                         .text = json_string_value(content),
                                         .text_bytes = json_string_length(content) };
    }
    return UPG_OK;
}

static upg_status render(const upg_tokenizer *tokenizer, const upg_message *messages, size_t n,
                         bool prompt, char **text, size_t *bytes, upg_error *err)
{
    upg_status st = upg_chat_text(tokenizer, messages, n, prompt, NULL, 0, bytes, err);

    if (st != UPG_OK && st != UPG_E_BUFFER)
        return st;
    *text = malloc(*bytes + 1);
    if (!*text)
        return cli_error(err, UPG_E_NOMEM, "no memory for %zu bytes", *bytes);
    return upg_chat_text(tokenizer, messages, n, prompt, *text, *bytes, bytes, err);
}

/* As Hugging Face does: the rendered text is tokenized as a whole, special tokens inside messages
 * included. */
static upg_status chat_line(const upg_tokenizer *tokenizer, const json_t *line, uint32_t flags,
                            upg_error *err)
{
    const json_t *prompt = json_object_get(line, "add_generation_prompt");
    upg_message  *messages = NULL;
    upg_token    *tokens = NULL;
    char         *text = NULL;
    size_t        n_messages = 0, bytes = 0, n = 0;
    bool          add = json_is_true(prompt);
    upg_status    st;

    if (prompt && !json_is_boolean(prompt))
        return cli_error(err, UPG_E_FORMAT, "\"add_generation_prompt\" is neither true nor false");
    if (json_object_get(line, "tools"))
        return cli_error(err, UPG_E_UNSUPPORTED, "\"tools\" is not supported");
    st = messages_of(line, &messages, &n_messages, err);
    if (st == UPG_OK)
        st = render(tokenizer, messages, n_messages, add, &text, &bytes, err);
    if (st == UPG_OK && flags)
        st = cli_tokens_of(tokenizer, text, bytes, flags, &tokens, &n, err);
    else if (st == UPG_OK)
        st = upg_chat_tokens(tokenizer, messages, n_messages, add, 0, NULL, 0, &n, err);
    if (st == UPG_E_BUFFER) { /* --plain: room for n tokens */
        tokens = malloc((n + 1) * sizeof *tokens);
        st = tokens ? upg_chat_tokens(tokenizer, messages, n_messages, add, 0, tokens, n, &n, err)
                    : cli_error(err, UPG_E_NOMEM, "no memory for %zu tokens", n);
    }
    if (st == UPG_OK) {
        putchar('{');
        st = print_text(text, bytes, err);
        fputs(", ", stdout);
        print_ids(tokens, n);
        puts("}");
    }
    free(tokens);
    free(text);
    free(messages);
    return st;
}

static upg_status one_line(const upg_tokenizer *tokenizer, const tokenize_args *args,
                           const char *text, size_t bytes, upg_error *err)
{
    uint32_t     flags = args->plain ? 0 : UPG_TOK_SPECIAL;
    json_error_t why;
    json_t      *line = json_loadb(text, bytes, JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, &why);
    upg_status   st;

    if (!line)
        return cli_error(err, UPG_E_FORMAT, "not JSON: column %d: %.400s", why.column, why.text);
    if (!json_is_object(line))
        st = cli_error(err, UPG_E_FORMAT, "not a JSON object");
    else if (args->decode)
        st = decode_line(tokenizer, line, args->skip_special, err);
    else if (args->chat)
        st = chat_line(tokenizer, line, flags, err);
    else
        st = encode_line(tokenizer, line, flags, err);
    json_decref(line);
    return st;
}

static int all_lines(const cli_command *command, const tokenize_args *args,
                     const upg_tokenizer *tokenizer)
{
    char      *line = NULL;
    size_t     cap = 0;
    ssize_t    got;
    uint64_t   number = 0;
    upg_error  err;
    upg_status st = UPG_OK;
    int        exit_code = CLI_OK;

    while (exit_code == CLI_OK && (got = getline(&line, &cap, stdin)) > 0) {
        number++;
        if (strspn(line, " \t\r\n") == (size_t)got)
            continue;
        st = one_line(tokenizer, args, line, (size_t)got, &err);
        exit_code = cli_finish_output();
        if (st != UPG_OK)
            exit_code = cli_fail(command, (cli_exit)cli_exit_code(st), "line %" PRIu64 ": %s",
                                 number, err.message);
    }
    free(line);
    if (cli_signals_caught())
        return cli_signals_exit_code();
    if (exit_code == CLI_OK && ferror(stdin))
        return cli_fail(command, CLI_FILE, "reading standard input failed");
    return exit_code;
}

static int run(const cli_command *command, int argc, char **argv)
{
    tokenize_args  args = { 0 };
    cli_parsed     parsed;
    upg_error      err;
    upg_tokenizer *tokenizer = NULL;
    upg_status     st;
    int            exit_code = cli_parse(command, argc, argv, &args, &parsed);

    if (exit_code >= 0)
        return exit_code;
    if (args.decode && (args.chat || args.plain))
        return cli_usage(command, "--decode goes with neither --chat nor --plain");
    if (args.skip_special && !args.decode)
        return cli_usage(command, "--skip-special needs --decode");
    st = upg_tokenizer_open(parsed.operands[0], &tokenizer, &err);
    exit_code = st == UPG_OK ? all_lines(command, &args, tokenizer) : cli_report(command, st, &err);
    upg_tokenizer_close(tokenizer);
    return exit_code;
}

const cli_command cli_tokenize = {
    .name = "tokenize",
    .arguments = "MODEL [options]",
    .summary = "turns text into token ids and back, as JSON lines",
    .about =
        "Reads JSON lines {\"text\": ...} from standard input and answers each with a line\n"
        "{\"ids\": [...]}. MODEL is a .upg file, a checkpoint folder (weights are not needed)\n"
        "or a tokenizer.json. A line that is not right ends it with its number and a\n"
        "message. Special-token text becomes special tokens, as in Hugging Face's\n"
        "tokenizers, unless --plain is given.",
    .options = options,
    .n_operands = 1,
    .run = run,
};
