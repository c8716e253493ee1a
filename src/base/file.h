/* file.h: read-only maps and files that appear whole or not at all.
 *
 * Invariants:
 *   1. An upg_outfile writes to a temporary name beside the target; the target's name appears only
 *      through upg_outfile_commit, after fsync. Discarding or failing removes the temporary.
 *   2. Every system call here counts for upg_file_fail_after, so tests reach each failure. */
#ifndef UPG_BASE_FILE_H
#define UPG_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/span.h"

typedef struct upg_map {
    upg_span bytes; /* valid until upg_map_close; empty for an empty file */
    void    *base;  /* private */
    uint32_t guard; /* private: map_guard.h */
} upg_map;

/** Maps a regular file for reading. Errors (the path is NOT in the message; the caller prefixes
 * it): E_NOT_FOUND, E_IO, E_UNSUPPORTED for what is no regular file. */
upg_status upg_map_open(const char *path, upg_map *map, upg_error *err);
void       upg_map_close(upg_map *map);
/** Whether the file still has all that was read through the map; asked after reading, it is never
 * wrong. Errors: E_IO with the offset (the path is not in the message). */
upg_status upg_map_check(const upg_map *map, upg_error *err);
/** Lets go of the pages between, which count as this process's memory since they were read; reading
 * them again is possible and brings them back. Memory that is no map of this file is left alone. */
void upg_map_forget(const void *memory, size_t bytes);

/** Reads a whole file into `text` (replaced). Errors: as upg_map_open; E_BUDGET above its max. */
upg_status upg_file_read(const char *path, upg_buffer *text, upg_error *err);
bool       upg_file_exists(const char *path);
bool       upg_file_is_folder(const char *path);
/** folder/name, allocated: the caller frees with upg_free. NULL = E_NOMEM in *err. */
char *upg_path_join(const char *folder, const char *name, upg_error *err);

typedef struct upg_outfile upg_outfile;
/** Creates PATH's temporary. Errors: E_EXISTS when PATH is there and !overwrite, E_IO, E_NOSPACE.
 */
upg_status upg_outfile_create(const char *path, bool overwrite, upg_outfile **file, upg_error *err);
/** Creates a file beside PATH that has no name, so that nothing of it can remain; it cannot be
 * committed. Errors: E_IO, E_NOSPACE. */
upg_status upg_outfile_create_scratch(const char *path, upg_outfile **file, upg_error *err);
/** Writes at an absolute offset; order and gaps are free (gaps read as zeros). */
upg_status upg_outfile_write_at(upg_outfile *file, uint64_t offset, const void *bytes, size_t size,
                                upg_error *err);
/** Reads back what was written, for hashing. */
upg_status upg_outfile_read_at(upg_outfile *file, uint64_t offset, void *bytes, size_t size,
                               upg_error *err);
/** Reserves disk space for `size` bytes now, so that a full disk shows before the work is done. */
upg_status upg_outfile_reserve(upg_outfile *file, uint64_t size, upg_error *err);
/** fsync, rename to PATH, fsync of the folder. On failure the temporary is removed. Closes `file`
 * in any case. */
upg_status upg_outfile_commit(upg_outfile *file, upg_error *err);
/** Removes the temporary and closes. NULL is fine. */
void upg_outfile_discard(upg_outfile *file);
/** Removes temporaries of files in `folder` whose name begins with `front` ("" = of all), when the
 * process that wrote them is no more: it held a lock. */
void upg_outfile_sweep(const char *folder, const char *front);
/** Path of the temporary, borrowed until commit or discard. */
const char *upg_outfile_temporary(const upg_outfile *file);

/** A file's size and when it was last changed, in nanoseconds. False when it cannot be asked. */
bool upg_file_stamp(const char *path, uint64_t *bytes, int64_t *changed_ns);
/** Creates a folder; one that is there is fine. Errors: E_IO, E_NOSPACE. */
upg_status upg_folder_make(const char *path, upg_error *err);
/** Removes a file or an empty folder, if it is there. Errors: E_IO. */
upg_status upg_file_remove(const char *path, upg_error *err);

/** Test hook: told of each step that changes the disk, after it was done (of writes, before). A
 * test that ends the process there sees what a crash at that moment leaves. */
typedef enum upg_file_op {
    UPG_FILE_CREATE,
    UPG_FILE_WRITE,
    UPG_FILE_SYNC,
    UPG_FILE_RENAME,
    UPG_FILE_LINK,
    UPG_FILE_REMOVE,
    UPG_FILE_SYNC_FOLDER
} upg_file_op;
typedef void upg_file_watcher(void *user, upg_file_op op, const char *path, const char *to);
void         upg_file_watch(upg_file_watcher *watcher, void *user);
/** For functions outside file.c that do such steps. */
void upg_file_note(upg_file_op op, const char *path, const char *to);

/** Test hook: the write, fsync, rename … after `successes` more successful ones fails with
 * `os_errno`, and every later one too. UINT64_MAX (the default) never fails. */
void upg_file_fail_after(uint64_t successes, int os_errno);

/** Test hook: told of memory that upg_map_forget let go of. A test that drops those pages from the
 * system's cache too sees what is read of a disk where memory is too small to keep a file. */
typedef void upg_forget_watcher(void *user, const void *memory, size_t bytes);
void         upg_map_watch_forgets(upg_forget_watcher *watcher, void *user);

/* For other files of base/ that write: whether this system call has to fail (errno is then set),
 * and making a rename to `path` durable. */
bool upg_file_injected_failure(void);
void upg_sync_folder_of(const char *path);

#endif
