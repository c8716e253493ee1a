/* token_table.h: tokens as bytes, by id and by content.
 *
 * Ids may have gaps. A token's bytes are what it decodes to: the characters of the byte-level
 * alphabet (GPT-2's bytes_to_unicode) stand for one byte each; a token with any other character
 * stands for its own UTF-8 bytes ("raw"), which is what the reference decoder does. */
#ifndef UPG_TOKENIZER_TOKEN_TABLE_H
#define UPG_TOKENIZER_TOKEN_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/span.h"

enum {
    UPG_TOKEN_MAX_ID = (1 << 21) - 1,
    UPG_TOKEN_PRESENT = 1, /* flags */
    UPG_TOKEN_RAW = 2,
    UPG_TOKEN_ADDED = 4,
    UPG_TOKEN_SPECIAL = 8
};

typedef struct upg_token_entry {
    uint32_t begin, size; /* in the table's bytes */
    uint32_t flags;
} upg_token_entry;

typedef struct upg_token_table {
    upg_token_entry *entries; /* [n_ids] */
    uint8_t         *bytes;
    uint32_t        *slots; /* [n_slots], id + 1 or 0: open addressing by content */
    size_t           n_ids, n_bytes, bytes_cap, n_slots;
} upg_token_table;

/** The byte of each code point of the byte-level alphabet, -1 for all others. */
enum { UPG_BYTE_LEVEL_END = 0x144 };
typedef struct upg_byte_level {
    int16_t byte_of[UPG_BYTE_LEVEL_END];
} upg_byte_level;
void upg_byte_level_init(upg_byte_level *map);
/** Writes what `text` (checked UTF-8) stands for to `out` (at least `size` bytes); *raw tells
 * whether it is the text itself. Returns the number of bytes. */
size_t upg_byte_level_decode(const upg_byte_level *map, const char *text, size_t size, uint8_t *out,
                             bool *raw);

/** Room for n_ids ids, n_tokens tokens and n_bytes bytes in all. Errors: E_NOMEM. */
upg_status upg_token_table_init(upg_token_table *table, size_t n_ids, size_t n_tokens,
                                size_t n_bytes, upg_error *err);
void       upg_token_table_deinit(upg_token_table *table);
/** Adds a token with a free id below n_ids, within the room asked for. */
void upg_token_table_add(upg_token_table *table, uint32_t id, const upg_byte_level *map,
                         const char *text, size_t size);
/** The id with these bytes and this rawness, -1 without. */
int32_t upg_token_table_find(const upg_token_table *table, const uint8_t *bytes, size_t size,
                             bool raw);

static inline const uint8_t *upg_token_table_bytes(const upg_token_table *table, uint32_t id,
                                                   size_t *size)
{
    *size = table->entries[id].size;
    return table->bytes + table->entries[id].begin;
}

#endif
