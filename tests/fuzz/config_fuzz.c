/* config.json, and after a NUL byte generation_config.json. Whatever is accepted keeps the limits
 * that later layers rely on. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "model/architecture.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(int condition)
{
    if (!condition)
        abort();
}

static void check(const upg_model_config *c)
{
    uint32_t rows, cols;

    must(c->architecture != NULL && c->n_layers >= 1 && c->n_layers <= UPG_MAX_LAYERS);
    must(c->head_dim >= 2 && c->head_dim <= UPG_MAX_HEAD_DIM && c->head_dim % 2 == 0);
    must(c->n_kv_heads >= 1 && c->n_heads % c->n_kv_heads == 0);
    must(c->context >= 1 && c->norm_eps > 0);
    for (unsigned role = 0; role < UPG_ROLE_COUNT; role++) {
        upg_role_shape(c, (upg_role)role, &rows, &cols);
        must(rows >= 1 && cols >= 1 && rows <= UPG_MAX_WIDTH && cols <= UPG_MAX_WIDTH);
    }
    must(c->rope.rotary_dims >= 2 && c->rope.rotary_dims <= c->head_dim);
    must(c->rope.rotary_dims % 2 == 0 && isfinite(c->rope.attention_scaling));
    for (uint32_t i = 0; i < c->rope.rotary_dims / 2; i++) {
        must(isfinite(c->rope.inv_freq[i]));
        must(c->rope.long_inv_freq == NULL || isfinite(c->rope.long_inv_freq[i]));
    }
    must(c->n_end_tokens <= UPG_MAX_END_TOKENS);
    for (uint32_t i = 0; i < c->n_end_tokens; i++)
        must(c->end_tokens[i] >= 0 && (uint32_t)c->end_tokens[i] < c->vocab);
    must(c->bos_token >= -1 && c->bos_token < (int64_t)c->vocab);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t   *nul = size > 0 ? memchr(data, 0, size) : NULL;
    size_t           first = nul ? (size_t)(nul - data) : size;
    upg_span         config_json = { data, first };
    upg_span         generation_json = { nul ? nul + 1 : NULL, nul ? size - first - 1 : 0 };
    upg_arena        arena = { 0 };
    upg_model_config config;
    upg_error        err = { 0 };
    upg_status st = upg_model_config_read(config_json, generation_json, &arena, &config, &err);

    if (st == UPG_OK)
        check(&config);
    else
        must(err.code == st && err.message[0] != '\0');
    upg_arena_deinit(&arena);
    return 0;
}
