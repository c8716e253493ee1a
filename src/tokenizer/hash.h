/* hash.h: quick hashes for the tables of this layer. Never stored, so they may change. */
#ifndef UPG_TOKENIZER_HASH_H
#define UPG_TOKENIZER_HASH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint64_t upg_hash_u64(uint64_t x)
{
    x *= UINT64_C(0x9E3779B97F4A7C15);
    return x ^ x >> 32;
}

static inline uint64_t upg_hash_pair(uint64_t a, uint64_t b)
{
    return upg_hash_u64(upg_hash_u64(a) ^ (b << 23 | b >> 41));
}

static inline uint64_t upg_hash_bytes(const uint8_t *bytes, size_t size)
{
    uint64_t hash = size, word;

    for (; size >= sizeof word; bytes += sizeof word, size -= sizeof word) {
        memcpy(&word, bytes, sizeof word);
        hash = upg_hash_pair(hash, word);
    }
    word = 0;
    memcpy(&word, bytes, size);
    return upg_hash_pair(hash, word);
}

#endif
