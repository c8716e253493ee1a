#include "tokenizer/chat_template.h"

#include <string.h>

#include "tokenizer/tokenizer_impl.h"
#include "tokenizer/utf8.h"

typedef struct chat_role {
    const char *role, *before, *after;
} chat_role;

/* before, after and generation begin and end with control tokens, or are empty: no word reaches
 * across a message's border. */
typedef struct upg_chat_spec {
    const char *name;
    const char *text; /* the template, normalised */
    chat_role   roles[3];
    const char *generation; /* appended when the caller asks for it */
    const char *controls[3];
    const char *end; /* ends a turn */
} chat_spec;

#define PHI4_HEAD(role) "<|im_start|>" role "<|im_sep|>"
#define PHI4_CONTROLS                                                                              \
    {                                                                                              \
        "<|im_start|>", "<|im_sep|>", "<|im_end|>"                                                 \
    }

static const chat_spec specs[] = {
    { .name = "phi-4",
      .text = "{% for message in messages %}{% if (message['role'] == 'system') %}"
              "{{'<|im_start|>system<|im_sep|>' + message['content'] + '<|im_end|>'}}"
              "{% elif (message['role'] == 'user') %}"
              "{{'<|im_start|>user<|im_sep|>' + message['content'] + '<|im_end|>'}}"
              "{% elif (message['role'] == 'assistant') %}"
              "{{'<|im_start|>assistant<|im_sep|>' + message['content'] + '<|im_end|>'}}"
              "{% endif %}{% endfor %}{% if add_generation_prompt %}"
              "{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}",
      .roles = { { "system", PHI4_HEAD("system"), "<|im_end|>" },
                 { "user", PHI4_HEAD("user"), "<|im_end|>" },
                 { "assistant", PHI4_HEAD("assistant"), "<|im_end|>" } },
      .generation = PHI4_HEAD("assistant"),
      .controls = PHI4_CONTROLS,
      .end = "<|im_end|>" },
    /* As first published: every user turn opens the answer, whatever the caller asks for. */
    { .name = "phi-4, first release",
      .text = "{% for message in messages %}{% if (message['role'] == 'system') %}"
              "{{'<|im_start|>system<|im_sep|>' + message['content'] + '<|im_end|>'}}"
              "{% elif (message['role'] == 'user') %}"
              "{{'<|im_start|>user<|im_sep|>' + message['content'] + "
              "'<|im_end|><|im_start|>assistant<|im_sep|>'}}"
              "{% elif (message['role'] == 'assistant') %}{{message['content'] + '<|im_end|>'}}"
              "{% endif %}{% endfor %}",
      .roles = { { "system", PHI4_HEAD("system"), "<|im_end|>" },
                 { "user", PHI4_HEAD("user"), "<|im_end|>" PHI4_HEAD("assistant") },
                 { "assistant", "", "<|im_end|>" } },
      .generation = "",
      .controls = PHI4_CONTROLS,
      .end = "<|im_end|>" },
};

enum { N_SPECS = sizeof specs / sizeof specs[0] };

/* Bytes of white space at `text` that Jinja drops in front of a block tag ({% …): blanks at the
 * start of a line (lstrip_blocks), together with the line end right after the tag before it
 * (trim_blocks). Both are set when the reference renders templates. */
static size_t dropped_blanks(const char *text, size_t size, bool after_tag)
{
    size_t i = after_tag && size > 0 && text[0] == '\n' ? 1 : 0;

    if (after_tag && i == 0)
        return 0;
    while (i < size && (text[i] == ' ' || text[i] == '\t'))
        i++;
    return size - i >= 2 && text[i] == '{' && text[i + 1] == '%' ? i : 0;
}

/* Whether a template's text equals a known one but for the blanks that never show. */
static bool same_template(const char *text, size_t size, const char *known)
{
    size_t i = dropped_blanks(text, size, false);

    for (size_t k = 0; i < size; i++, k++) {
        if (known[k] != text[i])
            return known[k] == '\0' && text[i] == '\n' && i + 1 == size; /* Jinja drops it */
        if (k > 0 && known[k - 1] == '%' && known[k] == '}')
            i += dropped_blanks(text + i + 1, size - i - 1, true);
        if (known[k + 1] == '\0' && i + 1 == size)
            return true;
    }
    return false;
}

const struct upg_chat_spec *upg_chat_recognise(const char *text, size_t bytes)
{
    for (size_t s = 0; s < N_SPECS; s++)
        if (same_template(text, bytes, specs[s].text))
            return &specs[s];
    return NULL;
}

const char *upg_chat_control(const struct upg_chat_spec *spec, size_t k)
{
    return k < sizeof spec->controls / sizeof spec->controls[0] ? spec->controls[k] : NULL;
}

upg_status upg_chat_check(const upg_tokenizer *tokenizer, upg_error *err)
{
    const upg_chat_format *chat = &tokenizer->chat;

    if (!chat->present)
        return upg_fail(err, UPG_E_UNSUPPORTED,
                        "the checkpoint has no chat template: give the prompt as raw text, with "
                        "the control tokens that the model was trained with");
    if (chat->spec == NULL)
        return upg_fail(err, UPG_E_UNSUPPORTED,
                        "the checkpoint's chat template is not one of those known (\"%s\", "
                        "\"%s\"): render it yourself and give the prompt as raw text with special "
                        "tokens enabled",
                        specs[0].name, specs[1].name);
    if (chat->missing != NULL)
        return upg_fail(err, UPG_E_UNSUPPORTED,
                        "the chat template \"%s\" needs the token %s, which tokenizer.json does "
                        "not list among its added_tokens",
                        chat->spec->name, chat->missing);
    return UPG_OK;
}

const char *upg_chat_name(const upg_tokenizer *tokenizer)
{
    return upg_chat_check(tokenizer, NULL) == UPG_OK ? tokenizer->chat.spec->name : NULL;
}

static const chat_role *find_role(const chat_spec *spec, const char *role)
{
    for (size_t r = 0; r < sizeof spec->roles / sizeof spec->roles[0]; r++)
        if (strcmp(spec->roles[r].role, role) == 0)
            return &spec->roles[r];
    return NULL;
}

bool upg_chat_has_role(const upg_tokenizer *tokenizer, const char *role)
{
    return upg_chat_check(tokenizer, NULL) == UPG_OK &&
           find_role(tokenizer->chat.spec, role) != NULL;
}

/* Refuses what no rendering could make sense of. */
static upg_status check_messages(const upg_tokenizer *tokenizer, const upg_chat_message *messages,
                                 size_t n, upg_error *err)
{
    upg_status st;

    UPG_TRY(upg_chat_check(tokenizer, err));
    for (size_t i = 0; i < n; i++) {
        const upg_chat_message *m = &messages[i];
        size_t                  valid;

        if (m->role == NULL || (m->text == NULL && m->text_bytes > 0))
            return upg_fail(err, UPG_E_ARG, "message %zu has no %s", i,
                            m->role == NULL ? "role" : "text");
        valid = upg_utf8_valid_bytes((const uint8_t *)m->text, m->text_bytes);
        if (valid < m->text_bytes)
            return upg_fail(err, UPG_E_DATA,
                            "message %zu (%s) is not UTF-8: byte 0x%02X at offset %zu", i, m->role,
                            (uint8_t)m->text[valid], valid);
    }
out:
    return st;
}

static upg_status add_text(upg_buffer *text, const char *string, upg_error *err)
{
    return upg_buffer_add(text, string, strlen(string), err);
}

upg_status upg_chat_render(const upg_tokenizer *tokenizer, const upg_chat_message *messages,
                           size_t n, bool add_generation_prompt, upg_buffer *text, upg_error *err)
{
    upg_status st;

    UPG_TRY(check_messages(tokenizer, messages, n, err));
    for (size_t i = 0; i < n; i++) {
        const chat_role *role = find_role(tokenizer->chat.spec, messages[i].role);

        if (role == NULL)
            continue;
        UPG_TRY(add_text(text, role->before, err));
        UPG_TRY(upg_buffer_add(text, messages[i].text, messages[i].text_bytes, err));
        UPG_TRY(add_text(text, role->after, err));
    }
    if (add_generation_prompt)
        UPG_TRY(add_text(text, tokenizer->chat.spec->generation, err));
out:
    return st;
}

static const upg_added_token *added_of_id(const upg_tokenizer *tokenizer, int32_t id)
{
    for (size_t i = 0; i < tokenizer->n_added; i++)
        if (tokenizer->added[i].id == id)
            return &tokenizer->added[i];
    return NULL;
}

/* The template's own text: its control tokens are meant. */
static upg_status append_own(const upg_tokenizer *tokenizer, const char *text,
                             upg_token_array *tokens, upg_error *err)
{
    return upg_tokenizer_append(tokenizer, text, strlen(text), true, tokens, err);
}

/* A message as plain text, without the white space that the control tokens beside it would take. */
static upg_status append_plain(const upg_tokenizer *tokenizer, const upg_chat_message *message,
                               const char *after, bool first, upg_token_array *tokens,
                               upg_error *err)
{
    const char            *text = message->text;
    size_t                 size = message->text_bytes;
    const upg_added_token *left =
        first ? NULL : added_of_id(tokenizer, tokens->ids[tokens->size - 1]);
    upg_added_match right;

    if (size == 0)
        return UPG_OK;
    if (left != NULL && left->rstrip) {
        size_t dropped = upg_strip_start((const uint8_t *)text, size);

        text += dropped;
        size -= dropped;
    }
    for (int set = 0; set < 2; set++)
        if (upg_added_set_find(&tokenizer->sets[set], (const uint8_t *)after, strlen(after), 0,
                               true, &right) &&
            right.begin == 0 && right.token->lstrip)
            size = upg_strip_end((const uint8_t *)text, size);
    return upg_tokenizer_append(tokenizer, text, size, false, tokens, err);
}

static upg_status append_safe(const upg_tokenizer *tokenizer, const upg_chat_message *messages,
                              size_t n, bool add_generation_prompt, upg_token_array *tokens,
                              upg_error *err)
{
    upg_status st = UPG_OK;
    size_t     begin = tokens->size;

    for (size_t i = 0; i < n; i++) {
        const chat_role *role = find_role(tokenizer->chat.spec, messages[i].role);

        if (role == NULL)
            continue;
        UPG_TRY(append_own(tokenizer, role->before, tokens, err));
        UPG_TRY(
            append_plain(tokenizer, &messages[i], role->after, tokens->size == begin, tokens, err));
        UPG_TRY(append_own(tokenizer, role->after, tokens, err));
    }
    if (add_generation_prompt)
        UPG_TRY(append_own(tokenizer, tokenizer->chat.spec->generation, tokens, err));
out:
    return st;
}

/* The text rendered as a whole, then encoded with its special tokens. */
static upg_status append_as_reference(const upg_tokenizer    *tokenizer,
                                      const upg_chat_message *messages, size_t n,
                                      bool add_generation_prompt, upg_token_array *tokens,
                                      upg_error *err)
{
    upg_status st;
    upg_buffer text;

    upg_buffer_init(&text, UINT32_MAX);
    UPG_TRY(upg_chat_render(tokenizer, messages, n, add_generation_prompt, &text, err));
    st = upg_tokenizer_append(tokenizer, text.data, text.size, true, tokens, err);
out:
    upg_buffer_deinit(&text);
    return st;
}

upg_status upg_chat_append(const upg_tokenizer *tokenizer, const upg_chat_message *messages,
                           size_t n, bool add_generation_prompt, bool special,
                           upg_token_array *tokens, upg_error *err)
{
    upg_status st;
    size_t     before = tokens->size;

    UPG_TRY(check_messages(tokenizer, messages, n, err));
    st = special ? append_as_reference(tokenizer, messages, n, add_generation_prompt, tokens, err)
                 : append_safe(tokenizer, messages, n, add_generation_prompt, tokens, err);
out:
    if (st != UPG_OK)
        tokens->size = before;
    return st;
}

size_t upg_chat_end_ids(const upg_tokenizer *tokenizer, int32_t ids[UPG_CHAT_MAX_ENDS])
{
    size_t n = 0;

    if (upg_chat_check(tokenizer, NULL) == UPG_OK) {
        const char *end = tokenizer->chat.spec->end;

        ids[n++] = upg_tokenizer_find(tokenizer, end, strlen(end));
    }
    if (tokenizer->eos >= 0 && (n == 0 || ids[0] != tokenizer->eos))
        ids[n++] = tokenizer->eos;
    return n;
}
