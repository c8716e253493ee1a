/* backend_find.c: the backends of this build by name, the best one first. */
#include <stdio.h>
#include <string.h>

#include "backend/backend.h"
#include "backend/cuda_loader.h"
#include "kernels/kernels.h"

_Static_assert((int)UPG_SLOT_GROUP_BYTES >= (int)UPG_PREPARED_BYTES_PER_GROUP,
               "a prepared slot holds what the kernels prepare");

static const upg_backend_class *const classes[] = { &upg_backend_cpu, &upg_backend_ref };

enum { N_CLASSES = sizeof classes / sizeof classes[0] };

upg_status upg_backend_find(const char *device, const upg_backend_class **class_, upg_error *err)
{
    char   names[128] = "";
    size_t used = 0;

    *class_ = NULL;
    if (device && strcmp(device, "auto") == 0)
        device = NULL;
    if (device && (strcmp(device, "cuda") == 0 || strncmp(device, "cuda:", 5) == 0))
        return upg_cuda_load(class_, err);
    if (!device && upg_cuda_load(class_, NULL) == UPG_OK)
        return UPG_OK;
    for (size_t i = 0; i < N_CLASSES; i++) {
        if (!device || strcmp(device, classes[i]->name) == 0) {
            *class_ = classes[i];
            return UPG_OK;
        }
        used += (size_t)snprintf(names + used, sizeof names - used, "%s%s", i ? ", " : "",
                                 classes[i]->name);
        if (used >= sizeof names)
            used = sizeof names - 1;
    }
    return upg_fail(err, UPG_E_DEVICE, "no device \"%.32s\"; this build has: %s, cuda, auto",
                    device, names);
}
