/* lazy_check_test.c: each chunk of a file is compared with its hash before the first pass that
 * reads it, once: damage to a row of the embedding is met when its token comes, not before. */
#include "support/open_model.h"

#include <fcntl.h>
#include <unistd.h>

#include "model/weights_source.h"
#include "runtime/engine.h"

enum { VOCAB = 65536, MIB = 1 << 20 };

static char *folder, *path;

static int set_up(void **state)
{
    test_model_shape     shape = test_model_small();
    upg_compress_options options = { .struct_size = sizeof options,
                                     .bits_per_parameter = 4,
                                     .calibration = "" };
    upg_compress        *job = NULL;

    (void)state;
    folder = make_folder();
    shape.vocab = VOCAB; /* an embedding of several chunks */
    MUST(make_checkpoint(folder, &shape, 1, err));
    path = strdup(in_folder(folder, "model.upg"));
    assert_non_null(path);
    MUST(upg_compress_open(folder, path, &options, &job, err));
    MUST(upg_compress_run(job, err));
    upg_compress_close(job);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    remove_folder(folder);
    free(path);
    return 0;
}

static upg_model *open_lazily(void)
{
    upg_model_options options = {
        .struct_size = sizeof options, .device = "cpu", .threads = 2, .verify = 1
    };
    upg_model *model = NULL;

    MUST(upg_model_open(path, &options, &model, err));
    return model;
}

/* Flips a bit of the file, which every map of it sees. */
static void flip(off_t at)
{
    int           file = open(path, O_RDWR | O_CLOEXEC);
    unsigned char byte;

    assert_true(file >= 0);
    assert_int_equal(pread(file, &byte, 1, at), 1);
    byte ^= 16;
    assert_int_equal(pwrite(file, &byte, 1, at), 1);
    close(file);
}

static upg_status read_token(upg_model *model, upg_token token, upg_error *err)
{
    upg_session *session = make_session(model, NULL);
    upg_status   st = upg_prefill(session, &token, 1, NULL, err);

    upg_session_close(session);
    return st;
}

static void damage_is_met_where_it_is_read(void **state)
{
    upg_model *model = open_lazily();
    /* the file begins with the embedding's code: rows in the order of tokens */
    off_t  at = MIB / 4;
    size_t before;

    (void)state;
    assert_int_equal(upg_weight_check_count(model->check), 0); /* opening reads no weights */
    flip(at);
    MUST(read_token(model, VOCAB - 1, err));
    before = upg_weight_check_count(model->check);
    assert_true(before >= 2 && before < model->weights->source->container->hashes.n_chunks);
    MUST(read_token(model, VOCAB - 1, err));
    MUST(read_token(model, VOCAB - 2, err));
    assert_int_equal(upg_weight_check_count(model->check), before); /* nothing is hashed twice */
    for (int i = 0; i < 2; i++)
        MUST_FAIL(UPG_E_CORRUPT,
                  "chunk 0, bytes 0 … 1048575, differs from its hash; it holds the header, "
                  "\"model.embed_tokens.weight.code\"",
                  read_token(model, VOCAB / 8, err));
    MUST_FAIL(UPG_E_CORRUPT, "model.upg", read_token(model, VOCAB / 8, err));
    flip(at);
    MUST(read_token(model, VOCAB / 8, err));
    assert_true(upg_weight_check_count(model->check) > before);
    upg_model_close(model);
}

static void damage_to_layers_and_head(void **state)
{
    upg_model     *model = open_lazily();
    const char    *names[] = { "model.layers.1.mlp.down_proj.weight", "lm_head.weight" };
    const off_t    step = 64; /* into the tensor */
    upg_container *file;

    (void)state;
    upg_model_close(model);
    for (int i = 0; i < 2; i++) {
        off_t at;

        MUST(upg_container_open(path, &file, err));
        at = (off_t)upg_container_matrix_find(file, names[i])->code->file_offset + step;
        upg_container_close(file);
        model = open_lazily();
        flip(at);
        MUST_FAIL(UPG_E_CORRUPT, "differs from its hash", read_token(model, 1, err));
        flip(at);
        MUST(read_token(model, 1, err));
        upg_model_close(model);
    }
}

/* Every row's blocks are those that decoding reads: with all tokens read, all chunks of weights are
 * known. */
static void all_tokens_read_all_chunks(void **state)
{
    upg_model           *model = open_lazily();
    const upg_container *file = model->weights->source->container;
    const upg_st_tensor *last = file->dense[file->n_dense - 1];
    size_t               chunks = (size_t)((last->file_offset + last->bytes.size - 1) / MIB) + 1;
    upg_token            tokens[64];
    upg_session         *session = make_session(model, NULL);

    (void)state;
    for (int i = 0; i < 64; i++)
        tokens[i] = i * (VOCAB / 64) + (i == 63 ? VOCAB / 64 - 1 : 0);
    MUST(upg_prefill(session, tokens, 64, NULL, err));
    assert_int_equal(upg_weight_check_count(model->check), chunks);
    upg_session_close(session);
    upg_model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(damage_is_met_where_it_is_read),
        cmocka_unit_test(damage_to_layers_and_head),
        cmocka_unit_test(all_tokens_read_all_chunks),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
