/* ids_file_test.c: .npy arrays: what NumPy writes, cut and changed everywhere. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ids_file.h"
#include "text_file.h"

/* A version 1.0 file with this header text and data; the length is returned. */
static size_t make(uint8_t *file, const char *header, const void *data, size_t data_bytes)
{
    size_t n = strlen(header);

    memcpy(file, "\x93NUMPY\x01\x00", 8);
    file[8] = (uint8_t)n;
    file[9] = (uint8_t)(n >> 8);
    memcpy(file + 10, header, n);
    memcpy(file + 10 + n, data, data_bytes);
    return 10 + n + data_bytes;
}

/* As malloc'ed memory of exactly that size, so that a sanitizer sees every read past the end. */
static upg_status parse(const uint8_t *file, size_t size, cli_ids *array, upg_error *err)
{
    uint8_t   *exact = malloc(size ? size : 1);
    upg_status st;

    assert_non_null(exact);
    if (size)
        memcpy(exact, file, size);
    st = cli_ids_parse("x.npy", exact, size, array, err);
    free(exact);
    return st;
}

static const uint8_t u16_data[12] = { 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 0xff, 0xff };
static const char    u16_header[] =
    "{'descr': '<u2', 'fortran_order': False, 'shape': (2, 3), }          \n";

static void reads_both_types(void **state)
{
    static const uint8_t i32_data[8] = { 0x78, 0x56, 0x34, 0x12, 0xff, 0xff, 0xff, 0xff };
    uint8_t              file[256];
    cli_ids              array;
    upg_error            err;
    size_t               size = make(file, u16_header, u16_data, sizeof u16_data);

    (void)state;
    assert_int_equal(parse(file, size, &array, &err), UPG_OK);
    assert_int_equal(array.windows, 2);
    assert_int_equal(array.window, 3);
    assert_int_equal(array.n, 6);
    assert_int_equal(array.tokens[0], 1);
    assert_int_equal(array.tokens[5], 65535);
    free(array.tokens);

    size = make(file, "{\"shape\":(2,),\"descr\":\"<i4\",\"fortran_order\":False}", i32_data, 8);
    assert_int_equal(parse(file, size, &array, &err), UPG_OK);
    assert_int_equal(array.windows, 1);
    assert_int_equal(array.window, 2);
    assert_int_equal(array.tokens[0], 0x12345678);
    assert_int_equal(array.tokens[1], -1); /* the range is checked by who uses it */
    free(array.tokens);
}

static void reads_the_demo_ids(void **state)
{
    cli_bytes bytes;
    cli_ids   array;
    upg_error err;

    (void)state;
    assert_int_equal(
        cli_file_read(UPG_TEST_DATA "/phi4-micro/valid_ids.npy", 1 << 20, &bytes, &err), UPG_OK);
    assert_int_equal(cli_ids_parse("x", (const uint8_t *)bytes.data, bytes.size, &array, &err),
                     UPG_OK);
    assert_int_equal(array.windows, 200);
    assert_int_equal(array.window, 512);
    free(array.tokens);
    free(bytes.data);
}

static void refuses_every_cut(void **state)
{
    uint8_t   file[256];
    cli_ids   array;
    upg_error err;
    size_t    size = make(file, u16_header, u16_data, sizeof u16_data);

    (void)state;
    for (size_t cut = 0; cut < size; cut++) {
        assert_int_not_equal(parse(file, cut, &array, &err), UPG_OK);
        assert_null(array.tokens);
        assert_non_null(strstr(err.message, "x.npy"));
    }
    file[size] = 0;
    assert_int_equal(parse(file, size + 1, &array, &err), UPG_E_FORMAT);
}

static void survives_every_flipped_bit(void **state)
{
    uint8_t   file[256];
    cli_ids   array;
    upg_error err;
    size_t    size = make(file, u16_header, u16_data, sizeof u16_data);

    (void)state;
    for (size_t bit = 0; bit < 8 * (size - sizeof u16_data); bit++) {
        file[bit / 8] ^= (uint8_t)(1u << bit % 8);
        if (parse(file, size, &array, &err) == UPG_OK) {
            assert_int_equal(array.n, array.windows * array.window);
            free(array.tokens);
        }
        file[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
}

static void refuses_by_name(void **state)
{
    static const struct {
        const char *header, *word;
        upg_status  status;
    } cases[] = {
        { "{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}", "<f4", UPG_E_UNSUPPORTED },
        { "{'descr': '>u2', 'fortran_order': False, 'shape': (6,)}", ">u2", UPG_E_UNSUPPORTED },
        { "{'descr': '<u2', 'fortran_order': True, 'shape': (2, 3)}", "fortran_order",
          UPG_E_UNSUPPORTED },
        { "{'descr': '<u2', 'fortran_order': False, 'shape': ()}", "0 dimensions",
          UPG_E_UNSUPPORTED },
        { "{'descr': '<u2', 'fortran_order': False, 'shape': (1, 2, 3)}", "3 dimensions",
          UPG_E_UNSUPPORTED },
        { "{'descr': '<u2', 'fortran_order': False, 'shape': (2, 4)}", "shape", UPG_E_FORMAT },
        { "{'descr': '<u2', 'fortran_order': False, 'shape': (2, 9223372036854775811)}", "shape",
          UPG_E_FORMAT }, /* the product wraps to 6 */
        { "{'descr': '<u2', 'fortran_order': False, 'shape': (36893488147419103235,)}", "header",
          UPG_E_FORMAT }, /* 2^65 + 3 */
        { "{'descr': '<u2', 'fortran_order': False}", "header", UPG_E_FORMAT },
        { "{'descr': '<u2', 'descr': '<u2', 'fortran_order': False, 'shape': (6,)}", "header",
          UPG_E_FORMAT },
        { "{'descr': '<u2', 'fortran_order': False, 'shape': (6,)} x", "header", UPG_E_FORMAT },
        { "{'descr': '<u2', 'fortran_order': False, 'shape': (-6,)}", "header", UPG_E_FORMAT },
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint8_t   file[256];
        cli_ids   array;
        upg_error err;
        size_t    size = make(file, cases[i].header, u16_data, sizeof u16_data);

        if (parse(file, size, &array, &err) != cases[i].status)
            fail_msg("case %zu: %s", i, cases[i].header);
        if (!strstr(err.message, cases[i].word))
            fail_msg("case %zu: \"%s\" does not name %s", i, err.message, cases[i].word);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_both_types),  cmocka_unit_test(reads_the_demo_ids),
        cmocka_unit_test(refuses_every_cut), cmocka_unit_test(survives_every_flipped_bit),
        cmocka_unit_test(refuses_by_name),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
