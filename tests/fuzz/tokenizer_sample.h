/* tokenizer_sample.h: a small tokenizer for fuzz targets: 256 bytes, a few merges, two special
 * tokens of which <|a|> takes the white space beside it. */
#ifndef UPG_TESTS_TOKENIZER_SAMPLE_H
#define UPG_TESTS_TOKENIZER_SAMPLE_H

#include <stdint.h>
#include <stdlib.h>

#include "base/buffer.h"
#include "tokenizer/tokenizer.h"

enum { SAMPLE_IDS = 265, SAMPLE_A = 263, SAMPLE_B };

static inline void must(int condition)
{
    if (!condition)
        abort();
}

static inline void sample_vocab(upg_buffer *json)
{
    uint32_t next = 256;

    for (uint32_t b = 0; b < 256; b++) {
        int      kept = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        uint32_t c = kept ? b : next++;

        must(upg_buffer_addf(json, NULL, "\"\\u%04X\": %u, ", c, b) == UPG_OK);
    }
}

static inline upg_tokenizer *sample_tokenizer(void)
{
    static const char before[] =
        "{\"version\": \"1.0\", \"added_tokens\": [{\"id\": 263, \"content\": \"<|a|>\", "
        "\"lstrip\": true, \"rstrip\": true, \"special\": true}, {\"id\": 264, \"content\": "
        "\"<|b|>\", \"special\": true}], \"pre_tokenizer\": {\"type\": \"Sequence\", "
        "\"pretokenizers\": [{\"type\": \"Split\", \"pattern\": {\"Regex\": "
        "\"(?i:'s|'t|'ll)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}| "
        "?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"}, "
        "\"behavior\": \"Removed\", \"invert\": true}, {\"type\": \"ByteLevel\", "
        "\"add_prefix_space\": false, \"use_regex\": false}]}, \"decoder\": {\"type\": "
        "\"ByteLevel\"}, \"model\": {\"type\": \"BPE\", \"vocab\": {";
    static const char after[] =
        "\"th\": 256, \"the\": 257, \"aa\": 258, \"aaaa\": 259, \"\\u0120the\": 260, \"bc\": 261, "
        "\"abc\": 262}, \"merges\": [\"t h\", \"th e\", \"a a\", \"aa aa\", \"\\u0120 the\", "
        "\"b c\", \"a bc\"]}}";
    upg_buffer     json;
    upg_tokenizer *tokenizer;

    upg_buffer_init(&json, 1 << 16);
    must(upg_buffer_add(&json, before, sizeof before - 1, NULL) == UPG_OK);
    sample_vocab(&json);
    must(upg_buffer_add(&json, after, sizeof after - 1, NULL) == UPG_OK);
    must(upg_tokenizer_load((upg_span) { (const uint8_t *)json.data, json.size }, (upg_span) { 0 },
                            &tokenizer, NULL) == UPG_OK);
    upg_buffer_deinit(&json);
    return tokenizer;
}

#endif
