/* Compressions that end early and are resumed: at every step that changes the disk, killed or with
 * the power cut, the file that comes out in the end has the bytes of one that was not disturbed;
 * and every reason for which a journal is refused. */
#include "journal_fixture.h"

/* Resumes what was cut. Once the last trace of the journal is gone, the file that an earlier run
 * made is one like any other, and is not replaced. */
static void resume(const char *checkpoint, const upg_job_settings *settings)
{
    char head[700], done[700];

    snprintf(head, sizeof head, "%s/head.json", journal);
    snprintf(done, sizeof done, "%s/done.json", journal);
    if (access(head, F_OK) != 0 && access(done, F_OK) != 0 && access(path, F_OK) == 0) {
        assert_int_equal(run(checkpoint, settings), UPG_E_EXISTS);
        empty(journal, false);
        (void)rmdir(journal);
    } else {
        OK(run(checkpoint, settings));
    }
}

/* Every `stride`th step, all of them when UPG_LONG_TESTS is set. */
static void cut_everywhere(const char *checkpoint, bool calibrated, uint64_t stride)
{
    size_t           size;
    char            *want = undisturbed(checkpoint, calibrated, &size);
    upg_job_settings first = settings_of(calibrated, false), again = settings_of(calibrated, true);
    uint64_t         at = 1, n = 0;

    if (getenv("UPG_LONG_TESTS") != NULL)
        stride = 1;
    for (bool cut = true; cut; at += stride) {
        for (int power = 0; power < 2; power++) {
            cut = run_cut(checkpoint, &first, at, power != 0);
            /* and once more on the way back, somewhere else */
            if (cut && at % 3 == 0 && access(path, F_OK) != 0)
                (void)run_cut(checkpoint, &again, 1 + at * 7 % 40, power == 0);
            if (cut)
                resume(checkpoint, &again);
            expect_bytes(want, size);
            assert_int_equal(unlink(path), 0);
            n++;
        }
    }
    print_message("%llu cuts, up to step %llu\n", (unsigned long long)n, (unsigned long long)at);
    free(want);
}

static void nearest_cut_everywhere(void **state)
{
    (void)state;
    cut_everywhere(plain, false, 3);
}

static void calibrated_cut_everywhere(void **state)
{
    (void)state;
    cut_everywhere(texted, true, 25);
}

/* ---- failures -------------------------------------------------------------------------------- */

/* The temporary output went by itself. */
static void expect_nothing_but_journal(void)
{
    assert_int_equal(empty(out, true), upg_file_exists(journal) ? 1 : 0);
}

static void a_full_disk_can_be_resumed(void **state)
{
    size_t           size;
    char            *want = undisturbed(plain, false, &size);
    upg_job_settings first = settings_of(false, false), again = settings_of(false, true);
    upg_status       st = UPG_E_NOSPACE;

    (void)state;
    for (uint64_t n = 0; st != UPG_OK; n += 3) {
        upg_file_fail_after(n, ENOSPC);
        st = run(plain, &first);
        upg_file_fail_after(UINT64_MAX, 0);
        if (st != UPG_OK)
            assert_int_equal(st, UPG_E_NOSPACE);
        if (st != UPG_OK) {
            assert_int_not_equal(access(path, F_OK), 0);
            expect_nothing_but_journal();
            OK(run(plain, &again));
        }
        if (st != UPG_OK)
            expect_bytes(want, size);
        clear(NULL); /* a journal that could not be removed does no harm */
    }
    free(want);
}

static int stop(void *user, const upg_progress_report *now)
{
    (void)now;
    return ++*(int *)user > 0;
}

static void cancelled_work_can_be_resumed(void **state)
{
    size_t           size;
    char            *want = undisturbed(plain, false, &size);
    upg_job_settings first = settings_of(false, false), again = settings_of(false, true);
    int              calls = 0;

    (void)state;
    first.listener = (upg_listener) { .report = stop, .user = &calls };
    assert_int_equal(run(plain, &first), UPG_E_CANCELLED);
    assert_true(upg_file_is_folder(journal));
    first.listener = (upg_listener) { 0 };
    assert_int_equal(run(plain, &first), UPG_E_EXISTS);
    assert_non_null(strstr(err.message, "--resume"));
    OK(run(plain, &again));
    expect_bytes(want, size);
    /* where there is none, resuming begins afresh; the output is not replaced unasked */
    assert_int_equal(run(plain, &again), UPG_E_EXISTS);
    assert_int_equal(unlink(path), 0);
    OK(run(plain, &again));
    expect_bytes(want, size);
    free(want);
}

static void other_options_are_refused(void **state)
{
    upg_job_settings s = settings_of(false, true);

    (void)state;
    leave_journal(plain, false);
    s.seed = 5;
    refused(plain, &s, UPG_E_UNSUPPORTED, "seed");
    s = settings_of(false, true);
    s.bits_per_parameter = 4;
    refused(plain, &s, UPG_E_UNSUPPORTED, "bits_per_parameter");
    s = settings_of(false, true);
    s.without_outliers = true;
    refused(plain, &s, UPG_E_UNSUPPORTED, "outliers");
    s = settings_of(false, true);
    s.threads = 3; /* changes nothing */
    OK(run(plain, &s));
}

static void changed_input_is_refused(void **state)
{
    upg_job_settings s = settings_of(false, true);
    char             shard[600], *bytes;
    size_t           size;
    struct timespec  times[2] = { { 1, 0 }, { 1, 0 } };

    (void)state;
    snprintf(shard, sizeof shard, "%s/model.safetensors", plain);
    leave_journal(plain, false);
    bytes = read_file(shard, &size);
    bytes[size - 999] ^= 1;
    write_file(shard, bytes, size);
    refused(plain, &s, UPG_E_DATA, "has changed since");
    bytes[size - 999] ^= 1;
    write_file(shard, bytes, size); /* as it was, but for its time: read again and found equal */
    assert_int_equal(utimensat(AT_FDCWD, shard, times, 0), 0);
    OK(run(plain, &s));
    free(bytes);
}

static void damaged_journals_are_refused(void **state)
{
    static const char *const names[] = { "head.json", "m000000", "m000001" };
    upg_job_settings         s = settings_of(false, true);

    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char   name[700], *bytes;
        size_t size;

        leave_journal(plain, false);
        snprintf(name, sizeof name, "%s/%s", journal, names[i]);
        bytes = read_file(name, &size);
        bytes[size / 2] ^= 4;
        write_file(name, bytes, size);
        refused(plain, &s, UPG_E_CORRUPT, "start again");
        write_file(name, bytes, 20);
        refused(plain, &s, UPG_E_CORRUPT, "start again");
        free(bytes);
        if (i > 0) { /* as the message says */
            assert_int_equal(unlink(name), 0);
            OK(run(plain, &s));
        }
    }
}

static void a_journal_at_work_is_busy(void **state)
{
    upg_job_settings s = settings_of(false, true);
    upg_job         *one, *two;

    (void)state;
    leave_journal(plain, false);
    OK(upg_job_open(plain, path, &s, &one, &err));
    assert_int_equal(upg_job_open(plain, path, &s, &two, &err), UPG_E_BUSY);
    upg_job_close(one);
    OK(run(plain, &s));
}

/* ---- several workers ------------------------------------------------------------------------- */

static void share(const char *checkpoint, bool calibrated)
{
    upg_job_settings alone = settings_of(calibrated, false), s = worker_settings(calibrated);
    size_t           size, got;
    char            *want, *bytes;
    pid_t            doomed, a, b;

    clear(NULL);
    alone.journal = false;
    alone.independent = calibrated;
    OK(run(checkpoint, &alone));
    want = read_file(path, &size);
    assert_int_equal(unlink(path), 0);
    doomed = start_worker(checkpoint, &s, 40); /* dies while it holds a lease */
    a = start_worker(checkpoint, &s, 0);
    b = start_worker(checkpoint, &s, 0);
    (void)end_of(doomed); /* the others may have done everything before its end came */
    assert_int_equal(end_of(a), 0);
    assert_int_equal(end_of(b), 0);
    bytes = read_file(path, &got);
    assert_int_equal(got, size);
    assert_memory_equal(bytes, want, size);
    assert_int_equal(end_of(start_worker(checkpoint, &s, 0)), 0); /* late: it finds the result */
    free(bytes);
    free(want);
}

static void workers_share_and_one_dies(void **state)
{
    (void)state;
    share(plain, false);
    share(texted, true);
}

static void workers_with_other_options_are_refused(void **state)
{
    upg_job_settings s = worker_settings(false);
    pid_t            first;

    (void)state;
    first = start_worker(plain, &s, 60);
    assert_int_equal(end_of(first), POWER_CUT_EXIT);
    s.seed = 8;
    refused(plain, &s, UPG_E_UNSUPPORTED, "seed");
    s = worker_settings(false);
    OK(run(plain, &s)); /* takes over what the dead one held */
    s = worker_settings(true);
    s.independent = false;
    refused(texted, &s, UPG_E_UNSUPPORTED, "independent");
}

int main(void)
{
#define EACH(name) cmocka_unit_test_setup_teardown(name, clear, clear)
    const struct CMUnitTest tests[] = {
        EACH(nearest_cut_everywhere),       EACH(calibrated_cut_everywhere),
        EACH(a_full_disk_can_be_resumed),   EACH(cancelled_work_can_be_resumed),
        EACH(other_options_are_refused),    EACH(changed_input_is_refused),
        EACH(damaged_journals_are_refused), EACH(a_journal_at_work_is_busy),
        EACH(workers_share_and_one_dies),   EACH(workers_with_other_options_are_refused),
    };

    return cmocka_run_group_tests(tests, make_all, remove_all);
}
