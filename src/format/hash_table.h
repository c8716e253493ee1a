/* hash_table.h: the XXH3-128 table that ends every .upg file (docs/FORMAT.md, "Hashes").
 *
 * Bytes 0 … covered − 1 of the file are cut into chunks of 1 MiB, the last one shorter. The table
 * follows them and ends the file:
 *
 *     u8 [n_chunks][16]   XXH3-128 of each chunk, in canonical (big-endian) form
 *     u8 [8]              "UPGHASH1"
 *     u64                 covered, little-endian
 *     u8 [16]             XXH3-128 of all of the above, from the first hash on
 *
 * It is found from the end, without believing the header, so that damage to the header has a place
 * and a name too. */
#ifndef UPG_FORMAT_HASH_TABLE_H
#define UPG_FORMAT_HASH_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/span.h"

enum { UPG_HASH_CHUNK = 1 << 20, UPG_HASH_BYTES = 16, UPG_HASH_TRAILER = 32 };

typedef struct upg_hash_table {
    upg_span       file;
    const uint8_t *hashes; /* [n_chunks][16], in the file */
    uint64_t       covered;
    size_t         n_chunks;
} upg_hash_table;

/** Finds and checks the table. Errors: E_CORRUPT. */
upg_status upg_hash_table_find(upg_span file, upg_hash_table *table, upg_error *err);
/** Whether a chunk is as it was written. */
bool upg_hash_table_chunk_ok(const upg_hash_table *table, size_t chunk);
/** Checks the chunks that hold bytes begin … end − 1; false gives the first bad one's number. */
bool upg_hash_table_range_ok(const upg_hash_table *table, uint64_t begin, uint64_t end,
                             size_t *bad_chunk);

/** Chunks of `covered` bytes. */
uint64_t upg_hash_chunks(uint64_t covered);
/** Bytes of the table for `covered` bytes. */
uint64_t upg_hash_table_bytes(uint64_t covered);
/** hash u8 [16] of up to 1 MiB. */
void upg_hash_chunk(const void *bytes, size_t size, uint8_t *hash);
/** Writes the trailer behind table's n_chunks hashes. */
void upg_hash_trailer(uint8_t *table, uint64_t covered);

#endif
