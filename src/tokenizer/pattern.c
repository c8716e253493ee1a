/* pattern.c: compiling, matching data, and the bytes of characters. */
#include "tokenizer/pattern.h"

#include "base/alloc.h"
#include "tokenizer/char_class.h"
#include "tokenizer/utf8.h"

enum { MAX_REWRITTEN = 1 << 16 };

static void *take_memory(size_t size, void *unused)
{
    (void)unused;
    return upg_malloc(size, 1, NULL);
}

static void give_memory(void *memory, void *unused)
{
    (void)unused;
    upg_free(memory);
}

static upg_status no_memory(upg_error *err)
{
    return upg_fail(err, UPG_E_NOMEM, "out of memory for the pre-tokenizer's pattern");
}

static upg_status compile(upg_pattern *pattern, const upg_buffer *text, upg_error *err)
{
    enum { OUT_OF_MEMORY = 121 }; /* "failed to allocate heap memory", a stable number */
    upg_status             st = UPG_OK;
    pcre2_compile_context *context = pcre2_compile_context_create(pattern->general);
    uint32_t               matches_empty = 0;
    int                    code = 0;
    PCRE2_SIZE             at = 0;
    PCRE2_UCHAR            reason[128];

    UPG_TRY(context != NULL ? UPG_OK : no_memory(err));
    pattern->code = pcre2_compile((PCRE2_SPTR)text->data, text->size,
                                  PCRE2_NEVER_UTF | PCRE2_NO_AUTO_CAPTURE, &code, &at, context);
    if (pattern->code == NULL && code == OUT_OF_MEMORY)
        UPG_TRY(no_memory(err));
    if (pattern->code == NULL) {
        pcre2_get_error_message(code, reason, sizeof reason);
        UPG_TRY(upg_fail(err, UPG_E_UNSUPPORTED, "the pre-tokenizer's pattern is not valid: %s",
                         (const char *)reason));
    }
    pcre2_pattern_info(pattern->code, PCRE2_INFO_MATCHEMPTY, &matches_empty);
    if (matches_empty)
        UPG_TRY(upg_fail(err, UPG_E_UNSUPPORTED,
                         "the pre-tokenizer's pattern can match the empty string"));
    pattern->jit = pcre2_jit_compile(pattern->code, PCRE2_JIT_COMPLETE) == 0;
out:
    pcre2_compile_context_free(context);
    return st;
}

upg_status upg_pattern_init(upg_pattern *pattern, const char *expression, size_t size,
                            upg_error *err)
{
    upg_status st;
    upg_buffer rewritten;

    *pattern = (upg_pattern) { 0 };
    upg_buffer_init(&rewritten, MAX_REWRITTEN);
    UPG_TRY(upg_pattern_rewrite(expression, size, &rewritten, err));
    pattern->general = pcre2_general_context_create(take_memory, give_memory, NULL);
    UPG_TRY(pattern->general != NULL ? UPG_OK : no_memory(err));
    UPG_TRY(compile(pattern, &rewritten, err));
out:
    upg_buffer_deinit(&rewritten);
    if (st != UPG_OK)
        upg_pattern_deinit(pattern);
    return st;
}

void upg_pattern_deinit(upg_pattern *pattern)
{
    pcre2_code_free(pattern->code);
    pcre2_general_context_free(pattern->general);
    *pattern = (upg_pattern) { 0 };
}

upg_status upg_matcher_init(upg_matcher *matcher, const upg_pattern *pattern, upg_error *err)
{
    matcher->data = pcre2_match_data_create(1, pattern->general);
    matcher->context = pcre2_match_context_create(pattern->general);
    if (matcher->data != NULL && matcher->context != NULL)
        return UPG_OK;
    upg_matcher_deinit(matcher);
    return no_memory(err);
}

void upg_matcher_deinit(upg_matcher *matcher)
{
    pcre2_match_data_free(matcher->data);
    pcre2_match_context_free(matcher->context);
    *matcher = (upg_matcher) { 0 };
}

void upg_matcher_limit(upg_matcher *matcher, size_t n_characters)
{
    /* The patterns in use try each of a handful of alternatives once and give back characters one
     * by one: a few steps for each character. */
    uint64_t steps = UINT64_C(100000) + 32 * (uint64_t)n_characters;

    pcre2_set_match_limit(matcher->context, steps < UINT32_MAX ? (uint32_t)steps : UINT32_MAX);
}

size_t upg_pattern_classify(const uint8_t *text, size_t size, uint8_t *classes)
{
    static const uint8_t bytes[] = { [UPG_CHAR_OTHER] = UPG_PATTERN_OTHER,
                                     [UPG_CHAR_LETTER] = UPG_PATTERN_LETTER,
                                     [UPG_CHAR_NUMBER] = UPG_PATTERN_NUMBER,
                                     [UPG_CHAR_SPACE] = UPG_PATTERN_SPACE };
    size_t               n = 0;
    uint32_t             c;

    for (size_t i = 0; i < size; n++) {
        if (text[i] < 0x80) {
            classes[n] = text[i++];
            continue;
        }
        i += upg_utf8_decode(text + i, &c);
        classes[n] = c == 0x017F   ? (uint8_t)UPG_PATTERN_LONG_S
                     : c == 0x212A ? (uint8_t)UPG_PATTERN_KELVIN
                                   : bytes[upg_char_class_of(c)];
    }
    return n;
}
