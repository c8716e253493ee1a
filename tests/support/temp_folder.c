#include "support/temp_folder.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void must(int good, const char *what, const char *path)
{
    if (good)
        return;
    fprintf(stderr, "test support: %s failed: %s\n", what, path);
    exit(2);
}

char *make_folder(void)
{
    const char *base = getenv("TMPDIR");
    char        path[512];

    snprintf(path, sizeof path, "%s/upg-test-XXXXXX", base && base[0] ? base : "/tmp");
    must(mkdtemp(path) != NULL, "mkdtemp", path);
    return strdup(path);
}

void remove_folder(char *folder)
{
    DIR           *dir = opendir(folder);
    struct dirent *entry;

    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            must(unlink(in_folder(folder, entry->d_name)) == 0, "unlink", entry->d_name);
    }
    if (dir != NULL)
        closedir(dir);
    must(rmdir(folder) == 0, "rmdir", folder);
    free(folder);
}

const char *in_folder(const char *folder, const char *name)
{
    static char     paths[4][1024];
    static unsigned next;
    char           *path = paths[next++ % 4];

    must((size_t)snprintf(path, sizeof paths[0], "%s/%s", folder, name) < sizeof paths[0],
         "a path that fits", name);
    return path;
}

void write_file(const char *path, const void *bytes, size_t size)
{
    FILE *file = fopen(path, "wb");

    must(file != NULL, "fopen", path);
    must(fwrite(bytes, 1, size, file) == size, "fwrite", path);
    must(fclose(file) == 0, "fclose", path);
}

char *read_file(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    long  length;
    char *text;

    must(file != NULL && fseek(file, 0, SEEK_END) == 0, "fopen", path);
    length = ftell(file);
    must(length >= 0 && fseek(file, 0, SEEK_SET) == 0, "ftell", path);
    text = malloc((size_t)length + 1);
    must(text != NULL && fread(text, 1, (size_t)length, file) == (size_t)length, "fread", path);
    text[length] = '\0';
    fclose(file);
    if (size != NULL)
        *size = (size_t)length;
    return text;
}
