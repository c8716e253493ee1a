#include "tokenizer/encoder.h"

#include "base/alloc.h"

static void destroy(upg_encoder *encoder)
{
    if (encoder == NULL)
        return;
    upg_matcher_deinit(&encoder->matcher);
    upg_bpe_scratch_deinit(&encoder->bpe);
    upg_free(encoder->classes);
    upg_free(encoder->cache);
    upg_free(encoder);
}

upg_encoder *upg_encoder_take(upg_encoder_pool *pool, const upg_pattern *pattern, upg_error *err)
{
    upg_encoder *encoder;

    for (size_t i = 0; i < UPG_ENCODER_POOL; i++) {
        /* acquire; pairs with release in upg_encoder_give */
        encoder = atomic_exchange_explicit(&pool->waiting[i], NULL, memory_order_acquire);
        if (encoder != NULL)
            return encoder;
    }
    encoder = upg_calloc(1, sizeof *encoder, err);
    if (encoder == NULL)
        return NULL;
    encoder->cache = upg_calloc(UPG_CACHE_SLOTS, sizeof *encoder->cache, err);
    if (encoder->cache != NULL && upg_matcher_init(&encoder->matcher, pattern, err) == UPG_OK)
        return encoder;
    destroy(encoder);
    return NULL;
}

void upg_encoder_give(upg_encoder_pool *pool, upg_encoder *encoder)
{
    if (encoder == NULL)
        return;
    if (encoder->classes_cap > UPG_ENCODER_KEEP_BYTES) {
        upg_free(encoder->classes);
        encoder->classes = NULL;
        encoder->classes_cap = 0;
    }
    if (encoder->bpe.heap_cap > UPG_ENCODER_KEEP_BYTES / sizeof *encoder->bpe.heap)
        upg_bpe_scratch_deinit(&encoder->bpe);
    for (size_t i = 0; i < UPG_ENCODER_POOL; i++) {
        upg_encoder *none = NULL;

        /* release; pairs with acquire in upg_encoder_take */
        if (atomic_compare_exchange_strong_explicit(&pool->waiting[i], &none, encoder,
                                                    memory_order_release, memory_order_relaxed))
            return;
    }
    destroy(encoder);
}

void upg_encoder_pool_deinit(upg_encoder_pool *pool)
{
    for (size_t i = 0; i < UPG_ENCODER_POOL; i++)
        destroy(atomic_exchange(&pool->waiting[i], NULL));
}
