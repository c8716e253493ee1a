#include "compress/input.h"

#include <string.h>
#include <xxhash.h>

#include "base/alloc.h"
#include "base/file.h"
#include "compress/dense_rows.h"

enum { HASH_STEP = 64 << 20 };

static const uint8_t unknown[UPG_INPUT_HASH];

/* ---- files ----------------------------------------------------------------------------------- */

static bool named(const json_t *files, const char *name)
{
    size_t  i;
    json_t *file;

    json_array_foreach(files, i, file) if (strcmp(json_string_value(json_object_get(file, "name")),
                                                  name) == 0) return true;
    return false;
}

static upg_status list_files(const upg_input *input, json_t *files, upg_error *err)
{
    for (uint32_t i = 0; i < upg_weights_matrix_count(input->weights); i++) {
        const char *name = upg_weights_matrix(input->weights, i)->file;
        char       *path;
        uint64_t    bytes = 0;
        int64_t     changed = 0;
        bool        found;

        if (named(files, name))
            continue;
        path = upg_path_join(input->checkpoint, name, err);
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

static const char *first_that_differs(const json_t *before, const json_t *now)
{
    size_t  i;
    json_t *file;

    json_array_foreach(
        before, i,
        file) if (!json_equal(file,
                              json_array_get(
                                  now, i))) return json_string_value(json_object_get(file, "name"));
    return "the checkpoint";
}

upg_status upg_input_check(const upg_input *input, upg_error *err)
{
    json_t    *now = json_array();
    upg_status st = upg_weights_check_maps(input->weights, err);

    UPG_TRY(st);
    UPG_TRY(list_files(input, now, err));
    if (!json_equal(input->files, now))
        UPG_TRY(upg_fail(err, UPG_E_DATA,
                         "%s: the file was changed while it was read, what was made of it is of no "
                         "use: put it back as it was, with its time, or start again",
                         first_that_differs(input->files, now)));
out:
    json_decref(now);
    return st;
}

/* ---- hashes ---------------------------------------------------------------------------------- */

const uint8_t *upg_input_hash(const upg_input *input, uint32_t matrix)
{
    const uint8_t *hash = input->hashes[matrix];

    return memcmp(hash, unknown, sizeof unknown) != 0 ? hash : NULL;
}

static void store(const XXH3_state_t *state, uint8_t hash[UPG_INPUT_HASH])
{
    XXH128_canonical_t canonical;

    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state));
    memcpy(hash, &canonical, sizeof canonical);
}

static void hash_matrix(const upg_matrix *m, XXH3_state_t *state, bool forget,
                        uint8_t hash[UPG_INPUT_HASH])
{
    uint64_t       left = upg_dense_bytes(m);
    const uint8_t *at = m->dense;

    XXH3_128bits_reset(state);
    while (left > 0) {
        size_t n = left < HASH_STEP ? (size_t)left : HASH_STEP;

        XXH3_128bits_update(state, at, n);
        if (forget)
            upg_map_forget(at, n);
        at += n;
        left -= n;
    }
    store(state, hash);
}

void upg_input_read(upg_input *input, const upg_matrix *matrix)
{
    uint32_t      index = upg_input_index(input->weights, matrix);
    XXH3_state_t *state;

    if (upg_input_hash(input, index) != NULL)
        return;
    state = XXH3_createState();
    if (state == NULL)
        return; /* it stays unknown */
    hash_matrix(matrix, state, false, input->hashes[index]);
    XXH3_freeState(state);
}

typedef struct hash_work {
    upg_input     *input;
    XXH3_state_t **states; /* [pool size] */
} hash_work;

static void hash_item(void *context, size_t item, uint32_t worker)
{
    hash_work *w = context;

    if (upg_input_hash(w->input, (uint32_t)item) == NULL)
        hash_matrix(upg_weights_matrix(w->input->weights, (uint32_t)item), w->states[worker], true,
                    w->input->hashes[item]);
}

upg_status upg_input_read_all(upg_input *input, upg_pool *pool, upg_error *err)
{
    uint32_t   threads = upg_pool_size(pool);
    hash_work  w = { .input = input };
    upg_status st = UPG_OK;

    w.states = upg_calloc(threads, sizeof(XXH3_state_t *), err);
    UPG_TRY(w.states != NULL ? UPG_OK : UPG_E_NOMEM);
    for (uint32_t i = 0; i < threads; i++) {
        w.states[i] = XXH3_createState();
        if (w.states[i] == NULL)
            UPG_TRY(upg_fail(err, UPG_E_NOMEM, "out of memory for a hash"));
    }
    upg_pool_run(pool, upg_weights_matrix_count(input->weights), hash_item, &w);
    UPG_TRY(upg_weights_check_maps(input->weights, err));
out:
    for (uint32_t i = 0; w.states != NULL && i < threads; i++)
        XXH3_freeState(w.states[i]);
    upg_free(w.states);
    return st;
}

/* ---- open, close ----------------------------------------------------------------------------- */

upg_status upg_input_open(upg_input *input, const char *checkpoint, const upg_weights *weights,
                          upg_error *err)
{
    *input = (upg_input) { .checkpoint = checkpoint, .weights = weights };
    input->hashes = upg_calloc(upg_weights_matrix_count(weights), sizeof *input->hashes, err);
    if (input->hashes == NULL)
        return UPG_E_NOMEM;
    input->files = json_array();
    return list_files(input, input->files, err);
}

void upg_input_close(upg_input *input)
{
    json_decref(input->files);
    upg_free(input->hashes);
    *input = (upg_input) { 0 };
}

uint32_t upg_input_index(const upg_weights *weights, const upg_matrix *matrix)
{
    uint32_t index = 0;

    while (upg_weights_matrix(weights, index) != matrix)
        index++; /* all matrices of a plan are the weights' */
    return index;
}
