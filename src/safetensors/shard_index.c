/* shard_index.c: model.safetensors.index.json. Its file names come from outside and become paths,
 * so only plain names of files beside the index are accepted. */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "safetensors/checkpoint.h"

/* A plain file name: cannot leave the folder, cannot be an option or a hidden file. */
static bool plain_file_name(const char *name, size_t size)
{
    if (size == 0 || size > 255 || strlen(name) != size || name[0] == '.')
        return false;
    for (size_t i = 0; i < size; i++) {
        if ((unsigned char)name[i] < 0x20 || strchr("/\\:\x7F", name[i]) != NULL)
            return false;
    }
    return strstr(name, "..") == NULL;
}

static int by_text(const void *a, const void *b)
{
    const char *const *x = a, *const *y = b;

    return strcmp(*x, *y);
}

static upg_status check_entry(const char *tensor, const json_t *shard, upg_error *err)
{
    if (!upg_st_name_ok(tensor))
        return upg_fail(err, UPG_E_FORMAT,
                        "\"weight_map\" holds a name with control characters, or not of 1 to %d "
                        "bytes",
                        UPG_ST_MAX_NAME);
    if (!json_is_string(shard))
        return upg_fail(err, UPG_E_FORMAT, "\"weight_map\": the file of tensor \"%s\" is no string",
                        tensor);
    if (!plain_file_name(json_string_value(shard), json_string_length(shard)))
        return upg_fail(err, UPG_E_FORMAT,
                        "\"weight_map\": the file of tensor \"%s\" is no plain file name; "
                        "shards lie beside the index",
                        tensor);
    return UPG_OK;
}

/* shards [n_tensors] with repetitions: sorts, keeps one of each, and finds everyone's index. */
static void number_shards(upg_shard_index *index, const char *const *shard_names)
{
    qsort(index->shards, index->n_tensors, sizeof *index->shards, by_text);
    for (size_t i = 0; i < index->n_tensors; i++) {
        if (i == 0 || strcmp(index->shards[i], index->shards[index->n_shards - 1]) != 0)
            index->shards[index->n_shards++] = index->shards[i];
    }
    for (size_t i = 0; i < index->n_tensors; i++) {
        const char **found = bsearch(&shard_names[i], index->shards, index->n_shards,
                                     sizeof *index->shards, by_text);
        index->shard_of[i] = (uint32_t)(found - index->shards);
    }
}

static upg_status parse_map(json_t *map, upg_shard_index *index, upg_error *err)
{
    size_t       n = json_object_size(map), i = 0;
    const char **shard_names = upg_calloc(n, sizeof *shard_names, err);
    const char  *key;
    json_t      *value;
    upg_status   st = UPG_OK;

    index->shards = upg_calloc(n, sizeof *index->shards, err);
    index->tensors = upg_calloc(n, sizeof *index->tensors, err);
    index->shard_of = upg_calloc(n, sizeof *index->shard_of, err);
    UPG_TRY(shard_names && index->shards && index->tensors && index->shard_of ? UPG_OK
                                                                              : UPG_E_NOMEM);
    json_object_foreach(map, key, value)
    {
        UPG_TRY(check_entry(key, value, err));
        index->tensors[i] = key;
        index->shards[i] = shard_names[i] = json_string_value(value);
        i++;
    }
    index->n_tensors = n;
    number_shards(index, shard_names);
out:
    upg_free(shard_names);
    return st;
}

upg_status upg_shard_index_parse(upg_span text, upg_shard_index *index, upg_error *err)
{
    json_t    *root = NULL, *map;
    upg_status st;

    *index = (upg_shard_index) { 0 };
    UPG_TRY(upg_json_parse(text, &root, err));
    index->json = root;
    map = json_object_get(root, "weight_map");
    if (!json_is_object(map) || json_object_size(map) == 0)
        UPG_TRY(upg_fail(err, UPG_E_FORMAT,
                         "\"weight_map\" is missing or empty; it must map tensor names to files"));
    if (json_object_size(map) > UINT32_MAX)
        UPG_TRY(upg_fail(err, UPG_E_FORMAT, "\"weight_map\" has more than 2^32 entries"));
    UPG_TRY(parse_map(map, index, err));
out:
    if (st != UPG_OK)
        upg_shard_index_deinit(index);
    return st;
}

void upg_shard_index_deinit(upg_shard_index *index)
{
    upg_free(index->shards);
    upg_free(index->tensors);
    upg_free(index->shard_of);
    json_decref(index->json);
    *index = (upg_shard_index) { 0 };
}
