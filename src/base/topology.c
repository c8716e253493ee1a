/* topology.c: hwloc, or nothing. */
#include "base/topology.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>

#include "base/alloc.h"

#if defined(UPG_HAVE_HWLOC)

#include <hwloc.h>

struct upg_topology {
    hwloc_topology_t hwloc;
    uint32_t         cores, nodes;
    bool             this_system;
};

static uint32_t count(hwloc_topology_t hwloc, hwloc_obj_type_t type)
{
    int n = hwloc_get_nbobjs_by_type(hwloc, type);

    return n > 0 ? (uint32_t)n : 0;
}

/* taskset and the like bind the process to a part of what the machine has. */
static void keep_own_part(upg_topology *t)
{
    hwloc_bitmap_t own = hwloc_bitmap_alloc();

    if (own != NULL && hwloc_get_cpubind(t->hwloc, own, HWLOC_CPUBIND_PROCESS) == 0)
        (void)hwloc_topology_restrict(t->hwloc, own, 0);
    hwloc_bitmap_free(own);
}

upg_topology *upg_topology_open(void)
{
    upg_topology *t = upg_calloc(1, sizeof *t, NULL);

    if (t == NULL || hwloc_topology_init(&t->hwloc) != 0) {
        upg_free(t);
        return NULL;
    }
    if (hwloc_topology_load(t->hwloc) != 0) {
        upg_topology_close(t);
        return NULL;
    }
    t->this_system = hwloc_topology_is_thissystem(t->hwloc) != 0;
    if (t->this_system)
        keep_own_part(t);
    t->cores = count(t->hwloc, HWLOC_OBJ_CORE);
    if (t->cores == 0) /* some virtual machines show hardware threads alone */
        t->cores = count(t->hwloc, HWLOC_OBJ_PU);
    t->nodes = count(t->hwloc, HWLOC_OBJ_NUMANODE);
    return t;
}

void upg_topology_close(upg_topology *topology)
{
    if (topology == NULL)
        return;
    hwloc_topology_destroy(topology->hwloc);
    upg_free(topology);
}

uint32_t upg_topology_nodes(const upg_topology *topology)
{
    return topology->nodes;
}

/* ", L2 2 x 1 MiB" */
static size_t describe_cache(const upg_topology *t, hwloc_obj_type_t type, const char *name,
                             char *text, size_t cap)
{
    uint32_t    n = count(t->hwloc, type);
    hwloc_obj_t cache = n > 0 ? hwloc_get_obj_by_type(t->hwloc, type, 0) : NULL;
    uint64_t    kib = cache != NULL ? cache->attr->cache.size >> 10 : 0;
    char        times[16] = "";
    int         used;

    if (kib == 0)
        return 0;
    if (n > 1)
        snprintf(times, sizeof times, "%" PRIu32 " x ", n);
    used = kib % 1024 == 0 ? snprintf(text, cap, ", %s %s%" PRIu64 " MiB", name, times, kib / 1024)
                           : snprintf(text, cap, ", %s %s%" PRIu64 " KiB", name, times, kib);
    return used > 0 && (size_t)used < cap ? (size_t)used : 0;
}

void upg_topology_describe(const upg_topology *topology, char *text, size_t cap)
{
    uint32_t packages;
    size_t   used;

    if (topology == NULL) {
        snprintf(text, cap, "not known");
        return;
    }
    packages = count(topology->hwloc, HWLOC_OBJ_PACKAGE);
    packages = packages > 0 ? packages : 1;
    used = (size_t)snprintf(
        text, cap, "%" PRIu32 " socket%s, %" PRIu32 " NUMA node%s, %" PRIu32 " core%s", packages,
        packages == 1 ? "" : "s", topology->nodes, topology->nodes == 1 ? "" : "s", topology->cores,
        topology->cores == 1 ? "" : "s");
    if (used >= cap)
        return;
    used += describe_cache(topology, HWLOC_OBJ_L2CACHE, "L2", text + used, cap - used);
    (void)describe_cache(topology, HWLOC_OBJ_L3CACHE, "L3", text + used, cap - used);
}

/* The processors of one of n threads; NULL when it is left to the system. The caller frees. */
static hwloc_bitmap_t place(const upg_topology *t, uint32_t n, uint32_t index)
{
    hwloc_obj_t     root = hwloc_get_root_obj(t->hwloc);
    hwloc_bitmap_t *sets, mine = NULL;

    if (index >= n || n > t->cores || (n < t->cores && t->nodes < 2))
        return NULL;
    sets = upg_calloc(n, sizeof(hwloc_bitmap_t), NULL);
    if (sets == NULL)
        return NULL;
    if (hwloc_distrib(t->hwloc, &root, 1, sets, n, INT_MAX, 0) == 0) {
        for (uint32_t i = 0; i < n; i++) {
            if (i == index)
                mine = sets[i];
            else
                hwloc_bitmap_free(sets[i]);
        }
    }
    upg_free(sets);
    if (mine != NULL && n < t->cores) { /* the whole of its node */
        hwloc_bitmap_t nodes = hwloc_bitmap_alloc();

        if (nodes != NULL) {
            hwloc_cpuset_to_nodeset(t->hwloc, mine, nodes);
            hwloc_cpuset_from_nodeset(t->hwloc, mine, nodes);
        }
        hwloc_bitmap_free(nodes);
    }
    return mine;
}

bool upg_topology_place(const upg_topology *topology, uint32_t n, uint32_t index, char *text,
                        size_t cap)
{
    hwloc_bitmap_t set = topology != NULL ? place(topology, n, index) : NULL;

    text[0] = '\0';
    if (set == NULL)
        return false;
    hwloc_bitmap_list_snprintf(text, cap, set);
    hwloc_bitmap_free(set);
    return true;
}

bool upg_topology_bind(const upg_topology *topology, uint32_t n, uint32_t index)
{
    hwloc_bitmap_t set;
    bool           bound;

    if (topology == NULL || !topology->this_system)
        return false;
    set = place(topology, n, index);
    bound = set != NULL && hwloc_set_cpubind(topology->hwloc, set, HWLOC_CPUBIND_THREAD) == 0;
    hwloc_bitmap_free(set);
    return bound;
}

void upg_topology_interleave(const upg_topology *topology, void *memory, size_t bytes)
{
    if (topology == NULL || !topology->this_system || topology->nodes < 2)
        return;
    /* refused where the system has no such thing: then it stays where it was touched first */
    (void)hwloc_set_area_membind(
        topology->hwloc, memory, bytes, hwloc_topology_get_topology_nodeset(topology->hwloc),
        HWLOC_MEMBIND_INTERLEAVE, HWLOC_MEMBIND_BYNODESET | HWLOC_MEMBIND_MIGRATE);
}

#else

upg_topology *upg_topology_open(void)
{
    return NULL;
}

void upg_topology_close(upg_topology *topology)
{
    (void)topology;
}

uint32_t upg_topology_nodes(const upg_topology *topology)
{
    (void)topology;
    return 1;
}

void upg_topology_describe(const upg_topology *topology, char *text, size_t cap)
{
    (void)topology;
    snprintf(text, cap, "not known: built without hwloc");
}

bool upg_topology_place(const upg_topology *topology, uint32_t n, uint32_t index, char *text,
                        size_t cap)
{
    (void)topology;
    (void)n;
    (void)index;
    if (cap > 0)
        text[0] = '\0';
    return false;
}

bool upg_topology_bind(const upg_topology *topology, uint32_t n, uint32_t index)
{
    (void)topology;
    (void)n;
    (void)index;
    return false;
}

void upg_topology_interleave(const upg_topology *topology, void *memory, size_t bytes)
{
    (void)topology;
    (void)memory;
    (void)bytes;
}

#endif
