/* topology.h: where cores and memories of this machine are, and binding threads to them; by hwloc,
 * when the library was built with it.
 *
 * A thread for every core is bound to a core of its own. Fewer threads are spread over the NUMA
 * nodes and bound to their nodes alone, so that two programs with a few threads each do not meet on
 * the same cores. More threads than cores, or few on a machine of one node, are left to the
 * system. */
#ifndef UPG_BASE_TOPOLOGY_H
#define UPG_BASE_TOPOLOGY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct upg_topology upg_topology;

/** What this process may use of the machine; NULL when it cannot be told. hwloc's environment
 * variables (HWLOC_SYNTHETIC, …) work. */
upg_topology *upg_topology_open(void);
/** NULL is fine. */
void     upg_topology_close(upg_topology *topology);
uint32_t upg_topology_nodes(const upg_topology *topology);
/** "1 socket, 1 NUMA node, 2 cores, L2 2 x 1 MiB, L3 32 MiB", or why nothing is known; NULL is
 * fine. */
void upg_topology_describe(const upg_topology *topology, char *text, size_t cap);
/** The processors, as a list "0-3,8", to which thread `index` of `n` is bound; "" and false when it
 * is left to the system. NULL is fine. */
bool upg_topology_place(const upg_topology *topology, uint32_t n, uint32_t index, char *text,
                        size_t cap);
/** Binds the calling thread as thread `index` of `n`. False when it is left to the system, which
 * also may refuse, or when the topology is not this machine's. Any thread. */
bool upg_topology_bind(const upg_topology *topology, uint32_t n, uint32_t index);
/** Spreads memory that all threads read over all nodes. Any thread. */
void upg_topology_interleave(const upg_topology *topology, void *memory, size_t bytes);

#endif
