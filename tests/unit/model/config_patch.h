/* config_patch.h: reading a config with some fields replaced, for the tests of config.json. */
#ifndef UPG_TESTS_CONFIG_PATCH_H
#define UPG_TESTS_CONFIG_PATCH_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "model/model_config.h"

/* The object under `key` of tests/data/configs/NAME.json; the caller calls json_decref. */
static inline json_t *load_config(const char *name, const char *key)
{
    char    path[512];
    json_t *file, *value;

    snprintf(path, sizeof path, UPG_TEST_DATA "/configs/%s.json", name);
    file = json_load_file(path, 0, NULL);
    assert_non_null(file);
    value = json_incref(json_object_get(file, key));
    json_decref(file);
    return value;
}

/* Sets or, where the patch says "(remove)", removes fields, objects inside objects too. */
static inline void apply_patch(json_t *object, const json_t *patch)
{
    const char *key;
    json_t     *value;

    json_object_foreach((json_t *)(uintptr_t)patch, key, value)
    {
        const char *text = json_string_value(value);

        if (text != NULL && strcmp(text, "(remove)") == 0)
            json_object_del(object, key);
        else if (json_is_object(value) && json_is_object(json_object_get(object, key)))
            apply_patch(json_object_get(object, key), value);
        else
            json_object_set(object, key, value);
    }
}

/* Reads config NAME with a JSON patch (NULL = none) and a generation config (NULL = none). */
static inline upg_status read_patched(const char *name, const char *patch, const char *generation,
                                      upg_arena *arena, upg_model_config *config, upg_error *err)
{
    json_t    *root = load_config(name, "config");
    json_t    *changes = patch ? json_loads(patch, 0, NULL) : json_object();
    upg_span   more = { (const uint8_t *)generation, generation ? strlen(generation) : 0 };
    char      *text;
    upg_status st;

    assert_non_null(changes);
    apply_patch(root, changes);
    text = json_dumps(root, 0);
    st = upg_model_config_read((upg_span) { (const uint8_t *)text, strlen(text) }, more, arena,
                               config, err);
    free(text);
    json_decref(changes);
    json_decref(root);
    return st;
}

/* One refusal: the status and a part of the message. */
typedef struct refusal {
    const char *base, *patch, *generation;
    upg_status  status;
    const char *message;
} refusal;

static inline void check_refusals(const refusal *cases, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        upg_arena        arena = { 0 };
        upg_error        err = { 0 };
        upg_model_config config;
        upg_status       st =
            read_patched(cases[i].base, cases[i].patch, cases[i].generation, &arena, &config, &err);

        if (st != cases[i].status || strstr(err.message, cases[i].message) == NULL)
            fail_msg("case %zu: status %d, \"%s\"; wanted %d, \"%s\"", i, st, err.message,
                     cases[i].status, cases[i].message);
        assert_int_equal(err.code, st);
        upg_arena_deinit(&arena);
    }
}

#endif
