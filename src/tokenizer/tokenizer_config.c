/* tokenizer_config.c: what tokenizer_config.json and chat_template.jinja add to tokenizer.json. */
#include <string.h>

#include "base/json.h"
#include "tokenizer/tokenizer_impl.h"

#define WHERE "tokenizer_config.json"

/* The template's text: a string, or the one named "default" of a list. NULL without. */
static const json_t *template_text(const json_t *config)
{
    const json_t *field = json_object_get(config, "chat_template");
    size_t        i;
    json_t       *entry;

    if (json_is_string(field))
        return field;
    json_array_foreach(field, i, entry)
    {
        const char *name = json_string_value(json_object_get(entry, "name"));

        if (name != NULL && strcmp(name, "default") == 0)
            return json_object_get(entry, "template");
    }
    return NULL;
}

/* A token's text: a string, or an object with "content" (as older files have it). */
static const json_t *token_text(const json_t *config, const char *key)
{
    const json_t *field = json_object_get(config, key);

    return json_is_object(field) ? json_object_get(field, "content") : field;
}

static upg_status read_eos(upg_tokenizer *t, const json_t *config, upg_error *err)
{
    const json_t *text = token_text(config, "eos_token");

    if (text == NULL || json_is_null(text))
        return UPG_OK;
    if (!json_is_string(text))
        return upg_fail(err, UPG_E_FORMAT, WHERE ": field \"eos_token\" is not a string");
    t->eos = upg_tokenizer_find(t, json_string_value(text), json_string_length(text));
    if (t->eos < 0)
        return upg_fail(err, UPG_E_FORMAT, WHERE ": eos_token \"%.64s\" is not in tokenizer.json",
                        json_string_value(text));
    return UPG_OK;
}

/* Tokens that only this file lists would have to be added by us: refused, as are contradictions. */
static upg_status check_added(const upg_tokenizer *t, const json_t *config, upg_error *err)
{
    const char *key;
    json_t     *entry;

    json_object_foreach(json_object_get(config, "added_tokens_decoder"), key, entry)
    {
        const json_t *content = json_object_get(entry, "content");
        size_t        i = 0;

        if (!json_is_string(content))
            return upg_fail(err, UPG_E_FORMAT,
                            WHERE ": added_tokens_decoder[\"%.32s\"] has no content", key);
        while (i < t->n_added &&
               (t->added[i].size != json_string_length(content) ||
                memcmp(t->added[i].content, json_string_value(content), t->added[i].size) != 0))
            i++;
        if (i == t->n_added)
            return upg_fail(err, UPG_E_UNSUPPORTED,
                            WHERE ": added token %.32s (\"%.64s\") is not among the added_tokens "
                                  "of tokenizer.json: save the tokenizer again with both in step",
                            key, json_string_value(content));
        if (strtol(key, NULL, 10) != t->added[i].id)
            return upg_fail(err, UPG_E_FORMAT,
                            WHERE ": added token \"%.64s\" has the id %.32s, in tokenizer.json %d",
                            json_string_value(content), key, t->added[i].id);
    }
    return UPG_OK;
}

static upg_status check_options(const json_t *config, upg_error *err)
{
    upg_status st;
    bool       prefix;

    UPG_TRY(upg_json_bool_or(config, "add_prefix_space", false, WHERE, &prefix, err));
    if (prefix)
        st = upg_fail(err, UPG_E_UNSUPPORTED, WHERE ": add_prefix_space true is not supported");
out:
    return st;
}

/* Remembers the template; its control tokens count as special whatever their flags say. */
static void set_template(upg_tokenizer *t, const char *text, size_t size)
{
    const char *control;

    t->chat.present = true;
    t->chat.spec = upg_chat_recognise(text, size);
    if (t->chat.spec == NULL)
        return;
    for (size_t k = 0; (control = upg_chat_control(t->chat.spec, k)) != NULL; k++) {
        size_t i = 0;

        while (i < t->n_added && (t->added[i].size != strlen(control) ||
                                  memcmp(t->added[i].content, control, t->added[i].size) != 0))
            i++;
        if (i < t->n_added)
            t->added[i].control = true;
        else
            t->chat.missing = control;
    }
}

upg_status upg_tokenizer_read_config(upg_tokenizer *tokenizer, upg_span config_text,
                                     upg_span chat_template, upg_error *err)
{
    upg_status    st = UPG_OK;
    json_t       *config = NULL;
    const json_t *text;

    if (config_text.size > 0) {
        st = upg_json_parse(config_text, &config, err);
        if (st != UPG_OK)
            upg_error_prefix(err, WHERE ": ");
        UPG_TRY(st);
        if (!json_is_object(config))
            UPG_TRY(upg_fail(err, UPG_E_FORMAT, WHERE ": not an object"));
        UPG_TRY(check_options(config, err));
        UPG_TRY(check_added(tokenizer, config, err));
        UPG_TRY(read_eos(tokenizer, config, err));
    }
    text = template_text(config);
    if (chat_template.size > 0)
        set_template(tokenizer, (const char *)chat_template.data, chat_template.size);
    else if (json_is_string(text))
        set_template(tokenizer, json_string_value(text), json_string_length(text));
out:
    json_decref(config);
    return st;
}
