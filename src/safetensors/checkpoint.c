#include "safetensors/checkpoint.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/file.h"

struct upg_checkpoint {
    size_t                n_files;
    upg_st              **files; /* [n_files] */
    size_t                n_tensors;
    const upg_st_tensor **tensors; /* [n_tensors] by name */
    uint64_t              source_bytes;
};

static const char single_name[] = "model.safetensors";
static const char index_name[] = "model.safetensors.index.json";

static int by_name(const void *a, const void *b)
{
    const upg_st_tensor *const *x = a, *const *y = b;

    return strcmp((*x)->name, (*y)->name);
}

static upg_status open_file(const char *folder, const char *name, upg_st **file, upg_error *err)
{
    char      *path = upg_path_join(folder, name, err);
    upg_status st = path ? upg_st_open(path, file, err) : UPG_E_NOMEM;

    upg_free(path);
    return st;
}

/* All tensors of all files into one list by name; two of one name are an error. */
static upg_status gather(upg_checkpoint *c, upg_error *err)
{
    size_t n = 0;

    for (size_t f = 0; f < c->n_files; f++)
        n += upg_st_count(c->files[f]);
    c->tensors = upg_calloc(n, sizeof *c->tensors, err);
    if (c->tensors == NULL)
        return UPG_E_NOMEM;
    for (size_t f = 0; f < c->n_files; f++) {
        for (size_t i = 0; i < upg_st_count(c->files[f]); i++) {
            const upg_st_tensor *t = upg_st_at(c->files[f], i);

            c->tensors[c->n_tensors++] = t;
            c->source_bytes += t->bytes.size; /* files that are mapped: no overflow */
        }
    }
    qsort(c->tensors, n, sizeof *c->tensors, by_name);
    for (size_t i = 1; i < n; i++) {
        if (strcmp(c->tensors[i - 1]->name, c->tensors[i]->name) == 0)
            return upg_fail(err, UPG_E_FORMAT, "tensor \"%s\" lies in %s and in %s",
                            c->tensors[i]->name, c->tensors[i - 1]->file, c->tensors[i]->file);
    }
    return UPG_OK;
}

static upg_status open_shards(upg_checkpoint *c, const char *folder, const upg_shard_index *index,
                              upg_error *err)
{
    upg_status st = UPG_OK;

    c->files = upg_calloc(index->n_shards, sizeof *c->files, err);
    UPG_TRY(c->files ? UPG_OK : UPG_E_NOMEM);
    for (size_t f = 0; f < index->n_shards; f++) {
        st = open_file(folder, index->shards[f], &c->files[f], err);
        if (st == UPG_E_NOT_FOUND)
            (void)upg_fail(err, st, "%s/%s: this shard is missing, %s names it; download it again",
                           folder, index->shards[f], index_name);
        UPG_TRY(st);
        c->n_files++;
    }
    for (size_t i = 0; i < index->n_tensors; i++) {
        if (upg_st_find(c->files[index->shard_of[i]], index->tensors[i]) == NULL)
            UPG_TRY(upg_fail(err, UPG_E_FORMAT,
                             "%s/%s: \"weight_map\" puts tensor \"%s\" into %s, which does not "
                             "have it",
                             folder, index_name, index->tensors[i],
                             index->shards[index->shard_of[i]]));
    }
out:
    return st;
}

static upg_status open_sharded(upg_checkpoint *c, const char *folder, const char *index_path,
                               upg_error *err)
{
    upg_shard_index index = { 0 };
    upg_buffer      text;
    upg_status      st;

    upg_buffer_init(&text, UPG_ST_MAX_HEADER);
    st = upg_file_read(index_path, &text, err);
    if (st == UPG_OK)
        st = upg_shard_index_parse((upg_span) { (const uint8_t *)text.data, text.size }, &index,
                                   err);
    if (st != UPG_OK)
        upg_error_prefix(err, "%s: ", index_path);
    UPG_TRY(st);
    UPG_TRY(open_shards(c, folder, &index, err));
out:
    upg_shard_index_deinit(&index);
    upg_buffer_deinit(&text);
    return st;
}

static upg_status open_single(upg_checkpoint *c, const char *folder, upg_error *err)
{
    upg_status st;

    c->files = upg_calloc(1, sizeof *c->files, err);
    UPG_TRY(c->files ? UPG_OK : UPG_E_NOMEM);
    UPG_TRY(open_file(folder, single_name, &c->files[0], err));
    c->n_files = 1;
out:
    return st;
}

static upg_status open_folder(upg_checkpoint *c, const char *folder, upg_error *err)
{
    char      *single = upg_path_join(folder, single_name, err);
    char      *index = upg_path_join(folder, index_name, err);
    upg_status st = single && index ? UPG_OK : UPG_E_NOMEM;

    UPG_TRY(st);
    if (!upg_file_is_folder(folder))
        UPG_TRY(upg_fail(err, UPG_E_NOT_FOUND, "%s: there is no such folder", folder));
    if (upg_file_exists(single))
        UPG_TRY(open_single(c, folder, err));
    else if (upg_file_exists(index))
        UPG_TRY(open_sharded(c, folder, index, err));
    else
        UPG_TRY(upg_fail(err, UPG_E_NOT_FOUND,
                         "%s: neither %s nor %s is there; weights in other forms (.bin, .gguf) are "
                         "not read, the safetensors form is needed",
                         folder, single_name, index_name));
    st = gather(c, err);
    if (st != UPG_OK)
        upg_error_prefix(err, "%s: ", folder);
out:
    upg_free(single);
    upg_free(index);
    return st;
}

upg_status upg_checkpoint_open(const char *folder, upg_checkpoint **checkpoint, upg_error *err)
{
    upg_checkpoint *c = upg_calloc(1, sizeof *c, err);
    upg_status      st = c ? open_folder(c, folder, err) : UPG_E_NOMEM;

    if (st != UPG_OK) {
        upg_checkpoint_close(c);
        c = NULL;
    }
    *checkpoint = c;
    return st;
}

upg_status upg_checkpoint_check_maps(const upg_checkpoint *checkpoint, upg_error *err)
{
    upg_status st = UPG_OK;

    for (size_t i = 0; i < checkpoint->n_files && st == UPG_OK; i++)
        st = upg_st_check_map(checkpoint->files[i], err);
    return st;
}

void upg_checkpoint_close(upg_checkpoint *checkpoint)
{
    if (checkpoint == NULL)
        return;
    for (size_t f = 0; f < checkpoint->n_files; f++)
        upg_st_close(checkpoint->files[f]);
    upg_free(checkpoint->files);
    upg_free(checkpoint->tensors);
    upg_free(checkpoint);
}

size_t upg_checkpoint_count(const upg_checkpoint *checkpoint)
{
    return checkpoint->n_tensors;
}

const upg_st_tensor *upg_checkpoint_at(const upg_checkpoint *checkpoint, size_t i)
{
    return i < checkpoint->n_tensors ? checkpoint->tensors[i] : NULL;
}

const upg_st_tensor *upg_checkpoint_find(const upg_checkpoint *checkpoint, const char *name)
{
    upg_st_tensor               key = { .name = name };
    const upg_st_tensor        *wanted = &key;
    const upg_st_tensor *const *found = bsearch(&wanted, checkpoint->tensors, checkpoint->n_tensors,
                                                sizeof *checkpoint->tensors, by_name);

    return found ? *found : NULL;
}

uint64_t upg_checkpoint_source_bytes(const upg_checkpoint *checkpoint)
{
    return checkpoint->source_bytes;
}

uint64_t upg_checkpoint_file_bytes(const upg_checkpoint *checkpoint)
{
    uint64_t bytes = 0;

    for (size_t f = 0; f < checkpoint->n_files; f++)
        bytes += upg_st_bytes(checkpoint->files[f]).size;
    return bytes;
}
