/* Conversations as the reference's apply_chat_template renders and encodes them: text and ids equal
 * in every case, and the ids of the safe form too where no message holds special-token text. */
#include <stdlib.h>

#include "golden/tokenizer_golden.h"

enum { MAX_MESSAGES = 64, MAX_IDS = 1 << 14 };

typedef struct chat {
    const upg_tokenizer *tokenizer;
    upg_chat_message     messages[MAX_MESSAGES];
    size_t               n;
    bool                 plain; /* no message holds "<|" */
} chat;

static bool has_marker(const upg_chat_message *message)
{
    for (size_t i = 0; i + 1 < message->text_bytes; i++)
        if (message->text[i] == '<' && message->text[i + 1] == '|')
            return true;
    return false;
}

static void read_messages(const json_t *list, chat *c)
{
    c->n = json_array_size(list);
    c->plain = true;
    assert_true(c->n <= MAX_MESSAGES);
    for (size_t i = 0; i < c->n; i++) {
        const json_t *message = json_array_get(list, i);
        const json_t *content = json_object_get(message, "content");

        c->messages[i] =
            (upg_chat_message) { .role = json_string_value(json_object_get(message, "role")),
                                 .text = json_string_value(content),
                                 .text_bytes = json_string_length(content) };
        c->plain &= !has_marker(&c->messages[i]);
    }
}

static void check_prompt(const chat *c, const char *name, bool generate, const json_t *text,
                         const json_t *ids)
{
    static int32_t  want[MAX_IDS];
    upg_error       err = { 0 };
    upg_buffer      rendered;
    upg_token_array tokens = { 0 };
    size_t          n = tg_ids(ids, want, MAX_IDS);

    upg_buffer_init(&rendered, 1 << 20);
    tg_ok(upg_chat_render(c->tokenizer, c->messages, c->n, generate, &rendered, &err), &err);
    tg_equal_text(name, rendered.data, rendered.size, text);
    for (int special = 1; special >= (c->plain ? 0 : 1); special--) {
        tokens.size = 0;
        tg_ok(upg_chat_append(c->tokenizer, c->messages, c->n, generate, special, &tokens, &err),
              &err);
        tg_equal_ids(name, tokens.ids, tokens.size, want, n);
    }
    upg_token_array_deinit(&tokens);
    upg_buffer_deinit(&rendered);
}

/* Checks one conversation; with a template of its own, on a tokenizer loaded with that. */
static void check_chat(const upg_tokenizer *tokenizer, const json_t *c)
{
    const char *name = json_string_value(json_object_get(c, "name"));
    chat        conversation = { .tokenizer = tokenizer };

    name = name != NULL ? name : "chat";
    read_messages(json_object_get(c, "messages"), &conversation);
    check_prompt(&conversation, name, true, json_object_get(c, "text_gen"),
                 json_object_get(c, "ids_gen"));
    check_prompt(&conversation, name, false, json_object_get(c, "text_nogen"),
                 json_object_get(c, "ids_nogen"));
}

static json_t *load_json(const char *path)
{
    json_t *value = json_load_file(path, JSON_ALLOW_NUL, NULL);

    assert_non_null(value);
    return value;
}

static void phi4_chats(void **state)
{
    upg_tokenizer *tokenizer;
    json_t        *cases, *c;
    size_t         i;

    (void)state;
    tg_need(TG_PHI4 "/tokenizer.json");
    tg_need(UPG_SHARED_DATA "/vectors/phi4_chat.json");
    tokenizer = tg_load(TG_PHI4);
    cases = load_json(UPG_SHARED_DATA "/vectors/phi4_chat.json");
    assert_true(json_array_size(cases) >= 12);
    json_array_foreach(cases, i, c) check_chat(tokenizer, c);
    print_message("%zu conversations\n", i);
    json_decref(cases);
    upg_tokenizer_release(tokenizer);
}

static void micro_chats(void **state)
{
    upg_map   map;
    upg_error err;
    json_t   *cases, *c;
    size_t    i;

    (void)state;
    tg_ok(upg_map_open(TG_MICRO "/tokenizer.json", &map, &err), &err);
    cases = load_json(UPG_TEST_DATA "/phi4_micro_chat.json");
    assert_true(json_array_size(cases) >= 20);
    json_array_foreach(cases, i, c)
    {
        const char *template = json_string_value(json_object_get(c, "template"));
        upg_tokenizer_files files = { .tokenizer_json = map.bytes,
                                      .chat_template = tg_span(template) };
        upg_tokenizer      *tokenizer;

        tg_ok(upg_tokenizer_load_files(&files, &tokenizer, &err), &err);
        check_chat(tokenizer, c);
        upg_tokenizer_release(tokenizer);
    }
    print_message("%zu conversations\n", i);
    json_decref(cases);
    upg_map_close(&map);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(phi4_chats),
        cmocka_unit_test(micro_chats),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
