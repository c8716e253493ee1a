/* docs/FORMAT.md is exact: the worked example there comes out of the codec, and a reader written
 * from that page alone (python/upg/reference.py, NumPy) decodes a file to the same values. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sys/wait.h>

#include "base/halffloat.h"
#include "support/random_outliers.h"
#include "unit/format/tiny_container.h"

/* The page's section "Example". */
static void worked_example(void **state)
{
    static const uint32_t words[16] = { 2, 2, 3, 1, 2, 0, 1, 2, 3, 1, 1, 2, 2, 1 };
    static const uint16_t scales[2] = { 0x3C00, 0x3800 }; /* 1, 0.5 */
    static const int32_t  want[2][2] = { { -114, -184 }, { -168, -66 } };
    upg_band              band = {
                     .code = *upg_code_find(4, 12), .n_rows = 2, .n_binary = 14, .bits = words, .scales = scales
    };
    upg_coded_matrix matrix = { .n_rows = 2, .n_cols = 2, .n_bands = 1, .bands = &band };

    (void)state;
    assert_int_equal(upg_code_binary_rows(&band.code, 2), 14);
    assert_int_equal(upg_band_words(14, 2), 16);
    for (uint32_t row = 0; row < 2; row++) {
        int32_t values[2];
        float   weights[2];

        upg_band_row_values(&band, 2, row, values);
        upg_coded_row(&matrix, row, weights);
        for (int j = 0; j < 2; j++) {
            assert_int_equal(values[j], want[row][j]);
            assert_float_equal(weights[j], (row ? 0.5f : 1) * 0.0037f * (float)want[row][j], 1e-6f);
        }
    }
}

/* Finite scales: the other tests fill them with any bits. */
static void set_scales(upg_container_writer *w, size_t matrix, uint32_t n_rows)
{
    for (uint32_t r = 0; r < n_rows; r++) {
        uint16_t scale = upg_f16_from_f32(0.25f + (float)r / 64);

        assert_int_equal(upg_container_write_scales(w, matrix, r, &scale, 1, NULL), UPG_OK);
    }
}

/* With outliers in both matrices, of both kinds and of one kind. */
static void write_file(const char *path)
{
    tiny                  t;
    upg_container_writer *w = NULL;
    upg_arena             arena = { 0 };
    upg_buffer            bytes[2];

    tiny_init(&t);
    for (size_t m = 0; m < 2; m++) {
        upg_matrix_plan    *p = &t.matrices[m];
        const upg_outliers *o =
            test_random_outliers(p->n_rows, p->n_cols, 300, m == 0 ? 3 : 0, m, &arena, NULL);

        upg_buffer_init(&bytes[m], 65536);
        assert_non_null(o);
        assert_int_equal(upg_outliers_print(o, &bytes[m], &p->outliers, NULL), UPG_OK);
    }
    assert_int_equal(upg_container_writer_create(path, true, &t.plan, &w, NULL), UPG_OK);
    assert_int_equal(tiny_write_weights(&t, w, NULL), UPG_OK);
    set_scales(w, 0, 40);
    set_scales(w, 1, 33);
    for (size_t m = 0; m < 2; m++) {
        assert_int_equal(upg_container_write_outliers(w, m, bytes[m].data, bytes[m].size, NULL),
                         UPG_OK);
        upg_buffer_deinit(&bytes[m]);
    }
    upg_arena_deinit(&arena);
    upg_container_set_error(w, 0, 0.0191);
    assert_int_equal(upg_container_finish(w, tiny_text(TINY_REPORT), NULL, NULL, NULL), UPG_OK);
}

/* Runs the script; returns its exit code, or −1. out f64 [cap], *n values read. */
static int run_script(const char *path, const char *arguments, double *out, size_t cap, size_t *n)
{
    const char *python = getenv("UPG_PYTHON");
    char        command[1024];
    FILE       *pipe;
    int         status;

    snprintf(command, sizeof command, "'%s' '%s/../../python/upg/reference.py' '%s' %s",
             python ? python : "python3", UPG_TEST_DATA, path, arguments);
    pipe = popen(command, "r");
    if (pipe == NULL)
        return -1;
    *n = fread(out, sizeof *out, cap, pipe);
    status = pclose(pipe);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Compares all rows; f32 against f64: a row's rotation adds log2(64) roundings of 2^-24. */
static void compare(const char *path, const upg_container_matrix *m, bool rotated)
{
    static double got[64 * 128];
    float         row[128], signs[128];
    size_t        n = 0;
    char          arguments[128];

    snprintf(arguments, sizeof arguments, "%s%s", m->name, rotated ? " rotated" : "");
    assert_int_equal(run_script(path, arguments, got, 64 * 128, &n), 0);
    assert_int_equal(n, m->coded.n_rows * m->coded.n_cols);
    upg_rotation_signs(&m->coded.rotation, signs);
    for (uint32_t r = 0; r < m->coded.n_rows; r++) {
        double largest = 0;

        upg_coded_row(&m->coded, r, row);
        if (!rotated) {
            upg_rotation_undo(&m->coded.rotation, signs, row, 1);
            upg_outliers_add_row(m->coded.outliers, r, 1, 0, m->coded.n_cols, row);
        }
        for (uint32_t j = 0; j < m->coded.n_cols; j++)
            largest = fmax(largest, fabs((double)row[j]));
        assert_true(largest > 0);
        for (uint32_t j = 0; j < m->coded.n_cols; j++) {
            double difference = fabs((double)row[j] - got[(size_t)r * m->coded.n_cols + j]);

            if (!(difference <= 1e-6 * largest))
                fail_msg("%s, row %u, column %u: %g and %g", m->name, r, j, (double)row[j],
                         got[(size_t)r * m->coded.n_cols + j]);
        }
    }
}

static void second_reader(void **state)
{
    char           path[96];
    char          *folder = tiny_folder();
    upg_container *c = NULL;
    double         nothing[1];
    size_t         n;
    int            code;

    (void)state;
    snprintf(path, sizeof path, "%s/a.upg", folder);
    write_file(path);
    code = run_script(path, "none", nothing, 1, &n);
    if (code == 77 || code == 126 || code == 127) {
        unlink(path);
        rmdir(folder);
        print_message("skipped: Python with NumPy is not there (UPG_PYTHON names another one)\n");
        skip();
    }
    assert_int_equal(code, 0);
    assert_int_equal(upg_container_open(path, &c, NULL), UPG_OK);
    for (size_t m = 0; m < c->n_matrices; m++) {
        compare(path, &c->matrices[m], true);
        compare(path, &c->matrices[m], false);
    }
    upg_container_close(c);
    unlink(path);
    rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(worked_example),
        cmocka_unit_test(second_reader),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
