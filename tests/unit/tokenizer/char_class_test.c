/* The class of every code point equals what the reference's regex engine says (unicode_classes.json
 * beside the shared tokenizer); without that file, a sample and the counts of Unicode 16.0. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/file.h"
#include "tokenizer/char_class.h"

#define CLASSES UPG_SHARED_DATA "/tokenizer/phi4/unicode_classes.json"

static void fill(uint8_t *classes, const json_t *ranges, uint8_t value)
{
    json_t *range;
    size_t  i;

    assert_true(json_array_size(ranges) > 0);
    json_array_foreach(ranges, i, range)
    {
        size_t first = (size_t)json_integer_value(json_array_get(range, 0));
        size_t last = (size_t)json_integer_value(json_array_get(range, 1));

        memset(classes + first, value, last + 1 - first);
    }
}

static void equal_to_the_reference(void **state)
{
    uint8_t *want = calloc(0x110000, 1);
    json_t  *json;

    (void)state;
    if (!upg_file_exists(CLASSES)) {
        free(want);
        print_message("skipped: %s is not there\n", CLASSES);
        skip();
    }
    json = json_load_file(CLASSES, 0, NULL);
    assert_non_null(json);
    fill(want, json_object_get(json, "letter_p{L}"), UPG_CHAR_LETTER);
    fill(want, json_object_get(json, "number_p{N}"), UPG_CHAR_NUMBER);
    fill(want, json_object_get(json, "space_s"), UPG_CHAR_SPACE);
    for (uint32_t c = 0; c < 0x110000; c++)
        if (upg_char_class_of(c) != want[c])
            fail_msg("U+%04X is of class %d, want %d", c, (int)upg_char_class_of(c), want[c]);
    json_decref(json);
    free(want);
}

static void counts_and_samples(void **state)
{
    size_t n[4] = { 0 };

    (void)state;
    for (uint32_t c = 0; c < 0x110000; c++)
        n[upg_char_class_of(c)]++;
    assert_int_equal(n[UPG_CHAR_LETTER], 141028);
    assert_int_equal(n[UPG_CHAR_NUMBER], 1911);
    assert_int_equal(n[UPG_CHAR_SPACE], 25);
    assert_int_equal(upg_char_class_of(0x1C80), UPG_CHAR_LETTER);
    assert_int_equal(upg_char_class_of(0xA7DA), UPG_CHAR_LETTER);  /* new in 16.0 */
    assert_int_equal(upg_char_class_of(0x1CCF0), UPG_CHAR_NUMBER); /* new in 16.0 */
    assert_int_equal(upg_char_class_of(0x2167), UPG_CHAR_NUMBER);
    assert_int_equal(upg_char_class_of(0x0085), UPG_CHAR_SPACE);
    assert_int_equal(upg_char_class_of(0x180E), UPG_CHAR_OTHER);
    assert_int_equal(upg_char_class_of(0x200B), UPG_CHAR_OTHER);
    assert_int_equal(upg_char_class_of(0x0301), UPG_CHAR_OTHER);
    assert_int_equal(upg_char_class_of(0x10FFFF), UPG_CHAR_OTHER);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_to_the_reference),
        cmocka_unit_test(counts_and_samples),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
