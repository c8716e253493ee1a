/* replay_main.c: runs a fuzz target over every file of the folders given, so that each corpus is an
 * ordinary test of compilers without libFuzzer too. */
#include <dirent.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Memory that ends where the file ends: a sanitizer sees every read past it. */
static int replay_file(const char *path)
{
    FILE    *file = fopen(path, "rb");
    uint8_t *bytes = NULL;
    long     size = -1;
    int      ok = 0;

    if (file != NULL && fseek(file, 0, SEEK_END) == 0)
        size = ftell(file);
    if (size >= 0 && fseek(file, 0, SEEK_SET) == 0)
        bytes = malloc(size == 0 ? 1 : (size_t)size);
    if (bytes != NULL && fread(bytes, 1, (size_t)size, file) == (size_t)size) {
        (void)LLVMFuzzerTestOneInput(bytes, (size_t)size);
        ok = 1;
    }
    if (!ok)
        fprintf(stderr, "%s: cannot read\n", path);
    free(bytes);
    if (file != NULL)
        fclose(file);
    return ok;
}

/* Returns the files replayed, −1 on failure. */
static long replay_folder(const char *folder)
{
    DIR           *dir = opendir(folder);
    struct dirent *entry;
    long           n = 0;

    if (dir == NULL) {
        fprintf(stderr, "%s: cannot open the folder\n", folder);
        return -1;
    }
    while (n >= 0 && (entry = readdir(dir)) != NULL) {
        char path[4096];

        if (entry->d_name[0] == '.')
            continue;
        if ((size_t)snprintf(path, sizeof path, "%s/%s", folder, entry->d_name) >= sizeof path)
            n = -1;
        else
            n = replay_file(path) ? n + 1 : -1;
    }
    closedir(dir);
    if (n == 0)
        fprintf(stderr, "%s: the folder is empty\n", folder);
    return n > 0 ? n : -1;
}

int main(int argc, char **argv)
{
    long total = 0;

    for (int i = 1; i < argc; i++) {
        long n = replay_folder(argv[i]);

        if (n < 0)
            return 1;
        total += n;
    }
    printf("%ld inputs replayed\n", total);
    return total > 0 ? 0 : 1;
}
