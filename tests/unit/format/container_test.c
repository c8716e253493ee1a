/* What the writer wrote the reader gives back, byte for byte, and the same plan gives the same
 * file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>

#include "unit/format/tiny_container.h"

static char folder[64], path[96], other[96];

static int set_up(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "%s", tiny_folder());
    snprintf(path, sizeof path, "%s/a.upg", folder);
    snprintf(other, sizeof other, "%s/b.upg", folder);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    unlink(path);
    unlink(other);
    return rmdir(folder); /* fails when anything else was left behind */
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

static void check_matrix(const upg_container_matrix *m, const upg_matrix_plan *p, size_t index)
{
    static uint8_t want[65536];
    uint32_t       row = 0;
    uint64_t       words = upg_plan_words_before(p, p->n_bands);

    assert_string_equal(m->name, p->name);
    assert_int_equal(m->coded.n_rows, p->n_rows);
    assert_int_equal(m->coded.n_cols, p->n_cols);
    assert_int_equal(m->coded.rotation.seed, p->rotation_seed);
    assert_int_equal(m->coded.rotation.block, upg_rotation_make(p->n_cols, 0).block);
    assert_int_equal(m->coded.n_bands, p->n_bands);
    assert_int_equal(m->code->bytes.size, words * 4);
    tiny_fill(index, want, sizeof want);
    assert_memory_equal(m->code->bytes.data, want, words * 4);
    for (uint32_t b = 0; b < p->n_bands; b++) {
        const upg_band *band = &m->coded.bands[b];

        assert_int_equal(band->row0, row);
        assert_int_equal(band->n_rows, p->bands[b].n_rows);
        assert_memory_equal(&band->code, &p->bands[b].code, sizeof band->code);
        assert_int_equal(band->n_binary, upg_code_binary_rows(&band->code, band->n_rows));
        assert_ptr_equal(band->bits, m->code->bytes.data + 4 * upg_plan_words_before(p, b));
        assert_int_equal((uintptr_t)band->bits % 64, 0);
        assert_ptr_equal(band->scales, m->scale->bytes.data + 2 * row);
        row += band->n_rows;
    }
    tiny_fill(100 + index, want, sizeof want);
    assert_memory_equal(m->scale->bytes.data, want, 2 * p->n_rows);
}

static void round_trip(void **state)
{
    tiny               t;
    upg_error          err = { 0 };
    upg_container     *c = NULL;
    upg_container_size size;
    uint8_t            want[132];
    uint64_t           bad = 0;

    (void)state;
    tiny_init(&t);
    assert_int_equal(upg_container_plan_size(&t.plan, &size, &err), UPG_OK);
    assert_int_equal(size.parameters, 40 * 64 + 33 * 70 + 33 + 15);
    if (tiny_write(&t, path, false, TINY_REPORT, NULL, &err) != UPG_OK)
        fail_msg("%s", err.message);
    if (upg_container_open(path, &c, &err) != UPG_OK)
        fail_msg("%s", err.message);
    assert_int_equal(c->version_major, 1);
    assert_string_equal(c->writer, "upg " UPG_VERSION);
    assert_int_equal(c->parameters, size.parameters);
    assert_int_equal(c->weight_bytes, size.weight_bytes);
    assert_int_equal(c->source_bytes, 12345);
    assert_true(c->file_bytes <= size.file_bytes);
    assert_true(c->file_bytes > size.file_bytes - 1000);
    assert_string_equal(c->options_json, "{\"bpw\":3.2,\"seed\":1}");
    assert_int_equal(c->n_matrices, 2);
    for (size_t i = 0; i < 2; i++)
        check_matrix(&c->matrices[i], &t.matrices[i], i);
    assert_true(c->matrices[0].relative_error > 0.01909 && c->matrices[0].relative_error < 0.01911);
    assert_true(c->matrices[1].relative_error < 0);
    assert_ptr_equal(upg_container_matrix_find(c, "lm_head.weight"), &c->matrices[1]);
    assert_null(upg_container_matrix_find(c, "lm_head"));
    assert_int_equal(c->n_dense, 2);
    assert_string_equal(c->dense[0]->name, "model.norm.weight");
    tiny_fill(200, want, sizeof want);
    assert_int_equal(c->dense[0]->bytes.size, 132);
    assert_memory_equal(c->dense[0]->bytes.data, want, 132);
    assert_ptr_equal(upg_container_dense_find(c, "model.bias"), c->dense[1]);
    assert_null(upg_container_dense_find(c, "lm_head.weight.code"));
    assert_int_equal(c->parts[UPG_PART_CONFIG].size, strlen("{\"model_type\":\"tiny\"}"));
    assert_memory_equal(c->parts[UPG_PART_CHAT_TEMPLATE].data, "{{ messages }}", 14);
    assert_memory_equal(c->parts[UPG_PART_QUALITY].data, TINY_REPORT, strlen(TINY_REPORT));
    assert_int_equal(c->parts[UPG_PART_QUALITY].size, strlen(TINY_REPORT));
    assert_int_equal(c->parts[UPG_PART_GENERATION_CONFIG].size, 0);
    for (size_t i = 0; i < upg_st_count(upg_container_tensors(c)); i++)
        assert_int_equal(upg_container_check(c, upg_st_at(upg_container_tensors(c), i), &err),
                         UPG_OK);
    upg_container_close(c);
    assert_int_equal(upg_container_verify(path, NULL, NULL, &bad, &err), UPG_OK);
    assert_int_equal(bad, UINT64_MAX);
}

static void same_plan_same_bytes(void **state)
{
    tiny      t;
    upg_pool *pool = NULL;
    uint8_t  *a, *b;
    size_t    a_size = 0, b_size = 0;

    (void)state;
    tiny_init(&t);
    assert_int_equal(upg_pool_create(3, &pool, NULL), UPG_OK);
    assert_int_equal(tiny_write(&t, path, true, TINY_REPORT, NULL, NULL), UPG_OK);
    assert_int_equal(tiny_write(&t, other, true, TINY_REPORT, pool, NULL), UPG_OK);
    a = tiny_read(path, &a_size);
    b = tiny_read(other, &b_size);
    assert_int_equal(a_size, b_size);
    assert_memory_equal(a, b, a_size);
    free(a);
    free(b);
    upg_pool_close(pool);
}

static void report_may_have_any_size(void **state)
{
    char      report[1100];
    tiny      t;
    upg_error err;
    uint64_t  bad;

    (void)state;
    tiny_init(&t);
    for (size_t size = 2; size <= 1000; size += 17) {
        memset(report, ' ', size);
        report[0] = '{';
        report[size - 1] = '}';
        report[size] = '\0';
        assert_int_equal(tiny_write(&t, path, true, report, NULL, NULL), UPG_OK);
        assert_int_equal(upg_container_verify(path, NULL, NULL, &bad, &err), UPG_OK);
    }
    assert_int_equal(tiny_write(&t, path, true, "", NULL, NULL), UPG_OK);
    assert_int_equal(upg_container_verify(path, NULL, NULL, &bad, &err), UPG_OK);
    t.plan.quality_capacity = 0;
    assert_int_equal(tiny_write(&t, path, true, "", NULL, NULL), UPG_OK);
    assert_int_equal(upg_container_verify(path, NULL, NULL, &bad, &err), UPG_OK);
    assert_int_equal(tiny_write(&t, path, true, "{}", NULL, &err), UPG_E_BUDGET);
    t.plan.quality_capacity = 10;
    assert_int_equal(tiny_write(&t, path, true, "{\"kl\":", NULL, &err), UPG_E_FORMAT);
    assert_int_equal(files_in_folder(), 1);
}

static void sealed_files_are_whole_and_nameless(void **state)
{
    tiny                  t;
    upg_error             err;
    upg_container_writer *w = NULL;
    upg_container        *c;
    uint64_t              bad;
    size_t                first = 0, second = 0;

    (void)state;
    tiny_init(&t);
    assert_int_equal(upg_container_writer_create(path, false, &t.plan, &w, &err), UPG_OK);
    assert_int_equal(tiny_write_weights(&t, w, &err), UPG_OK);
    upg_container_set_error(w, 0, 0.0191); /* as tiny_write */
    assert_int_equal(upg_container_seal(w, tiny_text("{\"kl\":null}"), NULL, NULL, &err), UPG_OK);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(upg_container_verify(upg_container_temporary(w), NULL, NULL, &bad, &err),
                     UPG_OK);
    assert_int_equal(upg_container_seal(w, tiny_text("{}"), NULL, NULL, &err), UPG_E_ARG);
    assert_int_equal(upg_container_seal(w, tiny_text(TINY_REPORT), NULL, NULL, &err), UPG_OK);
    assert_int_equal(upg_container_open(upg_container_temporary(w), &c, &err), UPG_OK);
    assert_int_equal(c->parts[UPG_PART_QUALITY].size, strlen(TINY_REPORT));
    upg_container_close(c);
    assert_int_equal(upg_container_commit(w, &err), UPG_OK);
    assert_int_equal(files_in_folder(), 1);
    /* the same bytes as in one go */
    assert_int_equal(tiny_write(&t, other, false, TINY_REPORT, NULL, &err), UPG_OK);
    {
        uint8_t *a = tiny_read(path, &first), *b = tiny_read(other, &second);

        assert_int_equal(first, second);
        assert_memory_equal(a, b, first);
        free(a);
        free(b);
    }
    assert_int_equal(upg_container_writer_create(path, true, &t.plan, &w, &err), UPG_OK);
    assert_int_equal(upg_container_commit(w, &err), UPG_E_STATE);
    assert_int_equal(files_in_folder(), 2);
}

static void existing_output_is_kept(void **state)
{
    tiny      t;
    upg_error err;

    (void)state;
    tiny_init(&t);
    assert_true(tiny_save(path, (const uint8_t *)"precious", 8));
    assert_int_equal(tiny_write(&t, path, false, "", NULL, &err), UPG_E_EXISTS);
    assert_int_equal(files_in_folder(), 1);
    assert_int_equal(tiny_write(&t, path, true, "", NULL, &err), UPG_OK);
}

static void incomplete_file_is_refused(void **state)
{
    static const uint32_t words[2] = { 0 };
    tiny                  t;
    upg_error             err;
    upg_container_writer *w = NULL;

    (void)state;
    tiny_init(&t);
    assert_int_equal(upg_container_writer_create(path, false, &t.plan, &w, &err), UPG_OK);
    assert_int_equal(files_in_folder(), 1);
    assert_int_equal(upg_container_write_code(w, 2, 0, 0, words, 1, &err), UPG_E_ARG);
    assert_int_equal(upg_container_write_code(w, 1, 1, 0, words, 1, &err), UPG_E_ARG);
    assert_int_equal(upg_container_write_code(w, 0, 0, UINT64_MAX, words, 2, &err), UPG_E_ARG);
    assert_int_equal(upg_container_write_scales(w, 1, 33, (const uint16_t *)words, 1, &err),
                     UPG_E_ARG);
    assert_int_equal(upg_container_write_dense(w, 0, 131, words, 2, &err), UPG_E_ARG);
    assert_int_equal(upg_container_write_code(w, 0, 0, 0, words, 2, &err), UPG_OK);
    assert_int_equal(upg_container_finish(w, tiny_text(""), NULL, NULL, &err), UPG_E_STATE);
    assert_non_null(strstr(err.message, "model.embed_tokens.weight.code"));
    assert_int_equal(files_in_folder(), 0);
}

static void bad_plans_are_named(void **state)
{
    upg_container_size size;
    upg_error          err;
    tiny               t;

    (void)state;
#define REFUSED(change)                                                                            \
    do {                                                                                           \
        tiny_init(&t);                                                                             \
        change;                                                                                    \
        assert_int_equal(upg_container_plan_size(&t.plan, &size, &err), UPG_E_ARG);                \
    } while (0)
    REFUSED(t.matrices[0].n_rows = 41);
    REFUSED(t.matrices[0].n_bands = 2);
    REFUSED(t.embed_bands[1].n_rows = 0);
    REFUSED(t.embed_bands[2].code.gain = -1);
    assert_non_null(strstr(err.message, "band 2"));
    REFUSED(t.matrices[1].name = "");
    REFUSED(t.matrices[1].n_cols = 0);
    REFUSED(t.dense[0].name = "upg.config");
    REFUSED(t.dense[0].dtype = UPG_I8);
    REFUSED(t.dense[0].shape[0] = 0);
    REFUSED(t.dense[0].shape[0] = UINT64_MAX);
    REFUSED(t.plan.parts[UPG_PART_QUALITY] = tiny_text("{}"));
    REFUSED(t.plan.options_json = "[]");
#undef REFUSED
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(round_trip, set_up, tear_down),
        cmocka_unit_test_setup_teardown(same_plan_same_bytes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(report_may_have_any_size, set_up, tear_down),
        cmocka_unit_test_setup_teardown(sealed_files_are_whole_and_nameless, set_up, tear_down),
        cmocka_unit_test_setup_teardown(existing_output_is_kept, set_up, tear_down),
        cmocka_unit_test_setup_teardown(incomplete_file_is_refused, set_up, tear_down),
        cmocka_unit_test(bad_plans_are_named),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
