/* os_system.c: /proc, /sys and madvise of Linux; elsewhere nothing is known. */
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>

#include "base/system.h"

#if defined(__linux__)
#include <dirent.h>
#include <sys/mman.h>
#endif

/* ---- memory --------------------------------------------------------------------------------- */

/* The number at the start of text; 0 without. */
static uint64_t number(const char *text)
{
    uintmax_t value = strtoumax(text, NULL, 10);

    return value < UINT64_MAX ? (uint64_t)value : 0; /* UINTMAX_MAX: it did not fit */
}

/* A number from a line "key:   123 kB" of /proc/meminfo, in bytes; 0 without. */
static uint64_t meminfo(const char *key)
{
    char     line[128];
    uint64_t kib = 0;
    size_t   length = strlen(key);
    FILE    *file = fopen("/proc/meminfo", "re");

    if (!file)
        return 0;
    while (kib == 0 && fgets(line, sizeof line, file))
        if (strncmp(line, key, length) == 0 && line[length] == ':')
            kib = number(line + length + 1);
    fclose(file);
    return kib * 1024;
}

/* A number that fills a file; 0 without ("max" is no number). */
static uint64_t number_in(const char *path)
{
    char     line[64];
    uint64_t value = 0;
    FILE    *file = fopen(path, "re");

    if (!file)
        return 0;
    if (fgets(line, sizeof line, file))
        value = number(line);
    fclose(file);
    return value;
}

static atomic_uint_fast64_t most_available = UINT64_MAX;

void upg_system_memory_cap(uint64_t available)
{
    atomic_store(&most_available, available);
}

static void measure_memory(uint64_t *total, uint64_t *available)
{
    uint64_t limit = number_in("/sys/fs/cgroup/memory.max");
    uint64_t used = number_in("/sys/fs/cgroup/memory.current");

    *total = meminfo("MemTotal");
    *available = meminfo("MemAvailable");
    if (limit == 0 || limit >= *total)
        return;
    *total = limit;
    if (limit > used && limit - used < *available)
        *available = limit - used;
}

void upg_system_memory(uint64_t *total, uint64_t *available)
{
    uint64_t most = atomic_load(&most_available);

    measure_memory(total, available);
    if (most != UINT64_MAX && (*available == 0 || *available > most))
        *available = most;
}

/* Zen 4 in a virtual machine, decoding from pages of 2 MiB instead of 4 KiB: 30 GB/s instead of 26
 * by one thread, 40 instead of 31 by two; files from a disk come in five times as fast. */
void upg_system_large_pages(void *memory, size_t bytes)
{
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    const uintptr_t small = 65536, large = (uintptr_t)2 << 20;
    uintptr_t       begin = ((uintptr_t)memory + small - 1) / small * small;
    uintptr_t       end = ((uintptr_t)memory + bytes) / small * small;

    if (bytes >= 2 * large && begin < end)
        (void)madvise((void *)begin, end - begin, MADV_HUGEPAGE); /* advice: may be refused */
#else
    (void)memory;
    (void)bytes;
#endif
}

/* ---- disk ----------------------------------------------------------------------------------- */

static atomic_uint_fast64_t most_free = UINT64_MAX;

void upg_system_disk_cap(uint64_t available)
{
    atomic_store(&most_free, available);
}

/* Cuts the last part off a path: "a/b/" ─► "a", "a" ─► ".". */
static void parent_of(char *path)
{
    size_t size = strlen(path);

    while (size > 1 && path[size - 1] == '/')
        size--;
    while (size > 0 && path[size - 1] != '/')
        size--;
    while (size > 1 && path[size - 1] == '/')
        size--;
    if (size == 0)
        path[size++] = '.';
    path[size] = '\0';
}

bool upg_system_disk(const char *path, uint64_t *available)
{
    char           folder[4096];
    struct statvfs info;
    uint64_t       most = atomic_load(&most_free);

    *available = 0;
    if (path[0] == '\0' || strlen(path) >= sizeof folder)
        return false;
    memcpy(folder, path, strlen(path) + 1);
    if (statvfs(folder, &info) != 0) {
        parent_of(folder);
        if (statvfs(folder, &info) != 0)
            return false;
    }
    *available = (uint64_t)info.f_bavail * info.f_frsize;
    if (*available > most)
        *available = most;
    return true;
}

/* ---- graphics ------------------------------------------------------------------------------- */

#if defined(__linux__)
/* The value of the first line "key…" of a file; false without. */
static int value_in(const char *path, const char *key, char *text, size_t cap)
{
    char  line[256];
    FILE *file = fopen(path, "re");
    int   found = 0;

    if (!file)
        return 0;
    while (!found && fgets(line, sizeof line, file)) {
        const char *value = line + strlen(key);

        if (strncmp(line, key, strlen(key)) != 0)
            continue;
        line[strcspn(line, "\n")] = '\0';
        snprintf(text, cap, "%s", value + strspn(value, " \t"));
        found = 1;
    }
    fclose(file);
    return found;
}

/* Looks for `key` in FOLDER/x/LEAF for the entries x that begin with `prefix`, in no order. */
static int search(const char *folder, const char *prefix, const char *leaf, const char *key,
                  char *text, size_t cap)
{
    char           path[512];
    DIR           *listing = opendir(folder);
    struct dirent *entry;
    int            found = 0;

    if (!listing)
        return 0;
    while (!found && (entry = readdir(listing)) != NULL) {
        if (entry->d_name[0] == '.' || strncmp(entry->d_name, prefix, strlen(prefix)) != 0)
            continue;
        snprintf(path, sizeof path, "%s/%s/%s", folder, entry->d_name, leaf);
        found = value_in(path, key, text, cap);
    }
    closedir(listing);
    return found;
}
#endif

void upg_system_gpu(char *text, size_t cap)
{
    text[0] = '\0';
#if defined(__linux__)
    if (search("/proc/driver/nvidia/gpus", "", "information", "Model:", text, cap))
        return;
    /* Other drivers have no name there; their own and the device's number say what it is. */
    {
        char driver[64], id[64];

        if (search("/sys/class/drm", "card", "device/uevent", "DRIVER=", driver, sizeof driver) &&
            search("/sys/class/drm", "card", "device/uevent", "PCI_ID=", id, sizeof id))
            snprintf(text, cap, "%s %s", driver, id);
    }
#endif
}
