/* journal_fixture.h: compressions with a journal, cut and undisturbed, of small checkpoints. */
#ifndef UPG_TESTS_JOURNAL_FIXTURE_H
#define UPG_TESTS_JOURNAL_FIXTURE_H

#include "compress_fixture.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "compress/default_calibration.h"
#include "compress/job.h"
#include "support/make_checkpoint.h"
#include "support/power_cut.h"
#include "support/temp_folder.h"

static char *plain, *texted; /* checkpoints without and with a tokenizer */
static char *out;
static char  path[512], journal[512];

static inline int make_all(void **state)
{
    test_model_shape shape = test_model_small();

    (void)state;
    plain = make_folder();
    texted = make_folder();
    out = make_folder();
    snprintf(path, sizeof path, "%s/model.upg", out);
    snprintf(journal, sizeof journal, "%s/model.upg.journal", out);
    OK(make_checkpoint(plain, &shape, 1, &err));
    shape.vocab = 8192;
    shape.hidden = 32;
    shape.context = 64;
    shape.tokenizer = true;
    shape.tied = true;
    OK(make_checkpoint(texted, &shape, 2, &err));
    return 0;
}

static inline int remove_all(void **state)
{
    (void)state;
    remove_folder(plain);
    remove_folder(texted);
    remove_folder(out);
    return 0;
}

/* Removes the files of a folder; returns how many there were. */
static inline int empty(const char *folder, bool count_only)
{
    DIR           *dir = opendir(folder);
    struct dirent *entry;
    int            n = 0;

    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        char name[1024];

        if (entry->d_name[0] == '.')
            continue;
        n++;
        snprintf(name, sizeof name, "%s/%s", folder, entry->d_name);
        if (!count_only)
            (void)unlink(name);
    }
    if (dir != NULL)
        closedir(dir);
    return n;
}

static inline int clear(void **state)
{
    (void)state;
    empty(journal, false);
    (void)rmdir(journal);
    empty(out, false);
    return 0;
}

static inline upg_job_settings settings_of(bool calibrated, bool resume)
{
    upg_job_settings s = { .threads = 1, .journal = true, .resume = resume, .keep_seconds = -1 };

    if (calibrated)
        s.calibration = (upg_span) { upg_default_calibration, 3000 };
    return s;
}

static inline upg_status run(const char *checkpoint, const upg_job_settings *settings)
{
    upg_job   *job;
    upg_status st = upg_job_open(checkpoint, path, settings, &job, &err);

    if (st == UPG_OK)
        st = upg_job_run(job, &err);
    if (st == UPG_OK)
        assert_non_null(upg_job_result_json(job));
    upg_job_close(job);
    return st;
}

/* In a child that ends at step `at`; false: it came to its end before that. */
static inline bool run_cut(const char *checkpoint, const upg_job_settings *settings, uint64_t at,
                           bool power)
{
    int   code;
    pid_t child;

    fflush(NULL);
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        upg_job *job;

        power_cut_at(at, power);
        if (upg_job_open(checkpoint, path, settings, &job, &err) != UPG_OK ||
            upg_job_run(job, &err) != UPG_OK) {
            fprintf(stderr, "step %llu: %s\n", (unsigned long long)at, err.message);
            _exit(1);
        }
        _exit(0);
    }
    assert_int_equal(waitpid(child, &code, 0), child);
    assert_true(WIFEXITED(code));
    if (WEXITSTATUS(code) != 0 && WEXITSTATUS(code) != POWER_CUT_EXIT)
        fail_msg("the run that was to be cut at step %llu failed", (unsigned long long)at);
    return WEXITSTATUS(code) == POWER_CUT_EXIT;
}

/* The bytes without any disturbance, and without a journal. */
static inline char *undisturbed(const char *checkpoint, bool calibrated, size_t *size)
{
    upg_job_settings s = settings_of(calibrated, false);
    char            *bytes;

    s.journal = false;
    OK(run(checkpoint, &s));
    bytes = read_file(path, size);
    assert_int_equal(unlink(path), 0);
    return bytes;
}

static inline void expect_bytes(const char *want, size_t want_size)
{
    size_t size;
    char  *bytes = read_file(path, &size);

    assert_int_equal(size, want_size);
    assert_memory_equal(bytes, want, size);
    free(bytes);
    assert_int_equal(empty(out, true), 1); /* neither a journal nor a temporary */
}

/* Leaves a journal with some matrices in it. */
static inline void leave_journal(const char *checkpoint, bool calibrated)
{
    upg_job_settings s = settings_of(calibrated, false);

    clear(NULL);
    assert_true(run_cut(checkpoint, &s, 60, false));
    assert_true(upg_file_is_folder(journal));
}

static inline void refused(const char *checkpoint, const upg_job_settings *s, upg_status want,
                           const char *word)
{
    upg_status st = run(checkpoint, s);

    if (st != want || strstr(err.message, word) == NULL)
        fail_msg("status %d instead of %d, no \"%s\" in: %s", (int)st, (int)want, word,
                 st == UPG_OK ? "" : err.message);
}

static inline upg_job_settings worker_settings(bool calibrated)
{
    upg_job_settings s = settings_of(calibrated, false);

    s.journal = false;
    s.independent = calibrated;
    s.join = journal;
    s.lease_seconds = 1;
    return s;
}

/* A worker in a child; step 0: it is not cut. */
static inline pid_t start_worker(const char *checkpoint, const upg_job_settings *settings,
                                 uint64_t at)
{
    pid_t child;

    fflush(NULL);
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        upg_job *job;

        if (at > 0)
            power_cut_at(at, false);
        if (upg_job_open(checkpoint, path, settings, &job, &err) != UPG_OK ||
            upg_job_run(job, &err) != UPG_OK || upg_job_result_json(job) == NULL) {
            fprintf(stderr, "worker: %s\n", err.message);
            _exit(1);
        }
        upg_job_close(job);
        _exit(0);
    }
    return child;
}

static inline int end_of(pid_t child)
{
    int code;

    assert_int_equal(waitpid(child, &code, 0), child);
    assert_true(WIFEXITED(code));
    return WEXITSTATUS(code);
}

#endif
