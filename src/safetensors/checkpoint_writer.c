#include "safetensors/checkpoint_writer.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/file.h"
#include "base/out_folder.h"
#include "base/system.h"

enum { NAME_CAP = 64, MAX_SHARDS = 99999 };

struct upg_checkpoint_writer {
    upg_outfolder      *folder;
    const upg_st_entry *entries; /* [n] */
    size_t              n;
    uint32_t           *shard_of; /* [n] */
    uint64_t           *bytes;    /* [n] */
    uint64_t           *offset;   /* [n]: in the shard's file, once its header is written */
    size_t             *order;    /* [n]: a shard's tensors by name */
    upg_st_entry       *sorted;   /* [n]: the same as entries */
    uint32_t            n_shards;
    uint64_t            total;
    size_t              current; /* the tensor at hand */
    uint64_t            done;    /* bytes of it */
    upg_outfile        *file;    /* the shard at hand, or NULL */
};

upg_status upg_shards_assign(const upg_st_entry *entries, size_t n, uint64_t shard_bytes,
                             uint32_t *shard_of, uint32_t *n_shards, upg_error *err)
{
    uint64_t filled = 0, bytes, sum;

    *n_shards = 0;
    for (size_t i = 0; i < n; i++) {
        upg_status st = upg_st_tensor_bytes(entries[i].name, entries[i].dtype, entries[i].rank,
                                            entries[i].shape, &bytes, err);

        if (st != UPG_OK)
            return st;
        if (i == 0 || !upg_add_u64(filled, bytes, &sum) || sum > shard_bytes) {
            filled = 0;
            ++*n_shards;
        }
        filled += bytes;
        shard_of[i] = *n_shards - 1;
    }
    if (*n_shards > MAX_SHARDS)
        return upg_fail(err, UPG_E_ARG,
                        "shards of %" PRIu64 " bytes would be %" PRIu32 " files, at most %d can be "
                        "numbered: make them larger",
                        shard_bytes, *n_shards, MAX_SHARDS);
    return UPG_OK;
}

static void shard_name(const upg_checkpoint_writer *w, uint32_t shard, char name[NAME_CAP])
{
    if (w->n_shards == 1)
        snprintf(name, NAME_CAP, "model.safetensors");
    else
        snprintf(name, NAME_CAP, "model-%05" PRIu32 "-of-%05" PRIu32 ".safetensors", shard + 1,
                 w->n_shards);
}

/* ---- one shard ------------------------------------------------------------------------------ */

/* Sorts w->order[first … end − 1] by name: insertion, there are hundreds. */
static void sort_names(upg_checkpoint_writer *w, size_t first, size_t end)
{
    for (size_t i = first; i < end; i++) {
        size_t at = i;

        while (at > first && strcmp(w->entries[w->order[at - 1]].name, w->entries[i].name) > 0) {
            w->order[at] = w->order[at - 1];
            at--;
        }
        w->order[at] = i;
    }
}

/* Creates the shard that begins with tensor `first` and writes its header. */
static upg_status begin_shard(upg_checkpoint_writer *w, size_t first, upg_error *err)
{
    char       name[NAME_CAP];
    size_t     end = first;
    uint64_t   offset;
    upg_buffer header;
    upg_status st;

    upg_buffer_init(&header, UPG_ST_MAX_HEADER);
    while (end < w->n && w->shard_of[end] == w->shard_of[first])
        end++;
    sort_names(w, first, end);
    for (size_t i = first; i < end; i++)
        w->sorted[i] = w->entries[w->order[i]];
    UPG_TRY(upg_st_write_header(w->sorted + first, end - first, "pt", 8, 0, &header, err));
    offset = header.size;
    for (size_t i = first; i < end; i++) {
        w->offset[w->order[i]] = offset;
        offset += w->bytes[w->order[i]];
    }
    shard_name(w, w->shard_of[first], name);
    UPG_TRY(upg_outfolder_file(w->folder, name, &w->file, err));
    UPG_TRY(upg_outfile_reserve(w->file, offset, err));
    UPG_TRY(upg_outfile_write_at(w->file, 0, header.data, header.size, err));
out:
    upg_buffer_deinit(&header);
    return st;
}

/* After the last byte of a tensor: the next one, and the end of the shard where it is one. */
static upg_status next_tensor(upg_checkpoint_writer *w, upg_error *err)
{
    size_t     last = w->current++;
    upg_status st;

    w->done = 0;
    if (w->current < w->n && w->shard_of[w->current] == w->shard_of[last])
        return UPG_OK;
    st = upg_outfile_commit(w->file, err);
    w->file = NULL; /* after a failure too */
    return st;
}

upg_status upg_checkpoint_write(upg_checkpoint_writer *w, const void *bytes, size_t size,
                                upg_error *err)
{
    upg_status st = UPG_OK;

    if (w->current == w->n)
        return upg_fail(err, UPG_E_ARG, "every tensor is written already");
    if (size > w->bytes[w->current] - w->done)
        return upg_fail(err, UPG_E_ARG, "tensor \"%s\" takes %" PRIu64 " bytes, %" PRIu64 " came",
                        w->entries[w->current].name, w->bytes[w->current], w->done + size);
    if (w->file == NULL)
        UPG_TRY(begin_shard(w, w->current, err));
    UPG_TRY(upg_outfile_write_at(w->file, w->offset[w->current] + w->done, bytes, size, err));
    w->done += size;
    if (w->done == w->bytes[w->current])
        UPG_TRY(next_tensor(w, err));
out:
    return st;
}

/* ---- the index ------------------------------------------------------------------------------ */

/* As transformers writes it: json.dumps(…, indent=2, sort_keys=True) and a line's end. Names are
 * those of the architectures, which need no escapes. */
static upg_status write_index(upg_checkpoint_writer *w, upg_error *err)
{
    char       name[NAME_CAP];
    upg_buffer text;
    upg_status st;

    upg_buffer_init(&text, UPG_ST_MAX_HEADER);
    sort_names(w, 0, w->n);
    UPG_TRY(upg_buffer_addf(&text, err,
                            "{\n  \"metadata\": {\n    \"total_size\": %" PRIu64
                            "\n  },\n  \"weight_map\": {\n",
                            w->total));
    for (size_t i = 0; i < w->n; i++) {
        shard_name(w, w->shard_of[w->order[i]], name);
        UPG_TRY(upg_buffer_addf(&text, err, "    \"%s\": \"%s\"%s\n", w->entries[w->order[i]].name,
                                name, i + 1 < w->n ? "," : ""));
    }
    UPG_TRY(upg_buffer_addf(&text, err, "  }\n}\n"));
    UPG_TRY(upg_outfolder_put(w->folder, "model.safetensors.index.json",
                              (upg_span) { (const uint8_t *)text.data, text.size }, err));
out:
    upg_buffer_deinit(&text);
    return st;
}

/* ---- the whole ------------------------------------------------------------------------------ */

static upg_status plan(upg_checkpoint_writer *w, uint64_t shard_bytes, upg_error *err)
{
    upg_status st;

    w->shard_of = upg_calloc(w->n, sizeof *w->shard_of, err);
    w->bytes = upg_calloc(w->n, sizeof *w->bytes, err);
    w->offset = upg_calloc(w->n, sizeof *w->offset, err);
    w->order = upg_calloc(w->n, sizeof *w->order, err);
    w->sorted = upg_calloc(w->n, sizeof *w->sorted, err);
    UPG_TRY(w->shard_of && w->bytes && w->offset && w->order && w->sorted ? UPG_OK : UPG_E_NOMEM);
    UPG_TRY(upg_shards_assign(w->entries, w->n, shard_bytes ? shard_bytes : UPG_DEFAULT_SHARD_BYTES,
                              w->shard_of, &w->n_shards, err));
    for (size_t i = 0; i < w->n; i++) {
        const upg_st_entry *e = &w->entries[i];

        UPG_TRY(upg_st_tensor_bytes(e->name, e->dtype, e->rank, e->shape, &w->bytes[i], err));
        if (w->bytes[i] == 0)
            UPG_TRY(upg_fail(err, UPG_E_ARG, "tensor \"%s\" has no elements", e->name));
        if (!upg_add_u64(w->total, w->bytes[i], &w->total))
            UPG_TRY(upg_fail(err, UPG_E_FORMAT, "the checkpoint would pass 2^64 bytes"));
    }
out:
    return st;
}

/* Before hours of work. */
static upg_status check_room(const char *path, uint64_t need, upg_error *err)
{
    uint64_t available;

    if (!upg_system_disk(path, &available) || available >= need)
        return UPG_OK;
    return upg_fail(err, UPG_E_NOSPACE,
                    "%s: the weights take %" PRIu64 " bytes, the disk has room for %" PRIu64, path,
                    need, available);
}

upg_status upg_checkpoint_writer_create(const char *path, const upg_st_entry *entries, size_t n,
                                        uint64_t shard_bytes, upg_checkpoint_writer **writer,
                                        upg_error *err)
{
    upg_checkpoint_writer *w = upg_calloc(1, sizeof *w, err);
    upg_status             st = w ? UPG_OK : UPG_E_NOMEM;

    UPG_TRY(st);
    w->entries = entries;
    w->n = n;
    if (n == 0)
        UPG_TRY(upg_fail(err, UPG_E_ARG, "a checkpoint without tensors"));
    UPG_TRY(plan(w, shard_bytes, err));
    UPG_TRY(check_room(path, w->total, err));
    UPG_TRY(upg_outfolder_create(path, &w->folder, err));
out:
    if (st != UPG_OK) {
        upg_checkpoint_writer_discard(w);
        w = NULL;
    }
    *writer = w;
    return st;
}

uint64_t upg_checkpoint_writer_bytes(const upg_checkpoint_writer *writer)
{
    return writer->total;
}

upg_status upg_checkpoint_write_file(upg_checkpoint_writer *writer, const char *name,
                                     upg_span bytes, upg_error *err)
{
    return upg_outfolder_put(writer->folder, name, bytes, err);
}

upg_status upg_checkpoint_writer_commit(upg_checkpoint_writer *w, upg_error *err)
{
    upg_status st = UPG_OK;

    if (w->current < w->n)
        UPG_TRY(upg_fail(err, UPG_E_STATE,
                         "tensor \"%s\": %" PRIu64 " of %" PRIu64 " bytes were "
                         "written",
                         w->entries[w->current].name, w->done, w->bytes[w->current]));
    if (w->n_shards > 1)
        UPG_TRY(write_index(w, err));
    st = upg_outfolder_commit(w->folder, err);
    w->folder = NULL; /* after a failure too */
out:
    upg_checkpoint_writer_discard(w);
    return st;
}

void upg_checkpoint_writer_discard(upg_checkpoint_writer *w)
{
    if (w == NULL)
        return;
    upg_outfile_discard(w->file);
    upg_outfolder_discard(w->folder);
    upg_free(w->shard_of);
    upg_free(w->bytes);
    upg_free(w->offset);
    upg_free(w->order);
    upg_free(w->sorted);
    upg_free(w);
}
