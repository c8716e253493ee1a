/* Opening models: every published shape, the two forms of one model, .upg files, every refusal, and
 * no memory at every allocation. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/file.h"
#include "model/weights.h"
#include "safetensors/checkpoint.h"
#include "support/make_checkpoint.h"
#include "support/temp_folder.h"

/* ---- helpers ------------------------------------------------------------------------------- */

static char *small_model(const test_model_shape *shape)
{
    char     *folder = make_folder();
    upg_error err = { 0 };

    if (make_checkpoint(folder, shape, 7, &err) != UPG_OK)
        fail_msg("%s", err.message);
    return folder;
}

static upg_weights *must_open(const char *path)
{
    upg_weights *w = NULL;
    upg_error    err = { 0 };

    if (upg_weights_open(path, &w, &err) != UPG_OK)
        fail_msg("%s", err.message);
    return w;
}

static void must_refuse(const char *path, upg_status status, const char *message)
{
    upg_weights *w = NULL;
    upg_error    err = { 0 };
    upg_status   st = upg_weights_open(path, &w, &err);

    if (st != status || strstr(err.message, message) == NULL)
        fail_msg("status %d, \"%s\"; wanted %d, \"%s\"", st, err.message, status, message);
    assert_null(w);
    assert_non_null(strstr(err.message, path)); /* every message names the file or folder */
}

/* What to change in one tensor of a checkpoint. */
typedef struct change {
    const char *tensor; /* its name */
    const char *rename; /* NULL = keep, "" = drop */
    uint64_t    rows;   /* 0 = keep; the data stays, so rows · columns must be the same */
    uint32_t    rank;   /* 0 = keep */
    upg_dtype   dtype;  /* used when set_dtype */
    bool        set_dtype;
    uint16_t    value; /* the element `position` becomes this bf16 when nonzero */
    uint64_t    position;
    const char *add;  /* a tensor of this name, a copy of `tensor`, is added */
    uint32_t    skew; /* the data section begins at an odd byte */
} change;

static void apply_change(const upg_st_tensor *t, const change *c, upg_st_entry *e)
{
    uint64_t elements;

    if (c->rename != NULL)
        e->name = c->rename;
    if (c->rows != 0) {
        assert_true(upg_st_elements(t->rank, t->shape, &elements));
        e->shape[1] = elements / c->rows;
        e->shape[0] = c->rows;
    }
    if (c->rank == 3)
        e->shape[2] = 1;
    e->rank = c->rank ? c->rank : t->rank;
    e->dtype = c->set_dtype ? c->dtype : t->dtype;
}

/* Writes model.safetensors again with the change. */
static void rewrite(const char *folder, const change *c)
{
    upg_checkpoint *checkpoint = NULL;
    upg_st_entry    entries[64];
    upg_buffer      header, data, file;
    size_t          n = 0;

    assert_int_equal(upg_checkpoint_open(folder, &checkpoint, NULL), UPG_OK);
    upg_buffer_init(&header, 1 << 20);
    upg_buffer_init(&data, 1 << 28);
    upg_buffer_init(&file, 1 << 28);
    for (size_t i = 0; i < upg_checkpoint_count(checkpoint); i++) {
        const upg_st_tensor *t = upg_checkpoint_at(checkpoint, i);
        bool                 it = strcmp(t->name, c->tensor) == 0;
        upg_st_entry         e = { .name = t->name, .dtype = t->dtype, .rank = t->rank };

        memcpy(e.shape, t->shape, sizeof e.shape);
        if (it)
            apply_change(t, c, &e);
        if (e.name[0] == '\0')
            continue;
        entries[n++] = e;
        assert_int_equal(upg_buffer_add(&data, t->bytes.data, t->bytes.size, NULL), UPG_OK);
        if (it && c->value != 0)
            memcpy(data.data + data.size - t->bytes.size + 2 * c->position, &c->value, 2);
        if (it && c->add != NULL) {
            e.name = c->add;
            entries[n++] = e;
            assert_int_equal(upg_buffer_add(&data, t->bytes.data, t->bytes.size, NULL), UPG_OK);
        }
    }
    assert_int_equal(
        upg_st_write_header(entries, n, NULL, c->skew ? 1 : 8, c->skew ? 8193 : 0, &header, NULL),
        UPG_OK);
    assert_int_equal(upg_buffer_add(&file, header.data, header.size, NULL), UPG_OK);
    assert_int_equal(upg_buffer_add(&file, data.data, data.size, NULL), UPG_OK);
    upg_checkpoint_close(checkpoint);
    write_file(in_folder(folder, "model.safetensors"), file.data, file.size);
    upg_buffer_deinit(&header);
    upg_buffer_deinit(&data);
    upg_buffer_deinit(&file);
}

static void assert_same_matrix(const upg_matrix *a, const upg_matrix *b)
{
    assert_string_equal(a->name, b->name);
    assert_int_equal(a->role, b->role);
    assert_int_equal(a->layer, b->layer);
    assert_int_equal(a->n_rows, b->n_rows);
    assert_int_equal(a->n_cols, b->n_cols);
    assert_int_equal(a->dtype, b->dtype);
    assert_int_equal(a->bytes, b->bytes);
    assert_memory_equal(a->dense, b->dense, a->bytes);
}

static void assert_same_vector(const upg_vector *a, const upg_vector *b)
{
    assert_string_equal(a->name, b->name);
    assert_int_equal(a->n, b->n);
    assert_memory_equal(a->values, b->values, a->n * sizeof(float));
}

static void assert_same_model(const upg_weights *a, const upg_weights *b)
{
    assert_int_equal(a->n_parameters, b->n_parameters);
    assert_int_equal(upg_weights_matrix_count(a), upg_weights_matrix_count(b));
    for (uint32_t i = 0; i < upg_weights_matrix_count(a); i++)
        assert_same_matrix(upg_weights_matrix(a, i), upg_weights_matrix(b, i));
    for (uint32_t l = 0; l < a->config.n_layers; l++) {
        assert_same_vector(&a->layers[l].attention_norm, &b->layers[l].attention_norm);
        assert_same_vector(&a->layers[l].ffn_norm, &b->layers[l].ffn_norm);
    }
    assert_same_vector(&a->final_norm, &b->final_norm);
}

/* ---- real models --------------------------------------------------------------------------- */

/* Parameters and bytes of a model whose oracle.json counts them. */
static void check_model(const char *folder)
{
    char         path[512];
    json_t      *oracle;
    upg_weights *w;

    snprintf(path, sizeof path, "%s/oracle.json", folder);
    if (!upg_file_exists(path)) {
        printf("skipped: %s is not there\n", path);
        return;
    }
    oracle = json_load_file(path, 0, NULL);
    assert_non_null(oracle);
    w = must_open(folder);
    assert_int_equal(w->n_parameters, json_integer_value(json_object_get(oracle, "parameters")));
    assert_int_equal(w->weight_bytes, 2 * w->n_parameters); /* all are bf16 */
    assert_int_equal(w->source_bytes, w->weight_bytes);
    assert_true(w->file_bytes > w->source_bytes);
    for (uint32_t i = 0; i < upg_weights_matrix_count(w); i++)
        assert_int_equal(upg_matrix_check_finite(upg_weights_matrix(w, i), NULL), UPG_OK);
    upg_weights_close(w);
    json_decref(oracle);
}

static void real_models(void **state)
{
    (void)state;
    check_model(UPG_TEST_DATA "/phi4-micro");
    check_model(UPG_SHARED_DATA "/models/phi4-nano");
    check_model(UPG_SHARED_DATA "/models/random/gqa4-hd128");
    check_model(UPG_SHARED_DATA "/models/random/hidden640");
    check_model(UPG_SHARED_DATA "/models/random/sliding-window");
    check_model(UPG_SHARED_DATA "/models/random/tied-partial-longrope");
}

static void parts_are_borrowed(void **state)
{
    upg_weights *w = must_open(UPG_TEST_DATA "/phi4-micro");
    size_t       size;
    char        *text = read_file(UPG_TEST_DATA "/phi4-micro/tokenizer.json", &size);

    (void)state;
    assert_int_equal(w->tokenizer_json.size, size);
    assert_memory_equal(w->tokenizer_json.data, text, size);
    assert_true(w->config_json.size > 0 && w->generation_config_json.size > 0);
    assert_true(w->tokenizer_config_json.size > 0);
    assert_int_equal(w->chat_template.size, 0);
    assert_int_equal(w->quality_json.size, 0);
    assert_int_equal(w->config.n_end_tokens, 2);
    free(text);
    upg_weights_close(w);
}

/* ---- the two forms ------------------------------------------------------------------------- */

/* q, k, v, gate and up of the fused tensors are where the separate form has its own. */
static void fused_and_separate_agree(void **state)
{
    test_model_shape shape = test_model_small();
    char            *fused, *separate;
    upg_weights     *a, *b;

    (void)state;
    shape.head_dim = 20; /* q_rows 80, hidden 64 */
    fused = small_model(&shape);
    shape.llama_names = true;
    separate = small_model(&shape);
    a = must_open(fused);
    b = must_open(separate);
    assert_string_equal(a->layers[1].k.name, "model.layers.1.self_attn.k_proj.weight");
    assert_ptr_equal((const uint16_t *)a->layers[1].q.dense + 80 * 64, a->layers[1].k.dense);
    assert_int_equal(a->layers[0].k.file_offset, a->layers[0].q.file_offset + 80 * 64 * 2);
    assert_same_model(a, b);
    upg_weights_close(a);
    upg_weights_close(b);
    remove_folder(fused);
    remove_folder(separate);
}

static void shards_and_styles(void **state)
{
    test_model_shape shape = test_model_small();
    char            *one, *many;
    upg_weights     *a, *b;

    (void)state;
    shape.tied = shape.longrope = true;
    shape.original_context = 64;
    shape.partial_rotary = 0.75;
    shape.sliding_window = 40;
    one = small_model(&shape);
    shape.v5_style = true;
    shape.n_shards = 3;
    many = small_model(&shape);
    a = must_open(one);
    b = must_open(many);
    assert_same_model(a, b);
    assert_int_equal(b->config.rope.rotary_dims, 12);
    assert_int_equal(b->config.sliding_window, 40);
    assert_memory_equal(a->config.rope.long_inv_freq, b->config.rope.long_inv_freq,
                        6 * sizeof(float));
    assert_ptr_equal(a->head.dense, a->embed.dense);
    assert_string_equal(a->head.name, "lm_head.weight");
    assert_int_equal(upg_weights_matrix_count(a), 1 + 2 * 7);
    assert_null(upg_weights_matrix(a, 15));
    upg_weights_close(a);
    upg_weights_close(b);
    remove_folder(one);
    remove_folder(many);
}

static void matrices_in_file_order(void **state)
{
    test_model_shape shape = test_model_small();
    char            *folder = small_model(&shape);
    upg_weights     *w = must_open(folder);

    (void)state;
    assert_int_equal(upg_weights_matrix_count(w), 16);
    assert_ptr_equal(upg_weights_matrix(w, 0), &w->embed);
    assert_ptr_equal(upg_weights_matrix(w, 1), &w->layers[0].q);
    assert_ptr_equal(upg_weights_matrix(w, 7), &w->layers[0].down);
    assert_ptr_equal(upg_weights_matrix(w, 12), &w->layers[1].gate);
    assert_ptr_equal(upg_weights_matrix(w, 15), &w->head);
    assert_null(upg_weights_matrix(w, 16));
    upg_weights_close(w);
    remove_folder(folder);
}

/* Frequencies in a checkpoint, and a copy of a tied head, change nothing. */
static void harmless_surplus(void **state)
{
    test_model_shape shape = test_model_small();
    char            *folder;

    (void)state;
    folder = small_model(&shape);
    rewrite(folder, &(change) { .tensor = "model.norm.weight",
                                .add = "model.layers.0.self_attn.rotary_emb.inv_freq" });
    upg_weights_close(must_open(folder));
    remove_folder(folder);
    shape.tied = true;
    folder = small_model(&shape);
    rewrite(folder, &(change) { .tensor = "model.embed_tokens.weight", .add = "lm_head.weight" });
    upg_weights_close(must_open(folder));
    rewrite(folder,
            &(change) { .tensor = "lm_head.weight", .value = 0x3F80, .position = 320 * 64 - 1 });
    must_refuse(folder, UPG_E_FORMAT, "\"lm_head.weight\" differs from the embedding");
    remove_folder(folder);
}

/* ---- refusals ------------------------------------------------------------------------------ */

static void refused_changes(void **state)
{
    static const char qkv[] = "model.layers.1.self_attn.qkv_proj.weight";
    static const char up[] = "model.layers.0.mlp.gate_up_proj.weight";
    static const char norm[] = "model.layers.0.input_layernorm.weight";
    static const struct {
        change      change;
        upg_status  status;
        const char *message;
    } cases[] = {
        { { .tensor = qkv, .rename = "" },
          UPG_E_FORMAT,
          "tensor \"model.layers.1.self_attn.qkv_proj.weight\" is missing; config.json promises 2 "
          "layers of Phi3ForCausalLM" },
        { { .tensor = "lm_head.weight", .rename = "" }, UPG_E_FORMAT, "no tied embeddings" },
        { { .tensor = qkv, .rows = 64 },
          UPG_E_FORMAT,
          "model.safetensors: tensor \"model.layers.1.self_attn.qkv_proj.weight\" has the shape "
          "[64, 128], config.json promises [128, 64]" },
        { { .tensor = up, .rank = 3 },
          UPG_E_FORMAT,
          "[192, 64, 1], config.json promises [192, 64]" },
        { { .tensor = norm, .rows = 64, .rank = 2 }, UPG_E_FORMAT, "promises [64]" },
        { { .tensor = up, .set_dtype = true, .dtype = UPG_I16 },
          UPG_E_UNSUPPORTED,
          "\"model.layers.0.mlp.gate_up_proj.weight\" is I16, weights must be BF16, F16 or F32" },
        { { .tensor = norm, .value = 0x7FC0, .position = 63 },
          UPG_E_DATA,
          "\"model.layers.0.input_layernorm.weight\" holds NaN at position 63" },
        { { .tensor = norm, .value = 0xFF80, .position = 5 },
          UPG_E_DATA,
          "infinity at position 5" },
        { { .tensor = norm, .add = "model.layers.0.self_attn.qkv_proj.bias" },
          UPG_E_UNSUPPORTED,
          "\"model.layers.0.self_attn.qkv_proj.bias\" has no place in a Phi3ForCausalLM of 2" },
        { { .tensor = norm, .add = "model.layers.2.input_layernorm.weight" },
          UPG_E_UNSUPPORTED,
          "\"model.layers.2.input_layernorm.weight\" has no place" },
        { { .tensor = norm, .skew = 1 }, UPG_E_UNSUPPORTED, "no multiple of its 2-byte elements" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        test_model_shape shape = test_model_small();
        char            *folder = small_model(&shape);

        rewrite(folder, &cases[i].change);
        must_refuse(folder, cases[i].status, cases[i].message);
        remove_folder(folder);
    }
}

static void refused_folders(void **state)
{
    static const char many[] = "{\"architectures\":[\"Phi3ForCausalLM\"],\"hidden_size\":64,"
                               "\"intermediate_size\":96,\"num_hidden_layers\":4096,"
                               "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"vocab_size\":"
                               "320,\"max_position_embeddings\":128,\"rms_norm_eps\":1e-5}";
    test_model_shape  shape = test_model_small();
    char             *folder = small_model(&shape);
    const char       *config = in_folder(folder, "config.json");

    (void)state;
    write_file(config, many, strlen(many));
    must_refuse(folder, UPG_E_FORMAT, "promises 4096 layers");
    write_file(config, "{}", 2);
    must_refuse(folder, UPG_E_FORMAT, "config.json: field \"architectures\" is missing");
    write_file(config, "", 0);
    must_refuse(folder, UPG_E_NOT_FOUND, "config.json is missing or empty");
    unlink(config);
    must_refuse(folder, UPG_E_NOT_FOUND, "config.json is missing or empty");
    mkdir(config, 0755);
    must_refuse(folder, UPG_E_UNSUPPORTED, "config.json");
    rmdir(config);
    remove_folder(folder);
    must_refuse("/no/such/model", UPG_E_NOT_FOUND, "/no/such/model");
    must_refuse(UPG_TEST_DATA "/phi4-micro/config.json", UPG_E_FORMAT, "config.json");
}

/* ---- no memory ----------------------------------------------------------------------------- */

static void no_memory_at_any_time(void **state)
{
    test_model_shape shape = test_model_small();
    char            *folder;
    uint64_t         n = 0;
    upg_status       st = UPG_E_NOMEM;

    (void)state;
    shape.n_shards = 2;
    folder = small_model(&shape);
    for (; st == UPG_E_NOMEM; n++) {
        upg_weights *w = NULL;
        upg_error    err = { 0 };

        upg_alloc_fail_after(n);
        st = upg_weights_open(folder, &w, &err);
        upg_alloc_fail_after(UINT64_MAX);
        assert_int_equal(err.code, st);
        assert_int_equal(st == UPG_OK, w != NULL);
        upg_weights_close(w);
    }
    assert_int_equal(st, UPG_OK);
    assert_in_range(n, 10, 10000);
    remove_folder(folder);
    upg_weights_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(real_models),
        cmocka_unit_test(parts_are_borrowed),
        cmocka_unit_test(fused_and_separate_agree),
        cmocka_unit_test(shards_and_styles),
        cmocka_unit_test(matrices_in_file_order),
        cmocka_unit_test(harmless_surplus),
        cmocka_unit_test(refused_changes),
        cmocka_unit_test(refused_folders),
        cmocka_unit_test(no_memory_at_any_time),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
