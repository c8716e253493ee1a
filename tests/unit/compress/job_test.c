/* Compressing a checkpoint into a file: budgets, refusals, failures that leave nothing, equal
 * bytes, what the file says of itself. */
#include "compress_fixture.h"

#include <dirent.h>
#include <errno.h>
#include <jansson.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include "base/file.h"
#include "compress/calibration_text.h"
#include "compress/default_calibration.h"
#include "compress/job.h"
#include "format/container.h"
#include "support/make_checkpoint.h"
#include "support/temp_folder.h"

static char *small, *banded, *tied; /* checkpoints; the last two have a tokenizer */
static char *out;                   /* where files go */
static char  path[512];

static int make_all(void **state)
{
    test_model_shape shape = test_model_small();

    (void)state;
    small = make_folder();
    banded = make_folder();
    tied = make_folder();
    out = make_folder();
    snprintf(path, sizeof path, "%s/model.upg", out);
    OK(make_checkpoint(small, &shape, 1, &err));
    shape.vocab = 8192;
    shape.context = 64;
    shape.tokenizer = true;
    OK(make_checkpoint(banded, &shape, 2, &err));
    shape.n_layers = 1;
    shape.tied = true;
    OK(make_checkpoint(tied, &shape, 3, &err));
    return 0;
}

static int remove_all(void **state)
{
    (void)state;
    remove_folder(small);
    remove_folder(banded);
    remove_folder(tied);
    remove_folder(out);
    return 0;
}

static int empty_out(void **state)
{
    (void)state;
    unlink(path);
    return 0;
}

static int files_left(void)
{
    DIR *dir = opendir(out);
    int  n = -2; /* . and .. */

    assert_non_null(dir);
    while (readdir(dir) != NULL)
        n++;
    closedir(dir);
    return n;
}

static upg_span default_text(void)
{
    return (upg_span) { upg_default_calibration, upg_default_calibration_size };
}

/* Opens and runs. */
static upg_status compress(const char *checkpoint, const upg_job_settings *settings)
{
    upg_job   *job;
    upg_status st = upg_job_open(checkpoint, path, settings, &job, &err);

    if (st == UPG_OK)
        st = upg_job_run(job, &err);
    upg_job_close(job);
    return st;
}

static double field(const char *json, const char *key)
{
    json_t *root = json_loads(json, 0, NULL);
    double  value;

    assert_non_null(root);
    assert_true(json_is_number(json_object_get(root, key)));
    value = json_number_value(json_object_get(root, key));
    json_decref(root);
    return value;
}

static void existing_files_are_kept(void **state)
{
    upg_job_settings settings = { 0 };
    upg_job         *job;
    char            *content;
    size_t           size;

    (void)state;
    write_file(path, "precious", 8);
    assert_int_equal(upg_job_open(small, path, &settings, &job, &err), UPG_E_EXISTS);
    assert_null(job);
    assert_non_null(strstr(err.message, path));
    content = read_file(path, &size);
    assert_true(size == 8 && memcmp(content, "precious", 8) == 0);
    free(content);
    settings.overwrite = true;
    OK(compress(small, &settings));
    content = read_file(path, &size);
    assert_true(size > 1000);
    free(content);
    /* a file that appears while the job runs is kept too */
    unlink(path);
    settings.overwrite = false;
    OK(upg_job_open(small, path, &settings, &job, &err));
    write_file(path, "precious", 8);
    assert_int_equal(upg_job_run(job, &err), UPG_E_EXISTS);
    upg_job_close(job);
    content = read_file(path, &size);
    assert_int_equal(size, 8);
    free(content);
    assert_int_equal(files_left(), 1);
}

static void bits_are_a_bound(void **state)
{
    (void)state;
    for (double bits = 2.3; bits < 4.55; bits += .3) {
        upg_job_settings settings = { .bits_per_parameter = bits, .overwrite = true };
        upg_job         *job;
        const char      *result;
        double           used;
        size_t           size;

        OK(upg_job_open(banded, path, &settings, &job, &err));
        assert_null(upg_job_result_json(job));
        OK(upg_job_run(job, &err));
        result = upg_job_result_json(job);
        used = 8 * field(result, "weight_bytes") / field(result, "parameters");
        if (!(used <= bits && used >= .99 * bits))
            fail_msg("%g bits asked for, %g used", bits, used);
        free(read_file(path, &size));
        assert_true(field(result, "file_bytes") == (double)size);
        assert_true(field(upg_job_plan_json(job), "weight_bytes") == field(result, "weight_bytes"));
        assert_true(field(upg_job_plan_json(job), "predicted_file_bytes") >= (double)size);
        assert_int_equal(upg_job_run(job, &err), UPG_E_STATE);
        upg_job_close(job);
    }
}

static void bytes_are_a_bound(void **state)
{
    size_t least = 0, size;

    (void)state;
    for (uint64_t limit = 1000000; limit < 1300000; limit += 50000) {
        upg_job_settings settings = { .max_file_bytes = limit, .overwrite = true };

        OK(compress(banded, &settings));
        free(read_file(path, &size));
        /* the bound holds with a report of any size: up to 4096 bytes and a page may stay unused */
        if (size > limit || (double)size < .99 * (double)limit)
            fail_msg("%llu bytes allowed, %zu used", (unsigned long long)limit, size);
        if (least == 0)
            least = size;
    }
    {
        upg_job_settings both = { .max_file_bytes = 1250000,
                                  .bits_per_parameter = 2.5,
                                  .overwrite = true };
        upg_job         *job;

        OK(upg_job_open(banded, path, &both, &job, &err));
        OK(upg_job_run(job, &err));
        assert_true(8 * field(upg_job_result_json(job), "weight_bytes") <=
                    2.5 * field(upg_job_result_json(job), "parameters"));
        upg_job_close(job);
        both.bits_per_parameter = 4.5;
        both.max_file_bytes = 1000000;
        OK(compress(banded, &both));
        free(read_file(path, &size));
        assert_true(size <= 1000000 && size + 1000 > least); /* the recipe is a little longer */
    }
}

/* The number that follows "at least " in the message. */
static double least_possible(void)
{
    const char *at = strstr(err.message, "at least ");

    assert_non_null(at);
    return strtod(at + strlen("at least "), NULL);
}

static void impossible_budgets_tell_the_least(void **state)
{
    upg_job_settings settings = { .bits_per_parameter = 1.5 };
    upg_job         *job;
    double           least;

    (void)state;
    assert_int_equal(upg_job_open(banded, path, &settings, &job, &err), UPG_E_BUDGET);
    least = least_possible();
    assert_true(least > 2 && least < 2.4);
    settings.bits_per_parameter = least + .001; /* it is printed with three digits */
    OK(upg_job_open(banded, path, &settings, &job, &err));
    upg_job_close(job);
    settings = (upg_job_settings) { .max_file_bytes = 1000 };
    assert_int_equal(upg_job_open(banded, path, &settings, &job, &err), UPG_E_BUDGET);
    settings.max_file_bytes = (uint64_t)least_possible();
    OK(upg_job_open(banded, path, &settings, &job, &err));
    upg_job_close(job);
    settings.max_file_bytes--;
    assert_int_equal(upg_job_open(banded, path, &settings, &job, &err), UPG_E_BUDGET);
    settings = (upg_job_settings) { .bits_per_parameter = -1 };
    assert_int_equal(upg_job_open(banded, path, &settings, &job, &err), UPG_E_ARG);
    settings.bits_per_parameter = NAN;
    assert_int_equal(upg_job_open(banded, path, &settings, &job, &err), UPG_E_ARG);
    settings = (upg_job_settings) { .max_memory = 100000 };
    assert_int_equal(upg_job_open(banded, path, &settings, &job, &err), UPG_E_BUDGET);
    assert_non_null(strstr(err.message, "100000"));
    assert_int_equal(files_left(), 0);
}

static void coded_input_is_refused(void **state)
{
    upg_job_settings settings = { 0 };
    upg_job         *job;
    char             second[600];

    (void)state;
    OK(compress(small, &settings));
    snprintf(second, sizeof second, "%s/again.upg", out);
    assert_int_equal(upg_job_open(path, second, &settings, &job, &err), UPG_E_UNSUPPORTED);
    assert_non_null(strstr(err.message, "already"));
    assert_int_equal(files_left(), 1);
}

static int stop_at(void *user, const upg_progress_report *now)
{
    return strcmp(now->stage, user) == 0;
}

static void cancelling_leaves_nothing(void **state)
{
    static const char *const stages[] = { "plan", "encode", "hash" };
    upg_job_settings         settings = { .calibration = default_text() };
    atomic_bool              cancel = true;

    (void)state;
    for (size_t i = 0; i < sizeof stages / sizeof *stages; i++) {
        settings.listener = (upg_listener) { .report = stop_at, .user = (void *)stages[i] };
        assert_int_equal(compress(tied, &settings), UPG_E_CANCELLED);
        assert_int_equal(files_left(), 0);
    }
    settings.listener = (upg_listener) { .cancel = &cancel };
    assert_int_equal(compress(tied, &settings), UPG_E_CANCELLED);
    settings.calibration = (upg_span) { 0 };
    assert_int_equal(compress(tied, &settings), UPG_E_CANCELLED);
    assert_int_equal(files_left(), 0);
}

static void a_full_disk_leaves_nothing(void **state)
{
    upg_job_settings settings = { .threads = 1 };
    upg_status       st = UPG_E_NOSPACE;
    uint64_t         n = 0;

    (void)state;
    for (; st == UPG_E_NOSPACE; n++) {
        upg_file_fail_after(n, ENOSPC);
        st = compress(small, &settings);
        upg_file_fail_after(UINT64_MAX, 0);
        assert_int_equal(files_left(), st == UPG_OK);
    }
    OK(st);
    assert_true(n > 40); /* 15 matrices of two writes, norms, parts, header, hashes, rename … */
}

static void failing_memory_leaves_nothing(void **state)
{
    upg_job_settings settings = { .threads = 1 };

    (void)state;
    for (int calibrated = 0; calibrated < 2; calibrated++) {
        upg_status st = UPG_E_NOMEM;

        settings.calibration = (upg_span) { upg_default_calibration, calibrated ? 4000 : 0 };
        /* every allocation without calibration, then some of the many thousands with it */
        for (uint64_t n = 0; st == UPG_E_NOMEM; n += calibrated ? 1 + n / 5 : 1) {
            upg_alloc_fail_after(n);
            st = compress(calibrated ? tied : small, &settings);
            upg_alloc_fail_after(UINT64_MAX);
            assert_int_equal(files_left(), st == UPG_OK);
        }
        OK(st);
        unlink(path);
    }
}

static void equal_work_gives_equal_bytes(void **state)
{
    char  *first = NULL;
    size_t first_size = 0;

    (void)state;
    for (int kind = 0; kind < 3; kind++) { /* sequential, independent, nearest */
        for (uint32_t threads = 1; threads <= 3; threads++) {
            upg_job_settings settings = { .threads = threads,
                                          .overwrite = true,
                                          .independent = kind == 1,
                                          .calibration = default_text() };
            char            *bytes;
            size_t           size;

            if (kind == 2)
                settings.calibration = (upg_span) { 0 };
            else
                settings.calibration.size = 40000; /* ends in plain text */
            OK(compress(banded, &settings));
            bytes = read_file(path, &size);
            if (threads == 1) {
                free(first);
                first = bytes;
                first_size = size;
                continue;
            }
            assert_int_equal(size, first_size);
            assert_memory_equal(bytes, first, size);
            free(bytes);
        }
    }
    {
        upg_job_settings settings = { .seed = 5, .overwrite = true };
        size_t           size;
        char            *bytes;

        OK(compress(banded, &settings));
        bytes = read_file(path, &size);
        assert_true(size != first_size || memcmp(bytes, first, size) != 0);
        free(bytes);
    }
    free(first);
}

/* The length of a level's codes, its name and its windows are in the file; the bytes do not depend
 * on threads; longer codes leave less error. */
static void levels_of_effort(void **state)
{
    double last = INFINITY;

    (void)state;
    for (uint32_t e = 0; upg_effort_find(e) != NULL; e++) {
        const upg_effort_level *level = upg_effort_find(e);
        upg_job_settings        settings = { .overwrite = true, .effort = level };
        upg_container          *file;
        json_t                 *options;
        char                   *one, *three;
        size_t                  n_one, n_three;
        double                  error = 0;

        settings.threads = 1;
        OK(compress(banded, &settings));
        one = read_file(path, &n_one);
        settings.threads = 3;
        OK(compress(banded, &settings));
        three = read_file(path, &n_three);
        assert_int_equal(n_one, n_three);
        assert_memory_equal(one, three, n_one);
        free(one);
        free(three);
        OK(upg_container_open(path, &file, &err));
        for (size_t m = 0; m < file->n_matrices; m++) {
            error += file->matrices[m].relative_error;
            for (uint32_t b = 0; b < file->matrices[m].coded.n_bands; b++)
                assert_int_equal(file->matrices[m].coded.bands[b].code.length, level->code_length);
        }
        options = json_loads(file->options_json, 0, NULL);
        if (e == 0)
            assert_null(json_object_get(options, "effort")); /* as before there were levels */
        else
            assert_string_equal(json_string_value(json_object_get(options, "effort")), level->name);
        if (level->code_length > UPG_CODE_DEFAULT_LENGTH)
            assert_true(error < .99 * last);
        last = error;
        json_decref(options);
        upg_container_close(file);
    }
    assert_null(upg_effort_find(4));
}

/* Relative error of a decoded matrix against the checkpoint's. */
static double error_of(const upg_matrix *coded, const upg_matrix *dense)
{
    double error2 = 0, energy2 = 0;
    float *a = malloc(coded->n_cols * sizeof *a), *b = malloc(coded->n_cols * sizeof *b);

    assert_true(a && b);
    for (uint32_t r = 0; r < coded->n_rows; r++) {
        upg_matrix_row(coded, r, a);
        upg_matrix_row(dense, r, b);
        for (uint32_t j = 0; j < coded->n_cols; j++) {
            error2 += ((double)a[j] - (double)b[j]) * ((double)a[j] - (double)b[j]);
            energy2 += (double)b[j] * (double)b[j];
        }
    }
    free(a);
    free(b);
    return error2 / energy2;
}

static void the_file_is_the_model(void **state)
{
    const char *const checkpoints[] = { small, banded, tied };

    (void)state;
    for (int i = 0; i < 3; i++)
        for (int calibrated = 0; calibrated <= (i > 0); calibrated++) {
            upg_job_settings settings = { .overwrite = true };
            upg_weights     *coded, *dense;

            if (calibrated)
                settings.calibration = default_text();
            OK(compress(checkpoints[i], &settings));
            OK(upg_weights_open(path, &coded, &err));
            OK(upg_weights_open(checkpoints[i], &dense, &err));
            assert_int_equal(coded->n_parameters, dense->n_parameters);
            assert_int_equal(coded->config.tied_embeddings, i == 2);
            assert_int_equal(coded->tokenizer_json.size, dense->tokenizer_json.size);
            for (uint32_t m = 0; m < upg_weights_matrix_count(dense); m++) {
                const upg_matrix *a = upg_weights_matrix(coded, m);
                const upg_matrix *b = upg_weights_matrix(dense, m);
                double            found = error_of(a, b);

                assert_int_equal(a->kind, UPG_MATRIX_CODED);
                /* what the file says was measured is what is there */
                if (!(found > 0 && fabs(a->relative_error - found) < 1e-3 * found + 1e-6))
                    fail_msg("%s: error %g, the file says %g", a->name, found, a->relative_error);
            }
            for (uint32_t j = 0; j < dense->config.hidden; j++) { /* tuned with the text alone */
                float was = dense->final_norm.values[j], is = coded->final_norm.values[j];

                assert_true(calibrated ? fabsf(is - was) <= .2f * fabsf(was) : is == was);
            }
            upg_weights_close(coded);
            upg_weights_close(dense);
        }
}

static void the_recipe_is_in_the_file(void **state)
{
    upg_job_settings settings = { .overwrite = true, .seed = 9, .calibration = default_text() };
    upg_container   *file;
    json_t          *options, *calibration;
    const char      *hash;

    (void)state;
    OK(compress(tied, &settings));
    OK(upg_container_open(path, &file, &err));
    options = json_loads(file->options_json, 0, NULL);
    assert_int_equal(json_integer_value(json_object_get(options, "seed")), 9);
    calibration = json_object_get(options, "calibration");
    hash = json_string_value(json_object_get(calibration, "text_xxh3"));
    assert_true(hash && strlen(hash) == 32);
    assert_int_equal(json_integer_value(json_object_get(calibration, "text_bytes")),
                     upg_default_calibration_size);
    assert_int_equal(json_integer_value(json_object_get(calibration, "windows")),
                     UPG_CALIBRATION_WINDOWS);
    assert_int_equal(json_integer_value(json_object_get(calibration, "window")), 64);
    assert_true(json_integer_value(json_object_get(calibration, "text_tokens")) >
                UPG_CALIBRATION_WINDOWS * 64);
    assert_string_equal(json_string_value(json_object_get(calibration, "moments")), "sequential");
    json_decref(options);
    upg_container_close(file);
    settings.calibration = (upg_span) { 0 };
    OK(compress(tied, &settings));
    OK(upg_container_open(path, &file, &err));
    options = json_loads(file->options_json, 0, NULL);
    assert_true(json_is_null(json_object_get(options, "calibration")));
    json_decref(options);
    upg_container_close(file);
}

static void texts_that_cannot_be_used(void **state)
{
    upg_job_settings settings = { .calibration = { (const uint8_t *)"short", 5 } };
    upg_job         *job;

    (void)state;
    assert_int_equal(upg_job_open(tied, path, &settings, &job, &err), UPG_E_DATA);
    assert_int_equal(strncmp(err.message, "calibration: ", 13), 0);
    settings.calibration = default_text();
    settings.calibration_name = "named"; /* for a checkpoint without a tokenizer */
    assert_int_equal(upg_job_open(small, path, &settings, &job, &err), UPG_E_UNSUPPORTED);
    assert_non_null(strstr(err.message, "tokenizer.json"));
    assert_int_equal(files_left(), 0);
}

static void default_text_is_left_out_without_a_tokenizer(void **state)
{
    upg_job_settings settings = { .calibration = default_text() };
    upg_job         *job;
    json_t          *plan;

    (void)state;
    OK(upg_job_open(small, path, &settings, &job, &err));
    plan = json_loads(upg_job_plan_json(job), 0, NULL);
    assert_int_equal(json_integer_value(json_object_get(plan, "calibration_windows")), 0);
    json_decref(plan);
    upg_job_close(job);
}

/* Writes two bytes over element `index` of a matrix of the checkpoint, for as long as `run` takes.
 */
static upg_status with_value(const char *checkpoint, uint32_t matrix, uint64_t index, uint16_t bits,
                             const upg_job_settings *settings)
{
    upg_weights *weights;
    char         name[600];
    long         at;
    uint16_t     keep;
    FILE        *file;
    upg_status   st;

    OK(upg_weights_open(checkpoint, &weights, &err));
    at = (long)(upg_weights_matrix(weights, matrix)->file_offset + 2 * index);
    snprintf(name, sizeof name, "%s/%s", checkpoint, "model.safetensors");
    upg_weights_close(weights);
    file = fopen(name, "r+b");
    assert_non_null(file);
    assert_int_equal(fseek(file, at, SEEK_SET), 0);
    assert_int_equal(fread(&keep, 2, 1, file), 1);
    assert_int_equal(fseek(file, at, SEEK_SET), 0);
    assert_int_equal(fwrite(&bits, 2, 1, file), 1);
    assert_int_equal(fflush(file), 0);
    st = compress(checkpoint, settings);
    assert_int_equal(fseek(file, at, SEEK_SET), 0);
    assert_int_equal(fwrite(&keep, 2, 1, file), 1);
    fclose(file);
    return st;
}

static void bad_weights_are_named(void **state)
{
    static const uint16_t values[] = { 0x7FC0, 0x7F80, 0xFF80 }; /* NaN, ±infinity */

    (void)state;
    for (int calibrated = 0; calibrated < 2; calibrated++)
        for (size_t v = 0; v < sizeof values / sizeof *values; v++) {
            upg_job_settings settings = { 0 };

            if (calibrated)
                settings.calibration = default_text();
            /* the down projection of layer 0: row 3, column 7 */
            assert_int_equal(with_value(tied, 7, 3 * 96 + 7, values[v], &settings), UPG_E_DATA);
            if (!strstr(err.message, "layers.0.mlp.down_proj") || !strstr(err.message, "row 3") ||
                !strstr(err.message, "7"))
                fail_msg("not named: %s", err.message);
            assert_int_equal(files_left(), 0);
        }
}

/* An evaluator that looks at the file and gives made-up figures. */
typedef struct spy {
    int        calls;
    upg_status answer;
} spy;

static upg_status spy_measure(void *user, const char *temporary, upg_evaluation *result,
                              upg_error *e)
{
    spy           *s = user;
    upg_container *file;
    uint64_t       bad;

    s->calls++;
    assert_string_not_equal(temporary, path);
    assert_int_equal(access(path, F_OK), -1);
    OK(upg_container_verify(temporary, NULL, NULL, &bad, &err));
    OK(upg_container_open(temporary, &file, &err));
    upg_container_close(file);
    if (s->answer != UPG_OK)
        return upg_fail(e, s->answer, "the evaluation failed");
    *result = (upg_evaluation) { .windows = 3,
                                 .tokens = 189,
                                 .window = 64,
                                 .perplexity = 50,
                                 .against_perplexity = 45,
                                 .top1 = .25,
                                 .kl_mean = 1.0 / 3,
                                 .kl_p99 = 2.0 / 3,
                                 .top1_agreement = 5.0 / 7,
                                 .text_hash = "0123456789abcdef0123456789abcdef" };
    return UPG_OK;
}

static void evaluations_reach_the_file(void **state)
{
    spy              s = { 0, UPG_E_DATA };
    upg_evaluator    evaluator = { spy_measure, &s };
    upg_job_settings settings = { .evaluator = &evaluator };
    upg_job         *job;
    upg_container   *file;
    json_t          *report, *e;
    uint64_t         bad;

    (void)state;
    assert_int_equal(compress(small, &settings), UPG_E_DATA);
    assert_string_equal(err.message, "the evaluation failed");
    assert_int_equal(files_left(), 0);
    s.answer = UPG_OK;
    OK(upg_job_open(small, path, &settings, &job, &err));
    OK(upg_job_run(job, &err));
    assert_int_equal(s.calls, 2);
    report = json_loads(upg_job_result_json(job), 0, NULL);
    e = json_object_get(report, "evaluation");
    assert_true(fabs(json_number_value(json_object_get(e, "retention")) - .9) < 1e-9);
    json_decref(report);
    upg_job_close(job);
    OK(upg_container_verify(path, NULL, NULL, &bad, &err));
    OK(upg_container_open(path, &file, &err));
    report = json_loadb((const char *)file->parts[UPG_PART_QUALITY].data,
                        file->parts[UPG_PART_QUALITY].size, 0, NULL);
    e = json_object_get(report, "evaluation");
    assert_true(fabs(json_number_value(json_object_get(e, "retention")) - .9) < 1e-9);
    assert_true(fabs(json_number_value(json_object_get(e, "kl_mean")) - 1.0 / 3) < 1e-8);
    assert_int_equal(json_integer_value(json_object_get(e, "tokens")), 189);
    json_decref(report);
    upg_container_close(file);
    /* without one nothing is claimed */
    settings = (upg_job_settings) { .overwrite = true };
    OK(compress(small, &settings));
    OK(upg_container_open(path, &file, &err));
    report = json_loadb((const char *)file->parts[UPG_PART_QUALITY].data,
                        file->parts[UPG_PART_QUALITY].size, 0, NULL);
    assert_true(json_is_null(json_object_get(report, "evaluation")));
    assert_true(json_number_value(json_object_get(report, "relative_error")) > 0);
    json_decref(report);
    upg_container_close(file);
}

int main(void)
{
#define EACH(name) cmocka_unit_test_setup_teardown(name, empty_out, empty_out)
    const struct CMUnitTest tests[] = {
        EACH(existing_files_are_kept),
        EACH(bits_are_a_bound),
        EACH(bytes_are_a_bound),
        EACH(impossible_budgets_tell_the_least),
        EACH(coded_input_is_refused),
        EACH(cancelling_leaves_nothing),
        EACH(a_full_disk_leaves_nothing),
        EACH(failing_memory_leaves_nothing),
        EACH(equal_work_gives_equal_bytes),
        EACH(levels_of_effort),
        EACH(the_file_is_the_model),
        EACH(the_recipe_is_in_the_file),
        EACH(texts_that_cannot_be_used),
        EACH(default_text_is_left_out_without_a_tokenizer),
        EACH(bad_weights_are_named),
        EACH(evaluations_reach_the_file),
    };

    return cmocka_run_group_tests(tests, make_all, remove_all);
}
