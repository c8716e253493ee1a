/* Outliers in a file: written and read, marked as a feature, and refused when they lie. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "support/random_outliers.h"
#include "unit/format/tiny_container.h"

static char                folder[64], path[96];
static upg_arena           arena;
static const upg_outliers *made[2]; /* of embedding and head */
static uint8_t            *good;
static size_t              good_size;

/* Prints the outliers of the tiny file's matrices into `bytes` and plans their space. */
static void plan_outliers(tiny *t, upg_buffer bytes[2])
{
    for (int m = 0; m < 2; m++) {
        upg_buffer_init(&bytes[m], 65536);
        assert_int_equal(upg_outliers_print(made[m], &bytes[m], &t->matrices[m].outliers, NULL),
                         UPG_OK);
    }
}

static upg_status write_file(tiny *t)
{
    upg_container_writer *w = NULL;
    upg_buffer            bytes[2];
    upg_error             err;

    plan_outliers(t, bytes);
    if (upg_container_writer_create(path, true, &t->plan, &w, &err) != UPG_OK)
        fail_msg("%s", err.message);
    assert_int_equal(tiny_write_weights(t, w, &err), UPG_OK);
    for (int m = 0; m < 2; m++) {
        assert_int_equal(
            upg_container_write_outliers(w, (size_t)m, bytes[m].data, bytes[m].size, &err), UPG_OK);
        assert_int_equal(
            upg_container_write_outliers(w, (size_t)m, bytes[m].data, bytes[m].size + 1, &err),
            UPG_E_ARG);
        upg_buffer_deinit(&bytes[m]);
    }
    assert_int_equal(upg_container_write_outliers(w, 2, "", 0, &err), UPG_E_ARG);
    return upg_container_finish(w, tiny_text(TINY_REPORT), NULL, NULL, &err);
}

static int set_up(void **state)
{
    tiny t;

    (void)state;
    tiny_init(&t);
    snprintf(folder, sizeof folder, "%s", tiny_folder());
    snprintf(path, sizeof path, "%s/a.upg", folder);
    made[0] = test_random_outliers(40, 64, 300, 2, 1, &arena, NULL);
    made[1] = test_random_outliers(33, 70, 150, 0, 2, &arena, NULL);
    if (!made[0] || !made[1] || write_file(&t) != UPG_OK)
        return 1;
    good = tiny_read(path, &good_size);
    return good == NULL;
}

static int tear_down(void **state)
{
    (void)state;
    free(good);
    upg_arena_deinit(&arena);
    unlink(path);
    return rmdir(folder);
}

static void check_same(const upg_outliers *got, const upg_outliers *want)
{
    float a[70] = { 0 }, b[70] = { 0 };

    assert_non_null(got);
    assert_int_equal(got->n_sparse, want->n_sparse);
    assert_int_equal(got->n_columns, want->n_columns);
    for (uint32_t r = 0; r < want->n_rows; r++) {
        upg_outliers_add_row(got, r, 1, 0, want->n_cols, a);
        upg_outliers_add_row(want, r, 1, 0, want->n_cols, b);
        assert_memory_equal(a, b, sizeof a);
    }
}

static void written_and_read(void **state)
{
    upg_container     *c = NULL;
    upg_error          err;
    upg_container_size with, without;
    tiny               t;
    upg_buffer         bytes[2];

    (void)state;
    tiny_init(&t);
    assert_int_equal(upg_container_plan_size(&t.plan, &without, NULL), UPG_OK);
    plan_outliers(&t, bytes);
    assert_int_equal(upg_container_plan_size(&t.plan, &with, NULL), UPG_OK);
    if (upg_container_open(path, &c, &err) != UPG_OK)
        fail_msg("%s", err.message);
    assert_int_equal(c->version_minor, 1);
    assert_int_equal(c->n_dense, 2); /* outliers are no tensors of their own */
    assert_int_equal(c->parameters, 40 * 64 + 33 * 70 + 33 + 15);
    for (int m = 0; m < 2; m++) {
        check_same(c->matrices[m].coded.outliers, made[m]);
        assert_int_equal(c->matrices[m].outliers->bytes.size, bytes[m].size);
    }
    assert_int_equal(c->weight_bytes, with.weight_bytes);
    assert_true(with.weight_bytes >= without.weight_bytes + bytes[0].size + bytes[1].size);
    assert_true(with.weight_bytes <= without.weight_bytes + bytes[0].size + bytes[1].size + 3 * 64);
    for (int m = 0; m < 2; m++)
        upg_buffer_deinit(&bytes[m]);
    upg_container_close(c);
}

/* A matrix whose outliers were planned and not written. */
static void missing_outliers(void **state)
{
    tiny                  t;
    upg_container_writer *w = NULL;
    upg_buffer            bytes[2];
    upg_error             err;

    (void)state;
    tiny_init(&t);
    plan_outliers(&t, bytes);
    assert_int_equal(upg_container_writer_create(path, true, &t.plan, &w, &err), UPG_OK);
    assert_int_equal(tiny_write_weights(&t, w, &err), UPG_OK);
    assert_int_equal(upg_container_finish(w, tiny_text(TINY_REPORT), NULL, NULL, &err),
                     UPG_E_STATE);
    assert_non_null(strstr(err.message, "model.embed_tokens.weight.outliers"));
    t.matrices[0].outliers.n_columns = 65;
    assert_int_equal(upg_container_writer_create(path, true, &t.plan, &w, &err), UPG_E_ARG);
    t.matrices[0].outliers = (upg_outlier_counts) { 0, UINT32_MAX, UINT64_MAX };
    assert_int_equal(upg_container_writer_create(path, true, &t.plan, &w, &err), UPG_E_ARG);
    for (int m = 0; m < 2; m++)
        upg_buffer_deinit(&bytes[m]);
}

static void rehash(uint8_t *bytes)
{
    upg_hash_table table;

    assert_int_equal(upg_hash_table_find((upg_span) { good, good_size }, &table, NULL), UPG_OK);
    upg_hash_chunk(bytes, table.covered, bytes + table.covered);
    upg_hash_trailer(bytes + table.covered, table.covered);
}

static upg_status parse(const uint8_t *bytes, upg_error *err)
{
    upg_container *c = NULL;
    upg_status     st = upg_container_parse((upg_span) { bytes, good_size }, "test", &c, err);
    float          row[70] = { 0 };

    for (size_t m = 0; c != NULL && m < c->n_matrices; m++)
        for (uint32_t r = 0; c->matrices[m].coded.outliers && r < c->matrices[m].coded.n_rows; r++)
            upg_outliers_add_row(c->matrices[m].coded.outliers, r, 1, 0,
                                 c->matrices[m].coded.n_cols, row);
    upg_container_close(c);
    return st;
}

/* clang-format off */
static const struct {
    const char *from, *to;
    upg_status  status;
    const char *message;
} manifests[] = {
    { "\"features\":[\"outliers\"]", "\"features\":[\"outlierz\"]", UPG_E_VERSION, "\"outlierz\"" },
    { "\"features\":[\"outliers\"]", "\"features\":[]          ", UPG_E_FORMAT, "\"features\" does not" },
    { "\"outliers\":{\"columns\":2", "\"outliers\":{\"columns\":3", UPG_E_FORMAT, "manifest needs U8" },
    { "\"outliers\":{\"columns\":2", "\"outliers\":{\"columns\":-", UPG_E_FORMAT, "" },
    { "\"outliers\":{\"columns\":0", "\"outliers\":{\"colunms\":0", UPG_E_FORMAT, "columns" },
    { "\"gap_bytes\":", "\"gap_bytez\":", UPG_E_FORMAT, "gap_bytes" },
    { "\"sparse\":", "\"sparze\":", UPG_E_FORMAT, "sparse" },
    { "{\"columns\":2,\"sparse\":", "{\"columns\":99,\"sparse\":", UPG_E_FORMAT, "" },
    { "\"lm_head.weight.outliers\"", "\"lm_head.weight.outlierz\"", UPG_E_FORMAT, "is missing" },
};
/* clang-format on */

static void every_field_is_checked(void **state)
{
    uint8_t *copy = aligned_alloc(64, (good_size + 63) / 64 * 64);

    (void)state;
    for (size_t i = 0; i < sizeof manifests / sizeof manifests[0]; i++) {
        size_t     n = strlen(manifests[i].from), at = 0;
        upg_error  err = { 0 };
        upg_status st;

        memcpy(copy, good, good_size);
        while (at + n <= good_size && memcmp(copy + at, manifests[i].from, n) != 0)
            at++;
        if (at + n > good_size)
            fail_msg("the file does not hold %s", manifests[i].from);
        memcpy(copy + at, manifests[i].to, strlen(manifests[i].to));
        rehash(copy);
        st = parse(copy, &err);
        if (st != manifests[i].status || strstr(err.message, manifests[i].message) == NULL)
            fail_msg("%s: status %d, message \"%s\"", manifests[i].to, st, err.message);
    }
    free(copy);
}

/* Columns out of order and scales that are no numbers are named with their tensor. */
static void hostile_tensor(void **state)
{
    upg_container *c = NULL;
    upg_error      err = { 0 };
    uint64_t       at;
    uint8_t       *copy = aligned_alloc(64, (good_size + 63) / 64 * 64);

    (void)state;
    memcpy(copy, good, good_size);
    assert_int_equal(upg_container_parse((upg_span) { good, good_size }, "test", &c, NULL), UPG_OK);
    at = c->matrices[0].outliers->file_offset;
    upg_container_close(c);
    copy[at + 3] = 0x80; /* the first column's number */
    rehash(copy);
    assert_int_equal(parse(copy, &err), UPG_E_FORMAT);
    assert_non_null(strstr(err.message, "model.embed_tokens.weight.outliers"));
    copy[at + 3] = 0;
    copy[at + 8 + 1] = 0x7C; /* the first scale */
    rehash(copy);
    assert_int_equal(parse(copy, &err), UPG_E_FORMAT);
    assert_non_null(strstr(err.message, "not finite"));
    free(copy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(written_and_read, set_up, tear_down),
        cmocka_unit_test_setup_teardown(missing_outliers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(every_field_is_checked, set_up, tear_down),
        cmocka_unit_test_setup_teardown(hostile_tensor, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
