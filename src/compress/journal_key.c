#include "compress/journal_key.h"

#include <cblas.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/alloc.h"
#include "base/cpu.h"
#include "compress/dense_rows.h"

enum { HASH_TEXT = 33, HASH_STEP = 64 << 20 };

static void hash_text(XXH128_hash_t h, char text[HASH_TEXT])
{
    snprintf(text, HASH_TEXT, "%016" PRIx64 "%016" PRIx64, (uint64_t)h.high64, (uint64_t)h.low64);
}

/* ---- weights --------------------------------------------------------------------------------- */

typedef struct hash_work {
    const upg_weights *weights;
    XXH3_state_t     **states; /* [pool size] */
    char (*texts)[HASH_TEXT];  /* [n_matrices] */
} hash_work;

static void hash_matrix(void *context, size_t item, uint32_t worker)
{
    hash_work        *w = context;
    const upg_matrix *m = upg_weights_matrix(w->weights, (uint32_t)item);
    uint64_t          left = upg_dense_bytes(m);
    const uint8_t    *at = m->dense;

    XXH3_128bits_reset(w->states[worker]);
    while (left > 0) {
        size_t n = left < HASH_STEP ? (size_t)left : HASH_STEP;

        XXH3_128bits_update(w->states[worker], at, n);
        upg_map_forget(at, n);
        at += n;
        left -= n;
    }
    hash_text(XXH3_128bits_digest(w->states[worker]), w->texts[item]);
}

/* The hash of every matrix as it came; *texts is the caller's. */
static upg_status hash_matrices(const upg_weights *weights, upg_pool *pool,
                                char (**texts)[HASH_TEXT], upg_error *err)
{
    uint32_t   n = upg_weights_matrix_count(weights), threads = upg_pool_size(pool);
    hash_work  w = { .weights = weights };
    upg_status st = UPG_OK;

    *texts = upg_calloc(n, sizeof **texts, err);
    w.texts = *texts;
    w.states = upg_calloc(threads, sizeof(XXH3_state_t *), err);
    UPG_TRY(w.texts != NULL && w.states != NULL ? UPG_OK : UPG_E_NOMEM);
    for (uint32_t i = 0; i < threads; i++) {
        w.states[i] = XXH3_createState();
        if (w.states[i] == NULL)
            UPG_TRY(upg_fail(err, UPG_E_NOMEM, "out of memory for a hash"));
    }
    upg_pool_run(pool, n, hash_matrix, &w);
    UPG_TRY(upg_weights_check_maps(weights, err));
out:
    for (uint32_t i = 0; w.states != NULL && i < threads; i++)
        XXH3_freeState(w.states[i]);
    upg_free(w.states);
    return st;
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
    const upg_span parts[] = { w->config_json, w->generation_config_json, w->tokenizer_json,
                               w->tokenizer_config_json, w->chat_template };
    XXH128_hash_t  sum = { 0, 0 };

    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        add_bytes(&sum, parts[i].data, parts[i].size);
    for (uint32_t l = 0; l < w->config.n_layers; l++) {
        add_vector(&sum, &w->layers[l].attention_norm);
        add_vector(&sum, &w->layers[l].ffn_norm);
    }
    add_vector(&sum, &w->final_norm);
    hash_text(sum, text);
}

/* ---- files ----------------------------------------------------------------------------------- */

static bool named(const json_t *files, const char *name)
{
    size_t  i;
    json_t *file;

    json_array_foreach(files, i, file) if (strcmp(json_string_value(json_object_get(file, "name")),
                                                  name) == 0) return true;
    return false;
}

/* Name, size and time of every file with matrices. */
static upg_status list_files(const upg_journal_key *key, json_t *files, upg_error *err)
{
    for (uint32_t i = 0; i < upg_weights_matrix_count(key->weights); i++) {
        const char *name = upg_weights_matrix(key->weights, i)->file;
        char       *path;
        uint64_t    bytes = 0;
        int64_t     changed = 0;
        bool        found;

        if (named(files, name))
            continue;
        path = upg_path_join(key->checkpoint, name, err);
        if (path == NULL)
            return UPG_E_NOMEM;
        found = upg_file_stamp(path, &bytes, &changed);
        upg_free(path);
        if (!found)
            return upg_fail(err, UPG_E_IO, "%s: the file is gone", name);
        if (json_array_append_new(files, json_pack("{s:s,s:I,s:I}", "name", name, "bytes",
                                                   (json_int_t)bytes, "changed_ns",
                                                   (json_int_t)changed)) != 0)
            return upg_fail(err, UPG_E_NOMEM, "out of memory while writing JSON");
    }
    return UPG_OK;
}

/* Sums are rounded as the BLAS kernel and the instruction set order them. */
static json_t *machine(void)
{
    char flags[24];

    snprintf(flags, sizeof flags, "%x", (unsigned)upg_cpu_flags());
    return json_pack("{s:s,s:s,s:s}", "blas_core", openblas_get_corename(), "blas",
                     openblas_get_config(), "cpu_flags", flags);
}

/* Everything but what takes time. */
static upg_status print_quick(const upg_journal_key *key, json_t **head, upg_error *err)
{
    char       parts[HASH_TEXT];
    json_t    *files = json_array();
    json_t    *recipe = json_loads(key->recipe_json, 0, NULL);
    upg_status st = list_files(key, files, err);

    hash_parts(key->weights, parts);
    if (st != UPG_OK) {
        json_decref(files);
        json_decref(recipe);
        return st;
    }
    *head = json_pack("{s:i,s:s,s:o,s:o,s:s,s:o}", "journal", 1, "version", UPG_VERSION, "recipe",
                      recipe, "machine", machine(), "parts", parts, "files", files);
    return *head != NULL ? UPG_OK : upg_fail(err, UPG_E_NOMEM, "out of memory while writing JSON");
}

upg_status upg_journal_key_print(const upg_journal_key *key, upg_pool *pool, json_t **head,
                                 upg_error *err)
{
    char(*texts)[HASH_TEXT] = NULL;
    json_t    *hashes = json_array(), *sensitivities = json_array();
    upg_status st;

    *head = NULL;
    UPG_TRY(hash_matrices(key->weights, pool, &texts, err));
    for (uint32_t i = 0; i < upg_weights_matrix_count(key->weights); i++)
        json_array_append_new(hashes, json_string(texts[i]));
    for (uint32_t u = 0; u < key->plan->n_units; u++) {
        char exact[40];

        snprintf(exact, sizeof exact, "%a", key->plan->units[u].sensitivity);
        json_array_append_new(sensitivities, json_string(exact));
    }
    UPG_TRY(print_quick(key, head, err));
    if (json_object_set(*head, "matrices", hashes) != 0 ||
        json_object_set(*head, "sensitivities", sensitivities) != 0)
        st = upg_fail(err, UPG_E_NOMEM, "out of memory while writing JSON");
out:
    json_decref(hashes);
    json_decref(sensitivities);
    upg_free(texts);
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

static upg_status compare_matrices(const json_t *head, const upg_journal_key *key, upg_pool *pool,
                                   upg_error *err)
{
    char(*texts)[HASH_TEXT] = NULL;
    const json_t *hashes = json_object_get(head, "matrices");
    upg_status    st = hash_matrices(key->weights, pool, &texts, err);

    for (uint32_t i = 0; st == UPG_OK && i < upg_weights_matrix_count(key->weights); i++) {
        const char *before = json_string_value(json_array_get(hashes, i));

        if (before == NULL || strcmp(before, texts[i]) != 0)
            st = upg_fail(err, UPG_E_DATA,
                          "%s: tensor \"%s\" has changed since the journal was begun: put the file "
                          "back, or remove the journal to start again",
                          upg_weights_matrix(key->weights, i)->file,
                          upg_weights_matrix(key->weights, i)->name);
    }
    upg_free(texts);
    return st;
}

static upg_status check_version(const json_t *head, upg_error *err)
{
    const char *version = json_string_value(json_object_get(head, "version"));

    if (json_integer_value(json_object_get(head, "journal")) != 1 || version == NULL)
        return upg_fail(err, UPG_E_VERSION, "the journal is not of a form that this upg knows");
    if (strcmp(version, UPG_VERSION) != 0)
        return upg_fail(err, UPG_E_VERSION,
                        "the journal was begun by upg %s, this is %s: go on with that one, or "
                        "remove the journal to start again",
                        version, UPG_VERSION);
    return UPG_OK;
}

upg_status upg_journal_key_check(const json_t *head, const upg_journal_key *key, upg_pool *pool,
                                 upg_error *err)
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
        UPG_TRY(compare_matrices(head, key, pool, err));
out:
    json_decref(now);
    return st;
}
