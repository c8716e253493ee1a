/* Opening .upg files: canonical names, coded and dense matrices side by side, refusals, and no
 * memory at every allocation. The codec's work is not needed here: any bits are a valid code. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/random.h"
#include "format/container_writer.h"
#include "model/weights.h"
#include "support/make_checkpoint.h"
#include "support/temp_folder.h"

enum { MAX_TENSORS = 64 };

/* What to write wrong. */
typedef struct flaw {
    const char *drop;      /* this tensor is left out */
    const char *add;       /* a dense tensor of this name is added */
    uint32_t    more_rows; /* of the coded embedding */
    bool        code_norm; /* the final norm as a coded matrix */
    bool        without_config;
} flaw;

typedef struct builder {
    upg_container_plan plan;
    upg_matrix_plan    matrices[MAX_TENSORS];
    upg_band_plan      bands[MAX_TENSORS];
    upg_st_entry       dense[MAX_TENSORS];
    const void        *data[MAX_TENSORS]; /* of dense */
    float             *zeros;
} builder;

static bool dropped(const flaw *f, const char *name)
{
    return f->drop != NULL && strcmp(f->drop, name) == 0;
}

static void add_coded(builder *b, const char *name, uint32_t n_rows, uint32_t n_cols)
{
    size_t i = b->plan.n_matrices++;

    b->bands[i] = (upg_band_plan) { n_rows, *upg_code_find(6, 12) };
    b->matrices[i] = (upg_matrix_plan) { name, n_rows, n_cols, 5, 1, &b->bands[i], { 0 } };
}

static void add_dense(builder *b, const char *name, upg_dtype dtype, uint32_t n_rows,
                      uint32_t n_cols, const void *data)
{
    size_t i = b->plan.n_dense++;

    b->dense[i] = (upg_st_entry) { name, dtype, n_cols ? 2 : 1, { n_rows, n_cols } };
    b->data[i] = data;
}

static void add_vector(builder *b, const flaw *f, const upg_vector *v)
{
    if (!dropped(f, v->name))
        add_dense(b, v->name, UPG_F32, v->n, 0, v->values);
}

/* Every third matrix stays dense. */
static void plan_from(builder *b, const upg_weights *w, const flaw *f)
{
    b->plan.matrices = b->matrices;
    b->plan.dense = b->dense;
    b->plan.source_bytes = w->source_bytes;
    b->zeros = calloc(4096, sizeof *b->zeros);
    assert_non_null(b->zeros);
    for (uint32_t i = 0; i < upg_weights_matrix_count(w); i++) {
        const upg_matrix *m = upg_weights_matrix(w, i);

        if (dropped(f, m->name))
            continue;
        if (i % 3 == 2)
            add_dense(b, m->name, m->dtype, m->n_rows, m->n_cols, m->dense);
        else
            add_coded(b, m->name, m->n_rows + (i == 0 ? f->more_rows : 0), m->n_cols);
    }
    for (uint32_t l = 0; l < w->config.n_layers; l++) {
        add_vector(b, f, &w->layers[l].attention_norm);
        add_vector(b, f, &w->layers[l].ffn_norm);
    }
    if (f->code_norm)
        add_coded(b, w->final_norm.name, w->final_norm.n, 64);
    else
        add_vector(b, f, &w->final_norm);
    if (f->add != NULL)
        add_dense(b, f->add, UPG_F32, 8, 0, b->zeros);
    if (!f->without_config)
        b->plan.parts[UPG_PART_CONFIG] = w->config_json;
    b->plan.parts[UPG_PART_GENERATION_CONFIG] = w->generation_config_json;
}

static void write_upg(const char *path, const upg_weights *w, const flaw *f)
{
    builder               b = { 0 };
    upg_container_writer *writer = NULL;
    uint32_t             *words = calloc(1 << 16, sizeof *words);
    upg_error             err = { 0 };

    assert_non_null(words);
    for (size_t i = 0; i < 1 << 16; i++)
        words[i] = 0x3C003C00u ^ ((uint32_t)upg_random_u64(3, i) & 0x03FF03FFu); /* scales: ≥ 1 */
    plan_from(&b, w, f);
    if (upg_container_writer_create(path, true, &b.plan, &writer, &err) != UPG_OK)
        fail_msg("%s", err.message);
    for (size_t i = 0; i < b.plan.n_matrices; i++) {
        uint32_t rows = b.matrices[i].n_rows;
        size_t   n = upg_band_words((uint32_t)upg_code_binary_rows(&b.bands[i].code, rows),
                                    b.matrices[i].n_cols);

        assert_true(n <= 1 << 16);
        assert_int_equal(upg_container_write_code(writer, i, 0, 0, words, n, NULL), UPG_OK);
        assert_int_equal(
            upg_container_write_scales(writer, i, 0, (const uint16_t *)words, rows, NULL), UPG_OK);
        upg_container_set_error(writer, i, 0.25);
    }
    for (size_t i = 0; i < b.plan.n_dense; i++) {
        const upg_st_entry *e = &b.dense[i];
        size_t n = e->shape[0] * (e->rank == 2 ? e->shape[1] : 1) * upg_dtype_bytes(e->dtype);

        assert_int_equal(upg_container_write_dense(writer, i, 0, b.data[i], n, NULL), UPG_OK);
    }
    if (upg_container_finish(writer, (upg_span) { 0 }, NULL, NULL, &err) != UPG_OK)
        fail_msg("%s", err.message);
    free(words);
    free(b.zeros);
}

/* A small checkpoint in `folder`, and its .upg beside it with a flaw. */
static const char *make_upg(char *folder, const test_model_shape *shape, const flaw *f)
{
    const char  *path = in_folder(folder, "model.upg");
    upg_weights *w = NULL;

    assert_int_equal(make_checkpoint(folder, shape, 3, NULL), UPG_OK);
    assert_int_equal(upg_weights_open(folder, &w, NULL), UPG_OK);
    write_upg(path, w, f);
    upg_weights_close(w);
    return path;
}

static void check_open(const test_model_shape *shape)
{
    char        *folder = make_folder();
    const char  *path = make_upg(folder, shape, &(flaw) { 0 });
    upg_weights *a = NULL, *b = NULL;
    upg_error    err = { 0 };

    assert_int_equal(upg_weights_open(folder, &a, NULL), UPG_OK);
    if (upg_weights_open(path, &b, &err) != UPG_OK)
        fail_msg("%s", err.message);
    assert_int_equal(a->n_parameters, b->n_parameters);
    assert_int_equal(a->source_bytes, b->source_bytes);
    assert_true(b->weight_bytes < a->weight_bytes && b->file_bytes > b->weight_bytes);
    for (uint32_t i = 0; i < upg_weights_matrix_count(a); i++) {
        const upg_matrix *x = upg_weights_matrix(a, i), *y = upg_weights_matrix(b, i);

        assert_string_equal(x->name, y->name);
        assert_int_equal(x->n_rows, y->n_rows);
        assert_int_equal(x->n_cols, y->n_cols);
        assert_int_equal(y->kind, i % 3 == 2 ? UPG_MATRIX_DENSE : UPG_MATRIX_CODED);
        if (y->kind == UPG_MATRIX_DENSE)
            assert_memory_equal(x->dense, y->dense, x->bytes);
        else
            assert_float_equal(y->relative_error, 0.25, 0);
        assert_string_equal(y->file, "model.upg");
        assert_true(y->bytes > 0);
    }
    assert_memory_equal(a->final_norm.values, b->final_norm.values, 4 * (size_t)a->final_norm.n);
    assert_int_equal(b->head.kind, shape->tied ? b->embed.kind : UPG_MATRIX_CODED);
    assert_ptr_equal(b->head.coded == b->embed.coded, shape->tied);
    upg_weights_close(a);
    upg_weights_close(b);
    remove_folder(folder);
}

/* Whatever the checkpoint called its tensors, the file has the canonical names. */
static void opens_both_architectures(void **state)
{
    test_model_shape shape = test_model_small();

    (void)state;
    check_open(&shape);
    shape.llama_names = true;
    check_open(&shape);
    shape.llama_names = false;
    shape.tied = true;
    check_open(&shape);
}

static void refusals(void **state)
{
    static const struct {
        flaw        flaw;
        bool        tied;
        upg_status  status;
        const char *message;
    } cases[] = {
        { { .drop = "model.layers.1.mlp.up_proj.weight" },
          false,
          UPG_E_FORMAT,
          "model.upg: tensor \"model.layers.1.mlp.up_proj.weight\" is missing" },
        { { .drop = "model.norm.weight" },
          false,
          UPG_E_FORMAT,
          "\"model.norm.weight\" is missing" },
        { { .more_rows = 1 },
          false,
          UPG_E_FORMAT,
          "coded matrix \"model.embed_tokens.weight\" has the shape [321, 64], config.json "
          "promises "
          "[320, 64]" },
        { { .code_norm = true }, false, UPG_E_FORMAT, "a dense vector" },
        { { .add = "model.layers.0.bias" }, false, UPG_E_UNSUPPORTED, "has no place" },
        { { .add = "model.layers.2.input_layernorm.weight" },
          false,
          UPG_E_UNSUPPORTED,
          "no place" },
        { { .add = "lm_head.weight" }, true, UPG_E_FORMAT, "has the shape [8]" },
        { { .add = "model.layers.0.self_attn.rotary_emb.inv_freq" },
          false,
          UPG_E_FORMAT,
          "the manifest counts" },
        { { .without_config = true }, false, UPG_E_FORMAT, "part \"upg.config\" is missing" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        test_model_shape shape = test_model_small();
        char            *folder = make_folder();
        const char      *path;
        upg_weights     *w = NULL;
        upg_error        err = { 0 };
        upg_status       st;

        shape.tied = cases[i].tied;
        path = make_upg(folder, &shape, &cases[i].flaw);
        st = upg_weights_open(path, &w, &err);
        if (st != cases[i].status || strstr(err.message, cases[i].message) == NULL ||
            strstr(err.message, path) == NULL)
            fail_msg("case %zu: status %d, \"%s\"; wanted %d, \"%s\"", i, st, err.message,
                     cases[i].status, cases[i].message);
        assert_null(w);
        remove_folder(folder);
    }
}

static void no_memory_at_any_time(void **state)
{
    test_model_shape shape = test_model_small();
    char            *folder = make_folder();
    const char      *path = make_upg(folder, &shape, &(flaw) { 0 });
    uint64_t         n = 0;
    upg_status       st = UPG_E_NOMEM;

    (void)state;
    for (; st == UPG_E_NOMEM; n++) {
        upg_weights *w = NULL;
        upg_error    err = { 0 };

        upg_alloc_fail_after(n);
        st = upg_weights_open(path, &w, &err);
        upg_alloc_fail_after(UINT64_MAX);
        assert_int_equal(err.code, st);
        assert_int_equal(st == UPG_OK, w != NULL);
        upg_weights_close(w);
    }
    assert_int_equal(st, UPG_OK);
    assert_in_range(n, 10, 10000);
    remove_folder(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(opens_both_architectures),
        cmocka_unit_test(refusals),
        cmocka_unit_test(no_memory_at_any_time),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
