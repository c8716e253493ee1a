/* machine_api.c: upg_machine_describe, upg_probe_*. */
#include "api/struct_options.h"
#include "runtime/kernel_speed.h"
#include "runtime/machine.h"
#include "runtime/probe.h"

UPG_API upg_status upg_machine_describe(upg_machine_info *info, upg_error *err)
{
    upg_machine_info known = { 0 };
    upg_status       st;

    UPG_TRY(upg_struct_check(info, "upg_machine_info", err));
    UPG_TRY(upg_machine_measure(&known, err));
    upg_struct_out(&known, sizeof known, info);
out:
    return st;
}

UPG_API upg_status upg_probe_create(uint32_t threads, upg_probe **probe, upg_error *err)
{
    if (!probe)
        return upg_fail(err, UPG_E_ARG, "probe is NULL");
    *probe = NULL;
    if (threads > UPG_PROBE_MAX_THREADS)
        return upg_fail(err, UPG_E_ARG, "threads is %u, at most %d", threads,
                        UPG_PROBE_MAX_THREADS);
    return upg_probe_make(threads, probe, err);
}

UPG_API uint32_t upg_probe_threads(const upg_probe *probe)
{
    return probe ? upg_probe_thread_count(probe) : 0;
}

UPG_API double upg_probe_reads(upg_probe *probe)
{
    return probe ? upg_probe_read_pass(probe) : 0;
}

UPG_API double upg_probe_int8(upg_probe *probe)
{
    return probe ? upg_probe_int8_pass(probe) : 0;
}

UPG_API upg_status upg_probe_kernel(upg_probe *probe, size_t index, upg_kernel_speed *speed,
                                    upg_error *err)
{
    upg_kernel_speed known = { 0 };
    upg_status       st;

    if (!probe)
        return upg_fail(err, UPG_E_ARG, "probe is NULL");
    UPG_TRY(upg_struct_check(speed, "upg_kernel_speed", err));
    UPG_TRY(upg_kernel_speed_measure(probe, index, &known, err));
    upg_struct_out(&known, sizeof known, speed);
out:
    return st;
}

UPG_API void upg_probe_close(upg_probe *probe)
{
    upg_probe_free(probe);
}
