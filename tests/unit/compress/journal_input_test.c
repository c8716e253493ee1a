/* What can happen to a checkpoint, to a journal and to its clocks while they are used: a shard that
 * cannot be read any more, or is another one, a machine that computes otherwise, times that lie.
 * Nothing made of something else stays, and with everything put back the same bytes come out. */
#include "journal_fixture.h"

#include <sys/mman.h>
#include <time.h>

#include "base/map_guard.h"
#include "compress/journal_format.h"

static char      *sharded;
static char       shard[600], aside[700];
static const char second_shard[] = "model-00002-of-00002.safetensors";

static int make_sharded(void **state)
{
    test_model_shape shape = test_model_small();

    make_all(state);
    sharded = make_folder();
    shape.ffn = 512;
    shape.n_shards = 2;
    OK(make_checkpoint(sharded, &shape, 1, &err));
    snprintf(shard, sizeof shard, "%s/%s", sharded, second_shard);
    snprintf(aside, sizeof aside, "%s/aside", sharded);
    return 0;
}

static int remove_sharded(void **state)
{
    remove_folder(sharded);
    return remove_all(state);
}

/* ---- midway ---------------------------------------------------------------------------------- */

/* Something that happens when the second matrix has come into the journal. */
static struct {
    void (*happen)(void);
    upg_job *job;
} midway;

static void watch(void *user, upg_file_op op, const char *from, const char *to)
{
    (void)user;
    (void)from;
    if (op != UPG_FILE_RENAME || to == NULL || strstr(to, "/m000001") == NULL)
        return;
    upg_file_watch(NULL, NULL);
    midway.happen();
}

static upg_status run_midway(const upg_job_settings *s, void (*happen)(void))
{
    upg_status st;

    OK(upg_job_open(sharded, path, s, &midway.job, &err));
    midway.happen = happen;
    upg_file_watch(watch, NULL);
    st = upg_job_run(midway.job, &err);
    upg_file_watch(NULL, NULL);
    upg_job_close(midway.job);
    return st;
}

/* The last matrix's pages raise SIGBUS from now on, which is what a disk that gives EIO does to who
 * reads a mapping. */
static void disk_fails(void)
{
    const upg_weights *w = upg_job_weights(midway.job);
    const upg_matrix  *m = upg_weights_matrix(w, upg_weights_matrix_count(w) - 1);
    uintptr_t          page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t          begin = (uintptr_t)m->dense / page * page;
    uintptr_t          end = (uintptr_t)m->dense + (uintptr_t)m->n_rows * m->n_cols * 2;
    int                nothing = memfd_create("nothing", MFD_CLOEXEC);

    assert_true(nothing >= 0);
    assert_true(mmap((void *)begin, (end - begin + page - 1) / page * page, PROT_READ,
                     MAP_SHARED | MAP_FIXED, nothing, 0) == (void *)begin);
    close(nothing);
}

static void is_cut(void)
{
    struct stat info;

    assert_int_equal(stat(shard, &info), 0);
    assert_int_equal(truncate(shard, info.st_size / 2), 0);
}

static void is_removed(void)
{
    assert_int_equal(rename(shard, aside), 0);
}

static void is_written(void)
{
    int file = open(shard, O_RDWR | O_CLOEXEC);

    assert_true(file >= 0);
    assert_int_equal(pwrite(file, "????", 4, lseek(file, 0, SEEK_END) - 64), 4);
    close(file);
}

/* Puts the shard back, with its time. */
static void put_back(const char *bytes, size_t size, const struct stat *info)
{
    struct timespec times[2] = { info->st_atim, info->st_mtim };

    (void)rename(aside, shard);
    write_file(shard, bytes, size);
    assert_int_equal(utimensat(AT_FDCWD, shard, times, 0), 0);
}

/* In one test, since cmocka puts handlers of its own in place before each. */
static void shards_change_midway(void **state)
{
    static const struct {
        void (*happen)(void);
        const char *word, *resumed_word; /* NULL: it can be resumed as it is left */
        upg_status  status, resumed;
    } cases[] = {
        { disk_fails, "lost its bytes", NULL, UPG_E_IO, UPG_OK },
        { is_cut, "changed while it was read", second_shard, UPG_E_DATA, UPG_E_FORMAT },
        { is_removed, "is gone", second_shard, UPG_E_IO, UPG_E_NOT_FOUND },
        { is_written, "changed while it was read", "has changed since", UPG_E_DATA, UPG_E_DATA },
    };
    upg_job_settings first = settings_of(false, false), again = settings_of(false, true);
    struct stat      info;
    size_t           size, shard_size;
    char            *want = undisturbed(sharded, false, &size);
    char            *bytes = read_file(shard, &shard_size);

    (void)state;
    assert_int_equal(stat(shard, &info), 0);
    OK(upg_map_guard_install(&err));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        upg_status st = run_midway(&first, cases[i].happen);

        if (st != cases[i].status || strstr(err.message, cases[i].word) == NULL)
            fail_msg("case %zu: status %d: %s", i, (int)st, err.message);
        assert_int_equal(access(path, F_OK), -1);
        assert_true(upg_file_is_folder(journal));
        if (cases[i].resumed != UPG_OK)
            refused(sharded, &again, cases[i].resumed, cases[i].resumed_word);
        put_back(bytes, shard_size, &info);
        OK(run(sharded, &again));
        expect_bytes(want, size);
        assert_int_equal(unlink(path), 0);
    }
    free(bytes);
    free(want);
}

/* ---- hashes where the weights are read once -------------------------------------------------- */

static upg_job_settings unplanned(bool resume)
{
    upg_job_settings s = settings_of(false, resume);

    s.without_outliers = true; /* the plan follows from shapes: coding reads the weights first */
    return s;
}

static void touch(const char *name, time_t seconds)
{
    struct timespec times[2] = { { seconds, 0 }, { seconds, 0 } };

    assert_int_equal(utimensat(AT_FDCWD, name, times, 0), 0);
}

static void records_hold_the_hashes(void **state)
{
    upg_job_settings first = unplanned(false), again = unplanned(true);
    char             file[600], head[700], *bytes, *text;
    size_t           size;

    (void)state;
    snprintf(file, sizeof file, "%s/model.safetensors", plain);
    snprintf(head, sizeof head, "%s/head.json", journal);
    bytes = read_file(file, &size);
    assert_true(run_cut(plain, &first, 60, false));
    text = read_file(head, NULL);
    assert_non_null(strstr(text, "null")); /* no hash was known when it was begun */
    free(text);
    touch(file, 1000);
    refused(plain, &again, UPG_E_DATA, "nobody can tell");
    bytes[size / 2] ^= 1;
    write_file(file, bytes, size);
    refused(plain, &again, UPG_E_DATA, "journal was begun");
    bytes[size / 2] ^= 1;
    write_file(file, bytes, size);
    free(bytes);
}

/* ---- other machines -------------------------------------------------------------------------- */

/* As if the journal had been begun where BLAS has other kernels. */
static void move_to_other_machine(const char *field)
{
    char       name[700], *bytes;
    size_t     size;
    json_t    *head;
    upg_buffer text;

    snprintf(name, sizeof name, "%s/head.json", journal);
    bytes = read_file(name, &size);
    OK(upg_journal_text_parse((upg_span) { (const uint8_t *)bytes, size }, &head, &err));
    assert_int_equal(
        json_object_set_new(json_object_get(head, "machine"), field, json_string("Imaginary")), 0);
    upg_buffer_init(&text, 16 << 20);
    OK(upg_journal_text_print(head, &text, &err));
    write_file(name, text.data, text.size);
    upg_buffer_deinit(&text);
    json_decref(head);
    free(bytes);
}

static void other_arithmetic_is_refused(void **state)
{
    upg_job_settings again = settings_of(false, true), worker = worker_settings(false);

    (void)state;
    leave_journal(plain, false);
    move_to_other_machine("blas_core");
    refused(plain, &again, UPG_E_UNSUPPORTED, "the machine's blas_core = \"Imaginary\"");
    refused(plain, &worker, UPG_E_UNSUPPORTED, "blas_core");
    clear(NULL);
    assert_int_equal(end_of(start_worker(plain, &worker, 60)), POWER_CUT_EXIT);
    move_to_other_machine("cpu_flags"); /* the second of two workers, while the first is there */
    refused(plain, &worker, UPG_E_UNSUPPORTED, "cpu_flags");
}

/* ---- clocks ---------------------------------------------------------------------------------- */

/* Gives all leases another time; returns how many there were. */
static int skew_leases(time_t seconds)
{
    DIR           *dir = opendir(journal);
    struct dirent *entry;
    int            n = 0;

    assert_non_null(dir);
    while ((entry = readdir(dir)) != NULL) {
        char name[1024];

        if (strncmp(entry->d_name, "lease-", 6) != 0)
            continue;
        snprintf(name, sizeof name, "%s/%s", journal, entry->d_name);
        touch(name, seconds);
        n++;
    }
    closedir(dir);
    return n;
}

/* A worker died, and its lease lies a day ahead, or in 1970: others take its work in either case.
 */
static void dead_leases_with_wrong_times(void **state)
{
    const time_t     times[] = { time(NULL) + 86400, 1000 };
    upg_job_settings alone = settings_of(false, false), s = worker_settings(false);
    size_t           size, got;
    char            *want;

    (void)state;
    alone.journal = false;
    OK(run(plain, &alone));
    want = read_file(path, &size);
    for (int i = 0; i < 2; i++) {
        char *bytes;

        clear(NULL);
        assert_int_equal(end_of(start_worker(plain, &s, 60)), POWER_CUT_EXIT);
        assert_int_equal(skew_leases(times[i]), 1);
        assert_int_equal(end_of(start_worker(plain, &s, 0)), 0);
        bytes = read_file(path, &got);
        assert_int_equal(got, size);
        assert_memory_equal(bytes, want, size);
        free(bytes);
    }
    free(want);
}

/* ---- temporaries ----------------------------------------------------------------------------- */

static void temporaries_of_the_dead_go(void **state)
{
    upg_job_settings s = settings_of(false, false);
    char             dead[700], foreign[700], other[700];
    upg_outfile     *alive = NULL;

    (void)state;
    snprintf(dead, sizeof dead, "%s.tmp-Ab3dE6", path);
    snprintf(foreign, sizeof foreign, "%s.tmp-Ab3dE6x", path);
    snprintf(other, sizeof other, "%s/other.upg.tmp-Ab3dE6", out);
    write_file(dead, "x", 1);
    write_file(foreign, "x", 1);
    write_file(other, "x", 1);
    OK(upg_outfile_create(path, false, &alive, &err));
    OK(run(plain, &s));
    assert_int_not_equal(access(dead, F_OK), 0);
    assert_int_equal(access(foreign, F_OK), 0); /* not of this form, or of another file */
    assert_int_equal(access(other, F_OK), 0);
    assert_int_equal(access(upg_outfile_temporary(alive), F_OK), 0); /* somebody writes it */
    upg_outfile_discard(alive);
}

/* ---- disk ------------------------------------------------------------------------------------ */

static uint64_t most_bytes;

/* What the journal takes at this moment, blocks of the file system included. */
static void weigh(void *user, upg_file_op op, const char *from, const char *to)
{
    DIR           *dir = opendir(journal);
    struct dirent *entry;
    struct stat    info;
    uint64_t       bytes = 0;

    (void)user;
    (void)op;
    (void)from;
    (void)to;
    while (dir != NULL && (entry = readdir(dir)) != NULL)
        if (fstatat(dirfd(dir), entry->d_name, &info, 0) == 0 && S_ISREG(info.st_mode))
            bytes += (uint64_t)info.st_blocks * 512;
    if (dir != NULL)
        closedir(dir);
    most_bytes = bytes > most_bytes ? bytes : most_bytes;
}

static void journals_take_what_was_planned(void **state)
{
    upg_job_settings s = settings_of(true, false);
    uint64_t         planned;
    upg_job         *job;

    (void)state;
    OK(upg_job_open(texted, path, &s, &job, &err));
    planned = upg_job_journal(job, true);
    most_bytes = 0;
    upg_file_watch(weigh, NULL);
    OK(upg_job_run(job, &err));
    upg_file_watch(NULL, NULL);
    upg_job_close(job);
    print_message("%llu bytes planned, %llu taken\n", (unsigned long long)planned,
                  (unsigned long long)most_bytes);
    assert_true(most_bytes > 100000);
    assert_true(most_bytes <= planned && planned - most_bytes < UINT64_C(2) << 20);
}

int main(void)
{
#define EACH(name) cmocka_unit_test_setup_teardown(name, clear, clear)
    const struct CMUnitTest tests[] = {
        EACH(shards_change_midway),        EACH(records_hold_the_hashes),
        EACH(other_arithmetic_is_refused), EACH(dead_leases_with_wrong_times),
        EACH(temporaries_of_the_dead_go),  EACH(journals_take_what_was_planned),
    };

    return cmocka_run_group_tests(tests, make_sharded, remove_sharded);
}
