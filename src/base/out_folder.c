/* out_folder.c: the POSIX side of out_folder.h. */
#include "base/out_folder.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"

struct upg_outfolder {
    char *target, *temporary; /* temporary is NULL until it exists */
};

/* A folder with nothing in it, or nothing of that name at all. */
static bool is_free(const char *path)
{
    DIR           *listing;
    struct dirent *entry;
    bool           empty = true;

    if (!upg_file_exists(path))
        return true;
    listing = opendir(path);
    if (listing == NULL)
        return false;
    while (empty && (entry = readdir(listing)) != NULL)
        empty = strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0;
    closedir(listing);
    return empty;
}

static void remove_all(const char *path)
{
    DIR           *listing = opendir(path);
    struct dirent *entry;

    if (listing != NULL) {
        while ((entry = readdir(listing)) != NULL)
            if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
                (void)unlinkat(dirfd(listing), entry->d_name, 0);
        closedir(listing);
    }
    (void)rmdir(path);
}

/* The path without slashes at its end, and its temporary's pattern. */
static upg_status make_names(const char *path, upg_outfolder *folder, char **pattern,
                             upg_error *err)
{
    size_t size = strlen(path);

    while (size > 1 && path[size - 1] == '/')
        size--;
    folder->target = upg_strndup(path, size, err);
    *pattern = upg_malloc(size + 16, 1, err);
    if (folder->target == NULL || *pattern == NULL)
        return UPG_E_NOMEM;
    snprintf(*pattern, size + 16, "%s.tmp-XXXXXX", folder->target);
    return UPG_OK;
}

upg_status upg_outfolder_create(const char *path, upg_outfolder **out, upg_error *err)
{
    char          *pattern = NULL;
    upg_outfolder *folder = upg_calloc(1, sizeof *folder, err);
    upg_status     st = folder ? UPG_OK : UPG_E_NOMEM;

    UPG_TRY(st);
    if (path[0] == '\0')
        UPG_TRY(upg_fail(err, UPG_E_ARG, "the folder to write has an empty name"));
    UPG_TRY(make_names(path, folder, &pattern, err));
    if (!is_free(folder->target))
        UPG_TRY(upg_fail(err, UPG_E_EXISTS,
                         "%s: it exists and is no empty folder; take another name, or remove it",
                         folder->target));
    if (upg_file_injected_failure() || mkdtemp(pattern) == NULL)
        UPG_TRY(upg_fail_os(err, UPG_E_IO, errno, "%s: cannot create a folder beside it",
                            folder->target));
    folder->temporary = pattern;
    pattern = NULL;
    if (chmod(folder->temporary, 0755) != 0) /* mkdtemp gives 0700; a failure only leaves that */
        errno = 0;
out:
    upg_free(pattern);
    if (st != UPG_OK) {
        upg_outfolder_discard(folder);
        folder = NULL;
    }
    *out = folder;
    return st;
}

upg_status upg_outfolder_file(const upg_outfolder *folder, const char *name, upg_outfile **file,
                              upg_error *err)
{
    char      *path = upg_path_join(folder->temporary, name, err);
    upg_status st = path ? upg_outfile_create(path, false, file, err) : UPG_E_NOMEM;

    upg_free(path);
    return st;
}

upg_status upg_outfolder_put(const upg_outfolder *folder, const char *name, upg_span bytes,
                             upg_error *err)
{
    upg_outfile *file = NULL;
    upg_status   st;

    UPG_TRY(upg_outfolder_file(folder, name, &file, err));
    UPG_TRY(upg_outfile_write_at(file, 0, bytes.data, bytes.size, err));
    st = upg_outfile_commit(file, err);
    file = NULL;
out:
    upg_outfile_discard(file);
    return st;
}

upg_status upg_outfolder_commit(upg_outfolder *folder, upg_error *err)
{
    upg_status st = UPG_OK;

    /* rename replaces an empty folder and refuses everything else */
    if (upg_file_injected_failure() || rename(folder->temporary, folder->target) != 0) {
        int reason = errno == ENOTEMPTY || errno == ENOTDIR ? EEXIST : errno;

        UPG_TRY(upg_fail_os(err, UPG_E_IO, reason, "%s: cannot give the folder its name",
                            folder->target));
    }
    upg_free(folder->temporary);
    folder->temporary = NULL;
    upg_sync_folder_of(folder->target);
out:
    upg_outfolder_discard(folder);
    return st;
}

void upg_outfolder_discard(upg_outfolder *folder)
{
    if (folder == NULL)
        return;
    if (folder->temporary != NULL)
        remove_all(folder->temporary);
    upg_free(folder->temporary);
    upg_free(folder->target);
    upg_free(folder);
}
