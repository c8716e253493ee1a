#include "base/json.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* A short, quotable rendering of a value for messages. */
static void render(const json_t *value, char *text, size_t cap)
{
    char *dump = value ? json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT) : NULL;

    snprintf(text, cap, "%s", value == NULL ? "nothing" : dump == NULL ? "a value" : dump);
    free(dump);
}

static upg_status wrong(const json_t *value, const char *key, const char *where, const char *need,
                        upg_error *err)
{
    char found[96];

    render(value, found, sizeof found);
    if (value == NULL)
        return upg_fail(err, UPG_E_FORMAT, "%s: field \"%s\" is missing, %s is needed", where, key,
                        need);
    return upg_fail(err, UPG_E_FORMAT, "%s: field \"%s\" is %s, %s is needed", where, key, found,
                    need);
}

upg_status upg_json_parse(upg_span text, json_t **value, upg_error *err)
{
    json_error_t problem;

    *value = json_loadb((const char *)text.data, text.size,
                        JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY, &problem);
    if (*value != NULL)
        return UPG_OK;
    /* jansson does not always tell when memory ran out, but then it mostly has no text either. */
    if (json_error_code(&problem) == json_error_out_of_memory || problem.text[0] == '\0')
        return upg_fail(err, UPG_E_NOMEM, "out of memory while parsing JSON");
    return upg_fail(err, UPG_E_FORMAT, "not valid JSON: %s (line %d, column %d)", problem.text,
                    problem.line, problem.column);
}

upg_status upg_json_u64(const json_t *object, const char *key, uint64_t min, uint64_t max,
                        const char *where, uint64_t *value, upg_error *err)
{
    const json_t *field = json_object_get(object, key);
    json_int_t    number = json_integer_value(field);
    char          need[96];

    if (json_is_integer(field) && number >= 0 && (uint64_t)number >= min &&
        (uint64_t)number <= max) {
        *value = (uint64_t)number;
        return UPG_OK;
    }
    snprintf(need, sizeof need, "an integer from %" PRIu64 " to %" PRIu64, min, max);
    return wrong(field, key, where, need, err);
}

upg_status upg_json_number(const json_t *object, const char *key, double min, double max,
                           const char *where, double *value, upg_error *err)
{
    const json_t *field = json_object_get(object, key);
    double        number = json_number_value(field);
    char          need[96];

    if (json_is_number(field) && number >= min && number <= max) {
        *value = number;
        return UPG_OK;
    }
    snprintf(need, sizeof need, "a number from %g to %g", min, max);
    return wrong(field, key, where, need, err);
}

upg_status upg_json_string(const json_t *object, const char *key, const char *where,
                           const char **value, upg_error *err)
{
    const json_t *field = json_object_get(object, key);

    if (json_is_string(field)) {
        *value = json_string_value(field);
        return UPG_OK;
    }
    return wrong(field, key, where, "a string", err);
}

bool upg_json_has(const json_t *object, const char *key)
{
    const json_t *field = json_object_get(object, key);

    return field != NULL && !json_is_null(field);
}

upg_status upg_json_bool_or(const json_t *object, const char *key, bool fallback, const char *where,
                            bool *value, upg_error *err)
{
    const json_t *field = json_object_get(object, key);

    *value = fallback;
    if (field == NULL || json_is_null(field))
        return UPG_OK;
    if (!json_is_boolean(field))
        return wrong(field, key, where, "true or false", err);
    *value = json_is_true(field);
    return UPG_OK;
}
