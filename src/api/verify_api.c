/* verify_api.c: upg_verify. */
#include "api/hooks.h"
#include "base/pool.h"
#include "format/container.h"

UPG_API upg_status upg_verify(const char *path, uint32_t threads, const upg_hooks *hooks,
                              uint64_t *bad_offset, upg_error *err)
{
    upg_listener listener = upg_hooks_listener(hooks, NULL);
    upg_pool    *pool = NULL;
    uint64_t     offset = 0;
    upg_status   st;

    if (bad_offset)
        *bad_offset = 0;
    if (!path)
        return upg_fail(err, UPG_E_ARG, "path is NULL");
    UPG_TRY(upg_pool_create(threads, &pool, err));
    st = upg_container_verify(path, pool, &listener, &offset, err);
    if (bad_offset && st == UPG_E_CORRUPT)
        *bad_offset = offset;
out:
    upg_pool_close(pool);
    return st;
}
