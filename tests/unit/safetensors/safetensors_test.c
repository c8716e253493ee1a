/* The reader takes what the reference implementation takes and refuses the rest by name; no cut, no
 * flipped bit and no failing allocation does more than that. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "safetensors/safetensors.h"
#include "unit/failing_json.h"

typedef struct file {
    uint8_t bytes[4096];
    size_t  size;
} file;

static void make(file *f, const char *json, size_t data_bytes)
{
    size_t n = strlen(json);

    memset(f, 0, sizeof *f);
    for (unsigned i = 0; i < 8; i++)
        f->bytes[i] = (uint8_t)((uint64_t)n >> 8 * i);
    memcpy(f->bytes + 8, json, n);
    for (size_t i = 0; i < data_bytes; i++)
        f->bytes[8 + n + i] = (uint8_t)(i + 1);
    f->size = 8 + n + data_bytes;
}

static upg_status parse(const uint8_t *bytes, size_t size, upg_st **out, upg_error *err)
{
    return upg_st_parse((upg_span) { bytes, size }, "test", out, err);
}

/* A copy that ends where the bytes end, so that the address sanitizer sees a read past them. */
static upg_status parse_exact(const uint8_t *bytes, size_t size)
{
    uint8_t   *copy = malloc(size + (size == 0));
    upg_st    *st = NULL;
    upg_error  err;
    upg_status status;
    unsigned   sum = 0;

    memcpy(copy, bytes, size);
    status = parse(copy, size, &st, &err);
    for (size_t i = 0; status == UPG_OK && i < upg_st_count(st); i++) {
        const upg_st_tensor *t = upg_st_at(st, i);

        for (size_t b = 0; b < t->bytes.size; b++)
            sum += t->bytes.data[b];
    }
    assert_true(status == UPG_OK || status == UPG_E_FORMAT || status == UPG_E_UNSUPPORTED);
    assert_true(status == UPG_OK || (st == NULL && err.message[0] != '\0'));
    upg_st_close(st);
    free(copy);
    return sum == 0xFFFFFFFFu ? UPG_E_INTERNAL : status; /* uses the sum */
}

static const char good[] =
    "{\"__metadata__\":{\"format\":\"pt\"},"
    "\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[4,16]},"
    "\"empty\":{\"dtype\":\"F32\",\"shape\":[2,0],\"data_offsets\":[4,4]},"
    "\"a\":{\"shape\":[],\"dtype\":\"F32\",\"data_offsets\":[0,4]},"
    "\"nibbles\":{\"dtype\":\"F4\",\"shape\":[4],\"data_offsets\":[16,18]}}   ";

static void views(void **state)
{
    file                 f;
    upg_st              *st = NULL;
    const upg_st_tensor *t;

    (void)state;
    make(&f, good, 18);
    assert_int_equal(parse(f.bytes, f.size, &st, NULL), UPG_OK);
    assert_int_equal(upg_st_count(st), 4);
    assert_string_equal(upg_st_metadata(st, "format"), "pt");
    assert_null(upg_st_metadata(st, "nothing"));
    assert_int_equal(upg_st_data_offset(st), 8 + strlen(good));
    assert_int_equal(upg_st_bytes(st).size, f.size);
    t = upg_st_at(st, 0);
    assert_string_equal(t->name, "a");
    assert_int_equal(t->rank, 0);
    assert_int_equal(t->bytes.size, 4);
    assert_string_equal(upg_st_at(st, 1)->name, "empty");
    t = upg_st_find(st, "b");
    assert_ptr_equal(t, upg_st_at(st, 2));
    assert_int_equal(t->dtype, UPG_BF16);
    assert_int_equal(t->rank, 2);
    assert_int_equal(t->shape[0], 2);
    assert_int_equal(t->shape[1], 3);
    assert_int_equal(t->bytes.size, 12);
    assert_int_equal(t->file_offset, upg_st_data_offset(st) + 4);
    assert_int_equal(t->bytes.data[0], 5);
    assert_string_equal(t->file, "test");
    assert_int_equal(upg_st_find(st, "nibbles")->bytes.size, 2);
    assert_null(upg_st_find(st, "c"));
    assert_null(upg_st_find(st, "__metadata__"));
    assert_null(upg_st_at(st, 4));
    upg_st_close(st);
}

#define T(offsets) "\"dtype\":\"I32\",\"shape\":[2,2],\"data_offsets\":" offsets

/* clang-format off */
static const struct {
    const char *json;
    size_t      data_bytes;
    upg_status  status;
    const char *message; /* a part of it */
} cases[] = {
    { "{}", 0, UPG_OK, "" },
    { "{}\r \t\n", 0, UPG_OK, "" },
    { "{\"t\":{" T("[0,16]") ",\"more\":1}}", 16, UPG_OK, "" },
    { "", 0, UPG_E_FORMAT, "begin with '{'" },
    { " {}", 0, UPG_E_FORMAT, "begin with '{'" },
    { "[]", 0, UPG_E_FORMAT, "begin with '{'" },
    { "{", 0, UPG_E_FORMAT, "JSON" },
    { "{}x", 0, UPG_E_FORMAT, "JSON" },
    { "{\"\xff\":1}", 0, UPG_E_FORMAT, "JSON" },
    { "{}", 1, UPG_E_FORMAT, "appended" },
    { "{\"t\":{" T("[0,16]") "},\"t\":{" T("[16,32]") "}}", 32, UPG_E_FORMAT, "duplicate" },
    { "{\"t\":{" T("[0,16]") ",\"dtype\":\"U8\"}}", 16, UPG_E_FORMAT, "duplicate" },
    { "{\"t\":{" T("[0,16]") "}}", 15, UPG_E_FORMAT, "truncated" },
    { "{\"t\":{" T("[0,16]") "}}", 17, UPG_E_FORMAT, "appended" },
    { "{\"t\":{" T("[1,17]") "}}", 17, UPG_E_FORMAT, "hole" },
    { "{\"t\":{" T("[0,16]") "},\"u\":{" T("[8,24]") "}}", 24, UPG_E_FORMAT, "before byte 16" },
    { "{\"t\":{" T("[0,16]") "},\"u\":{" T("[0,16]") "}}", 16, UPG_E_FORMAT, "before byte 16" },
    { "{\"t\":{" T("[0,16]") "},\"u\":{" T("[20,36]") "}}", 36, UPG_E_FORMAT, "hole" },
    { "{\"t\":{" T("[16,0]") "}}", 16, UPG_E_FORMAT, "need 16 bytes" },
    { "{\"t\":{" T("[0,4]") "}}", 4, UPG_E_FORMAT, "need 16 bytes" },
    { "{\"t\":{" T("[0]") "}}", 16, UPG_E_FORMAT, "two numbers" },
    { "{\"t\":{" T("[0,16,16]") "}}", 16, UPG_E_FORMAT, "two numbers" },
    { "{\"t\":{" T("[0,16.0]") "}}", 16, UPG_E_FORMAT, "integers" },
    { "{\"t\":{" T("[-1,15]") "}}", 16, UPG_E_FORMAT, "integers" },
    { "{\"t\":{" T("[0,18446744073709551616]") "}}", 16, UPG_E_FORMAT, "JSON" },
    { "{\"t\":{" T("{}") "}}", 16, UPG_E_FORMAT, "two numbers" },
    { "{\"t\":{\"dtype\":\"I32\",\"shape\":[2,2]}}", 16, UPG_E_FORMAT, "data_offsets" },
    { "{\"t\":{\"dtype\":\"I32\",\"data_offsets\":[0,16]}}", 16, UPG_E_FORMAT, "\"shape\"" },
    { "{\"t\":{\"shape\":[2,2],\"data_offsets\":[0,16]}}", 16, UPG_E_FORMAT, "\"dtype\"" },
    { "{\"t\":{\"dtype\":\"I32\",\"shape\":[-2,2],\"data_offsets\":[0,16]}}", 16, UPG_E_FORMAT, "shape" },
    { "{\"t\":{\"dtype\":\"I32\\u0000\",\"shape\":[2,2],\"data_offsets\":[0,16]}}", 16, UPG_E_FORMAT, "dtype" },
    { "{\"t\":{\"dtype\":\"Q4\",\"shape\":[2,2],\"data_offsets\":[0,16]}}", 16, UPG_E_UNSUPPORTED, "\"Q4\"" },
    { "{\"t\":{\"dtype\":32,\"shape\":[2,2],\"data_offsets\":[0,16]}}", 16, UPG_E_FORMAT, "dtype" },
    { "{\"t\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,1]}}", 1, UPG_E_FORMAT, "whole number" },
    { "{\"t\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}}", 1, UPG_OK, "" },
    { "{\"t\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}}", 1, UPG_E_UNSUPPORTED, "rank 9" },
    { "{\"t\":{\"dtype\":\"I32\",\"shape\":[2,9223372036854775807],\"data_offsets\":[0,16]}}", 16, UPG_E_FORMAT, "overflow" },
    { "{\"t\":{\"dtype\":\"I32\",\"shape\":[9223372036854775807,4],\"data_offsets\":[0,16]}}", 16, UPG_E_FORMAT, "overflow" },
    { "{\"t\":{\"dtype\":\"F64\",\"shape\":[4611686018427387904],\"data_offsets\":[0,16]}}", 16, UPG_E_FORMAT, "overflow" },
    { "{\"t\":{\"dtype\":\"U8\",\"shape\":[1152921504606846976],\"data_offsets\":[0,1152921504606846976]}}", 16, UPG_E_FORMAT, "truncated" },
    { "{\"t\":[]}", 0, UPG_E_FORMAT, "no object" },
    { "{\"\":{" T("[0,16]") "}}", 16, UPG_E_FORMAT, "printable" },
    { "{\"a\\u001b[2J\":{" T("[0,16]") "}}", 16, UPG_E_FORMAT, "printable" },
    { "{\"__metadata__\":[]}", 0, UPG_E_FORMAT, "__metadata__" },
    { "{\"__metadata__\":{\"a\":1}}", 0, UPG_E_FORMAT, "strings" },
};
/* clang-format on */

static void every_case(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        file       f;
        upg_st    *st = NULL;
        upg_error  err = { 0 };
        upg_status status;

        make(&f, cases[i].json, cases[i].data_bytes);
        status = parse(f.bytes, f.size, &st, &err);
        if (status != cases[i].status || strstr(err.message, cases[i].message) == NULL)
            fail_msg("%s: status %d, message \"%s\"", cases[i].json, status, err.message);
        upg_st_close(st);
    }
}

static void length_field(void **state)
{
    static const uint8_t huge[8] = { 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF };
    static const uint8_t wraps[8] = { 0xF8, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF };
    static const uint8_t past[10] = { 3, 0, 0, 0, 0, 0, 0, 0, '{', '}' };

    (void)state;
    assert_int_equal(parse_exact(huge, 8), UPG_E_FORMAT);
    assert_int_equal(parse_exact(wraps, 8), UPG_E_FORMAT);
    assert_int_equal(parse_exact(past, 10), UPG_E_FORMAT);
    assert_int_equal(parse_exact(past, 0), UPG_E_FORMAT);
}

static void every_cut_is_refused(void **state)
{
    file f;

    (void)state;
    make(&f, good, 18);
    for (size_t size = 0; size < f.size; size++)
        assert_int_not_equal(parse_exact(f.bytes, size), UPG_OK);
    assert_int_equal(parse_exact(f.bytes, f.size), UPG_OK);
}

static void every_flipped_bit_is_survived(void **state)
{
    file   f;
    size_t refused = 0, bits;

    (void)state;
    make(&f, good, 18);
    bits = 8 * (8 + strlen(good));
    for (size_t bit = 0; bit < bits; bit++) {
        f.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        refused += parse_exact(f.bytes, f.size) != UPG_OK;
        f.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    assert_true(refused > bits / 2); /* the rest are flips inside names and metadata */
}

/* Counts the allocations until parsing succeeds; each failure is E_NOMEM, but that the JSON library
 * may call its own failures syntax errors. */
static uint64_t fail_each_allocation(bool json_too)
{
    file       f;
    upg_status status = UPG_E_NOMEM;
    uint64_t   n;

    make(&f, good, 18);
    failing_json = json_too;
    for (n = 0; status != UPG_OK; n++) {
        upg_st   *st = NULL;
        upg_error err = { 0 };

        upg_alloc_fail_after(n);
        status = parse(f.bytes, f.size, &st, &err);
        upg_alloc_fail_after(UINT64_MAX);
        assert_true(status == UPG_OK || status == UPG_E_NOMEM ||
                    (json_too && status == UPG_E_FORMAT));
        assert_true((st != NULL) == (status == UPG_OK));
        upg_st_close(st);
    }
    failing_json = false;
    return n;
}

static void every_failing_allocation(void **state)
{
    (void)state;
    assert_true(fail_each_allocation(false) > 4);
    assert_true(fail_each_allocation(true) > 30);
}

static void written_headers_are_read(void **state)
{
    static const upg_st_entry entries[] = {
        { "a \"quoted\\\" name", UPG_U32, 1, { 16 } },
        { "größe", UPG_F16, 2, { 3, 5 } },
        { "pad.0", UPG_U8, 1, { 34 } },
        { "scalar", UPG_F64, 0, { 0 } },
    };
    upg_buffer           header;
    upg_st              *st = NULL;
    upg_error            err = { 0 };
    uint8_t             *bytes;
    const upg_st_tensor *t;

    (void)state;
    upg_buffer_init(&header, 1 << 20);
    assert_int_equal(upg_st_write_header(entries, 4, "upg", 4096, 0, &header, &err), UPG_OK);
    assert_int_equal(header.size, 4096);
    bytes = calloc(1, header.size + 136);
    memcpy(bytes, header.data, header.size);
    if (parse(bytes, header.size + 136, &st, &err) != UPG_OK)
        fail_msg("%s", err.message);
    for (size_t i = 0; i < 4; i++) {
        t = upg_st_at(st, i);
        assert_string_equal(t->name, entries[i].name);
        assert_int_equal(t->dtype, entries[i].dtype);
        assert_int_equal(t->rank, entries[i].rank);
        assert_memory_equal(t->shape, entries[i].shape, sizeof t->shape);
    }
    assert_int_equal(upg_st_at(st, 1)->file_offset, 4096 + 64);
    assert_string_equal(upg_st_metadata(st, "format"), "upg");
    upg_st_close(st);
    free(bytes);
    assert_int_equal(upg_st_write_header(entries, 4, NULL, 64, 5000, &header, &err), UPG_OK);
    assert_int_equal(header.size, 5056);
    assert_int_equal(upg_st_write_header(NULL, 0, NULL, 16, 0, &header, &err), UPG_OK);
    assert_memory_equal(header.data, "\x08\0\0\0\0\0\0\0{}      ", 16);
    upg_buffer_deinit(&header);
}

static void bad_entries_are_refused(void **state)
{
    char         name[300];
    upg_st_entry e = { "t", UPG_U8, 1, { 1 } };
    upg_buffer   header;
    upg_error    err;

    (void)state;
    upg_buffer_init(&header, 1 << 20);
    memset(name, 'n', sizeof name);
    name[257] = '\0';
    e.name = name;
    assert_int_equal(upg_st_write_header(&e, 1, NULL, 1, 0, &header, &err), UPG_E_ARG);
    name[256] = '\0';
    assert_int_equal(upg_st_write_header(&e, 1, NULL, 1, 0, &header, &err), UPG_OK);
    e.name = "line\n";
    assert_int_equal(upg_st_write_header(&e, 1, NULL, 1, 0, &header, &err), UPG_E_ARG);
    e.name = "t";
    e.rank = 9;
    assert_int_equal(upg_st_write_header(&e, 1, NULL, 1, 0, &header, &err), UPG_E_ARG);
    e = (upg_st_entry) { "t", UPG_F32, 2, { UINT64_MAX, 2 } };
    assert_int_equal(upg_st_write_header(&e, 1, NULL, 1, 0, &header, &err), UPG_E_FORMAT);
    upg_buffer_deinit(&header);
    upg_buffer_init(&header, 30);
    e = (upg_st_entry) { "t", UPG_U8, 1, { 1 } };
    assert_int_equal(upg_st_write_header(&e, 1, NULL, 1, 0, &header, &err), UPG_E_BUDGET);
    upg_buffer_deinit(&header);
}

static void dtypes(void **state)
{
    (void)state;
    for (unsigned i = 0; i < UPG_DTYPE_COUNT; i++) {
        upg_dtype found = UPG_DTYPE_COUNT;

        assert_true(upg_dtype_find(upg_dtype_name((upg_dtype)i), &found));
        assert_int_equal(found, i);
        assert_true(upg_dtype_bits((upg_dtype)i) > 0);
    }
    assert_int_equal(upg_dtype_bytes(UPG_BF16), 2);
    assert_int_equal(upg_dtype_bytes(UPG_F4), 0);
    assert_int_equal(upg_dtype_bytes(UPG_C64), 8);
}

/* The whole header of a real file: every cut and every flipped bit. */
static void real_header(void **state)
{
    FILE    *in = fopen(UPG_TEST_DATA "/phi4-micro/model.safetensors", "rb");
    uint8_t *bytes = malloc(16 << 20);
    size_t   size, header;

    (void)state;
    assert_non_null(in);
    size = fread(bytes, 1, 16 << 20, in);
    fclose(in);
    header = 8 + ((size_t)bytes[0] | (size_t)bytes[1] << 8 | (size_t)bytes[2] << 16);
    assert_true(header < 100000 && header < size);
    for (size_t cut = 0; cut <= header; cut++)
        assert_int_not_equal(parse_exact(bytes, cut), UPG_OK);
    for (size_t bit = 0; bit < 8 * header; bit++) {
        upg_st    *st = NULL;
        upg_error  err;
        upg_status status;

        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        status = parse(bytes, size, &st, &err);
        assert_true(status == UPG_OK || status == UPG_E_FORMAT || status == UPG_E_UNSUPPORTED);
        for (size_t i = 0; status == UPG_OK && i < upg_st_count(st); i++) {
            upg_span view = upg_st_at(st, i)->bytes;

            assert_true(view.data >= bytes && view.data + view.size <= bytes + size);
        }
        upg_st_close(st);
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(views),
        cmocka_unit_test(every_case),
        cmocka_unit_test(length_field),
        cmocka_unit_test(every_cut_is_refused),
        cmocka_unit_test(every_flipped_bit_is_survived),
        cmocka_unit_test(every_failing_allocation),
        cmocka_unit_test(written_headers_are_read),
        cmocka_unit_test(bad_entries_are_refused),
        cmocka_unit_test(dtypes),
        cmocka_unit_test(real_header),
    };

    failing_json_install();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
