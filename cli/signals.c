/* signals.c: the handler touches atomics and the library's _cancel functions, which upg.h allows in
 * signal handlers, and nothing else. */
#include "signals.h"

#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <unistd.h>

#include "report.h"

static _Atomic(upg_session *)  watched_session;
static _Atomic(upg_compress *) watched_job;
static atomic_int              caught; /* signals since the last take */
static atomic_int              last_signal;

static void on_signal(int number)
{
    upg_session  *session = atomic_load(&watched_session);
    upg_compress *job = atomic_load(&watched_job);

    atomic_store(&last_signal, number);
    if (atomic_fetch_add(&caught, 1) > 0)
        _exit(128 + number);
    if (session)
        upg_session_cancel(session);
    if (job)
        upg_compress_cancel(job);
}

static void install(int number)
{
    struct sigaction old;
    struct sigaction action = { .sa_handler = on_signal }; /* no SA_RESTART: reads return */

    sigemptyset(&action.sa_mask);
    if (sigaction(number, NULL, &old) == 0 && old.sa_handler != SIG_IGN)
        sigaction(number, &action, NULL);
}

void cli_signals_install(void)
{
    install(SIGINT);
    install(SIGTERM);
    if (upg_guard_maps(NULL) != UPG_OK) /* as without: such a file ends the program */
        return;
}

void cli_signals_watch_session(upg_session *session)
{
    atomic_store(&watched_session, session);
}

void cli_signals_watch_job(upg_compress *job)
{
    atomic_store(&watched_job, job);
}

bool cli_signals_caught(void)
{
    return atomic_load(&caught) > 0;
}

void cli_signals_take(void)
{
    atomic_store(&caught, 0);
}

int cli_signals_exit_code(void)
{
    return atomic_load(&last_signal) == SIGTERM ? CLI_TERMINATED : CLI_INTERRUPTED;
}
