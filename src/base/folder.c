/* folder.c: files and folders by name: what file.h says of them. */
#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

bool upg_file_stamp(const char *path, uint64_t *bytes, int64_t *changed_ns)
{
    struct stat info;

    if (stat(path, &info) != 0)
        return false;
    *bytes = (uint64_t)info.st_size;
    *changed_ns = (int64_t)info.st_mtim.tv_sec * 1000000000 + info.st_mtim.tv_nsec;
    return true;
}

upg_status upg_folder_make(const char *path, upg_error *err)
{
    if ((upg_file_injected_failure() || mkdir(path, 0755) != 0) &&
        !(errno == EEXIST && upg_file_is_folder(path)))
        return upg_fail_os(err, UPG_E_IO, errno, "%s: cannot create the folder", path);
    upg_file_note(UPG_FILE_CREATE, path, NULL);
    upg_sync_folder_of(path);
    return UPG_OK;
}

upg_status upg_file_remove(const char *path, upg_error *err)
{
    struct stat info;
    bool        folder = lstat(path, &info) == 0 && S_ISDIR(info.st_mode);

    if ((upg_file_injected_failure() || (folder ? rmdir(path) : unlink(path)) != 0) &&
        errno != ENOENT)
        return upg_fail_os(err, UPG_E_IO, errno, "%s: cannot be removed", path);
    upg_file_note(UPG_FILE_REMOVE, path, NULL);
    return UPG_OK;
}
