/* Folders with one file, with shards, and with every way in which shards and index can disagree. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "safetensors/checkpoint.h"
#include "unit/failing_json.h"

static char folder[64];

static void write_file(const char *name, const void *bytes, size_t size)
{
    char  path[400];
    FILE *f;

    snprintf(path, sizeof path, "%s/%s", folder, name);
    f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, size, f), size);
    fclose(f);
}

/* A file with one U8 tensor of `n` bytes. */
static void write_tensor(const char *file, const char *tensor, uint64_t n)
{
    upg_st_entry entry = { tensor, UPG_U8, 1, { n } };
    upg_buffer   text;

    upg_buffer_init(&text, 1 << 20);
    assert_int_equal(upg_st_write_header(&entry, 1, NULL, 8, 0, &text, NULL), UPG_OK);
    for (uint64_t i = 0; i < n; i++)
        assert_int_equal(upg_buffer_add(&text, "x", 1, NULL), UPG_OK);
    write_file(file, text.data, text.size);
    upg_buffer_deinit(&text);
}

static void write_index(const char *map)
{
    char text[1000];

    snprintf(text, sizeof text, "{\"metadata\":{\"total_size\":1},\"weight_map\":%s}", map);
    write_file("model.safetensors.index.json", text, strlen(text));
}

static int set_up(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/upg_checkpoint_test.XXXXXX");
    return mkdtemp(folder) == NULL;
}

static int tear_down(void **state)
{
    static const char *const names[] = { "a.safetensors", "b.safetensors", "model.safetensors",
                                         "model.safetensors.index.json" };

    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[400];

        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
    }
    return rmdir(folder);
}

static void refused(upg_status want, const char *part)
{
    upg_checkpoint *c = (upg_checkpoint *)folder;
    upg_error       err = { 0 };
    upg_status      st = upg_checkpoint_open(folder, &c, &err);

    assert_null(c);
    if (st != want || strstr(err.message, part) == NULL || strstr(err.message, folder) == NULL)
        fail_msg("status %d, message \"%s\"", st, err.message);
}

static void real_checkpoint(void **state)
{
    upg_checkpoint      *c = NULL;
    const upg_st_tensor *t;

    (void)state;
    assert_int_equal(upg_checkpoint_open(UPG_TEST_DATA "/phi4-micro", &c, NULL), UPG_OK);
    assert_int_equal(upg_checkpoint_count(c), 27);
    assert_int_equal(upg_checkpoint_source_bytes(c), 15995392);
    t = upg_checkpoint_find(c, "model.layers.3.mlp.gate_up_proj.weight");
    assert_non_null(t);
    assert_int_equal(t->dtype, UPG_BF16);
    assert_int_equal(t->shape[0], 2048);
    assert_int_equal(t->shape[1], 256);
    assert_string_equal(t->file, "model.safetensors");
    assert_null(upg_checkpoint_find(c, "model.layers.4.mlp.gate_up_proj.weight"));
    for (size_t i = 1; i < 27; i++)
        assert_true(strcmp(upg_checkpoint_at(c, i - 1)->name, upg_checkpoint_at(c, i)->name) < 0);
    assert_null(upg_checkpoint_at(c, 27));
    upg_checkpoint_close(c);
}

static void real_shards(void **state)
{
    upg_checkpoint *c = NULL;

    (void)state;
    if (!upg_file_is_folder(UPG_SHARED_DATA "/models/phi4-nano")) {
        print_message("skipped: no %s/models/phi4-nano\n", UPG_SHARED_DATA);
        skip();
    }
    assert_int_equal(upg_checkpoint_open(UPG_SHARED_DATA "/models/phi4-nano", &c, NULL), UPG_OK);
    assert_int_equal(upg_checkpoint_count(c), 99);
    assert_int_equal(upg_checkpoint_source_bytes(c), 125862912);
    assert_string_equal(upg_checkpoint_find(c, "lm_head.weight")->file,
                        "model-00009-of-00009.safetensors");
    upg_checkpoint_close(c);
}

static void shards(void **state)
{
    upg_checkpoint *c = NULL;

    (void)state;
    write_tensor("a.safetensors", "one", 3);
    write_tensor("b.safetensors", "two", 5);
    write_index("{\"two\":\"b.safetensors\",\"one\":\"a.safetensors\"}");
    assert_int_equal(upg_checkpoint_open(folder, &c, NULL), UPG_OK);
    assert_int_equal(upg_checkpoint_count(c), 2);
    assert_int_equal(upg_checkpoint_source_bytes(c), 8);
    assert_string_equal(upg_checkpoint_find(c, "two")->file, "b.safetensors");
    upg_checkpoint_close(c);
    /* the single file comes first */
    write_tensor("model.safetensors", "whole", 4);
    assert_int_equal(upg_checkpoint_open(folder, &c, NULL), UPG_OK);
    assert_int_equal(upg_checkpoint_count(c), 1);
    upg_checkpoint_close(c);
}

static void what_is_missing_is_named(void **state)
{
    (void)state;
    refused(UPG_E_NOT_FOUND, "model.safetensors.index.json");
    write_index("{\"one\":\"a.safetensors\",\"two\":\"b.safetensors\"}");
    write_tensor("a.safetensors", "one", 3);
    refused(UPG_E_NOT_FOUND, "b.safetensors: this shard is missing");
    write_tensor("b.safetensors", "three", 3);
    refused(UPG_E_FORMAT, "\"two\" into b.safetensors");
}

static void two_shards_may_not_share(void **state)
{
    upg_st_entry entries[2] = { { "one", UPG_U8, 1, { 0 } }, { "two", UPG_U8, 1, { 0 } } };
    upg_buffer   text;

    (void)state;
    upg_buffer_init(&text, 4096);
    assert_int_equal(upg_st_write_header(entries, 2, NULL, 8, 0, &text, NULL), UPG_OK);
    write_file("b.safetensors", text.data, text.size);
    upg_buffer_deinit(&text);
    write_tensor("a.safetensors", "one", 3);
    write_index("{\"one\":\"a.safetensors\",\"two\":\"b.safetensors\"}");
    refused(UPG_E_FORMAT, "\"one\" lies in ");
}

static void hostile_indexes(void **state)
{
    static const char *const maps[] = { "[]",
                                        "{}",
                                        "1",
                                        "{\"one\":1}",
                                        "{\"one\":\"../a.safetensors\"}",
                                        "{\"one\":\"/etc/passwd\"}",
                                        "{\"one\":\"\"}",
                                        "{\"one\":\"..\"}",
                                        "{\"one\":\".hidden\"}",
                                        "{\"one\":\"a\\\\b\"}",
                                        "{\"one\":\"a\\nb\"}",
                                        "{\"one\":\"a\\u0000b\"}",
                                        "{\"one\":\"a..b\"}",
                                        "{\"o\\u001b\":\"a.safetensors\"}",
                                        "{\"one\":\"a.safetensors\",\"one\":\"a.safetensors\"}" };

    (void)state;
    write_tensor("a.safetensors", "one", 3);
    for (size_t i = 0; i < sizeof maps / sizeof maps[0]; i++) {
        write_index(maps[i]);
        refused(UPG_E_FORMAT, "index.json");
    }
    write_file("model.safetensors.index.json", "{", 1);
    refused(UPG_E_FORMAT, "JSON");
    write_file("model.safetensors.index.json", "{}", 2);
    refused(UPG_E_FORMAT, "weight_map");
}

static void every_failing_allocation(void **state)
{
    upg_status st = UPG_E_NOMEM;
    uint64_t   n;

    (void)state;
    write_tensor("a.safetensors", "one", 3);
    write_tensor("b.safetensors", "two", 5);
    write_index("{\"two\":\"b.safetensors\",\"one\":\"a.safetensors\"}");
    for (int json_too = 0; json_too < 2; json_too++) {
        failing_json = json_too;
        for (n = 0, st = UPG_E_NOMEM; st != UPG_OK; n++) {
            upg_checkpoint *c = NULL;

            upg_alloc_fail_after(n);
            st = upg_checkpoint_open(folder, &c, NULL);
            upg_alloc_fail_after(UINT64_MAX);
            assert_true(st == UPG_OK || st == UPG_E_NOMEM || (json_too && st == UPG_E_FORMAT));
            assert_true((c != NULL) == (st == UPG_OK));
            upg_checkpoint_close(c);
        }
        assert_true(n > 20);
    }
    failing_json = false;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(real_checkpoint),
        cmocka_unit_test(real_shards),
        cmocka_unit_test_setup_teardown(shards, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_is_missing_is_named, set_up, tear_down),
        cmocka_unit_test_setup_teardown(two_shards_may_not_share, set_up, tear_down),
        cmocka_unit_test_setup_teardown(hostile_indexes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(every_failing_allocation, set_up, tear_down),
    };

    failing_json_install();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
