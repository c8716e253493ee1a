/* The way out and the way back: an exported folder opens as a checkpoint whose weights are those of
 * the model, rounded to bf16; and errors measured against an original are those that are there. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
/* cmocka.h wants the above first. */
#include <cmocka.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/halffloat.h"
#include "model/compare_weights.h"
#include "model/export_weights.h"
#include "model/synthetic.h"
#include "support/make_checkpoint.h"
#include "support/temp_folder.h"

static upg_pool          *pool;
static const upg_listener nobody;

/* FOLDER/out, in memory of its own: in_folder's is used again soon. */
static const char *output_in(const char *folder)
{
    static char path[512];

    snprintf(path, sizeof path, "%s/out", folder);
    return path;
}

static int set_up(void **state)
{
    *state = make_folder();
    return upg_pool_create(2, &pool, NULL) != UPG_OK;
}

static int tear_down(void **state)
{
    upg_pool_close(pool);
    remove_folder(*state);
    return 0;
}

static upg_weights *open_folder(const char *path)
{
    upg_weights *w = NULL;
    upg_error    err = { 0 };

    if (upg_weights_open(path, &w, &err) != UPG_OK)
        fail_msg("%s", err.message);
    return w;
}

static void export_to(const upg_weights *w, const char *path, uint64_t shard_bytes)
{
    upg_error err = { 0 };

    if (upg_weights_export(w, path, shard_bytes, pool, &nobody, &err) != UPG_OK)
        fail_msg("%s", err.message);
}

/* Every value of `back` is the bf16 nearest to that of `w`. */
static void check_equal(const upg_weights *w, const upg_weights *back)
{
    uint32_t n = upg_weights_matrix_count(w);

    assert_int_equal(upg_weights_matrix_count(back), n);
    for (uint32_t i = 0; i < n; i++) {
        const upg_matrix *a = upg_weights_matrix(w, i), *b = upg_weights_matrix(back, i);
        float            *x = malloc(a->n_cols * sizeof *x), *y = malloc(a->n_cols * sizeof *y);

        assert_true(x != NULL && y != NULL);
        assert_string_equal(a->name, b->name);
        assert_int_equal(b->dtype, UPG_BF16);
        assert_int_equal(a->n_rows, b->n_rows);
        for (uint32_t r = 0; r < a->n_rows; r++) {
            upg_matrix_row(a, r, x);
            upg_matrix_row(b, r, y);
            for (uint32_t c = 0; c < a->n_cols; c++)
                assert_true(y[c] == upg_f32_from_bf16(upg_bf16_from_f32(x[c])));
        }
        free(x);
        free(y);
    }
    for (uint32_t i = 0; i < w->final_norm.n; i++)
        assert_true(back->final_norm.values[i] ==
                    upg_f32_from_bf16(upg_bf16_from_f32(w->final_norm.values[i])));
}

static void remove_output(const char *path)
{
    static const char *const names[] = { "config.json", "generation_config.json",
                                         "model.safetensors", "model.safetensors.index.json" };
    char                     name[64];

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        (void)unlink(in_folder(path, names[i]));
    for (int i = 1; i <= 9; i++)
        for (int n = 2; n <= 9; n++) {
            snprintf(name, sizeof name, "model-%05d-of-%05d.safetensors", i, n);
            (void)unlink(in_folder(path, name));
        }
    assert_int_equal(rmdir(path), 0);
}

/* Coded matrices with several bands and rotations; fused tensors in the folder. */
static void coded_model_comes_back(void **state)
{
    const char  *path = output_in(*state);
    upg_weights *w = NULL, *back;
    upg_error    err = { 0 };

    assert_int_equal(upg_weights_synthetic("phi4-micro:2", 0, pool, &w, &err), UPG_OK);
    export_to(w, path, 4 << 20);
    back = open_folder(path);
    assert_string_equal(back->layers[1].q.file, back->layers[1].k.file); /* qkv_proj */
    check_equal(w, back);
    upg_weights_close(back);
    upg_weights_close(w);
    remove_output(path);
}

static void every_form_comes_back(void **state)
{
    char source[512];

    snprintf(source, sizeof source, "%s/source", (char *)*state);
    for (int form = 0; form < 3; form++) {
        test_model_shape shape = test_model_small();
        upg_weights     *w, *back;
        upg_error        err = { 0 };

        shape.tied = form == 1;
        shape.llama_names = form == 2;
        assert_int_equal(make_checkpoint(source, &shape, 5, &err), UPG_OK);
        w = open_folder(source);
        export_to(w, output_in(*state), 0);
        back = open_folder(output_in(*state));
        check_equal(w, back);
        assert_int_equal(back->config.tied_embeddings, form == 1);
        assert_int_equal(back->config_json.size, w->config_json.size);
        upg_weights_close(back);
        upg_weights_close(w);
        remove_output(output_in(*state));
    }
    remove_output(source);
}

static int refuse(void *user, const upg_progress_report *now)
{
    (void)user;
    (void)now;
    return 1;
}

static void failures_leave_nothing(void **state)
{
    const char  *path = output_in(*state);
    upg_listener listener = { .report = refuse };
    upg_weights *w = NULL;
    upg_error    err = { 0 };
    upg_status   st;

    assert_int_equal(upg_weights_synthetic("phi4-micro:1", 0, pool, &w, &err), UPG_OK);
    assert_int_equal(upg_weights_export(w, path, 0, pool, &listener, &err), UPG_E_CANCELLED);
    assert_int_equal(access(path, F_OK), -1);
    for (uint64_t n = 0; n < 6; n++) {
        upg_file_fail_after(n, 28 /* ENOSPC */);
        st = upg_weights_export(w, path, 0, pool, &nobody, &err);
        upg_file_fail_after(UINT64_MAX, 0);
        assert_int_equal(st, UPG_E_NOSPACE);
        assert_int_equal(access(path, F_OK), -1);
    }
    for (uint64_t n = 0; n < 8; n++) {
        upg_alloc_fail_after(n);
        st = upg_weights_export(w, path, 0, pool, &nobody, &err);
        upg_alloc_fail_after(UINT64_MAX);
        assert_int_equal(st, UPG_E_NOMEM);
        assert_int_equal(access(path, F_OK), -1);
    }
    export_to(w, path, 0);
    assert_int_equal(upg_weights_export(w, path, 0, pool, &nobody, &err), UPG_E_EXISTS);
    upg_weights_close(w);
    remove_output(path);
}

/* ---- comparing ------------------------------------------------------------------------------ */

typedef struct seen {
    uint32_t     n, n_differ;
    upg_compared first;
} seen;

static void note(void *user, const upg_compared *result)
{
    seen *s = user;

    if (s->n++ == 0)
        s->first = *result;
    s->n_differ += !result->agrees;
}

/* The bf16 rounding of weights has a relative error between those of its worst and best cases. */
static void measures_what_is_there(void **state)
{
    const char  *path = output_in(*state);
    upg_weights *w = NULL, *back;
    upg_matrix  *embed;
    seen         s = { 0 };
    uint32_t     n_differ = 9;
    upg_error    err = { 0 };

    assert_int_equal(upg_weights_synthetic("phi4-micro:1", 0, pool, &w, &err), UPG_OK);
    export_to(w, path, 0);
    back = open_folder(path);
    assert_int_equal(upg_weights_compare(w, back, pool, &nobody, note, &s, &n_differ, &err),
                     UPG_OK);
    assert_int_equal(s.n, 9 + 3);
    assert_true(s.first.stored < 0 && s.first.agrees);
    assert_true(s.first.measured > 1e-7 && s.first.measured < 4e-6);
    assert_int_equal(n_differ, s.n_differ);
    assert_int_equal(n_differ, 3); /* norms in fp32 lose bits in bf16: vectors must be equal */
    embed = &w->embed;
    embed->relative_error = s.first.measured * 1.0005;
    assert_int_equal(upg_weights_compare(w, back, pool, &nobody, NULL, NULL, &n_differ, &err),
                     UPG_OK);
    assert_int_equal(n_differ, 3);
    embed->relative_error = s.first.measured * 1.01 + 2e-9;
    assert_int_equal(upg_weights_compare(w, back, pool, &nobody, NULL, NULL, &n_differ, &err),
                     UPG_OK);
    assert_int_equal(n_differ, 4);
    upg_weights_close(back);
    upg_weights_close(w);
    remove_output(path);
}

static void refuses_other_shapes(void **state)
{
    upg_listener listener = { .report = refuse };
    upg_weights *a = NULL, *b = NULL, *c = NULL;
    uint32_t     n_differ;
    upg_error    err = { 0 };

    (void)state;
    assert_int_equal(upg_weights_synthetic("phi4-micro:1", 0, pool, &a, &err), UPG_OK);
    assert_int_equal(upg_weights_synthetic("phi4-micro:2", 0, pool, &b, &err), UPG_OK);
    assert_int_equal(upg_weights_synthetic("phi4-nano:1", 0, pool, &c, &err), UPG_OK);
    assert_int_equal(upg_weights_compare(a, b, pool, &nobody, NULL, NULL, &n_differ, &err),
                     UPG_E_DATA);
    assert_non_null(strstr(err.message, "1 layers, the checkpoint 2"));
    assert_int_equal(upg_weights_compare(a, c, pool, &nobody, NULL, NULL, &n_differ, &err),
                     UPG_E_DATA);
    assert_non_null(strstr(err.message, "model.embed_tokens.weight"));
    assert_int_equal(upg_weights_compare(a, a, pool, &listener, NULL, NULL, &n_differ, &err),
                     UPG_E_CANCELLED);
    for (uint64_t n = 0; n < 3; n++) {
        upg_alloc_fail_after(n);
        assert_int_equal(upg_weights_compare(a, a, pool, &nobody, NULL, NULL, &n_differ, &err),
                         UPG_E_NOMEM);
        upg_alloc_fail_after(UINT64_MAX);
    }
    upg_weights_close(a);
    upg_weights_close(b);
    upg_weights_close(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(coded_model_comes_back, set_up, tear_down),
        cmocka_unit_test_setup_teardown(every_form_comes_back, set_up, tear_down),
        cmocka_unit_test_setup_teardown(failures_leave_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(measures_what_is_there, set_up, tear_down),
        cmocka_unit_test_setup_teardown(refuses_other_shapes, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
