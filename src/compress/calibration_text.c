#include "compress/calibration_text.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "base/alloc.h"
#include "tokenizer/tokenizer.h"

/* All tokens of the text; *tokens is the caller's. */
static upg_status tokenize_text(const upg_weights *weights, upg_span text, int32_t **tokens,
                                size_t *n, upg_error *err)
{
    upg_tokenizer *tokenizer = NULL;
    const char    *bytes = (const char *)text.data;
    size_t         cap = text.size; /* a token is a byte or more */
    upg_status     st;

    *tokens = NULL;
    UPG_TRY(upg_tokenizer_load(weights->tokenizer_json, weights->tokenizer_config_json, &tokenizer,
                               err));
    *tokens = upg_malloc(cap, sizeof **tokens, err);
    UPG_TRY(*tokens != NULL ? UPG_OK : UPG_E_NOMEM);
    UPG_TRY(upg_tokenizer_encode(tokenizer, bytes, text.size, false, *tokens, cap, n, err));
out:
    upg_tokenizer_release(tokenizer);
    return st;
}

static upg_status check_tokens(const upg_weights *weights, const int32_t *tokens, size_t n,
                               uint32_t window, upg_error *err)
{
    if (n < window)
        return upg_fail(err, UPG_E_DATA,
                        "the text has %zu tokens, at least %u are needed for one window", n,
                        window);
    for (size_t i = 0; i < n; i++)
        if ((uint32_t)tokens[i] >= weights->config.vocab)
            return upg_fail(err, UPG_E_DATA,
                            "the tokenizer gives token %d, the embedding has %u rows: they do not "
                            "belong together",
                            tokens[i], weights->config.vocab);
    return UPG_OK;
}

upg_status upg_token_windows_make(const upg_weights *weights, upg_span text, uint32_t window,
                                  uint32_t max_windows, upg_token_windows *windows, upg_error *err)
{
    upg_status st;
    int32_t   *tokens = NULL;
    size_t     n = 0, n_whole;

    *windows = (upg_token_windows) { 0 };
    if (weights->tokenizer_json.size == 0)
        return upg_fail(
            err, UPG_E_UNSUPPORTED,
            "the checkpoint has no tokenizer.json: without it text cannot be used; add the "
            "file, or compress without calibration");
    windows->window = window < weights->config.context ? window : weights->config.context;
    UPG_TRY(tokenize_text(weights, text, &tokens, &n, err));
    UPG_TRY(check_tokens(weights, tokens, n, windows->window, err));
    windows->n_tokens = n;
    n_whole = n / windows->window;
    windows->n_windows = n_whole < max_windows ? (uint32_t)n_whole : max_windows;
    windows->tokens =
        upg_malloc((size_t)windows->n_windows * windows->window, sizeof *windows->tokens, err);
    UPG_TRY(windows->tokens != NULL ? UPG_OK : UPG_E_NOMEM);
    for (size_t w = 0; w < windows->n_windows; w++)
        memcpy(windows->tokens + w * windows->window,
               tokens + w * n_whole / windows->n_windows * windows->window,
               windows->window * sizeof *tokens);
out:
    upg_free(tokens);
    return st;
}

void upg_token_windows_deinit(upg_token_windows *windows)
{
    upg_free(windows->tokens);
    *windows = (upg_token_windows) { 0 };
}

void upg_text_hash(upg_span text, char hash[33])
{
    XXH128_hash_t h = XXH3_128bits(text.data, text.size);

    snprintf(hash, 33, "%016" PRIx64 "%016" PRIx64, (uint64_t)h.high64, (uint64_t)h.low64);
}
