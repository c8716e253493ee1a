/* file.c: the POSIX side of file.h. */
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/map_guard.h"
#include "base/system.h"

static atomic_uint_fast64_t n_calls;
static atomic_uint_fast64_t fail_at = UINT64_MAX;
static atomic_int           fail_errno;

void upg_file_fail_after(uint64_t successes, int os_errno)
{
    uint64_t now = atomic_load(&n_calls);

    atomic_store(&fail_errno, os_errno);
    atomic_store(&fail_at, successes > UINT64_MAX - now ? UINT64_MAX : now + successes);
}

/* True when this system call has to fail; errno is then set. */
static bool injected_failure(void)
{
    if (atomic_fetch_add(&n_calls, 1) < atomic_load(&fail_at))
        return false;
    errno = atomic_load(&fail_errno);
    return true;
}

static upg_file_watcher *watcher;
static void             *watcher_user;

void upg_file_watch(upg_file_watcher *watch, void *user)
{
    watcher = watch;
    watcher_user = user;
}

void upg_file_note(upg_file_op op, const char *path, const char *to)
{
    if (watcher != NULL)
        watcher(watcher_user, op, path, to);
}

/* Opens a regular file for reading and tells its size. */
static upg_status open_regular(const char *path, int *fd, uint64_t *size, upg_error *err)
{
    struct stat info;
    int         file = open(path, O_RDONLY | O_CLOEXEC);

    if (file < 0)
        return upg_fail_os(err, UPG_E_IO, errno, "cannot open the file");
    if (fstat(file, &info) != 0) {
        int os_errno = errno;
        close(file);
        return upg_fail_os(err, UPG_E_IO, os_errno, "cannot read the file's size");
    }
    if (!S_ISREG(info.st_mode)) {
        close(file);
        return upg_fail(err, UPG_E_UNSUPPORTED, "%s, a regular file is needed",
                        S_ISDIR(info.st_mode) ? "this is a folder" : "this is no regular file");
    }
    *fd = file;
    *size = (uint64_t)info.st_size;
    return UPG_OK;
}

upg_status upg_map_open(const char *path, upg_map *map, upg_error *err)
{
    uint64_t   size = 0;
    int        fd = -1;
    upg_status st;

    *map = (upg_map) { 0 };
    st = open_regular(path, &fd, &size, err);
    if (st != UPG_OK)
        return st;
    if (size > PTRDIFF_MAX) {
        st = upg_fail(err, UPG_E_UNSUPPORTED, "%llu bytes are more than this machine can map",
                      (unsigned long long)size);
    } else if (size > 0) {
        void *base = mmap(NULL, (size_t)size, PROT_READ, MAP_SHARED, fd, 0);

        if (base == MAP_FAILED) {
            st = upg_fail_os(err, UPG_E_IO, errno, "cannot map the file");
        } else {
            upg_system_large_pages(base, (size_t)size);
            map->base = base;
            map->bytes = (upg_span) { base, (size_t)size };
            map->guard = upg_map_guard_add(base, (size_t)size);
        }
    }
    close(fd); /* the mapping keeps the file alive */
    return st;
}

void upg_map_close(upg_map *map)
{
    upg_map_guard_remove(map->guard);
    if (map->base != NULL)
        munmap(map->base, map->bytes.size);
    *map = (upg_map) { 0 };
}

static upg_forget_watcher *forget_watcher;
static void               *forget_user;

void upg_map_watch_forgets(upg_forget_watcher *watch, void *user)
{
    forget_watcher = watch;
    forget_user = user;
}

void upg_map_forget(const void *memory, size_t bytes)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = ((uintptr_t)memory + page - 1) / page * page;
    uintptr_t end = ((uintptr_t)memory + bytes) / page * page;

    /* of anonymous memory the same call would drop the content */
    if (begin < end && upg_map_guard_covers(memory, bytes))
        (void)madvise((void *)begin, end - begin, MADV_DONTNEED);
    if (forget_watcher != NULL)
        forget_watcher(forget_user, memory, bytes);
}

upg_status upg_map_check(const upg_map *map, upg_error *err)
{
    uint64_t lost = upg_map_guard_lost(map->guard);

    if (lost == UINT64_MAX)
        return UPG_OK;
    return upg_fail(err, UPG_E_IO,
                    "the file lost its bytes from offset %llu on while it was in use (it had %zu): "
                    "was it truncated, did the disk fail? Put it back and open it again",
                    (unsigned long long)lost, map->bytes.size);
}

upg_status upg_file_read(const char *path, upg_buffer *text, upg_error *err)
{
    uint64_t   size = 0;
    int        fd = -1;
    char       chunk[65536];
    ssize_t    got;
    upg_status st = open_regular(path, &fd, &size, err);

    if (st != UPG_OK)
        return st;
    upg_buffer_clear(text);
    if (size > text->max) {
        close(fd);
        return upg_fail(err, UPG_E_BUDGET, "the file has %llu bytes, at most %zu are accepted here",
                        (unsigned long long)size, text->max);
    }
    while (st == UPG_OK && (got = read(fd, chunk, sizeof chunk)) != 0) {
        if (got > 0)
            st = upg_buffer_add(text, chunk, (size_t)got, err);
        else if (errno != EINTR)
            st = upg_fail_os(err, UPG_E_IO, errno, "reading the file failed");
    }
    close(fd);
    return st;
}

bool upg_file_exists(const char *path)
{
    struct stat info;

    return lstat(path, &info) == 0;
}

bool upg_file_is_folder(const char *path)
{
    struct stat info;

    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

char *upg_path_join(const char *folder, const char *name, upg_error *err)
{
    size_t head = strlen(folder), tail = strlen(name);
    bool   slash = head > 0 && folder[head - 1] != '/';
    char  *path = upg_malloc(head + tail + 2, 1, err);

    if (path == NULL)
        return NULL;
    memcpy(path, folder, head);
    if (slash)
        path[head++] = '/';
    memcpy(path + head, name, tail + 1);
    return path;
}

/* ---- upg_outfile --------------------------------------------------------------------------- */

struct upg_outfile {
    int   fd; /* -1 when closed */
    char *target, *temporary;
    bool  overwrite, created;
};

static void outfile_free(upg_outfile *file)
{
    if (file->fd >= 0)
        close(file->fd);
    upg_free(file->target);
    upg_free(file->temporary);
    upg_free(file);
}

#define TEMPORARY       ".tmp-XXXXXX"
#define TEMPORARY_BYTES (sizeof TEMPORARY - 1)
#define TEMPORARY_FRONT 5 /* what of it is not random */

/* Creates it, held by a lock that ends with this process: upg_outfile_sweep. One that was swept
 * between its creation and the lock is made anew. */
static void make_temporary(upg_outfile *file)
{
    struct stat info;
    size_t      size = strlen(file->target) + TEMPORARY_BYTES + 1;

    for (int tries = 0; tries < 3 && file->fd < 0; tries++) {
        snprintf(file->temporary, size, "%s%s", file->target, TEMPORARY);
        if (injected_failure())
            return;
        file->fd = mkostemp(file->temporary, O_CLOEXEC);
        if (file->fd < 0)
            return;
        (void)flock(file->fd, LOCK_EX | LOCK_NB); /* where there are no locks nothing is swept */
        if (fstat(file->fd, &info) == 0 && info.st_nlink == 0) {
            close(file->fd);
            file->fd = -1;
        }
    }
    if (file->fd >= 0)
        upg_file_note(UPG_FILE_CREATE, file->temporary, NULL);
}

upg_status upg_outfile_create(const char *path, bool overwrite, upg_outfile **out, upg_error *err)
{
    upg_outfile *file = NULL;
    size_t       size = strlen(path);
    upg_status   st;

    *out = NULL;
    if (!overwrite && upg_file_exists(path))
        return upg_fail(err, UPG_E_EXISTS, "%s: the file exists and was not to be replaced", path);
    file = upg_calloc(1, sizeof *file, err);
    if (file == NULL)
        return UPG_E_NOMEM;
    file->fd = -1;
    file->overwrite = overwrite;
    file->target = upg_strndup(path, size, err);
    file->temporary = upg_malloc(size + TEMPORARY_BYTES + 1, 1, err);
    UPG_TRY(file->target && file->temporary ? UPG_OK : UPG_E_NOMEM);
    make_temporary(file);
    if (file->fd < 0)
        UPG_TRY(upg_fail_os(err, UPG_E_IO, errno, "%s: cannot create a file in this folder", path));
    file->created = true;
    if (fchmod(file->fd, 0644) != 0) /* mkstemp gives 0600; a failure here only leaves that */
        errno = 0;
out:
    if (st != UPG_OK) {
        outfile_free(file);
        file = NULL;
    }
    *out = file;
    return st;
}

upg_status upg_outfile_create_scratch(const char *path, upg_outfile **out, upg_error *err)
{
    upg_status st = upg_outfile_create(path, true, out, err);

    if (st == UPG_OK) {
        (void)unlink((*out)->temporary);
        (*out)->created = false;
    }
    return st;
}

upg_status upg_outfile_write_at(upg_outfile *file, uint64_t offset, const void *bytes, size_t size,
                                upg_error *err)
{
    const char *from = bytes;

    upg_file_note(UPG_FILE_WRITE, file->temporary, NULL);
    while (size > 0) {
        ssize_t put = injected_failure() ? -1 : pwrite(file->fd, from, size, (off_t)offset);

        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return upg_fail_os(err, UPG_E_IO, errno, "%s: writing at byte %llu failed",
                               file->target, (unsigned long long)offset);
        from += put;
        offset += (uint64_t)put;
        size -= (size_t)put;
    }
    return UPG_OK;
}

upg_status upg_outfile_read_at(upg_outfile *file, uint64_t offset, void *bytes, size_t size,
                               upg_error *err)
{
    char *to = bytes;

    while (size > 0) {
        ssize_t got = injected_failure() ? -1 : pread(file->fd, to, size, (off_t)offset);

        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return upg_fail_os(err, UPG_E_IO, got < 0 ? errno : EIO,
                               "%s: reading back byte %llu failed", file->target,
                               (unsigned long long)offset);
        to += got;
        offset += (uint64_t)got;
        size -= (size_t)got;
    }
    return UPG_OK;
}

upg_status upg_outfile_reserve(upg_outfile *file, uint64_t size, upg_error *err)
{
    int failed = injected_failure() ? errno : posix_fallocate(file->fd, 0, (off_t)size);

    if (failed != 0)
        return upg_fail_os(err, UPG_E_IO, failed, "%s: cannot reserve %llu bytes of disk",
                           file->target, (unsigned long long)size);
    return UPG_OK;
}

/* Makes the rename itself durable. Some file systems refuse to sync a folder: not an error. */
static void sync_folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    char       *folder = strndup(path, slash == NULL ? 0 : (size_t)(slash - path) + 1);
    int         fd;

    if (folder == NULL)
        return;
    fd = open(slash == NULL ? "." : folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        (void)fsync(fd);
        close(fd);
        upg_file_note(UPG_FILE_SYNC_FOLDER, slash == NULL ? "." : folder, NULL);
    }
    free(folder);
}

void upg_sync_folder_of(const char *path)
{
    sync_folder_of(path);
}

bool upg_file_injected_failure(void)
{
    return injected_failure();
}

upg_status upg_outfile_commit(upg_outfile *file, upg_error *err)
{
    upg_status st = UPG_OK;

    if (injected_failure() || fsync(file->fd) != 0)
        UPG_TRY(upg_fail_os(err, UPG_E_IO, errno, "%s: fsync failed", file->target));
    upg_file_note(UPG_FILE_SYNC, file->temporary, NULL);
    if (file->overwrite) {
        if (injected_failure() || rename(file->temporary, file->target) != 0)
            UPG_TRY(upg_fail_os(err, UPG_E_IO, errno, "%s: rename failed", file->target));
        upg_file_note(UPG_FILE_RENAME, file->temporary, file->target);
    } else { /* link refuses an existing target, rename would replace it */
        if (injected_failure() || link(file->temporary, file->target) != 0)
            UPG_TRY(upg_fail_os(err, UPG_E_IO, errno, "%s: cannot give the file its name",
                                file->target));
        upg_file_note(UPG_FILE_LINK, file->temporary, file->target);
        (void)unlink(file->temporary);
    }
    file->created = false;
    sync_folder_of(file->target);
out:
    upg_outfile_discard(file);
    return st;
}

void upg_outfile_discard(upg_outfile *file)
{
    if (file == NULL)
        return;
    if (file->created)
        (void)unlink(file->temporary);
    outfile_free(file);
}

static bool is_temporary(const char *name, const char *front)
{
    size_t      size = strlen(name);
    const char *tail = name + size - TEMPORARY_BYTES;

    return size > TEMPORARY_BYTES && strncmp(name, front, strlen(front)) == 0 &&
           strlen(front) <= size - TEMPORARY_BYTES &&
           strncmp(tail, TEMPORARY, TEMPORARY_FRONT) == 0;
}

void upg_outfile_sweep(const char *folder, const char *front)
{
    DIR           *listing = opendir(folder);
    struct dirent *entry;

    while (listing != NULL && (entry = readdir(listing)) != NULL) {
        int file;

        if (!is_temporary(entry->d_name, front))
            continue;
        file = openat(dirfd(listing), entry->d_name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
        if (file < 0)
            continue;
        if (flock(file, LOCK_EX | LOCK_NB) == 0)
            (void)unlinkat(dirfd(listing), entry->d_name, 0);
        close(file);
    }
    if (listing != NULL)
        closedir(listing);
}

const char *upg_outfile_temporary(const upg_outfile *file)
{
    return file->temporary;
}
