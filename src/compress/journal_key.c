#include "compress/journal_key.h"

#include <cblas.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/cpu.h"

enum { FORM = 2, HASH_TEXT = 33 };

static void hash_text(const uint8_t hash[UPG_INPUT_HASH], char text[HASH_TEXT])
{
    for (int i = 0; i < UPG_INPUT_HASH; i++)
        snprintf(text + 2 * i, 3, "%02x", hash[i]);
}

/* ---- the small parts ------------------------------------------------------------------------- */

static void add_bytes(XXH128_hash_t *sum, const void *bytes, size_t size)
{
    XXH128_hash_t both[2] = { *sum, XXH3_128bits(bytes, size) };

    *sum = XXH3_128bits(both, sizeof both);
}

static void add_vector(XXH128_hash_t *sum, const upg_vector *v)
{
    add_bytes(sum, v->name, strlen(v->name));
    add_bytes(sum, v->values, v->n * sizeof *v->values);
}

/* Config, tokenizer and norms: read anyway, and small. */
static void hash_parts(const upg_weights *w, char text[HASH_TEXT])
{
    const upg_span     parts[] = { w->config_json, w->generation_config_json, w->tokenizer_json,
                                   w->tokenizer_config_json, w->chat_template };
    XXH128_hash_t      sum = { 0, 0 };
    XXH128_canonical_t canonical;

    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        add_bytes(&sum, parts[i].data, parts[i].size);
    for (uint32_t l = 0; l < w->config.n_layers; l++) {
        add_vector(&sum, &w->layers[l].attention_norm);
        add_vector(&sum, &w->layers[l].ffn_norm);
    }
    add_vector(&sum, &w->final_norm);
    XXH128_canonicalFromHash(&canonical, sum);
    hash_text(canonical.digest, text);
}

/* ---- the object ------------------------------------------------------------------------------ */

/* Sums are rounded as the BLAS kernel and the instruction set order them. */
static json_t *machine(const char *device)
{
    char    flags[24];
    json_t *all;

    snprintf(flags, sizeof flags, "%x", (unsigned)upg_cpu_flags());
    all = json_pack("{s:s,s:s,s:s}", "blas_core", openblas_get_corename(), "blas",
                    openblas_get_config(), "cpu_flags", flags);
    if (device != NULL) /* one without is the CPU's */
        json_object_set_new(all, "device", json_string(device));
    return all;
}

/* Everything but what takes time. */
static upg_status print_quick(const upg_journal_key *key, json_t **head, upg_error *err)
{
    char    parts[HASH_TEXT];
    json_t *recipe = json_loads(key->recipe_json, 0, NULL);

    hash_parts(key->input->weights, parts);
    *head = json_pack("{s:i,s:s,s:o,s:o,s:s,s:O}", "journal", FORM, "version", UPG_VERSION,
                      "recipe", recipe, "machine", machine(key->device), "parts", parts, "files",
                      key->input->files);
    return *head != NULL ? UPG_OK : upg_fail(err, UPG_E_NOMEM, "out of memory while writing JSON");
}

/* Of every matrix; null where it is not known yet. */
static json_t *known_hashes(const upg_input *input)
{
    json_t *hashes = json_array();

    for (uint32_t i = 0; i < upg_weights_matrix_count(input->weights); i++) {
        const uint8_t *hash = upg_input_hash(input, i);
        char           text[HASH_TEXT];

        if (hash != NULL)
            hash_text(hash, text);
        json_array_append_new(hashes, hash != NULL ? json_string(text) : json_null());
    }
    return hashes;
}

upg_status upg_journal_key_print(const upg_journal_key *key, json_t **head, upg_error *err)
{
    json_t    *sensitivities = json_array();
    upg_status st;

    *head = NULL;
    for (uint32_t u = 0; u < key->plan->n_units; u++) {
        char exact[40];

        snprintf(exact, sizeof exact, "%a", key->plan->units[u].sensitivity);
        json_array_append_new(sensitivities, json_string(exact));
    }
    UPG_TRY(print_quick(key, head, err));
    if (json_object_set_new(*head, "matrices", known_hashes(key->input)) != 0 ||
        json_object_set(*head, "sensitivities", sensitivities) != 0)
        st = upg_fail(err, UPG_E_NOMEM, "out of memory while writing JSON");
out:
    json_decref(sensitivities);
    if (st != UPG_OK) {
        json_decref(*head);
        *head = NULL;
    }
    return st;
}

/* ---- comparing ------------------------------------------------------------------------------- */

static void short_text(const json_t *value, char *text, size_t cap)
{
    char *dump = value == NULL ? NULL : json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);

    snprintf(text, cap, "%s", dump != NULL ? dump : "not set");
    free(dump);
}

/* Refuses when the objects differ, naming the first field that does. */
static upg_status compare(const json_t *before, const json_t *now, const char *what, upg_error *err)
{
    const char *key;
    json_t     *value, *both = json_deep_copy(before);
    upg_status  st = UPG_OK;
    char        was[80], is[80];

    json_object_update(both, (json_t *)now); /* only borrowed */
    json_object_foreach(both, key, value)
    {
        const json_t *a = json_object_get(before, key), *b = json_object_get(now, key);

        if (json_equal(a, b))
            continue;
        if (json_is_object(a) && json_is_object(b)) {
            st = compare(a, b, what, err);
        } else {
            short_text(a, was, sizeof was);
            short_text(b, is, sizeof is);
            st = upg_fail(err, UPG_E_UNSUPPORTED,
                          "the journal was begun with %s %s = %s, now it is %s: go on as it was "
                          "begun, or remove the journal to start again",
                          what, key, was, is);
        }
        break;
    }
    json_decref(both);
    return st;
}

static upg_status refuse(const upg_matrix *m, const char *why, upg_error *err)
{
    return upg_fail(err, UPG_E_DATA,
                    "%s: tensor \"%s\" %s the journal was begun: put the file back, or remove the "
                    "journal to start again",
                    m->file, m->name, why);
}

/* The hash of a matrix when the journal was begun, or when its record was made. */
static bool hash_before(const json_t *head, const upg_recorded_hash *recorded, uint32_t index,
                        char text[HASH_TEXT])
{
    const char *known = json_string_value(json_array_get(json_object_get(head, "matrices"), index));
    uint8_t     hash[UPG_INPUT_HASH];

    if (known != NULL)
        snprintf(text, HASH_TEXT, "%s", known);
    else if (recorded->find(recorded->user, index, hash))
        hash_text(hash, text);
    else
        return false;
    return true;
}

/* Files have another time or size: all weights are read and compared. */
static upg_status compare_matrices(const json_t *head, const upg_journal_key *key,
                                   const upg_recorded_hash *recorded, upg_pool *pool,
                                   upg_error *err)
{
    upg_input *input = key->input;
    upg_status st = upg_input_read_all(input, pool, err);

    for (uint32_t i = 0; st == UPG_OK && i < upg_weights_matrix_count(input->weights); i++) {
        const upg_matrix *m = upg_weights_matrix(input->weights, i);
        char              before[HASH_TEXT], now[HASH_TEXT];

        hash_text(upg_input_hash(input, i), now);
        if (!hash_before(head, recorded, i, before))
            st = refuse(m,
                        "was not read before its file got another time, so that nobody can tell "
                        "whether it is what it was when",
                        err);
        else if (strcmp(before, now) != 0)
            st = refuse(m, "has changed since", err);
    }
    return st;
}

static upg_status check_version(const json_t *head, upg_error *err)
{
    const char *version = json_string_value(json_object_get(head, "version"));

    if (json_integer_value(json_object_get(head, "journal")) != FORM || version == NULL)
        return upg_fail(err, UPG_E_VERSION, "the journal is not of a form that this upg knows");
    if (strcmp(version, UPG_VERSION) != 0)
        return upg_fail(err, UPG_E_VERSION,
                        "the journal was begun by upg %s, this is %s: go on with that one, or "
                        "remove the journal to start again",
                        version, UPG_VERSION);
    return UPG_OK;
}

upg_status upg_journal_key_check(const json_t *head, const upg_journal_key *key,
                                 const upg_recorded_hash *recorded, upg_pool *pool, upg_error *err)
{
    json_t    *now = NULL;
    upg_status st = print_quick(key, &now, err);

    UPG_TRY(st);
    UPG_TRY(check_version(head, err));
    UPG_TRY(
        compare(json_object_get(head, "recipe"), json_object_get(now, "recipe"), "option", err));
    UPG_TRY(compare(json_object_get(head, "machine"), json_object_get(now, "machine"),
                    "the machine's", err));
    if (!json_equal(json_object_get(head, "parts"), json_object_get(now, "parts")))
        UPG_TRY(upg_fail(err, UPG_E_DATA,
                         "config, tokenizer or norms have changed since the journal was begun: put "
                         "them back, or remove the journal to start again"));
    if (!json_equal(json_object_get(head, "files"), json_object_get(now, "files")))
        UPG_TRY(compare_matrices(head, key, recorded, pool, err));
out:
    json_decref(now);
    return st;
}
