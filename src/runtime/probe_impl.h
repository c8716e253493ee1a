/* probe_impl.h: what a probe lends to kernel_speed.c. */
#ifndef UPG_RUNTIME_PROBE_IMPL_H
#define UPG_RUNTIME_PROBE_IMPL_H

#include "base/pool.h"
#include "base/span.h"
#include "runtime/probe.h"

#define UPG_PROBE_PART_BYTES ((size_t)1 << 20) /* one item of the pool */

/** Whole parts at a 64-byte boundary, larger than all caches. */
upg_span  upg_probe_buffer(const upg_probe *probe);
upg_pool *upg_probe_pool(upg_probe *probe);

#endif
