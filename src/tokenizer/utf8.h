/* utf8.h: checking and decoding UTF-8, whole or byte by byte (Unicode 16.0, table 3-7). */
#ifndef UPG_TOKENIZER_UTF8_H
#define UPG_TOKENIZER_UTF8_H

#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"

/** Bytes before the first ill-formed sequence; `size` when there is none. */
size_t upg_utf8_valid_bytes(const uint8_t *text, size_t size);

/** Length of the character that begins with `lead`, in text already checked. */
static inline size_t upg_utf8_length(uint8_t lead)
{
    return lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
}

/** Decodes one character of checked text; returns its length. */
static inline size_t upg_utf8_decode(const uint8_t *text, uint32_t *code_point)
{
    uint32_t lead = text[0];

    if (lead < 0x80) {
        *code_point = lead;
        return 1;
    }
    if (lead < 0xE0) {
        *code_point = (lead & 0x1Fu) << 6 | (text[1] & 0x3Fu);
        return 2;
    }
    if (lead < 0xF0) {
        *code_point = (lead & 0x0Fu) << 12 | (text[1] & 0x3Fu) << 6 | (text[2] & 0x3Fu);
        return 3;
    }
    *code_point =
        (lead & 0x07u) << 18 | (text[1] & 0x3Fu) << 12 | (text[2] & 0x3Fu) << 6 | (text[3] & 0x3Fu);
    return 4;
}

/** Lets whole characters pass and holds back the beginning of one. A zeroed gate is empty. */
typedef struct upg_utf8_gate {
    uint8_t held[4];   /* a valid beginning of a character */
    uint8_t n_held;    /* 0 … 3 */
    uint8_t n_missing; /* bytes to come until the character is whole */
    uint8_t low, high; /* range of the next byte */
} upg_utf8_gate;

/** Appends to `out` what is complete after `bytes`; each ill-formed maximal subpart becomes
 * U+FFFD. Errors: as upg_buffer_add. */
upg_status upg_utf8_gate_push(upg_utf8_gate *gate, const uint8_t *bytes, size_t size,
                              upg_buffer *out, upg_error *err);
/** The end of the text: what is held back becomes one U+FFFD; the gate is empty again. */
upg_status upg_utf8_gate_flush(upg_utf8_gate *gate, upg_buffer *out, upg_error *err);

#endif
