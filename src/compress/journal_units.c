/* journal_units.c: what a journal keeps: coded matrices, and streams of activations. */
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/alloc.h"
#include "compress/journal_impl.h"

enum { NAME_BYTES = 32 };

static const char *matrix_name(uint32_t matrix, char name[NAME_BYTES])
{
    snprintf(name, NAME_BYTES, "m%06" PRIu32, matrix);
    return name;
}

static const char *streams_name(uint32_t layer, char name[NAME_BYTES])
{
    snprintf(name, NAME_BYTES, "streams-%" PRIu32, layer);
    return name;
}

/* ---- matrices -------------------------------------------------------------------------------- */

bool upg_journal_has(const upg_journal *j, uint32_t matrix)
{
    char name[NAME_BYTES];

    return upg_journal_has_file(j, matrix_name(matrix, name));
}

/* A file of parts with the hash of all of them behind. */
typedef struct hashed_file {
    upg_outfile  *file;
    XXH3_state_t *hash;
    uint64_t      size;
} hashed_file;

static upg_status hashed_create(hashed_file *f, const char *path, bool overwrite, upg_error *err)
{
    *f = (hashed_file) { .hash = XXH3_createState() };
    if (f->hash == NULL)
        return upg_fail(err, UPG_E_NOMEM, "out of memory for a hash");
    XXH3_128bits_reset(f->hash);
    return upg_outfile_create(path, overwrite, &f->file, err);
}

static upg_status hashed_add(hashed_file *f, const void *bytes, size_t size, upg_error *err)
{
    upg_status st = upg_outfile_write_at(f->file, f->size, bytes, size, err);

    XXH3_128bits_update(f->hash, bytes, size);
    f->size += size;
    return st;
}

static upg_status hashed_commit(hashed_file *f, upg_error *err)
{
    XXH128_canonical_t hash;
    upg_outfile       *file = f->file;
    upg_status         st;

    XXH128_canonicalFromHash(&hash, XXH3_128bits_digest(f->hash));
    st = upg_outfile_write_at(file, f->size, &hash, sizeof hash, err);
    if (st != UPG_OK)
        return st;
    f->file = NULL; /* commit closes it in any case */
    return upg_outfile_commit(file, err);
}

static void hashed_deinit(hashed_file *f)
{
    upg_outfile_discard(f->file);
    XXH3_freeState(f->hash);
}

upg_status upg_journal_put(upg_journal *j, uint32_t matrix, uint32_t n_rows, const uint8_t *input,
                           const upg_encoded_matrix *encoded, upg_error *err)
{
    char               name[NAME_BYTES];
    uint8_t            front[UPG_JOURNAL_FRONT];
    upg_journal_record record = { .matrix = matrix,
                                  .n_rows = n_rows,
                                  .n_words = encoded->n_words,
                                  .error2 = encoded->error2,
                                  .energy2 = encoded->energy2 };
    hashed_file        f = { 0 };
    char              *path = upg_journal_path(j, matrix_name(matrix, name), err);
    upg_status         st = path != NULL ? UPG_OK : UPG_E_NOMEM;

    UPG_TRY(st);
    if (upg_file_exists(path))
        goto out;
    if (input != NULL)
        memcpy(record.input, input, sizeof record.input);
    upg_journal_record_front(&record, front);
    UPG_TRY(hashed_create(&f, path, true, err));
    UPG_TRY(hashed_add(&f, front, sizeof front, err));
    UPG_TRY(hashed_add(&f, encoded->bits, encoded->n_words * sizeof *encoded->bits, err));
    UPG_TRY(hashed_add(&f, encoded->scales, n_rows * sizeof *encoded->scales, err));
    UPG_TRY(hashed_commit(&f, err));
out:
    hashed_deinit(&f);
    upg_free(path);
    return st;
}

upg_status upg_journal_get(const upg_journal *j, uint32_t matrix, uint32_t n_rows, uint64_t n_words,
                           upg_map *map, upg_journal_record *record, upg_error *err)
{
    upg_error  why = { 0 };
    char       name[NAME_BYTES];
    char      *path = upg_journal_path(j, matrix_name(matrix, name), err);
    upg_status st = path != NULL ? upg_map_open(path, map, &why) : UPG_E_NOMEM;

    if (st == UPG_OK)
        st = upg_journal_record_parse(map->bytes, record, &why);
    if (st == UPG_OK &&
        (record->matrix != matrix || record->n_rows != n_rows || record->n_words != n_words))
        st = upg_fail(&why, UPG_E_CORRUPT, "it is of another matrix");
    if (st != UPG_OK && path != NULL) {
        st = upg_journal_damaged(j, name, st, &why);
        if (st != UPG_E_CORRUPT)
            upg_error_prefix(&why, "%s: ", path);
        if (err != NULL)
            *err = why;
        upg_map_close(map);
    }
    upg_free(path);
    return st;
}

/* What a record says of its input. The rest of it is not looked at here: who reads it does. */
bool upg_journal_recorded(void *user, uint32_t matrix, uint8_t hash[UPG_INPUT_HASH])
{
    static const uint8_t unknown[UPG_INPUT_HASH];
    const upg_journal   *j = user;
    upg_journal_record   record = { 0 };
    upg_map              map = { 0 };
    char                 name[NAME_BYTES];
    char                *path = upg_journal_path(j, matrix_name(matrix, name), NULL);
    bool                 known = path != NULL && upg_map_open(path, &map, NULL) == UPG_OK &&
                 map.bytes.size >= UPG_JOURNAL_FRONT &&
                 upg_journal_record_peek(map.bytes.data, &record) &&
                 memcmp(record.input, unknown, sizeof unknown) != 0;

    memcpy(hash, record.input, UPG_INPUT_HASH);
    upg_map_close(&map);
    upg_free(path);
    return known;
}

/* ---- streams --------------------------------------------------------------------------------- */

static upg_status add_streams(hashed_file *f, upg_state_store *const *streams, uint32_t n_streams,
                              upg_error *err)
{
    upg_status st = UPG_OK;

    for (uint32_t s = 0; s < n_streams; s++)
        for (uint32_t i = 0; i < streams[s]->n_slots && st == UPG_OK; i++) {
            const float *state = upg_state_get(streams[s], i, 0);

            st = upg_state_store_check(streams[s], err);
            if (st == UPG_OK)
                st = hashed_add(f, state, streams[s]->slot_size * sizeof *state, err);
        }
    return st;
}

upg_status upg_journal_keep(upg_journal *j, uint32_t layer, upg_state_store *const *streams,
                            uint32_t n_streams, upg_error *err)
{
    char                name[NAME_BYTES];
    uint8_t             front[UPG_JOURNAL_FRONT];
    upg_journal_streams head = { .layer = layer,
                                 .n_streams = n_streams,
                                 .n_slots = streams[0]->n_slots,
                                 .slot_size = streams[0]->slot_size };
    hashed_file         f = { 0 };
    char               *path = upg_journal_path(j, streams_name(layer, name), err);
    upg_status          st = path != NULL ? UPG_OK : UPG_E_NOMEM;

    UPG_TRY(st);
    upg_journal_streams_front(&head, front);
    UPG_TRY(hashed_create(&f, path, true, err));
    UPG_TRY(hashed_add(&f, front, sizeof front, err));
    UPG_TRY(add_streams(&f, streams, n_streams, err));
    UPG_TRY(hashed_commit(&f, err));
    UPG_TRY(upg_journal_remove_files(j, "streams-", name, err));
out:
    hashed_deinit(&f);
    upg_free(path);
    return st;
}

/* The highest layer whose streams were kept; 0 = none. */
static uint32_t latest_layer(const upg_journal *j)
{
    DIR           *listing = opendir(j->folder);
    struct dirent *entry;
    uint32_t       latest = 0;

    while (listing != NULL && (entry = readdir(listing)) != NULL) {
        char          name[NAME_BYTES];
        unsigned long layer;

        if (strncmp(entry->d_name, "streams-", 8) != 0)
            continue;
        layer = strtoul(entry->d_name + 8, NULL, 10);
        if (layer > latest && layer <= UINT32_MAX &&
            strcmp(streams_name((uint32_t)layer, name), entry->d_name) == 0)
            latest = (uint32_t)layer;
    }
    if (listing != NULL)
        closedir(listing);
    return latest;
}

static void fill_streams(const upg_journal_streams *kept, upg_state_store *const *streams)
{
    const float *at = kept->data;

    for (uint32_t s = 0; s < kept->n_streams; s++)
        for (uint32_t i = 0; i < kept->n_slots; i++, at += kept->slot_size) {
            float *state = upg_state_blank(streams[s], i, 0);

            memcpy(state, at, kept->slot_size * sizeof *state);
            upg_state_put(streams[s], i, state);
            upg_map_forget(at, kept->slot_size * sizeof *at);
        }
}

upg_status upg_journal_restore(upg_journal *j, upg_state_store *const *streams, uint32_t n_streams,
                               uint32_t *layer, upg_error *err)
{
    upg_error           why = { 0 };
    char                name[NAME_BYTES];
    upg_map             map = { 0 };
    upg_journal_streams kept;
    char               *path = NULL;
    upg_status          st = UPG_OK;

    *layer = latest_layer(j);
    if (*layer == 0)
        return UPG_OK;
    path = upg_journal_path(j, streams_name(*layer, name), err);
    UPG_TRY(path != NULL ? UPG_OK : UPG_E_NOMEM);
    st = upg_map_open(path, &map, &why);
    if (st == UPG_OK)
        st = upg_journal_streams_parse(map.bytes, &kept, &why);
    if (st == UPG_OK &&
        (kept.layer != *layer || kept.n_streams != n_streams ||
         kept.n_slots != streams[0]->n_slots || kept.slot_size != streams[0]->slot_size))
        st = upg_fail(&why, UPG_E_CORRUPT, "it is of another model or text");
    if (st != UPG_OK) {
        st = upg_journal_damaged(j, name, st, &why);
        if (err != NULL)
            *err = why;
        goto out;
    }
    fill_streams(&kept, streams);
    for (uint32_t s = 0; s < n_streams && st == UPG_OK; s++)
        st = upg_state_store_check(streams[s], err);
out:
    upg_map_close(&map);
    upg_free(path);
    return st;
}
