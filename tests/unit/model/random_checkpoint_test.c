/* Random checkpoints have exactly the shape, config and shards of the real models, and weights of
 * the distribution that is promised. */
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

#include "base/halffloat.h"
#include "model/random_checkpoint.h"
#include "model/weights.h"
#include "safetensors/checkpoint.h"
#include "safetensors/checkpoint_writer.h"
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

static upg_span config_of(const char *shape, upg_arena *arena)
{
    upg_span  json = { 0 };
    upg_error err = { 0 };

    if (upg_random_config(shape, arena, &json, &err) != UPG_OK)
        fail_msg("%s", err.message);
    return json;
}

static void check_text(upg_span json, const char *path)
{
    size_t size;
    char  *real = read_file(path, &size);

    assert_int_equal(json.size, size);
    assert_memory_equal(json.data, real, size);
    free(real);
}

static void configs_are_the_real_ones(void **state)
{
    upg_arena arena = { 0 };
    upg_error err = { 0 };
    upg_span  json;

    (void)state;
    check_text(config_of("phi4-micro", &arena), UPG_TEST_DATA "/phi4-micro/config.json");
    if (access(UPG_SHARED_DATA, R_OK) != 0) {
        print_message("%s is not there: phi4 and phi4-nano are not compared\n", UPG_SHARED_DATA);
    } else {
        check_text(config_of("phi4", &arena), UPG_SHARED_DATA "/tokenizer/phi4/config.json");
        check_text(config_of("phi4-nano", &arena), UPG_SHARED_DATA "/models/phi4-nano/config.json");
    }
    assert_int_equal(upg_random_config("gpt5", &arena, &json, &err), UPG_E_ARG);
    assert_non_null(strstr(err.message, "phi4, phi4-nano, phi4-micro"));
    upg_arena_deinit(&arena);
}

static void layers_change_and_nothing_else(void **state)
{
    static const char *const bad[] = { "{}", "{\"num_hidden_layers\": \"x\"}",
                                       "{\"num_hidden_layers\": 1, \"num_hidden_layers\": 2}" };
    upg_arena                arena = { 0 };
    upg_span                 json = config_of("phi4", &arena), changed = { 0 };
    upg_error                err = { 0 };
    const char              *line;

    (void)state;
    assert_int_equal(upg_random_config_layers(json, 7, &arena, &changed, &err), UPG_OK);
    assert_int_equal(changed.size, json.size - 1);
    line = strstr((const char *)changed.data, "\"num_hidden_layers\"");
    assert_non_null(line);
    assert_int_equal(strncmp(line, "\"num_hidden_layers\": 7,\n  \"num_key", 34), 0);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        upg_span text = { (const uint8_t *)bad[i], strlen(bad[i]) };

        assert_int_equal(upg_random_config_layers(text, 7, &arena, &changed, &err), UPG_E_FORMAT);
    }
    upg_arena_deinit(&arena);
}

/* All of Phi-4's tensors go into the shards that the real index names. */
static void phi4_is_cut_as_the_real_one(void **state)
{
    const char         *path = UPG_SHARED_DATA "/tokenizer/phi4/model.safetensors.index.json";
    upg_arena           arena = { 0 };
    upg_model_config    config;
    upg_checkpoint_list list;
    upg_shard_index     real = { 0 };
    uint32_t           *shard_of, n_shards;
    size_t              size, found = 0;
    char               *text;
    upg_error           err = { 0 };

    (void)state;
    if (access(path, R_OK) != 0) {
        print_message("%s is not there: skipped\n", path);
        skip();
    }
    assert_int_equal(
        upg_model_config_read(config_of("phi4", &arena), (upg_span) { 0 }, &arena, &config, &err),
        UPG_OK);
    assert_int_equal(upg_checkpoint_list_make(&config, &arena, &list, &err), UPG_OK);
    shard_of = upg_arena_alloc(&arena, list.n, sizeof *shard_of, &err);
    assert_int_equal(
        upg_shards_assign(list.entries, list.n, UPG_DEFAULT_SHARD_BYTES, shard_of, &n_shards, &err),
        UPG_OK);
    text = read_file(path, &size);
    assert_int_equal(upg_shard_index_parse((upg_span) { (uint8_t *)text, size }, &real, &err),
                     UPG_OK);
    assert_int_equal(n_shards, real.n_shards);
    assert_int_equal(list.n, real.n_tensors);
    for (size_t i = 0; i < list.n; i++)
        for (size_t j = 0; j < real.n_tensors; j++)
            if (strcmp(list.entries[i].name, real.tensors[j]) == 0) {
                assert_int_equal(shard_of[i], real.shard_of[j]);
                found++;
            }
    assert_int_equal(found, list.n);
    upg_shard_index_deinit(&real);
    free(text);
    upg_arena_deinit(&arena);
}

static void write_micro(const char *path, bool heavy, uint64_t seed, upg_pool *by)
{
    upg_arena           arena = { 0 };
    upg_error           err = { 0 };
    upg_random_settings s = { .heavy_tailed = heavy, .seed = seed, .listener = &nobody };

    assert_int_equal(
        upg_random_config_layers(config_of("phi4-micro", &arena), 1, &arena, &s.config_json, &err),
        UPG_OK);
    if (upg_random_checkpoint_write(path, &s, by, &err) != UPG_OK)
        fail_msg("%s", err.message);
    upg_arena_deinit(&arena);
}

static void remove_micro(const char *path)
{
    (void)unlink(in_folder(path, "model.safetensors"));
    (void)unlink(in_folder(path, "config.json"));
    assert_int_equal(rmdir(path), 0);
}

/* Mean, variance and fourth moment of a matrix, in units of 0.02. */
static void measure(const upg_matrix *m, double *mean, double *variance, double *kurtosis)
{
    double sum = 0, sum2 = 0, sum4 = 0, n = (double)m->n_rows * m->n_cols;
    float *row = malloc(m->n_cols * sizeof *row);

    assert_non_null(row);
    for (uint32_t r = 0; r < m->n_rows; r++) {
        upg_matrix_row(m, r, row);
        for (uint32_t c = 0; c < m->n_cols; c++) {
            double x = (double)row[c] / 0.02;

            sum += x;
            sum2 += x * x;
            sum4 += x * x * x * x;
        }
    }
    free(row);
    *mean = sum / n;
    *variance = sum2 / n;
    *kurtosis = sum4 / n / (*variance * *variance);
}

static void weights_are_as_promised(void **state)
{
    double mean, variance, kurtosis;

    for (int heavy = 0; heavy < 2; heavy++) {
        const char  *path = output_in(*state);
        upg_weights *w = NULL;
        upg_error    err = { 0 };

        write_micro(path, heavy, 3, pool);
        if (upg_weights_open(path, &w, &err) != UPG_OK)
            fail_msg("%s", err.message);
        assert_int_equal(w->config.n_layers, 1);
        measure(&w->layers[0].gate, &mean, &variance, &kurtosis);
        assert_true(fabs(mean) < 0.02);
        if (heavy) { /* t with 4 degrees of freedom has no fourth moment: a sample's is large */
            assert_true(kurtosis > 8);
        } else {
            assert_true(fabs(variance - 1) < 0.01); /* 262144 weights: 5 standard errors */
            assert_true(fabs(kurtosis - 3) < 0.1);
        }
        for (uint32_t i = 0; i < w->final_norm.n; i++)
            assert_true(w->final_norm.values[i] >= 0.75f && w->final_norm.values[i] <= 1.25f);
        assert_true(w->layers[0].attention_norm.values[0] != w->layers[0].ffn_norm.values[0]);
        upg_weights_close(w);
        remove_micro(path);
    }
}

static void same_seed_same_bytes(void **state)
{
    char     *texts[3];
    size_t    sizes[3];
    upg_pool *one = NULL;

    assert_int_equal(upg_pool_create(1, &one, NULL), UPG_OK);
    for (uint64_t i = 0; i < 3; i++) {
        const char *path = output_in(*state);

        write_micro(path, false, i == 2, i == 0 ? pool : one);
        texts[i] = read_file(in_folder(path, "model.safetensors"), &sizes[i]);
        remove_micro(path);
    }
    upg_pool_close(one);
    assert_int_equal(sizes[0], sizes[1]);
    assert_memory_equal(texts[0], texts[1], sizes[0]);
    assert_int_equal(sizes[0], sizes[2]);
    assert_int_not_equal(memcmp(texts[0], texts[2], sizes[0]), 0);
    for (int i = 0; i < 3; i++)
        free(texts[i]);
}

static int refuse(void *user, const upg_progress_report *now)
{
    (void)user;
    (void)now;
    return 1;
}

static void cancelled_leaves_nothing(void **state)
{
    const char         *path = output_in(*state);
    upg_arena           arena = { 0 };
    upg_listener        listener = { .report = refuse };
    upg_random_settings s = { .listener = &listener };
    upg_error           err = { 0 };

    s.config_json = config_of("phi4-micro", &arena);
    assert_int_equal(upg_random_checkpoint_write(path, &s, pool, &err), UPG_E_CANCELLED);
    assert_int_equal(access(path, F_OK), -1);
    s.config_json = (upg_span) { (const uint8_t *)"{", 1 };
    assert_int_equal(upg_random_checkpoint_write(path, &s, pool, &err), UPG_E_FORMAT);
    upg_arena_deinit(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(configs_are_the_real_ones),
        cmocka_unit_test(layers_change_and_nothing_else),
        cmocka_unit_test(phi4_is_cut_as_the_real_one),
        cmocka_unit_test_setup_teardown(weights_are_as_promised, set_up, tear_down),
        cmocka_unit_test_setup_teardown(same_seed_same_bytes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(cancelled_leaves_nothing, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
