#include "compress/lease.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"

enum { PATH_BYTES = 4096, NAME_BYTES = 64, BEATS = 5 };

/* A lease of somebody else as this worker saw it first. */
typedef struct sighting {
    char            name[NAME_BYTES]; /* of its file */
    struct timespec touched;
    uint64_t        since_ns;
} sighting;

enum { SIGHTINGS = 256 }; /* dead workers, at most */

struct upg_leases {
    char            folder[PATH_BYTES], clock[PATH_BYTES], held[PATH_BYTES]; /* held "" = none */
    char            id[NAME_BYTES];
    double          seconds;
    pthread_mutex_t mutex; /* of held and ending */
    pthread_cond_t  wake;
    pthread_t       thread;
    bool            ending, started;
    sighting        seen[SIGHTINGS]; /* of leases that time does not tell to be old */
    uint32_t        next_seen;
};

#define AHEAD 1.0 /* seconds: coarse clocks of file systems make less */

static void path_of(const upg_leases *l, const char *name, char *path)
{
    snprintf(path, PATH_BYTES, "%.4000s/lease-%.40s", l->folder, name);
}

static double seconds_of(const struct timespec *t)
{
    return (double)t->tv_sec + 1e-9 * (double)t->tv_nsec;
}

/* Touches the lease that is held, BEATS times in the time that it lasts. */
static void *beat(void *user)
{
    upg_leases *l = user;

    pthread_mutex_lock(&l->mutex);
    while (!l->ending) {
        struct timespec until;
        double          step = l->seconds / BEATS;

        clock_gettime(CLOCK_MONOTONIC, &until); /* which nobody sets back */
        until.tv_sec += (time_t)step;
        until.tv_nsec += (long)((step - (double)(time_t)step) * 1e9);
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        (void)pthread_cond_timedwait(&l->wake, &l->mutex, &until);
        if (l->held[0] != '\0')
            (void)utimensat(AT_FDCWD, l->held, NULL, 0);
    }
    pthread_mutex_unlock(&l->mutex);
    return NULL;
}

upg_status upg_leases_open(const char *folder, double seconds, upg_leases **out, upg_error *err)
{
    upg_leases *l = upg_calloc(1, sizeof *l, err);
    char        host[32] = "host";
    upg_status  st = l != NULL ? UPG_OK : UPG_E_NOMEM;
    int         file;

    pthread_condattr_t by_steady_time;

    UPG_TRY(st);
    (void)gethostname(host, sizeof host - 1);
    snprintf(l->folder, sizeof l->folder, "%s", folder);
    snprintf(l->id, sizeof l->id, "%s-%ld", host, (long)getpid());
    snprintf(l->clock, sizeof l->clock, "%.4000s/clock-%s", folder, l->id);
    l->seconds = seconds;
    file = open(l->clock, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    if (file < 0) {
        st = upg_fail_os(err, UPG_E_IO, errno, "%s: cannot be created", l->clock);
        upg_free(l);
        l = NULL;
        goto out;
    }
    close(file);
    pthread_mutex_init(&l->mutex, NULL);
    pthread_condattr_init(&by_steady_time);
    pthread_condattr_setclock(&by_steady_time, CLOCK_MONOTONIC);
    pthread_cond_init(&l->wake, &by_steady_time);
    pthread_condattr_destroy(&by_steady_time);
    l->started = pthread_create(&l->thread, NULL, beat, l) == 0;
    if (!l->started) {
        upg_leases_close(l);
        l = NULL;
        st = upg_fail(err, UPG_E_NOMEM, "cannot start a thread to keep leases");
    }
out:
    *out = l;
    return st;
}

/* Whether it was watched for as long as a lease lasts, and not touched. Few are watched at a time:
 * the place of the oldest sighting is used again when there are more. */
static bool is_still(upg_leases *l, const char *path, const struct timespec *touched)
{
    sighting   *s = NULL;
    const char *name = strrchr(path, '/') + 1;

    for (uint32_t i = 0; i < SIGHTINGS; i++)
        if (strcmp(l->seen[i].name, name) == 0)
            s = &l->seen[i];
    if (s == NULL) {
        s = &l->seen[l->next_seen++ % SIGHTINGS];
        snprintf(s->name, sizeof s->name, "%s", name);
        s->touched = (struct timespec) { 0 };
    }
    if (s->touched.tv_sec != touched->tv_sec || s->touched.tv_nsec != touched->tv_nsec) {
        s->touched = *touched;
        s->since_ns = upg_now_ns();
    }
    return (double)(upg_now_ns() - s->since_ns) * 1e-9 > l->seconds;
}

/* Whether nobody has touched it for as long as a lease lasts, by the file system's own time. A file
 * is opened to be asked: caches of network file systems are then checked. */
static bool is_expired(upg_leases *l, const char *path)
{
    struct stat lease, now;
    int         file = open(path, O_RDONLY | O_CLOEXEC);
    bool        expired = false;

    if (file < 0)
        return false;
    if (fstat(file, &lease) == 0 && utimensat(AT_FDCWD, l->clock, NULL, 0) == 0 &&
        stat(l->clock, &now) == 0)
        expired = seconds_of(&now.st_mtim) - seconds_of(&lease.st_mtim) > l->seconds ||
                  (seconds_of(&lease.st_mtim) > seconds_of(&now.st_mtim) + AHEAD &&
                   is_still(l, path, &lease.st_mtim));
    close(file);
    return expired;
}

bool upg_lease_is_free(upg_leases *l, const char *name)
{
    char path[PATH_BYTES];

    path_of(l, name, path);
    return access(path, F_OK) != 0 || is_expired(l, path);
}

bool upg_lease_claim(upg_leases *l, const char *name)
{
    char path[PATH_BYTES], old[PATH_BYTES];
    int  file;

    upg_lease_release(l);
    path_of(l, name, path);
    if (access(path, F_OK) == 0) {
        if (!is_expired(l, path))
            return false;
        snprintf(old, sizeof old, "%.4000s/lease-old-%s", l->folder, l->id);
        if (rename(path, old) != 0) /* one of those who saw it expired gets it */
            return false;
        (void)unlink(old);
    }
    file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (file < 0)
        return false;
    (void)!write(file, l->id, strlen(l->id)); /* for people */
    close(file);
    pthread_mutex_lock(&l->mutex);
    memcpy(l->held, path, sizeof l->held);
    pthread_mutex_unlock(&l->mutex);
    return true;
}

void upg_lease_release(upg_leases *l)
{
    pthread_mutex_lock(&l->mutex);
    if (l->held[0] != '\0')
        (void)unlink(l->held);
    l->held[0] = '\0';
    pthread_mutex_unlock(&l->mutex);
}

void upg_leases_close(upg_leases *l)
{
    if (l == NULL)
        return;
    upg_lease_release(l);
    pthread_mutex_lock(&l->mutex);
    l->ending = true;
    pthread_cond_signal(&l->wake);
    pthread_mutex_unlock(&l->mutex);
    if (l->started)
        pthread_join(l->thread, NULL);
    (void)unlink(l->clock);
    pthread_cond_destroy(&l->wake);
    pthread_mutex_destroy(&l->mutex);
    upg_free(l);
}
