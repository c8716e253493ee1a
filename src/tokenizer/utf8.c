/* utf8.c: the automaton of table 3-7: after a lead byte only the second byte's range varies. */
#include "tokenizer/utf8.h"

#include <stdbool.h>
#include <string.h>

/* What a lead byte asks for; false when no character begins with it. */
static bool lead_wants(uint8_t lead, uint8_t *n_missing, uint8_t *low, uint8_t *high)
{
    *low = 0x80;
    *high = 0xBF;
    if (lead >= 0xC2 && lead <= 0xDF) {
        *n_missing = 1;
    } else if (lead >= 0xE0 && lead <= 0xEF) {
        *n_missing = 2;
        *low = lead == 0xE0 ? 0xA0 : 0x80;  /* no overlong forms */
        *high = lead == 0xED ? 0x9F : 0xBF; /* no surrogates */
    } else if (lead >= 0xF0 && lead <= 0xF4) {
        *n_missing = 3;
        *low = lead == 0xF0 ? 0x90 : 0x80;
        *high = lead == 0xF4 ? 0x8F : 0xBF; /* nothing above U+10FFFF */
    } else {
        return false;
    }
    return true;
}

/* Bytes of ASCII at the start of text. */
static size_t ascii_run(const uint8_t *text, size_t size)
{
    size_t   i = 0;
    uint64_t word;

    for (; size - i >= sizeof word; i += sizeof word) {
        memcpy(&word, text + i, sizeof word);
        if (word & UINT64_C(0x8080808080808080))
            break;
    }
    while (i < size && text[i] < 0x80)
        i++;
    return i;
}

size_t upg_utf8_valid_bytes(const uint8_t *text, size_t size)
{
    size_t i = 0;

    for (;;) {
        uint8_t n_missing, low, high;

        i += ascii_run(text + i, size - i);
        if (i == size || !lead_wants(text[i], &n_missing, &low, &high) || size - i <= n_missing ||
            text[i + 1] < low || text[i + 1] > high)
            return i;
        for (size_t k = 2; k <= n_missing; k++)
            if ((text[i + k] & 0xC0u) != 0x80u)
                return i;
        i += (size_t)n_missing + 1;
    }
}

/* ED A0 … ED BF begin a surrogate, which UTF-8 does not have: two ill-formed subparts. The gate
 * keeps them until another byte comes, as the reference's incremental decoder (CPython's) does, so
 * that a stream's pieces are the same and not only their sum. */
static bool holds_surrogate(const upg_utf8_gate *gate)
{
    return gate->n_held == 2 && gate->held[0] == 0xED && gate->held[1] >= 0xA0;
}

static upg_status replace(upg_utf8_gate *gate, upg_buffer *out, upg_error *err)
{
    bool twice = holds_surrogate(gate);

    gate->n_held = 0;
    return upg_buffer_add(out, "\xEF\xBF\xBD\xEF\xBF\xBD", twice ? 6 : 3, err);
}

/* Takes one byte while nothing or a beginning is held. */
static upg_status take(upg_utf8_gate *gate, uint8_t byte, upg_buffer *out, upg_error *err)
{
    upg_status st;

    if (gate->n_held > 0 && byte >= gate->low && byte <= gate->high) {
        gate->held[gate->n_held++] = byte;
        gate->low = 0x80;
        gate->high = 0xBF;
        if (--gate->n_missing > 0)
            return UPG_OK;
        st = upg_buffer_add(out, gate->held, gate->n_held, err);
        gate->n_held = 0;
        return st;
    }
    if (gate->n_held == 1 && gate->held[0] == 0xED && byte >= 0xA0 && byte <= 0xBF) {
        gate->held[gate->n_held++] = byte;
        gate->low = 1; /* nothing continues it */
        gate->high = 0;
        return UPG_OK;
    }
    if (gate->n_held > 0) {
        UPG_TRY(replace(gate, out, err)); /* the maximal subpart ends before this byte */
    }
    if (byte < 0x80)
        return upg_buffer_add(out, &byte, 1, err);
    if (!lead_wants(byte, &gate->n_missing, &gate->low, &gate->high))
        return replace(gate, out, err);
    gate->held[0] = byte;
    gate->n_held = 1;
    st = UPG_OK;
out:
    return st;
}

upg_status upg_utf8_gate_push(upg_utf8_gate *gate, const uint8_t *bytes, size_t size,
                              upg_buffer *out, upg_error *err)
{
    upg_status st = UPG_OK;
    size_t     i = 0;

    while (i < size) {
        size_t run = gate->n_held == 0 ? ascii_run(bytes + i, size - i) : 0;

        if (run > 0) {
            UPG_TRY(upg_buffer_add(out, bytes + i, run, err));
            i += run;
        } else {
            UPG_TRY(take(gate, bytes[i++], out, err));
        }
    }
out:
    return st;
}

upg_status upg_utf8_gate_flush(upg_utf8_gate *gate, upg_buffer *out, upg_error *err)
{
    return gate->n_held > 0 ? replace(gate, out, err) : UPG_OK;
}
