/* machine_api.c: upg_machine_describe. */
#include "api/struct_options.h"
#include "runtime/machine.h"

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
