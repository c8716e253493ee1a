/* A pre-tokenizer's expression, and after a NUL byte a text. What the rewriter accepts, PCRE2
 * accepts too, and machine code and interpreter find the same pieces. */
#include <string.h>

#include "tokenizer/pattern.h"
#include "tokenizer/utf8.h"
#include "tokenizer_sample.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_TEXT = 256 };

static void match_all(const upg_pattern *pattern, const uint8_t *text, size_t size)
{
    upg_matcher matcher;
    upg_pattern interpreted = *pattern;
    uint8_t     classes[MAX_TEXT];
    size_t      n = upg_pattern_classify(text, size, classes), at = 0;

    interpreted.jit = false;
    must(upg_matcher_init(&matcher, pattern, NULL) == UPG_OK);
    upg_matcher_limit(&matcher, n);
    while (at < n) {
        size_t begin = 0, end = 0, begin2 = 0, end2 = 0;
        int    found = upg_pattern_match(pattern, &matcher, classes, n, at, &begin, &end);
        int    found2 = upg_pattern_match(&interpreted, &matcher, classes, n, at, &begin2, &end2);

        if (found < 0 || found2 < 0)
            break; /* the limit, which the two count differently */
        must(found == found2 && begin == begin2 && end == end2);
        if (found == 0)
            break;
        must(begin >= at && begin < end && end <= n);
        at = end;
    }
    upg_matcher_deinit(&matcher);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *nul = size > 0 ? memchr(data, 0, size) : NULL;
    size_t         n = nul != NULL ? (size_t)(nul - data) : size;
    size_t         n_text = nul != NULL ? size - n - 1 : 0;
    upg_pattern    pattern;
    upg_error      err = { 0 };
    upg_status     st = upg_pattern_init(&pattern, (const char *)data, n, &err);

    must(st == UPG_OK || (err.code == st && err.message[0] != '\0'));
    must(st == UPG_OK || strstr(err.message, "not valid:") == NULL ||
         strstr(err.message, "too large") != NULL);
    if (st == UPG_OK && n_text <= MAX_TEXT && nul != NULL)
        match_all(&pattern, nul + 1, upg_utf8_valid_bytes(nul + 1, n_text));
    upg_pattern_deinit(&pattern);
    return 0;
}
