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

enum { PATH_BYTES = 4096, NAME_BYTES = 64, BEATS = 5 };

struct upg_leases {
    char            folder[PATH_BYTES], clock[PATH_BYTES], held[PATH_BYTES]; /* held "" = none */
    char            id[NAME_BYTES];
    double          seconds;
    pthread_mutex_t mutex; /* of held and ending */
    pthread_cond_t  wake;
    pthread_t       thread;
    bool            ending, started;
};

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

        clock_gettime(CLOCK_REALTIME, &until);
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
    pthread_cond_init(&l->wake, NULL);
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

/* Whether nobody has touched it for as long as a lease lasts, by the file system's own time. A file
 * is opened to be asked: caches of network file systems are then checked. */
static bool is_expired(const upg_leases *l, const char *path)
{
    struct stat lease, now;
    int         file = open(path, O_RDONLY | O_CLOEXEC);
    bool        expired = false;

    if (file < 0)
        return false;
    if (fstat(file, &lease) == 0 && utimensat(AT_FDCWD, l->clock, NULL, 0) == 0 &&
        stat(l->clock, &now) == 0)
        expired = seconds_of(&now.st_mtim) - seconds_of(&lease.st_mtim) > l->seconds;
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
