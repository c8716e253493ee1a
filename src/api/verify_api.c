/* verify_api.c: upg_verify, upg_verify_against, upg_export. */
#include <inttypes.h>
#include <stdio.h>

#include "api/hooks.h"
#include "api/struct_options.h"
#include "base/pool.h"
#include "format/container.h"
#include "model/compare_weights.h"
#include "model/export_weights.h"

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

/* ---- against the original ------------------------------------------------------------------- */

typedef struct receiver {
    const upg_against_options *options;
    char                       first[UPG_ST_MAX_NAME + 1]; /* that differs */
    double                     stored, measured;
} receiver;

static void receive(void *user, const upg_compared *result)
{
    receiver        *r = user;
    upg_matrix_check check = { sizeof check, result->name, result->stored, result->measured,
                               result->agrees };

    if (!result->agrees && r->first[0] == '\0') {
        snprintf(r->first, sizeof r->first, "%s", result->name);
        r->stored = result->stored;
        r->measured = result->measured;
    }
    if (r->options->matrix)
        r->options->matrix(r->options->user, &check);
}

UPG_API upg_status upg_verify_against(const char *path, const char *checkpoint,
                                      const upg_against_options *options, upg_error *err)
{
    upg_against_options o;
    receiver            r = { .options = &o };
    upg_listener        listener;
    upg_weights        *weights = NULL, *original = NULL;
    upg_pool           *pool = NULL;
    uint32_t            n_differ = 0;
    upg_status          st;

    if (!path || !checkpoint)
        return upg_fail(err, UPG_E_ARG, "%s is NULL", path ? "checkpoint" : "path");
    UPG_TRY(upg_struct_in(options, &o, sizeof o, "upg_against_options", err));
    listener = upg_hooks_listener(&o.hooks, NULL);
    UPG_TRY(upg_weights_open(path, &weights, err));
    UPG_TRY(upg_weights_open(checkpoint, &original, err));
    UPG_TRY(upg_pool_create(o.threads, &pool, err));
    UPG_TRY(upg_weights_compare(weights, original, pool, &listener, receive, &r, &n_differ, err));
    if (n_differ > 0)
        UPG_TRY(upg_fail(err, UPG_E_CORRUPT,
                         "%s: %" PRIu32
                         " tensors differ from what the file says, first \"%.100s\": "
                         "relative error %.6g, measured %.6g: another checkpoint, or damage",
                         path, n_differ, r.first, r.stored, r.measured));
out:
    upg_pool_close(pool);
    upg_weights_close(weights);
    upg_weights_close(original);
    return st;
}

/* ---- export --------------------------------------------------------------------------------- */

UPG_API upg_status upg_export(const char *path, const char *folder,
                              const upg_export_options *options, upg_error *err)
{
    upg_export_options o;
    upg_listener       listener;
    upg_weights       *weights = NULL;
    upg_pool          *pool = NULL;
    upg_status         st;

    if (!path || !folder)
        return upg_fail(err, UPG_E_ARG, "%s is NULL", path ? "folder" : "path");
    UPG_TRY(upg_struct_in(options, &o, sizeof o, "upg_export_options", err));
    listener = upg_hooks_listener(&o.hooks, NULL);
    UPG_TRY(upg_weights_open(path, &weights, err));
    UPG_TRY(upg_pool_create(o.threads, &pool, err));
    UPG_TRY(upg_weights_export(weights, folder, o.shard_bytes, pool, &listener, err));
out:
    upg_pool_close(pool);
    upg_weights_close(weights);
    return st;
}
