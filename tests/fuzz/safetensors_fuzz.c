/* The safetensors header and the shard index. Every view that comes out is read to its end. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "safetensors/checkpoint.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile unsigned sink;

static void fuzz_header(upg_span bytes)
{
    upg_st   *file = NULL;
    upg_error err;
    uint64_t  at;

    if (upg_st_parse(bytes, "fuzz", &file, &err) != UPG_OK)
        return;
    at = upg_st_data_offset(file);
    for (size_t i = 0; i < upg_st_count(file); i++) {
        const upg_st_tensor *t = upg_st_at(file, i);

        for (size_t b = 0; b < t->bytes.size; b++)
            sink += t->bytes.data[b];
        if (t->file_offset != at || upg_st_find(file, t->name) != t)
            abort(); /* the tensors must tile the data section, and be found by name */
        at += t->bytes.size;
    }
    if (at != bytes.size)
        abort();
    upg_st_close(file);
}

static void fuzz_index(upg_span text)
{
    upg_shard_index index;
    upg_error       err;

    if (upg_shard_index_parse(text, &index, &err) != UPG_OK)
        return;
    for (size_t i = 0; i < index.n_tensors; i++) {
        const char *shard = index.shards[index.shard_of[i]];

        if (strchr(shard, '/') != NULL || shard[0] == '.' || shard[0] == '\0')
            abort(); /* a shard must lie beside the index */
        sink += (unsigned)strlen(index.tensors[i]);
    }
    upg_shard_index_deinit(&index);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    upg_span bytes = { data, size };

    fuzz_header(bytes);
    fuzz_index(bytes);
    return 0;
}
