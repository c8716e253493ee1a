/* restamp.c: computes the checksums of a changed .upg file again, as somebody would who writes
 * another version of the format. A tool for cases; usage: restamp FILE */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/hash_table.h"

enum { MAX_BYTES = 1 << 26 };

static size_t read_file(const char *path, uint8_t *bytes)
{
    FILE  *file = fopen(path, "rb");
    size_t size = file ? fread(bytes, 1, MAX_BYTES, file) : 0;

    if (file)
        fclose(file);
    return size;
}

static int write_file(const char *path, const uint8_t *bytes, size_t size)
{
    FILE *file = fopen(path, "wb");
    int   ok = file && fwrite(bytes, 1, size, file) == size;

    if (file && fclose(file) != 0)
        ok = 0;
    return ok ? 0 : 1;
}

int main(int argc, char **argv)
{
    uint8_t       *bytes = malloc(MAX_BYTES);
    size_t         size = argc == 2 && bytes ? read_file(argv[1], bytes) : 0;
    upg_hash_table table;
    upg_error      err;
    uint8_t       *hashes;

    if (size == 0 || upg_hash_table_find((upg_span) { bytes, size }, &table, &err) != UPG_OK) {
        fprintf(stderr, "restamp: not a .upg file with a whole hash table\n");
        free(bytes);
        return 1;
    }
    hashes = bytes + (table.hashes - bytes);
    for (uint64_t i = 0; i < table.n_chunks; i++) {
        uint64_t begin = i * UPG_HASH_CHUNK, left = table.covered - begin;

        upg_hash_chunk(bytes + begin, left < UPG_HASH_CHUNK ? (size_t)left : UPG_HASH_CHUNK,
                       hashes + i * UPG_HASH_BYTES);
    }
    upg_hash_trailer(hashes, table.covered);
    size = (size_t)write_file(argv[1], bytes, size);
    free(bytes);
    return (int)size;
}
