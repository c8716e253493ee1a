/* encoder.h: working memory for encoding, lent to one call at a time.
 *
 * It holds a cache of short pieces (words) with their ids, so that most words of a text cost one
 * look-up. Encoders wait in a small lock-free pool between calls, with warm caches. */
#ifndef UPG_TOKENIZER_ENCODER_H
#define UPG_TOKENIZER_ENCODER_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "tokenizer/bpe.h"
#include "tokenizer/pattern.h"

enum {
    UPG_ENCODER_POOL = 8,
    UPG_CACHE_SLOTS = 1 << 14,       /* 32 bytes each: half a MiB, about an L2 */
    UPG_CACHE_BYTES = 15,            /* longest piece cached */
    UPG_CACHE_IDS = 4,               /* most ids cached */
    UPG_ENCODER_KEEP_BYTES = 1 << 20 /* larger scratch is freed after a call */
};

/* A piece in 16 bytes (the last one is its length, so no key is zero) and its ids. */
typedef struct upg_cache_slot {
    uint64_t key[2];
    int32_t  ids[UPG_CACHE_IDS]; /* -1 past the end */
} upg_cache_slot;

typedef struct upg_encoder {
    upg_matcher     matcher;
    upg_bpe_scratch bpe;
    uint8_t        *classes; /* [classes_cap] of the segment at hand */
    size_t          classes_cap;
    upg_cache_slot *cache; /* [UPG_CACHE_SLOTS] */
} upg_encoder;

typedef struct upg_encoder_pool {
    _Atomic(upg_encoder *) waiting[UPG_ENCODER_POOL];
} upg_encoder_pool;

/** Takes an encoder out of the pool, or makes one; NULL = E_NOMEM in *err. */
upg_encoder *upg_encoder_take(upg_encoder_pool *pool, const upg_pattern *pattern, upg_error *err);
/** Gives it back. NULL is fine. */
void upg_encoder_give(upg_encoder_pool *pool, upg_encoder *encoder);
void upg_encoder_pool_deinit(upg_encoder_pool *pool);

#endif
