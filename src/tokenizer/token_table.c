#include "tokenizer/token_table.h"

#include <string.h>

#include "base/alloc.h"
#include "tokenizer/hash.h"
#include "tokenizer/utf8.h"

void upg_byte_level_init(upg_byte_level *map)
{
    uint32_t next = 256;

    memset(map->byte_of, 0xFF, sizeof map->byte_of);
    for (uint32_t b = 0; b < 256; b++) {
        bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;

        map->byte_of[printable ? b : next++] = (int16_t)b;
    }
}

size_t upg_byte_level_decode(const upg_byte_level *map, const char *text, size_t size, uint8_t *out,
                             bool *raw)
{
    const uint8_t *from = (const uint8_t *)text;
    size_t         n = 0;
    uint32_t       c;

    *raw = false;
    for (size_t i = 0; i < size; n++) {
        i += upg_utf8_decode(from + i, &c);
        if (c >= UPG_BYTE_LEVEL_END || map->byte_of[c] < 0) {
            *raw = true;
            memcpy(out, text, size);
            return size;
        }
        out[n] = (uint8_t)map->byte_of[c];
    }
    return n;
}

upg_status upg_token_table_init(upg_token_table *table, size_t n_ids, size_t n_tokens,
                                size_t n_bytes, upg_error *err)
{
    upg_status st = UPG_OK;
    size_t     n_slots = 16;

    while (n_slots < 2 * n_tokens)
        n_slots *= 2;
    *table = (upg_token_table) { .n_ids = n_ids, .n_slots = n_slots, .bytes_cap = n_bytes };
    table->entries = upg_calloc(n_ids, sizeof *table->entries, err);
    UPG_TRY(table->entries != NULL ? UPG_OK : UPG_E_NOMEM);
    table->bytes = upg_malloc(n_bytes, 1, err);
    UPG_TRY(table->bytes != NULL ? UPG_OK : UPG_E_NOMEM);
    table->slots = upg_calloc(n_slots, sizeof *table->slots, err);
    UPG_TRY(table->slots != NULL ? UPG_OK : UPG_E_NOMEM);
out:
    if (st != UPG_OK)
        upg_token_table_deinit(table);
    return st;
}

void upg_token_table_deinit(upg_token_table *table)
{
    upg_free(table->entries);
    upg_free(table->bytes);
    upg_free(table->slots);
    *table = (upg_token_table) { 0 };
}

/* The slot that holds the content, or the free one where it belongs. */
static size_t find_slot(const upg_token_table *table, const uint8_t *bytes, size_t size, bool raw)
{
    size_t mask = table->n_slots - 1;
    size_t slot = (size_t)upg_hash_bytes(bytes, size) & mask;

    for (; table->slots[slot] != 0; slot = (slot + 1) & mask) {
        const upg_token_entry *e = &table->entries[table->slots[slot] - 1];

        if (e->size == size && ((e->flags & UPG_TOKEN_RAW) != 0) == raw &&
            memcmp(table->bytes + e->begin, bytes, size) == 0)
            break;
    }
    return slot;
}

void upg_token_table_add(upg_token_table *table, uint32_t id, const upg_byte_level *map,
                         const char *text, size_t size)
{
    uint8_t *bytes = table->bytes + table->n_bytes;
    bool     raw;
    size_t   n = upg_byte_level_decode(map, text, size, bytes, &raw);
    size_t   slot = find_slot(table, bytes, n, raw);

    table->entries[id] =
        (upg_token_entry) { .begin = (uint32_t)table->n_bytes,
                            .size = (uint32_t)n,
                            .flags = UPG_TOKEN_PRESENT | (raw ? (uint32_t)UPG_TOKEN_RAW : 0) };
    table->n_bytes += n;
    if (table->slots[slot] == 0)
        table->slots[slot] = id + 1;
}

int32_t upg_token_table_find(const upg_token_table *table, const uint8_t *bytes, size_t size,
                             bool raw)
{
    return (int32_t)table->slots[find_slot(table, bytes, size, raw)] - 1;
}
