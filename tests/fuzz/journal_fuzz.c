/* The files of a journal: matrices, streams, and texts. Each input is read as all three, once as it
 * is and once with its hash made right, since the hash would stop nearly every mutation. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "compress/journal_format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile unsigned sink;

static void read_all(upg_span bytes)
{
    upg_error           err;
    upg_journal_record  record;
    upg_journal_streams streams;
    json_t             *object;

    if (upg_journal_record_parse(bytes, &record, &err) == UPG_OK) {
        for (uint64_t i = 0; i < record.n_words; i++)
            sink += record.bits[i];
        for (uint32_t i = 0; i < record.n_rows; i++)
            sink += record.scales[i];
    }
    if (upg_journal_streams_parse(bytes, &streams, &err) == UPG_OK)
        for (uint64_t i = 0; i < streams.n_streams * streams.n_slots * streams.slot_size; i++)
            sink += streams.data[i] > 0;
    if (upg_journal_text_parse(bytes, &object, &err) == UPG_OK) {
        if (!json_is_object(object))
            abort();
        json_decref(object);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    /* at a multiple of 4, as maps are */
    uint8_t           *copy = malloc(size + 1);
    XXH128_canonical_t hash;

    if (copy == NULL)
        return 0;
    memcpy(copy, data, size);
    read_all((upg_span) { copy, size });
    if (size >= sizeof hash) {
        XXH128_canonicalFromHash(&hash, XXH3_128bits(copy, size - sizeof hash));
        memcpy(copy + size - sizeof hash, &hash, sizeof hash);
        read_all((upg_span) { copy, size });
    }
    free(copy);
    return 0;
}
