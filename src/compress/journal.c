#include "compress/journal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/alloc.h"
#include "compress/journal_key.h"

enum { NAME_BYTES = 32, TEXT_MAX = 16 << 20 };

struct upg_journal {
    char            *folder;
    upg_journal_mode mode;
    int              lock; /* -1, or holds the folder against other processes */
    json_t          *head; /* NULL: not begun */
    json_t          *done; /* NULL, or the result of a run that was not cleared away */
    char            *done_text;
};

/* ---- files ----------------------------------------------------------------------------------- */

static char *path_of(const upg_journal *j, const char *name, upg_error *err)
{
    return upg_path_join(j->folder, name, err);
}

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

static bool has_file(const upg_journal *j, const char *name)
{
    char *path = path_of(j, name, NULL);
    bool  there = path != NULL && upg_file_exists(path);

    upg_free(path);
    return there;
}

/* What is wrong with a file of the journal, and what to do. */
static upg_status damaged(const upg_journal *j, const char *name, upg_status st, upg_error *err)
{
    upg_error why = *err;

    if (st != UPG_E_CORRUPT && st != UPG_E_FORMAT)
        return st;
    return upg_fail(
        err, UPG_E_CORRUPT,
        "%s/%s: the journal is damaged (%.200s): remove that file to do its part again, "
        "or the folder to start again",
        j->folder, name, why.message);
}

/* Reads a text with its hash; *object = NULL when there is none. */
static upg_status read_text(const upg_journal *j, const char *name, json_t **object, upg_error *err)
{
    upg_error  why = { 0 };
    upg_buffer text;
    char      *path = path_of(j, name, err);
    upg_status st = path != NULL ? UPG_OK : UPG_E_NOMEM;

    *object = NULL;
    upg_buffer_init(&text, TEXT_MAX);
    if (st == UPG_OK && upg_file_exists(path)) {
        st = upg_file_read(path, &text, &why);
        if (st == UPG_OK)
            st = upg_journal_text_parse((upg_span) { (const uint8_t *)text.data, text.size },
                                        object, &why);
        if (st != UPG_OK && err != NULL)
            *err = why;
        if (st == UPG_E_CORRUPT || st == UPG_E_FORMAT)
            st = upg_fail(err, UPG_E_CORRUPT,
                          "%s: the journal is damaged (%.200s): remove the folder to start again",
                          path, why.message);
    }
    upg_buffer_deinit(&text);
    upg_free(path);
    return st;
}

static upg_status write_text(const upg_journal *j, const char *name, const json_t *object,
                             upg_error *err)
{
    upg_buffer   text;
    upg_outfile *file = NULL;
    char        *path = path_of(j, name, err);
    upg_status   st = path != NULL ? UPG_OK : UPG_E_NOMEM;

    upg_buffer_init(&text, TEXT_MAX);
    if (st == UPG_OK)
        st = upg_journal_text_print(object, &text, err);
    if (st == UPG_OK)
        st = upg_outfile_create(path, false, &file, err);
    if (st == UPG_OK)
        st = upg_outfile_write_at(file, 0, text.data, text.size, err);
    if (st == UPG_OK) {
        st = upg_outfile_commit(file, err);
        file = NULL;
    }
    upg_outfile_discard(file);
    upg_buffer_deinit(&text);
    upg_free(path);
    return st;
}

/* Whether a folder's entry is one of ours. */
static bool is_ours(const char *name)
{
    static const char *const fronts[] = { "head.json", "done.json", "streams-",
                                          "lease-",    "clock-",    "lock" };

    for (size_t i = 0; i < sizeof fronts / sizeof *fronts; i++)
        if (strncmp(name, fronts[i], strlen(fronts[i])) == 0)
            return true;
    return name[0] == 'm' && name[1] >= '0' && name[1] <= '9';
}

/* Removes our files whose name begins with `front`, but `keep`. */
static upg_status remove_files(const upg_journal *j, const char *front, const char *keep,
                               upg_error *err)
{
    DIR           *listing = opendir(j->folder);
    struct dirent *entry;
    upg_status     st = UPG_OK;

    while (listing != NULL && st == UPG_OK && (entry = readdir(listing)) != NULL) {
        char *path;

        if (!is_ours(entry->d_name) || strncmp(entry->d_name, front, strlen(front)) != 0 ||
            (keep != NULL && strcmp(entry->d_name, keep) == 0))
            continue;
        path = path_of(j, entry->d_name, err);
        st = path != NULL ? upg_file_remove(path, err) : UPG_E_NOMEM;
        upg_free(path);
    }
    if (listing != NULL)
        closedir(listing);
    return st;
}

/* Takes the folder: against everybody, or with others that join. It is given back by the system
 * when the process ends, however it does. */
static upg_status take_lock(upg_journal *j, upg_error *err)
{
    char      *path = path_of(j, "lock", err);
    upg_status st = path != NULL ? UPG_OK : UPG_E_NOMEM;

    if (st == UPG_OK && j->lock < 0)
        j->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (st == UPG_OK && j->lock < 0)
        st = upg_fail_os(err, UPG_E_IO, errno, "%s: cannot be opened", path);
    if (st == UPG_OK &&
        flock(j->lock, (j->mode == UPG_JOURNAL_JOIN ? LOCK_SH : LOCK_EX) | LOCK_NB) != 0 &&
        errno == EWOULDBLOCK)
        st = upg_fail(err, UPG_E_BUSY, "%s: another process works on this journal", j->folder);
    upg_free(path);
    return st;
}

/* ---- open, begin, close ---------------------------------------------------------------------- */

static upg_status read_done(upg_journal *j, upg_error *err)
{
    upg_status st = read_text(j, "done.json", &j->done, err);

    if (st == UPG_OK && j->done != NULL) {
        j->done_text = json_dumps(j->done, JSON_COMPACT | JSON_REAL_PRECISION(9));
        if (j->done_text == NULL)
            st = upg_fail(err, UPG_E_NOMEM, "out of memory while writing JSON");
    }
    return st;
}

upg_status upg_journal_open(const char *folder, upg_journal_mode mode, upg_journal **out,
                            upg_error *err)
{
    upg_journal *j = upg_calloc(1, sizeof *j, err);
    upg_status   st = j != NULL ? UPG_OK : UPG_E_NOMEM;

    UPG_TRY(st);
    j->mode = mode;
    j->lock = -1;
    j->folder = upg_strndup(folder, strlen(folder), err);
    UPG_TRY(j->folder != NULL ? UPG_OK : UPG_E_NOMEM);
    if (!upg_file_is_folder(folder)) {
        if (upg_file_exists(folder))
            UPG_TRY(upg_fail(err, UPG_E_EXISTS, "%s: a journal would be a folder of this name",
                             folder));
        goto out;
    }
    if (mode == UPG_JOURNAL_NEW && has_file(j, "head.json") && !has_file(j, "done.json"))
        UPG_TRY(upg_fail(err, UPG_E_EXISTS,
                         "%s: the journal of a run that did not end: resume it (--resume), or "
                         "remove the folder to start again",
                         folder));
    UPG_TRY(take_lock(j, err));
    UPG_TRY(read_done(j, err));
    UPG_TRY(read_text(j, "head.json", &j->head, err));
out:
    if (st != UPG_OK) {
        upg_journal_close(j);
        j = NULL;
    }
    *out = j;
    return st;
}

void upg_journal_close(upg_journal *j)
{
    if (j == NULL)
        return;
    if (j->lock >= 0)
        close(j->lock);
    json_decref(j->head);
    json_decref(j->done);
    free(j->done_text);
    upg_free(j->folder);
    upg_free(j);
}

bool upg_journal_begun(const upg_journal *j)
{
    return j->head != NULL;
}

const char *upg_journal_done(const upg_journal *j)
{
    return j->done_text;
}

const char *upg_journal_folder(const upg_journal *j)
{
    return j->folder;
}

upg_status upg_journal_ended(upg_journal *j, upg_error *err)
{
    return j->done == NULL ? read_done(j, err) : UPG_OK;
}

upg_status upg_journal_check(upg_journal *j, const upg_journal_key *key, upg_pool *pool,
                             upg_error *err)
{
    upg_status st = upg_journal_key_check(j->head, key, pool, err);

    if (st != UPG_OK)
        upg_error_prefix(err, "%s: ", j->folder);
    return st;
}

upg_status upg_journal_apply(const upg_journal *j, upg_plan *plan, upg_error *err)
{
    const json_t *list = json_object_get(j->head, "sensitivities");

    for (uint32_t u = 0; u < plan->n_units; u++) {
        const char *text = json_string_value(json_array_get(list, u));

        if (text == NULL || json_array_size(list) != plan->n_units)
            return upg_fail(err, UPG_E_CORRUPT,
                            "%s/head.json: the journal is damaged (field \"sensitivities\"): "
                            "remove the folder to start again",
                            j->folder);
        plan->units[u].sensitivity = strtod(text, NULL);
    }
    return UPG_OK;
}

upg_status upg_journal_begin(upg_journal *j, const upg_journal_key *key, upg_pool *pool,
                             upg_error *err)
{
    json_t    *head = NULL;
    upg_status st;

    UPG_TRY(upg_folder_make(j->folder, err));
    UPG_TRY(take_lock(j, err));
    if (j->mode != UPG_JOURNAL_JOIN)
        UPG_TRY(remove_files(j, "", "lock", err));
    UPG_TRY(upg_journal_key_print(key, pool, &head, err));
    st = write_text(j, "head.json", head, err);
    if (st == UPG_E_EXISTS) { /* another worker was faster */
        UPG_TRY(read_text(j, "head.json", &j->head, err));
        UPG_TRY(upg_journal_check(j, key, pool, err));
    }
    UPG_TRY(st);
    if (j->head == NULL)
        j->head = json_incref(head);
out:
    json_decref(head);
    return st;
}

/* ---- matrices -------------------------------------------------------------------------------- */

bool upg_journal_has(const upg_journal *j, uint32_t matrix)
{
    char name[NAME_BYTES];

    return has_file(j, matrix_name(matrix, name));
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

upg_status upg_journal_put(upg_journal *j, uint32_t matrix, uint32_t n_rows,
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
    char              *path = path_of(j, matrix_name(matrix, name), err);
    upg_status         st = path != NULL ? UPG_OK : UPG_E_NOMEM;

    UPG_TRY(st);
    if (upg_file_exists(path))
        goto out;
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
    char      *path = path_of(j, matrix_name(matrix, name), err);
    upg_status st = path != NULL ? upg_map_open(path, map, &why) : UPG_E_NOMEM;

    if (st == UPG_OK)
        st = upg_journal_record_parse(map->bytes, record, &why);
    if (st == UPG_OK &&
        (record->matrix != matrix || record->n_rows != n_rows || record->n_words != n_words))
        st = upg_fail(&why, UPG_E_CORRUPT, "it is of another matrix");
    if (st != UPG_OK && path != NULL) {
        st = damaged(j, name, st, &why);
        if (st != UPG_E_CORRUPT)
            upg_error_prefix(&why, "%s: ", path);
        if (err != NULL)
            *err = why;
        upg_map_close(map);
    }
    upg_free(path);
    return st;
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
    char               *path = path_of(j, streams_name(layer, name), err);
    upg_status          st = path != NULL ? UPG_OK : UPG_E_NOMEM;

    UPG_TRY(st);
    upg_journal_streams_front(&head, front);
    UPG_TRY(hashed_create(&f, path, true, err));
    UPG_TRY(hashed_add(&f, front, sizeof front, err));
    UPG_TRY(add_streams(&f, streams, n_streams, err));
    UPG_TRY(hashed_commit(&f, err));
    UPG_TRY(remove_files(j, "streams-", name, err));
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
    path = path_of(j, streams_name(*layer, name), err);
    UPG_TRY(path != NULL ? UPG_OK : UPG_E_NOMEM);
    st = upg_map_open(path, &map, &why);
    if (st == UPG_OK)
        st = upg_journal_streams_parse(map.bytes, &kept, &why);
    if (st == UPG_OK &&
        (kept.layer != *layer || kept.n_streams != n_streams ||
         kept.n_slots != streams[0]->n_slots || kept.slot_size != streams[0]->slot_size))
        st = upg_fail(&why, UPG_E_CORRUPT, "it is of another model or text");
    if (st != UPG_OK) {
        st = damaged(j, name, st, &why);
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

/* ---- the end --------------------------------------------------------------------------------- */

upg_status upg_journal_remove(upg_journal *j, upg_error *err)
{
    /* done.json before head.json: what is left of a removal is no journal to go on with, or one
     * whose units are merely missing */
    upg_status st = remove_files(j, "m", NULL, err);

    if (st == UPG_OK)
        st = remove_files(j, "streams-", NULL, err);
    if (st == UPG_OK)
        st = remove_files(j, "head.json", NULL, err);
    if (st == UPG_OK)
        st = remove_files(j, "lease-m", NULL, err);
    if (st == UPG_OK && j->mode != UPG_JOURNAL_JOIN) {
        st = remove_files(j, "", NULL, err);
        if (st == UPG_OK)
            (void)rmdir(j->folder); /* others may have put files there: theirs */
    }
    return st;
}

upg_status upg_journal_finish(upg_journal *j, const char *result_json, upg_error *err)
{
    json_t    *result = json_loads(result_json, 0, NULL);
    upg_status st = write_text(j, "done.json", result, err);

    if (st == UPG_E_EXISTS)
        st = UPG_OK; /* another worker's, of the same output */
    if (st == UPG_OK)
        st = upg_journal_remove(j, err);
    json_decref(result);
    return st;
}
