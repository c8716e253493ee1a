/* child.c: fork, exec, and both outputs read as they come, so that neither pipe fills up. */
#include "child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { OUTPUT_MAX = 64 << 20 };

typedef struct reader {
    int    fd;
    char  *data;
    size_t size, cap;
    bool   failed;
} reader;

static void read_some(reader *r)
{
    ssize_t got;

    if (r->cap - r->size < 4096) {
        char *moved = r->cap < OUTPUT_MAX ? realloc(r->data, 2 * r->cap) : NULL;

        if (!moved) {
            r->failed = true;
            return;
        }
        r->data = moved;
        r->cap *= 2;
    }
    got = read(r->fd, r->data + r->size, r->cap - r->size - 1);
    if (got > 0) {
        r->size += (size_t)got;
    } else if (got == 0 || errno != EINTR) {
        close(r->fd);
        r->fd = -1;
    }
    r->data[r->size] = '\0';
}

static void read_all(reader readers[2])
{
    while ((readers[0].fd >= 0 || readers[1].fd >= 0) && !readers[0].failed && !readers[1].failed) {
        struct pollfd polled[2] = { { readers[0].fd, POLLIN, 0 }, { readers[1].fd, POLLIN, 0 } };

        if (poll(polled, 2, -1) < 0 && errno != EINTR)
            return;
        for (int i = 0; i < 2; i++)
            if (polled[i].fd >= 0 && polled[i].revents)
                read_some(&readers[i]);
    }
}

static _Noreturn void become(const char *const *argv, const char *variable, const char *value,
                             const int *out, const int *err)
{
    int null = open("/dev/null", O_RDONLY);

    dup2(null, STDIN_FILENO);
    dup2(out[1], STDOUT_FILENO);
    dup2(err[1], STDERR_FILENO);
    if (!variable || setenv(variable, value, 1) == 0)
        execvp(argv[0], (char *const *)argv); /* which changes nothing of it */
    _exit(127);
}

static int wait_for(pid_t pid)
{
    int how;

    while (waitpid(pid, &how, 0) < 0)
        if (errno != EINTR)
            return 127;
    return WIFEXITED(how) ? WEXITSTATUS(how) : 128 + WTERMSIG(how);
}

static bool open_reader(reader *r)
{
    *r = (reader) { .fd = -1, .data = calloc(1, 8192), .cap = 8192 };
    return r->data != NULL;
}

bool cli_child_run(const char *const *argv, const char *variable, const char *value,
                   cli_child *child)
{
    reader readers[2];
    int    out[2] = { -1, -1 }, err[2] = { -1, -1 };
    pid_t  pid = -1;
    bool   ready = open_reader(&readers[0]);

    ready = open_reader(&readers[1]) && ready && pipe(out) == 0 && pipe(err) == 0;
    for (int i = 0; i < 2 && ready; i++) { /* the child's copies go by exec */
        fcntl(out[i], F_SETFD, FD_CLOEXEC);
        fcntl(err[i], F_SETFD, FD_CLOEXEC);
    }
    if (ready && (pid = fork()) == 0)
        become(argv, variable, value, out, err);
    close(out[1]);
    close(err[1]);
    readers[0].fd = out[0];
    readers[1].fd = err[0];
    if (pid > 0)
        read_all(readers);
    for (int i = 0; i < 2; i++)
        if (readers[i].fd >= 0)
            close(readers[i].fd);
    child->exit_code = pid > 0 ? wait_for(pid) : 127;
    child->output = readers[0].data;
    child->errors = readers[1].data;
    if (pid > 0 && !readers[0].failed && !readers[1].failed)
        return true;
    cli_child_free(child);
    return false;
}

void cli_child_free(cli_child *child)
{
    free(child->output);
    free(child->errors);
    *child = (cli_child) { 0 };
}

bool cli_own_path(char *text, size_t cap)
{
    ssize_t n = readlink("/proc/self/exe", text, cap - 1);

    if (n <= 0 || (size_t)n >= cap - 1)
        return false;
    text[n] = '\0';
    return true;
}
