/* A compression stays within the memory it was allowed, seen from outside: the peak that the
 * system counted for a child process. The same work without a limit takes more, and gives the same
 * bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "compress/default_calibration.h"
#include "compress/job.h"
#include "support/make_checkpoint.h"
#include "support/temp_folder.h"

static upg_error err;

/* Compresses in a child; returns its status, *peak in bytes. */
static upg_status compress(const char *checkpoint, const char *path, uint64_t max_memory,
                           uint64_t *peak)
{
    struct rusage usage;
    int           code;
    pid_t         child;

    fflush(NULL);
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        upg_job_settings settings = { .threads = 2, .max_memory = max_memory, .overwrite = true };
        upg_job         *job;
        upg_status       st;

        settings.calibration = (upg_span) { upg_default_calibration, upg_default_calibration_size };
        st = upg_job_open(checkpoint, path, &settings, &job, &err);
        if (st == UPG_OK)
            st = upg_job_run(job, &err);
        if (st != UPG_OK)
            fprintf(stderr, "%s\n", err.message);
        upg_job_close(job);
        _exit((int)st);
    }
    assert_int_equal(wait4(child, &code, 0, &usage), child);
    assert_true(WIFEXITED(code));
    *peak = (uint64_t)usage.ru_maxrss * 1024;
    return (upg_status)WEXITSTATUS(code);
}

/* What the library says is the least. */
static uint64_t least_memory(const char *checkpoint, const char *path)
{
    upg_job_settings settings = { .threads = 2, .max_memory = 1000 };
    upg_job         *job;
    const char      *at;

    settings.calibration = (upg_span) { upg_default_calibration, upg_default_calibration_size };
    assert_int_equal(upg_job_open(checkpoint, path, &settings, &job, &err), UPG_E_BUDGET);
    assert_non_null(strstr(err.message, "1000 are allowed"));
    at = strstr(err.message, "at least ");
    assert_non_null(at);
    return strtoull(at + strlen("at least "), NULL, 10);
}

static void the_peak_stays_below_the_limit(void **state)
{
    test_model_shape shape = test_model_small();
    char            *folder = make_folder(), *out = make_folder();
    char             free_path[512], tight_path[512];
    uint64_t         unlimited, limited, least;
    char            *a, *b;
    size_t           size_a, size_b;

    (void)state;
    /* wide states over few weights: 160 windows in two streams are 168 MB */
    shape.hidden = 256;
    shape.n_layers = 1;
    shape.ffn = 256;
    shape.vocab = 8192;
    shape.context = 512;
    shape.tokenizer = true;
    assert_int_equal(make_checkpoint(folder, &shape, 1, &err), UPG_OK);
    snprintf(free_path, sizeof free_path, "%s/free.upg", out);
    snprintf(tight_path, sizeof tight_path, "%s/tight.upg", out);
    assert_int_equal(compress(folder, free_path, 0, &unlimited), UPG_OK);
    least = least_memory(folder, tight_path);
    assert_int_equal(compress(folder, tight_path, least - 1, &limited), UPG_E_BUDGET);
    assert_int_equal(access(tight_path, F_OK), -1);
    assert_int_equal(compress(folder, tight_path, least, &limited), UPG_OK);
    print_message("peak %.1f MB without a limit, %.1f MB with %.1f MB allowed\n",
                  (double)unlimited * 1e-6, (double)limited * 1e-6, (double)least * 1e-6);
    assert_true(unlimited > least); /* else the limit would prove nothing */
    assert_true(limited <= least);
    a = read_file(free_path, &size_a);
    b = read_file(tight_path, &size_b);
    assert_int_equal(size_a, size_b);
    assert_memory_equal(a, b, size_a);
    free(a);
    free(b);
    remove_folder(folder);
    remove_folder(out);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(the_peak_stays_below_the_limit) };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
