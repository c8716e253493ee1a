/* UTF-8: every scalar value is accepted, every ill-formed start is found, and the gate's output
 * does not depend on how the bytes are cut. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/random.h"
#include "tokenizer/utf8.h"

static size_t put(uint32_t c, uint8_t *out)
{
    if (c < 0x80) {
        out[0] = (uint8_t)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (uint8_t)(0xC0 | c >> 6);
        out[1] = (uint8_t)(0x80 | (c & 0x3F));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (uint8_t)(0xE0 | c >> 12);
        out[1] = (uint8_t)(0x80 | (c >> 6 & 0x3F));
        out[2] = (uint8_t)(0x80 | (c & 0x3F));
        return 3;
    }
    out[0] = (uint8_t)(0xF0 | c >> 18);
    out[1] = (uint8_t)(0x80 | (c >> 12 & 0x3F));
    out[2] = (uint8_t)(0x80 | (c >> 6 & 0x3F));
    out[3] = (uint8_t)(0x80 | (c & 0x3F));
    return 4;
}

static void every_scalar_value(void **state)
{
    (void)state;
    for (uint32_t c = 0; c < 0x110000; c++) {
        uint8_t  text[4];
        uint32_t back;
        size_t   n = put(c, text);

        if (c >= 0xD800 && c < 0xE000) {
            assert_int_equal(upg_utf8_valid_bytes(text, n), 0);
            continue;
        }
        assert_int_equal(upg_utf8_valid_bytes(text, n), n);
        assert_int_equal(upg_utf8_length(text[0]), n);
        assert_int_equal(upg_utf8_decode(text, &back), n);
        assert_int_equal(back, c);
        if (n > 1)
            assert_int_equal(upg_utf8_valid_bytes(text, n - 1), 0);
    }
}

static void first_bad_byte(void **state)
{
    static const struct {
        const char *text;
        size_t      valid;
    } cases[] = { { "\x80", 0 },
                  { "abcdefghijk\xFFz", 11 },
                  { "a\xC0\x80", 1 },
                  { "\xC1\xBF", 0 },
                  { "\xE0\x9F\xBF", 0 },
                  { "\xED\xA0\x80", 0 },
                  { "\xF0\x8F\xBF\xBF", 0 },
                  { "\xF4\x90\x80\x80", 0 },
                  { "\xF5\x80\x80\x80", 0 },
                  { "\xC3\xA9\xE4\xB8", 2 },
                  { "\xE4\xB8\xAD\xE4\x41", 3 },
                  { "\xF0\x9F\x98\x41", 0 } };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(
            upg_utf8_valid_bytes((const uint8_t *)cases[i].text, strlen(cases[i].text)),
            cases[i].valid);
}

static void gate_all(const uint8_t *bytes, size_t size, size_t step, upg_buffer *out)
{
    upg_utf8_gate gate = { 0 };

    for (size_t i = 0; i < size; i += step)
        assert_int_equal(
            upg_utf8_gate_push(&gate, bytes + i, size - i < step ? size - i : step, out, NULL), 0);
    assert_int_equal(upg_utf8_gate_flush(&gate, out, NULL), 0);
}

static void gate_replaces_maximal_subparts(void **state)
{
    /* From the Unicode Standard 16.0, tables 3-8 to 3-11. */
    static const struct {
        const char *bytes;
        size_t      replaced;
    } cases[] = { { "\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41", 8 },
                  { "\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41", 8 },
                  { "\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42", 7 },
                  { "\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", 4 },
                  { "\xED\xA0", 2 },
                  { "\xED", 1 } };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        for (size_t step = 1; step < 10; step++) {
            upg_buffer out;
            size_t     n = 0;

            upg_buffer_init(&out, 100);
            gate_all((const uint8_t *)cases[i].bytes, strlen(cases[i].bytes), step, &out);
            for (const char *p = out.data; (p = strstr(p, "\xEF\xBF\xBD")) != NULL; p += 3)
                n++;
            assert_int_equal(n, cases[i].replaced);
            assert_int_equal(upg_utf8_valid_bytes((uint8_t *)out.data, out.size), out.size);
            upg_buffer_deinit(&out);
        }
    }
}

/* Random bytes rich in leads and continuations, cut in all ways: one result, always UTF-8. */
static void gate_ignores_cuts(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 2000; seed++) {
        uint8_t    bytes[24];
        upg_buffer whole;

        for (size_t i = 0; i < sizeof bytes; i++) {
            uint64_t r = upg_random_u64(seed, i);

            bytes[i] = (uint8_t)(r % 4 == 0   ? r >> 8
                                 : r % 4 == 1 ? 0xE0 | (r >> 8 & 0x1F)
                                              : 0x80 | (r >> 8 & 0x3F));
        }
        upg_buffer_init(&whole, 1000);
        gate_all(bytes, sizeof bytes, sizeof bytes, &whole);
        assert_int_equal(upg_utf8_valid_bytes((uint8_t *)whole.data, whole.size), whole.size);
        for (size_t step = 1; step < 5; step++) {
            upg_buffer cut;

            upg_buffer_init(&cut, 1000);
            gate_all(bytes, sizeof bytes, step, &cut);
            assert_string_equal(cut.data, whole.data);
            upg_buffer_deinit(&cut);
        }
        upg_buffer_deinit(&whole);
    }
}

/* ED A0 … ED BF wait for the next byte, as in the reference's incremental decoder; what is
 * ill-formed otherwise is replaced at once. */
static void gate_waits_for_a_whole_surrogate(void **state)
{
    static const struct {
        const char *bytes;
        size_t      given[3]; /* bytes out after each byte in */
    } cases[] = { { "\xED\xA0\x80", { 0, 0, 9 } },
                  { "\xED\xBF\x41", { 0, 0, 7 } },
                  { "\xE0\x80\x41", { 0, 6, 1 } },
                  { "\xF4\x90\x41", { 0, 6, 1 } },
                  { "\xE4\xB8\x41", { 0, 0, 4 } } };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        upg_utf8_gate gate = { 0 };

        for (size_t k = 0; k < 3; k++) {
            upg_buffer out;

            upg_buffer_init(&out, 100);
            assert_int_equal(
                upg_utf8_gate_push(&gate, (const uint8_t *)cases[i].bytes + k, 1, &out, NULL), 0);
            assert_int_equal(out.size, cases[i].given[k]);
            upg_buffer_deinit(&out);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_scalar_value),
        cmocka_unit_test(first_bad_byte),
        cmocka_unit_test(gate_replaces_maximal_subparts),
        cmocka_unit_test(gate_ignores_cuts),
        cmocka_unit_test(gate_waits_for_a_whole_surrogate),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
