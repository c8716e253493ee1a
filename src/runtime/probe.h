/* probe.h: the limits of this machine, measured a tenth of a second at a time, so that they can
 * take turns with what they limit and meet the same disturbances. */
#ifndef UPG_RUNTIME_PROBE_H
#define UPG_RUNTIME_PROBE_H

#include "upg/upg.h"

/** For `threads` threads, 0 = one per core. The buffer that is read takes 512 MiB, or a quarter of
 * the free memory. Errors: E_NOMEM. */
upg_status upg_probe_make(uint32_t threads, upg_probe **probe, upg_error *err);
/** One pass over the buffer by all threads, GB/s. */
double upg_probe_read_pass(upg_probe *probe);
/** int8 multiply-adds of all threads, 1e9 a second. */
double   upg_probe_int8_pass(upg_probe *probe);
uint32_t upg_probe_thread_count(const upg_probe *probe);
void     upg_probe_free(upg_probe *probe); /* NULL is fine */

#endif
