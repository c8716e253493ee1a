/* How often a compression reads its checkpoint from the disk, on a machine whose memory cannot keep
 * it: pages that are let go of leave the system's cache too, and what the process then reads from
 * the disk is counted by the kernel (/proc/self/io). */
#include "compress_fixture.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "compress/job.h"
#include "support/make_checkpoint.h"
#include "support/temp_folder.h"

static char *folder;
static char  shard[600], path[600];
static int   file = -1;

static int set_up(void **state)
{
    test_model_shape shape = test_model_small();

    (void)state;
    folder = make_folder();
    shape.hidden = 256;
    shape.vocab = 16384;
    shape.ffn = 768;
    snprintf(shard, sizeof shard, "%s/model.safetensors", folder);
    snprintf(path, sizeof path, "%s/out.upg", folder);
    OK(make_checkpoint(folder, &shape, 1, &err));
    file = open(shard, O_RDONLY | O_CLOEXEC);
    assert_true(file >= 0);
    assert_int_equal(fsync(file), 0);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    close(file);
    remove_folder(folder);
    return 0;
}

/* Bytes that this process has had read from disks. */
static uint64_t disk_reads(void)
{
    FILE    *io = fopen("/proc/self/io", "r");
    char     line[100];
    uint64_t bytes = 0;

    while (io != NULL && fgets(line, sizeof line, io) != NULL)
        (void)sscanf(line, "read_bytes: %" SCNu64, &bytes);
    if (io != NULL)
        fclose(io);
    return bytes;
}

static void drop(uint64_t offset, uint64_t bytes)
{
    (void)posix_fadvise(file, (off_t)offset, (off_t)bytes, POSIX_FADV_DONTNEED);
}

/* The system keeps a file in pieces of up to 2 MiB, and drops them as a whole: neighbours have to
 * stay. */
static void drop_within(uint64_t begin, uint64_t end)
{
    const uint64_t piece = 2 << 20;

    begin = (begin + piece - 1) / piece * piece;
    end = end / piece * piece;
    if (begin < end)
        drop(begin, end - begin);
}

static void on_forget(void *user, const void *memory, size_t bytes)
{
    const upg_weights *w = *(const upg_weights *const *)user;

    for (uint32_t i = 0; w != NULL && i < upg_weights_matrix_count(w); i++) {
        const upg_matrix *m = upg_weights_matrix(w, i);
        uintptr_t         at = (uintptr_t)memory - (uintptr_t)m->dense;

        if (at < (uint64_t)m->n_rows * m->n_cols * 2)
            drop_within(m->file_offset + at, m->file_offset + at + bytes);
    }
}

/* Reads of the checkpoint, as a multiple of its size; planning opens the job, so that its forgets
 * are not known to a matrix: the cache is emptied between. */
static double reads(const upg_job_settings *settings)
{
    const upg_weights *weights = NULL;
    struct stat        info;
    uint64_t           before;
    upg_job           *job;
    double             times;

    assert_int_equal(fstat(file, &info), 0);
    drop(0, 0);
    before = disk_reads();
    OK(upg_job_open(folder, path, settings, &job, &err));
    drop(0, 0);
    weights = upg_job_weights(job);
    upg_map_watch_forgets(on_forget, (void *)&weights);
    OK(upg_job_run(job, &err));
    upg_map_watch_forgets(NULL, NULL);
    times = (double)(disk_reads() - before) / (double)info.st_size;
    upg_job_close(job);
    assert_int_equal(unlink(path), 0);
    return times;
}

static bool is_counted(void)
{
    uint64_t before = disk_reads();
    char     bytes[4096];

    drop(0, 0);
    assert_int_equal(pread(file, bytes, sizeof bytes, 1 << 20), (ssize_t)sizeof bytes);
    return disk_reads() > before;
}

/* A plan that needs no weights: one read, by the coding, which hashes on the way. A piece at the
 * border of a large matrix may be read again; a second reading of both would make 1.6. */
static void once_where_the_plan_needs_no_weights(void **state)
{
    upg_job_settings s = { .threads = 2, .journal = true, .without_outliers = true };
    double           times;

    (void)state;
    if (!is_counted()) {
        print_message("skipped: reads of this file system are not counted\n");
        skip();
    }
    times = reads(&s);
    print_message("read %.3f times\n", times);
    assert_true(times > .95 && times < 1.35);
}

/* Outliers of all matrices share one budget, so that nothing can be coded before all was read. */
static void twice_where_it_does(void **state)
{
    upg_job_settings s = { .threads = 2, .journal = true };
    double           times;

    (void)state;
    if (!is_counted())
        skip();
    times = reads(&s);
    print_message("read %.3f times\n", times);
    assert_true(times > 1.9 && times < 2.2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(once_where_the_plan_needs_no_weights),
        cmocka_unit_test(twice_where_it_does),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
