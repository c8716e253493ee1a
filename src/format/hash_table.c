#include "format/hash_table.h"

#include <inttypes.h>
#include <string.h>

#include <xxhash.h>

static const uint8_t magic[8] = { 'U', 'P', 'G', 'H', 'A', 'S', 'H', '1' };

void upg_hash_chunk(const void *bytes, size_t size, uint8_t *hash)
{
    XXH128_canonical_t canonical;

    XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes, size));
    _Static_assert(sizeof canonical.digest == UPG_HASH_BYTES, "part of the file format");
    memcpy(hash, canonical.digest, UPG_HASH_BYTES);
}

uint64_t upg_hash_chunks(uint64_t covered)
{
    return covered / UPG_HASH_CHUNK + (covered % UPG_HASH_CHUNK != 0);
}

uint64_t upg_hash_table_bytes(uint64_t covered)
{
    return upg_hash_chunks(covered) * UPG_HASH_BYTES + UPG_HASH_TRAILER;
}

void upg_hash_trailer(uint8_t *table, uint64_t covered)
{
    size_t   hashes = (size_t)upg_hash_chunks(covered) * UPG_HASH_BYTES;
    uint8_t *at = table + hashes;

    memcpy(at, magic, sizeof magic);
    for (unsigned i = 0; i < 8; i++)
        at[8 + i] = (uint8_t)(covered >> 8 * i);
    upg_hash_chunk(table, hashes + 16, at + 16);
}

upg_status upg_hash_table_find(upg_span file, upg_hash_table *table, upg_error *err)
{
    upg_span trailer = { 0 }, whole = { 0 };
    uint64_t covered = 0;
    uint8_t  hash[UPG_HASH_BYTES];

    *table = (upg_hash_table) { .file = file };
    if (file.size < UPG_HASH_TRAILER ||
        !upg_span_slice(file, file.size - UPG_HASH_TRAILER, UPG_HASH_TRAILER, &trailer) ||
        memcmp(trailer.data, magic, sizeof magic) != 0)
        return upg_fail(err, UPG_E_CORRUPT,
                        "the file does not end with its hash table: it was cut, or something was "
                        "appended");
    for (unsigned i = 0; i < 8; i++)
        covered |= (uint64_t)trailer.data[8 + i] << 8 * i;
    if (covered > file.size || upg_hash_table_bytes(covered) != file.size - covered)
        return upg_fail(err, UPG_E_CORRUPT,
                        "the hash table covers %" PRIu64 " bytes, which does not fit a file of "
                        "%zu: the file is damaged at its end",
                        covered, file.size);
    if (!upg_span_slice(file, covered, file.size - covered, &whole))
        return upg_fail(err, UPG_E_CORRUPT, "the hash table lies outside the file");
    table->covered = covered; /* known, even if the table turns out to be damaged */
    upg_hash_chunk(whole.data, whole.size - UPG_HASH_BYTES, hash);
    if (memcmp(hash, trailer.data + 16, sizeof hash) != 0)
        return upg_fail(err, UPG_E_CORRUPT,
                        "the hash table (\"upg.hashes\", from byte %" PRIu64 ") is damaged",
                        covered);
    table->hashes = whole.data;
    table->n_chunks = (size_t)upg_hash_chunks(covered);
    return UPG_OK;
}

bool upg_hash_table_chunk_ok(const upg_hash_table *table, size_t chunk)
{
    uint64_t begin = (uint64_t)chunk * UPG_HASH_CHUNK;
    uint64_t left = table->covered - begin;
    upg_span bytes = { 0 };
    uint8_t  hash[UPG_HASH_BYTES];

    if (!upg_span_slice(table->file, begin, left < UPG_HASH_CHUNK ? left : UPG_HASH_CHUNK, &bytes))
        return false;
    upg_hash_chunk(bytes.data, bytes.size, hash);
    return memcmp(hash, table->hashes + chunk * UPG_HASH_BYTES, sizeof hash) == 0;
}

bool upg_hash_table_range_ok(const upg_hash_table *table, uint64_t begin, uint64_t end,
                             size_t *bad_chunk)
{
    size_t last;

    if (end > table->covered)
        end = table->covered;
    if (begin >= end)
        return true;
    last = (size_t)((end - 1) / UPG_HASH_CHUNK);
    for (size_t chunk = (size_t)(begin / UPG_HASH_CHUNK); chunk <= last; chunk++) {
        if (!upg_hash_table_chunk_ok(table, chunk)) {
            *bad_chunk = chunk;
            return false;
        }
    }
    return true;
}
