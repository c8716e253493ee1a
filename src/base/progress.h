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
    uint64_t    done, total;           /* in units; total 0 = not known */
    double      rate, seconds;         /* units per second now; seconds left, < 0 = not known */
    const char *part;                  /* NULL, or what is at work: "embedding", "layer", "head" */
    uint32_t    part_index, parts;     /* from 1 on, of how many of its name */
    uint64_t    part_done, part_total; /* in units; total 0 = nothing of it is counted */
    double      loss; /* relative squared error of all that was coded so far; < 0 = not known */
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
    uint64_t             skipped;           /* units that were done before it began */
    uint64_t             part_start;        /* units that were done before the part began */
    double               error2, energy2;
} upg_meter;

/** Begins a stage. `listener` outlives it. */
void upg_meter_start(upg_meter *meter, const upg_listener *listener, const char *stage,
                     const char *unit, uint64_t total);
/** Any thread: n more units are done. */
void upg_meter_add(upg_meter *meter, uint64_t n);
/** Before any work: n units were done by an earlier run; rates leave them out. */
void upg_meter_skip(upg_meter *meter, uint64_t n);
/** The calling thread: a part of the stage begins, number `index` of `count`, from 1 on, of `total`
 * units; `name` outlives the stage. */
void upg_meter_part(upg_meter *meter, const char *name, uint32_t index, uint32_t count,
                    uint64_t total);
/** The calling thread: something was coded with this squared error, of this squared norm. */
void upg_meter_error(upg_meter *meter, double error2, double energy2);
/** Any thread: true once the operation is to stop. */
bool upg_meter_cancelled(upg_meter *meter);
/** The calling thread: reports when it is time to. */
void upg_meter_tick(upg_meter *meter);
/** The calling thread: the last report of the stage. Errors: E_CANCELLED. */
upg_status upg_meter_finish(upg_meter *meter, upg_error *err);

#endif
