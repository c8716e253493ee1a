/* progress.h: how a long operation tells how far it is, and learns that it is to stop.
 *
 * Workers add to a meter from any thread; the report is made from the calling thread alone, at most
 * ten times a second and at the end of a stage (upg.h promises both). */
#ifndef UPG_BASE_PROGRESS_H
#define UPG_BASE_PROGRESS_H

#include <stdatomic.h>
#include <stdint.h>

#include "base/error.h"

typedef struct upg_progress_report {
    const char *stage, *unit;
    uint64_t    done, total;   /* in units; total 0 = not known */
    double      rate, seconds; /* units per second now; seconds left, < 0 = not known */
} upg_progress_report;

/** Who listens. All zero = nobody. */
typedef struct upg_listener {
    int (*report)(void *user, const upg_progress_report *now); /* anything but 0 cancels */
    void              *user;
    const atomic_bool *cancel; /* NULL, or set by another thread or a signal handler */
} upg_listener;

typedef struct upg_meter {
    const upg_listener  *listener;
    upg_progress_report  now;
    atomic_uint_fast64_t done;
    atomic_bool          cancelled;
    uint64_t             start_ns, last_ns; /* of the stage; of the last report */
} upg_meter;

/** Begins a stage. `listener` outlives it. */
void upg_meter_start(upg_meter *meter, const upg_listener *listener, const char *stage,
                     const char *unit, uint64_t total);
/** Any thread: n more units are done. */
void upg_meter_add(upg_meter *meter, uint64_t n);
/** Any thread: true once the operation is to stop. */
bool upg_meter_cancelled(upg_meter *meter);
/** The calling thread: reports when it is time to. */
void upg_meter_tick(upg_meter *meter);
/** The calling thread: the last report of the stage. Errors: E_CANCELLED. */
upg_status upg_meter_finish(upg_meter *meter, upg_error *err);

#endif
