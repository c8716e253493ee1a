/* pattern.h: the pre-tokenizer's regular expression, matched by PCRE2 on classes of characters.
 *
 * The expression of tokenizer.json speaks of Unicode letters, numbers and spaces. It is rewritten
 * for an alphabet of bytes: ASCII characters stand for themselves, all others for their class
 * (UPG_PATTERN_OTHER …). So the same text gives the same pieces whatever Unicode version PCRE2 was
 * built with, and matching needs no UTF-8 decoding. Constructs whose meaning would depend on more
 * than these classes (\w, \d, \p{Lu}, '.', anchors …) are refused by name. */
#ifndef UPG_TOKENIZER_PATTERN_H
#define UPG_TOKENIZER_PATTERN_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"

enum {
    UPG_PATTERN_OTHER = 0x80, /* the alphabet's bytes past ASCII */
    UPG_PATTERN_LETTER,
    UPG_PATTERN_NUMBER,
    UPG_PATTERN_SPACE,
    UPG_PATTERN_LONG_S, /* U+017F, a letter that equals s where case is ignored */
    UPG_PATTERN_KELVIN, /* U+212A, a letter that equals k */
    UPG_PATTERN_END
};

typedef struct upg_pattern {
    pcre2_general_context *general; /* allocation through base/alloc.h */
    pcre2_code            *code;
    bool                   jit; /* compiled to machine code; where that is forbidden, interpreted */
} upg_pattern;

/** One thread's working memory for matching. A zeroed one is empty. */
typedef struct upg_matcher {
    pcre2_match_data    *data;
    pcre2_match_context *context;
} upg_matcher;

/** Rewrites an expression for the alphabet above. Errors: E_UNSUPPORTED, E_FORMAT (name the
 * construct and its position), E_NOMEM. */
upg_status upg_pattern_rewrite(const char *expression, size_t size, upg_buffer *out,
                               upg_error *err);
/** Rewrites and compiles. Errors: as above. */
upg_status upg_pattern_init(upg_pattern *pattern, const char *expression, size_t size,
                            upg_error *err);
void       upg_pattern_deinit(upg_pattern *pattern);

upg_status upg_matcher_init(upg_matcher *matcher, const upg_pattern *pattern, upg_error *err);
void       upg_matcher_deinit(upg_matcher *matcher);
/** Bounds the steps of each match to come on a text of so many characters. */
void upg_matcher_limit(upg_matcher *matcher, size_t n_characters);

/** Writes the alphabet's byte of each character of checked UTF-8; returns their number. */
size_t upg_pattern_classify(const uint8_t *text, size_t size, uint8_t *classes);

/** The first match at or after `start`. 1: *begin < *end; 0: none; < 0: PCRE2's error code. */
static inline int upg_pattern_match(const upg_pattern *pattern, const upg_matcher *matcher,
                                    const uint8_t *text, size_t size, size_t start, size_t *begin,
                                    size_t *end)
{
    const PCRE2_SIZE *offsets = pcre2_get_ovector_pointer(matcher->data);
    int               rc =
        pattern->jit
                          ? pcre2_jit_match(pattern->code, text, size, start, 0, matcher->data, matcher->context)
                          : pcre2_match(pattern->code, text, size, start, 0, matcher->data, matcher->context);

    if (rc < 0)
        return rc == PCRE2_ERROR_NOMATCH ? 0 : rc;
    *begin = offsets[0];
    *end = offsets[1];
    return 1;
}

#endif
