/* Damaged, foreign, newer and hostile .upg files; full disks; exhausted memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <errno.h>

#include "unit/failing_json.h"
#include "unit/format/tiny_container.h"

static char     folder[64], path[96];
static uint8_t *good; /* a whole valid file */
static size_t   good_size;

static int set_up(void **state)
{
    tiny t;

    (void)state;
    tiny_init(&t);
    snprintf(folder, sizeof folder, "%s", tiny_folder());
    snprintf(path, sizeof path, "%s/a.upg", folder);
    if (tiny_write(&t, path, false, TINY_REPORT, NULL, NULL) != UPG_OK)
        return 1;
    good = tiny_read(path, &good_size);
    return good == NULL;
}

static int tear_down(void **state)
{
    (void)state;
    free(good);
    unlink(path);
    return rmdir(folder);
}

static int files_in_folder(void)
{
    DIR *dir = opendir(folder);
    int  n = 0;

    while (readdir(dir) != NULL)
        n++;
    closedir(dir);
    return n - 2;
}

/* Reads everything a container points to, so that the sanitizer sees a wrong pointer. */
static unsigned touch(const upg_container *c)
{
    unsigned sum = 0;

    for (size_t m = 0; m < c->n_matrices; m++) {
        const upg_coded_matrix *coded = &c->matrices[m].coded;

        for (uint32_t b = 0; b < coded->n_bands; b++) {
            const upg_band *band = &coded->bands[b];
            uint64_t        words = upg_band_words(band->n_binary, coded->n_cols);

            for (uint64_t i = 0; i < words; i++)
                sum += band->bits[i];
            for (uint32_t r = 0; r < band->n_rows; r++)
                sum += band->scales[r];
        }
    }
    for (size_t p = 0; p < UPG_PART_COUNT; p++) {
        for (size_t i = 0; i < c->parts[p].size; i++)
            sum += c->parts[p].data[i];
    }
    return sum;
}

static upg_status parse(const uint8_t *bytes, size_t size, upg_error *err)
{
    upg_container *c = NULL;
    upg_status     st = upg_container_parse((upg_span) { bytes, size }, "test", &c, err);

    assert_true((c != NULL) == (st == UPG_OK));
    if (c != NULL && touch(c) == 1)
        print_message("the sum is 1\n"); /* keeps the reads */
    upg_container_close(c);
    return st;
}

/* ---- damage -------------------------------------------------------------------------------- */

static uint64_t table_offset(void)
{
    upg_hash_table table;

    assert_int_equal(upg_hash_table_find((upg_span) { good, good_size }, &table, NULL), UPG_OK);
    return table.covered;
}

/* Where damage of a byte is reported: its chunk; the table's begin, unless what says where that is
 * (magic and C, 16 bytes before the last hash) is damaged itself: then the end. */
static uint64_t reported_offset(size_t byte, uint64_t covered)
{
    if (byte < covered)
        return byte / UPG_HASH_CHUNK * UPG_HASH_CHUNK;
    return byte + 32 >= good_size && byte + 16 < good_size ? good_size : covered;
}

static void every_flipped_bit_is_found(void **state)
{
    uint64_t covered = table_offset();

    (void)state;
    for (size_t bit = 0; bit < 8 * good_size; bit += bit < 8 * 4200 ? 1 : 7) {
        upg_error err = { 0 };
        uint64_t  bad = 0;

        good[bit / 8] ^= (uint8_t)(1u << bit % 8);
        if (bit % 64 == 5 || bit / 8 >= covered) {
            assert_true(tiny_save(path, good, good_size));
            assert_int_equal(upg_container_verify(path, NULL, NULL, &bad, &err), UPG_E_CORRUPT);
            assert_int_equal(bad, reported_offset(bit / 8, covered));
            assert_non_null(strstr(err.message, path));
        }
        /* One chunk holds this whole file: opening sees all of it. */
        assert_int_equal(parse(good, good_size, &err), UPG_E_CORRUPT);
        good[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    assert_int_equal(parse(good, good_size, NULL), UPG_OK);
}

static void every_truncation_is_found(void **state)
{
    (void)state;
    for (size_t size = 0; size < good_size; size += size < 300 ? 1 : 13) {
        uint8_t   *copy = aligned_alloc(64, (size + 64) / 64 * 64);
        upg_error  err = { 0 };
        upg_status st;

        memcpy(copy, good, size);
        st = parse(copy, size, &err);
        assert_true(st == UPG_E_FORMAT || st == UPG_E_CORRUPT);
        free(copy);
    }
}

static void growth_is_found(void **state)
{
    upg_error err = { 0 };
    uint8_t  *copy = calloc(1, good_size + 1);
    uint64_t  bad = 0;

    (void)state;
    memcpy(copy, good, good_size);
    assert_true(tiny_save(path, copy, good_size + 1));
    assert_int_equal(upg_container_verify(path, NULL, NULL, &bad, &err), UPG_E_FORMAT);
    assert_non_null(strstr(err.message, "appended"));
    assert_int_equal(bad, good_size + 1);
    free(copy);
}

/* A file of several chunks: the offset and the tensor's name are right, with and without threads.
 */
static void the_bad_chunk_is_named(void **state)
{
    static uint8_t        big[3 << 20];
    upg_st_entry          dense[2] = { { "first", UPG_F32, 1, { 300000 } },
                                       { "second", UPG_F32, 1, { 500000 } } };
    upg_container_plan    plan = { .n_dense = 2, .dense = dense };
    upg_container_writer *w = NULL;
    upg_container        *c = NULL;
    upg_pool             *pool = NULL;
    upg_error             err = { 0 };
    uint8_t              *bytes;
    size_t                size = 0;
    uint64_t              bad = 0;

    (void)state;
    assert_int_equal(upg_pool_create(3, &pool, NULL), UPG_OK);
    assert_int_equal(upg_container_writer_create(path, true, &plan, &w, &err), UPG_OK);
    assert_int_equal(upg_container_write_dense(w, 0, 0, big, 1200000, &err), UPG_OK);
    assert_int_equal(upg_container_write_dense(w, 1, 0, big, 2000000, &err), UPG_OK);
    assert_int_equal(upg_container_finish(w, tiny_text(""), pool, NULL, &err), UPG_OK);
    bytes = tiny_read(path, &size);
    for (int threads = 0; threads < 2; threads++) {
        bytes[(2 << 20) + 77] ^= 4; /* in "second" */
        bytes[(3 << 20) + 5] ^= 4;  /* and once more, later */
        assert_true(tiny_save(path, bytes, size));
        assert_int_equal(upg_container_verify(path, threads ? pool : NULL, NULL, &bad, &err),
                         UPG_E_CORRUPT);
        assert_int_equal(bad, 2 << 20);
        assert_non_null(strstr(err.message, "chunk 2, bytes 2097152 … 3145727,"));
        assert_non_null(strstr(err.message, "\"second\""));
        bytes[(2 << 20) + 77] ^= 4;
        bytes[(3 << 20) + 5] ^= 4;
    }
    bytes[(2 << 20) + 77] ^= 4;
    assert_true(tiny_save(path, bytes, size)); /* opening does not read the weights … */
    assert_int_equal(upg_container_open(path, &c, &err), UPG_OK);
    assert_int_equal(upg_container_check(c, c->dense[0], &err), UPG_OK);
    assert_int_equal(upg_container_check(c, c->dense[1], &err), UPG_E_CORRUPT); /* … this does */
    assert_non_null(strstr(err.message, "second"));
    upg_container_close(c);
    free(bytes);
    upg_pool_close(pool);
}

static int cancel_at_once(void *user, const upg_progress_report *now)
{
    *(unsigned *)user += strcmp(now->stage, "verify") == 0;
    return 1;
}

static void verifying_can_be_cancelled(void **state)
{
    unsigned     reports = 0;
    upg_listener listener = { .report = cancel_at_once, .user = &reports };
    upg_error    err;
    uint64_t     bad;

    (void)state;
    assert_int_equal(upg_container_verify(path, NULL, &listener, &bad, &err), UPG_E_CANCELLED);
    assert_true(reports >= 1);
}

/* ---- manifests ----------------------------------------------------------------------------- */

/* Replaces `from` (once, in the manifest) by `to` of equal length and makes the hashes right. */
static void patch(uint8_t *bytes, const char *from, const char *to)
{
    uint64_t covered = table_offset();
    size_t   n = strlen(from);
    uint8_t *at = NULL;

    assert_int_equal(n, strlen(to));
    for (size_t i = 0; i + n <= covered && at == NULL; i++) {
        if (memcmp(bytes + i, from, n) == 0)
            at = bytes + i;
    }
    if (at == NULL)
        fail_msg("the file does not hold %s", from);
    memcpy(at, to, n);
    upg_hash_chunk(bytes, covered, bytes + covered); /* the file is smaller than one chunk */
    upg_hash_trailer(bytes + covered, covered);
}

/* clang-format off */
static const struct {
    const char *from, *to;
    upg_status  status;
    const char *message;
} manifests[] = {
    { "\"parameters\"", "\"parameters\"", UPG_OK, "" },
    { "\"version\":\"1.0\"", "\"version\":\"2.0\"", UPG_E_VERSION, "format 2.0, upg " UPG_VERSION " reads 1.x" },
    { "\"version\":\"1.0\"", "\"version\":\"0.9\"", UPG_E_VERSION, "0.9" },
    { "\"version\":\"1.0\"", "\"version\":\"1.7\"", UPG_OK, "" },
    { "\"version\":\"1.0\"", "\"version\":\"1.x\"", UPG_E_FORMAT, "version" },
    { "\"version\":\"1.0\"", "\"version\":\"1..\"", UPG_E_FORMAT, "version" },
    { "\"version\":\"1.0\"", "\"version\":  1.0", UPG_E_FORMAT, "version" },
    { "\"format\":\"upg\",\"v", "\"format\":\"gpu\",\"v", UPG_E_FORMAT, "format" },
    { "\"features\":[],\"wri", "\"features\":{},\"wri", UPG_E_FORMAT, "features" },
    { "[],\"writer\":\"upg ", "[\"outlier\"],\"w\":\"", UPG_E_VERSION, "\"outlier\"" },
    { "\"writer\"", "\"writir\"", UPG_E_FORMAT, "writer" },
    { "\"source_bytes\":12345", "\"source_bytes\":-2345", UPG_E_FORMAT, "source_bytes" },
    { "\"parameters\":4918", "\"parameters\":4919", UPG_E_FORMAT, "the tensors have 4918" },
    { "\"options\":{", "\"opsions\":{", UPG_E_FORMAT, "options" },
    { "\"codes\"", "\"cods\" ", UPG_E_FORMAT, "codes" },
    { "\"rate2\":8", "\"rate2\":9", UPG_E_FORMAT, "code 0" },
    { "\"rate2\":8", "\"rate2\":0", UPG_E_FORMAT, "rate2" },
    { "\"k0\":4", "\"k0\":3", UPG_E_FORMAT, "code 0" },
    { "\"length\":12", "\"length\":99", UPG_E_FORMAT, "length" },
    { "\"length\":12", "\"length\":11", UPG_E_FORMAT, "taps" },
    { "\"gain\":0.002", "\"gain\":-0.02", UPG_E_FORMAT, "gain" },
    { "[97,131,197,", "[97,131,1.7,", UPG_E_FORMAT, "tap 2" },
    { "[97,131,197,-47,67,", "[32767,1,19,-47,67,", UPG_E_FORMAT, "" },
    { "\"shape\":[40,64]", "\"shape\":[41,64]", UPG_E_FORMAT, "cover 40 of 41" },
    { "\"shape\":[40,64]", "\"shape\":[40,63]", UPG_E_FORMAT, "\"block\" is 64" },
    { "\"shape\":[40,64]", "\"shape\":[ 0,64]", UPG_E_FORMAT, "shape" },
    { "\"shape\":[40,64]", "\"shape\":[-1,64]", UPG_E_FORMAT, "shape" },
    { "\"shape\":[40,64]", "\"shape\":[4064] ", UPG_E_FORMAT, "shape" },
    { "\"shape\":[33,70]", "\"shape\":[33,98]", UPG_E_FORMAT, "manifest needs U32" },
    { "\"seed\":\"0000000000000007\"", "\"seed\":\"000000000000000G\"", UPG_E_FORMAT, "seed" },
    { "\"seed\":\"0000000000000007\"", "\"seed\":\"000000000000007\" ", UPG_E_FORMAT, "seed" },
    { "\"block\":64", "\"block\":32", UPG_E_FORMAT, "must be 64" },
    { "[[0,8,0],[8,21,1]", "[[0,8,0],[9,21,1]", UPG_E_FORMAT, "band 1" },
    { "[[0,8,0],[8,21,1]", "[[0,8,0],[8,22,1]", UPG_E_FORMAT, "band 2" },
    { "[[0,8,0],[8,21,1]", "[[0,8,0],[8,21,9]", UPG_E_FORMAT, "uses code 9" },
    { "[[0,8,0],[8,21,1]", "[[0,0,0],[0,29,1]", UPG_E_FORMAT, "band 0" },
    { "[[0,8,0],[8,21,1]", "[[0,8,0],[8,99,1]", UPG_E_FORMAT, "band 1" },
    { "[[0,8,0],[8,21,1]", "[[0,8,0],[8,21]  ", UPG_E_FORMAT, "band 1" },
    { "\"bands\":[[0,8", "\"bonds\":[[0,8", UPG_E_FORMAT, "bands" },
    { "\"relative_error\":0", "\"relative_error\":-", UPG_E_FORMAT, "" },
    { "{\"name\":\"lm_head.weight\"", "{\"name\":\"LM_head.weight\"", UPG_E_FORMAT, "LM_head.weight.code" },
    { "\"lm_head.weight.code\"", "\"lm_head.weight.c0de\"", UPG_E_FORMAT, "is missing" },
    { "\"lm_head.weight.scale\":{\"dtype\":\"F16\"", "\"lm_head.weight.scale\":{\"dtype\":\"I16\"", UPG_E_FORMAT, "manifest needs F16 [33]" },
    { "\"upg.manifest\":", "\"upg.manifesT\":", UPG_E_FORMAT, "no .upg file" },
    { "\"upg.hashes\":", "\"upg.hashed\":", UPG_E_FORMAT, "upg.hashes" },
    { "\"upg.config\":", "\"xpg.config\":", UPG_E_FORMAT, "xpg.config" },
    { "\"model.bias\":{\"dtype\":\"BF16\"", "\"model.bias\":{\"dtype\":\"I16\" ", UPG_E_FORMAT, "model.bias" },
};
/* clang-format on */

static void every_manifest_field_is_checked(void **state)
{
    uint8_t *copy = aligned_alloc(64, (good_size + 63) / 64 * 64);

    (void)state;
    for (size_t i = 0; i < sizeof manifests / sizeof manifests[0]; i++) {
        upg_error  err = { 0 };
        upg_status st;

        memcpy(copy, good, good_size);
        patch(copy, manifests[i].from, manifests[i].to);
        st = parse(copy, good_size, &err);
        if (st != manifests[i].status || strstr(err.message, manifests[i].message) == NULL)
            fail_msg("%s: status %d, message \"%s\"", manifests[i].to, st, err.message);
    }
    free(copy);
}

/* A newer format may have another hash table: it is still called newer, not damaged. */
static void a_newer_format_is_called_newer(void **state)
{
    upg_error err = { 0 };
    uint64_t  bad;

    (void)state;
    patch(good, "\"version\":\"1.0\"", "\"version\":\"3.4\"");
    memcpy(good + good_size - 32, "UPGHASH2", 8);
    assert_int_equal(parse(good, good_size, &err), UPG_E_VERSION);
    assert_non_null(strstr(err.message, "3.4"));
    assert_true(tiny_save(path, good, good_size));
    assert_int_equal(upg_container_verify(path, NULL, NULL, &bad, &err), UPG_E_VERSION);
}

/* Bits of header and manifest flipped with the hashes made right again: what a hostile writer can
 * do. */
static void hostile_bits(void **state)
{
    uint64_t covered = table_offset();
    size_t   n_ok = 0, n = 0;

    (void)state;
    for (size_t byte = 0; byte < covered; byte += byte == 1800 ? covered - 2600 - 1800 : 1) {
        for (unsigned bit = 0; bit < 8; bit++, n++) {
            upg_status st;

            good[byte] ^= (uint8_t)(1u << bit);
            upg_hash_chunk(good, covered, good + covered);
            upg_hash_trailer(good + covered, covered);
            st = parse(good, good_size, NULL);
            assert_true(st == UPG_OK || st == UPG_E_FORMAT || st == UPG_E_UNSUPPORTED ||
                        st == UPG_E_VERSION || st == UPG_E_CORRUPT);
            n_ok += st == UPG_OK;
            good[byte] ^= (uint8_t)(1u << bit);
        }
    }
    assert_true(n > 20000 && n_ok < n / 2);
}

static void other_files_are_named(void **state)
{
    upg_container *c = NULL;
    upg_error      err = { 0 };

    (void)state;
    assert_int_equal(upg_container_open(UPG_TEST_DATA "/phi4-micro/model.safetensors", &c, &err),
                     UPG_E_FORMAT);
    assert_non_null(strstr(err.message, "no .upg file"));
    assert_int_equal(upg_container_open(UPG_TEST_DATA "/phi4-micro/config.json", &c, &err),
                     UPG_E_FORMAT);
    assert_int_equal(upg_container_open(UPG_TEST_DATA "/phi4-micro", &c, &err), UPG_E_UNSUPPORTED);
    assert_int_equal(upg_container_open("/nowhere.upg", &c, &err), UPG_E_NOT_FOUND);
    assert_int_equal(upg_container_parse((upg_span) { good + 1, 100 }, "x", &c, &err), UPG_E_ARG);
    assert_null(c);
}

/* ---- faults -------------------------------------------------------------------------------- */

static void every_failing_write(void **state)
{
    tiny       t;
    upg_pool  *pool = NULL;
    upg_status st = UPG_E_IO;
    uint64_t   n;

    (void)state;
    tiny_init(&t);
    assert_int_equal(upg_pool_create(2, &pool, NULL), UPG_OK);
    for (n = 0; st != UPG_OK; n++) {
        upg_error err = { 0 };

        unlink(path);
        upg_file_fail_after(n, ENOSPC);
        st = tiny_write(&t, path, false, TINY_REPORT, n % 2 ? pool : NULL, &err);
        upg_file_fail_after(UINT64_MAX, 0);
        assert_int_equal(files_in_folder(), st == UPG_OK);
        if (st != UPG_OK) {
            assert_int_equal(st, UPG_E_NOSPACE);
            assert_non_null(strstr(err.message, path));
        }
    }
    assert_true(n > 15);
    upg_pool_close(pool);
}

static void every_failing_allocation_of_the_writer(void **state)
{
    tiny     t;
    uint64_t n;

    (void)state;
    tiny_init(&t);
    for (int json_too = 0; json_too < 2; json_too++) {
        upg_status st = UPG_E_NOMEM;

        failing_json = json_too;
        for (n = 0; st != UPG_OK; n++) {
            unlink(path);
            upg_alloc_fail_after(n);
            st = tiny_write(&t, path, false, TINY_REPORT, NULL, NULL);
            upg_alloc_fail_after(UINT64_MAX);
            assert_true(st == UPG_OK || st == UPG_E_NOMEM || (json_too && st == UPG_E_FORMAT));
            assert_int_equal(files_in_folder(), st == UPG_OK);
        }
        assert_true(n > 20);
    }
    failing_json = false;
}

static void every_failing_allocation_of_the_reader(void **state)
{
    uint64_t n;

    (void)state;
    for (int json_too = 0; json_too < 2; json_too++) {
        upg_status st = UPG_E_NOMEM;

        failing_json = json_too;
        for (n = 0; st != UPG_OK; n++) {
            upg_container *c = NULL;

            upg_alloc_fail_after(n);
            st = upg_container_open(path, &c, NULL);
            upg_alloc_fail_after(UINT64_MAX);
            assert_true(st == UPG_OK || st == UPG_E_NOMEM || (json_too && st == UPG_E_FORMAT));
            assert_true((c != NULL) == (st == UPG_OK));
            upg_container_close(c);
        }
        assert_true(n > 5);
    }
    failing_json = false;
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(every_flipped_bit_is_found),
        TEST(every_truncation_is_found),
        TEST(growth_is_found),
        TEST(the_bad_chunk_is_named),
        TEST(verifying_can_be_cancelled),
        TEST(every_manifest_field_is_checked),
        TEST(a_newer_format_is_called_newer),
        TEST(hostile_bits),
        TEST(other_files_are_named),
        TEST(every_failing_write),
        TEST(every_failing_allocation_of_the_writer),
        TEST(every_failing_allocation_of_the_reader),
    };

    failing_json_install();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
