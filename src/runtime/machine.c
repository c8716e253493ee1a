/* machine.c: names from the system, bandwidth by a probe. */
#include "runtime/machine.h"

#include <stdlib.h>

#include "base/cpu.h"
#include "base/error.h"
#include "base/system.h"
#include "base/topology.h"
#include "runtime/probe.h"

enum { PASSES = 7 };

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* Median of several passes, in GB/s; the first pass, which wakes the threads, does not count. */
static upg_status bandwidth(uint32_t threads, double *gb_s, upg_error *err)
{
    double     rates[PASSES];
    upg_probe *probe = NULL;
    upg_status st = upg_probe_make(threads, &probe, err);

    if (st != UPG_OK)
        return st;
    (void)upg_probe_read_pass(probe);
    for (int i = 0; i < PASSES; i++)
        rates[i] = upg_probe_read_pass(probe);
    upg_probe_free(probe);
    qsort(rates, PASSES, sizeof rates[0], compare);
    *gb_s = rates[PASSES / 2];
    return UPG_OK;
}

static void describe_topology(upg_machine_info *info)
{
    upg_topology *t = upg_topology_open();
    char          place[64];

    upg_topology_describe(t, info->topology, sizeof info->topology);
    info->pinned = info->cores > 1 && upg_topology_place(t, info->cores, 1, place, sizeof place);
    upg_topology_close(t);
}

upg_status upg_machine_measure(upg_machine_info *info, upg_error *err)
{
    upg_status st;

    upg_cpu_name(info->cpu, sizeof info->cpu);
    upg_cpu_describe(upg_cpu_flags(), info->isa, sizeof info->isa);
    info->cores = upg_cpu_cores();
    upg_system_memory(&info->memory_total, &info->memory_available);
    describe_topology(info);
    upg_system_gpu(info->gpu, sizeof info->gpu);
    UPG_TRY(bandwidth(1, &info->read_gb_s_1, err));
    UPG_TRY(bandwidth(0, &info->read_gb_s_all, err));
out:
    return st;
}
