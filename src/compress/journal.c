#include "compress/journal_impl.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/alloc.h"
#include "compress/journal_key.h"

enum { TEXT_MAX = 16 << 20 };

/* ---- files ----------------------------------------------------------------------------------- */

char *upg_journal_path(const upg_journal *j, const char *name, upg_error *err)
{
    return upg_path_join(j->folder, name, err);
}

bool upg_journal_has_file(const upg_journal *j, const char *name)
{
    char *path = upg_journal_path(j, name, NULL);
    bool  there = path != NULL && upg_file_exists(path);

    upg_free(path);
    return there;
}

/* What is wrong with a file of the journal, and what to do. */
upg_status upg_journal_damaged(const upg_journal *j, const char *name, upg_status st,
                               upg_error *err)
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
    char      *path = upg_journal_path(j, name, err);
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
    char        *path = upg_journal_path(j, name, err);
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
upg_status upg_journal_remove_files(const upg_journal *j, const char *front, const char *keep,
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
        path = upg_journal_path(j, entry->d_name, err);
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
    char      *path = upg_journal_path(j, "lock", err);
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
    if (mode == UPG_JOURNAL_NEW && upg_journal_has_file(j, "head.json") &&
        !upg_journal_has_file(j, "done.json"))
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
    upg_recorded_hash recorded = { upg_journal_recorded, j };
    upg_status        st = upg_journal_key_check(j->head, key, &recorded, pool, err);

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
        UPG_TRY(upg_journal_remove_files(j, "", "lock", err));
    UPG_TRY(upg_input_check(key->input, err));
    UPG_TRY(upg_journal_key_print(key, &head, err));
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

/* ---- the end --------------------------------------------------------------------------------- */

upg_status upg_journal_remove(upg_journal *j, upg_error *err)
{
    /* done.json before head.json: what is left of a removal is no journal to go on with, or one
     * whose units are merely missing */
    upg_status st = upg_journal_remove_files(j, "m", NULL, err);

    if (st == UPG_OK)
        st = upg_journal_remove_files(j, "streams-", NULL, err);
    if (st == UPG_OK)
        st = upg_journal_remove_files(j, "head.json", NULL, err);
    if (st == UPG_OK)
        st = upg_journal_remove_files(j, "lease-m", NULL, err);
    if (st == UPG_OK && j->mode != UPG_JOURNAL_JOIN) {
        st = upg_journal_remove_files(j, "", NULL, err);
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
