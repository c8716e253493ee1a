/* tokenizer.c: life time, look-ups and decoding. */
#include "tokenizer/tokenizer.h"

#include <string.h>

#include "base/alloc.h"
#include "tokenizer/tokenizer_impl.h"
#include "tokenizer/utf8.h"

static void destroy(upg_tokenizer *t)
{
    upg_encoder_pool_deinit(&t->encoders);
    upg_pattern_deinit(&t->pattern);
    upg_added_set_deinit(&t->sets[0]);
    upg_added_set_deinit(&t->sets[1]);
    upg_free(t->added);
    upg_arena_deinit(&t->texts);
    upg_merge_table_deinit(&t->merges);
    upg_token_table_deinit(&t->table);
    upg_free(t);
}

upg_status upg_tokenizer_load_files(const upg_tokenizer_files *files, upg_tokenizer **tokenizer,
                                    upg_error *err)
{
    upg_status     st;
    upg_tokenizer *t = upg_calloc(1, sizeof *t, err);

    UPG_TRY(t != NULL ? UPG_OK : UPG_E_NOMEM);
    atomic_init(&t->owners, 1);
    t->eos = -1;
    UPG_TRY(upg_tokenizer_read_json(t, files->tokenizer_json, err));
    UPG_TRY(upg_tokenizer_read_config(t, files->config_json, files->chat_template, err));
out:
    if (st != UPG_OK && t != NULL) {
        destroy(t);
        t = NULL;
    }
    *tokenizer = t;
    return st;
}

upg_status upg_tokenizer_load(upg_span tokenizer_json, upg_span config_json,
                              upg_tokenizer **tokenizer, upg_error *err)
{
    upg_tokenizer_files files = { .tokenizer_json = tokenizer_json, .config_json = config_json };

    return upg_tokenizer_load_files(&files, tokenizer, err);
}

void upg_tokenizer_retain(const upg_tokenizer *tokenizer)
{
    upg_tokenizer *t = (upg_tokenizer *)tokenizer;

    atomic_fetch_add_explicit(&t->owners, 1, memory_order_relaxed);
}

void upg_tokenizer_release(const upg_tokenizer *tokenizer)
{
    upg_tokenizer *t = (upg_tokenizer *)tokenizer;

    /* acquire and release; pairs with itself in the other owners' calls */
    if (t != NULL && atomic_fetch_sub_explicit(&t->owners, 1, memory_order_acq_rel) == 1)
        destroy(t);
}

size_t upg_tokenizer_vocab_size(const upg_tokenizer *tokenizer)
{
    return tokenizer->table.n_ids;
}

size_t upg_tokenizer_added_count(const upg_tokenizer *tokenizer)
{
    return tokenizer->n_added;
}

int32_t upg_tokenizer_eos(const upg_tokenizer *tokenizer)
{
    return tokenizer->eos;
}

int32_t upg_tokenizer_find(const upg_tokenizer *tokenizer, const char *text, size_t bytes)
{
    int32_t id;

    for (size_t i = 0; i < tokenizer->n_added; i++) {
        const upg_added_token *added = &tokenizer->added[i];

        if (added->size == bytes && memcmp(added->content, text, bytes) == 0)
            return added->id;
    }
    id = upg_token_table_find(&tokenizer->table, (const uint8_t *)text, bytes, false);
    return id >= 0 ? id
                   : upg_token_table_find(&tokenizer->table, (const uint8_t *)text, bytes, true);
}

upg_status upg_tokenizer_token_bytes(const upg_tokenizer *tokenizer, int32_t id, const char **bytes,
                                     size_t *n, bool *special, upg_error *err)
{
    const upg_token_table *table = &tokenizer->table;

    *bytes = NULL;
    *n = 0;
    *special = false;
    if (id < 0 || (size_t)id >= table->n_ids || table->entries[id].flags == 0)
        return upg_fail(err, UPG_E_ARG, "no token has the id %d; ids go from 0 to %zu", id,
                        table->n_ids - 1);
    *bytes = (const char *)upg_token_table_bytes(table, (uint32_t)id, n);
    *special = (table->entries[id].flags & UPG_TOKEN_SPECIAL) != 0;
    return UPG_OK;
}

upg_status upg_tokenizer_decode(const upg_tokenizer *tokenizer, const int32_t *ids, size_t n,
                                bool skip_special, upg_buffer *text, upg_error *err)
{
    upg_status    st = UPG_OK;
    upg_utf8_gate gate = { 0 };
    const char   *bytes;
    size_t        size;
    bool          special;

    for (size_t i = 0; i < n; i++) {
        st = upg_tokenizer_token_bytes(tokenizer, ids[i], &bytes, &size, &special, err);
        if (st != UPG_OK)
            upg_error_prefix(err, "ids[%zu]: ", i);
        UPG_TRY(st);
        if (!special || !skip_special)
            UPG_TRY(upg_utf8_gate_push(&gate, (const uint8_t *)bytes, size, text, err));
    }
    st = upg_utf8_gate_flush(&gate, text, err);
out:
    return st;
}
