/* tokenizer_impl.h: what the files of this layer share; not for other layers. */
#ifndef UPG_TOKENIZER_TOKENIZER_IMPL_H
#define UPG_TOKENIZER_TOKENIZER_IMPL_H

#include <stdatomic.h>

#include "base/arena.h"
#include "tokenizer/added_tokens.h"
#include "tokenizer/bpe.h"
#include "tokenizer/chat_template.h"
#include "tokenizer/encoder.h"
#include "tokenizer/pattern.h"
#include "tokenizer/token_table.h"
#include "tokenizer/tokenizer.h"

struct upg_tokenizer {
    atomic_size_t    owners;
    upg_token_table  table;
    upg_merge_table  merges;
    upg_pattern      pattern;
    bool             keep_gaps;     /* text between the pattern's matches is a piece too */
    bool             ignore_merges; /* a piece that is a token is that token */
    upg_added_token *added;         /* [n_added], by id */
    size_t           n_added;
    upg_added_set    sets[2]; /* [normalized] */
    upg_arena        texts;   /* contents of added tokens */
    int32_t          eos;
    upg_chat_format  chat;
    upg_encoder_pool encoders;
};

/** Reads tokenizer.json into a zeroed tokenizer. */
upg_status upg_tokenizer_read_json(upg_tokenizer *tokenizer, upg_span text, upg_error *err);
/** Reads tokenizer_config.json and the template into it; both may be empty. */
upg_status upg_tokenizer_read_config(upg_tokenizer *tokenizer, upg_span config,
                                     upg_span chat_template, upg_error *err);

#endif
