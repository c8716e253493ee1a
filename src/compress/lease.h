/* lease.h: which process works on which unit, by files in a folder that all of them see.
 *
 * A lease is a file made with O_EXCL; its owner touches it, and one that was not touched for long
 * belongs to a dead worker and may be taken. Ages are differences of times that the file system
 * itself set, so that clocks of hosts do not matter; where that clock was set back, or a time lies
 * in the future, a lease is old when this worker has watched it for as long without a change, by a
 * clock that nobody sets. A lease that seems older than it is costs work done twice. Leases only
 * save work: two owners of one unit would write the same bytes. */
#ifndef UPG_COMPRESS_LEASE_H
#define UPG_COMPRESS_LEASE_H

#include <stdbool.h>

#include "base/error.h"

typedef struct upg_leases upg_leases;

/** A worker in `folder`; a lease lasts `seconds` beyond its last touch. Errors: E_IO, E_NOMEM. */
upg_status upg_leases_open(const char *folder, double seconds, upg_leases **leases, upg_error *err);
/** Takes lease-NAME and gives back the one held before; false when another worker has it. */
bool upg_lease_claim(upg_leases *leases, const char *name);
/** Whether it could be taken now. */
bool upg_lease_is_free(upg_leases *leases, const char *name);
/** Gives back the one held. */
void upg_lease_release(upg_leases *leases);
/** Gives back and ends. NULL is fine. */
void upg_leases_close(upg_leases *leases);

#endif
