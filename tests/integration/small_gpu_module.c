/* small_gpu_module.c: stands for the CUDA module on a machine whose GPU no model fits. */
#include <stdio.h>
#include <string.h>

#include "backend/cuda/cuda_module.h"

static upg_status refuse(const upg_program *program, const upg_backend_options *options,
                         upg_backend **backend, upg_error *err)
{
    (void)program;
    *backend = NULL;
    err->code = UPG_E_NOMEM;
    snprintf(err->message, sizeof err->message, "the model needs more than a small GPU has (%s)",
             options->device ? options->device : "any");
    return UPG_E_NOMEM;
}

static const upg_backend_class class_small = { .name = "cuda", .create = refuse };

upg_status upg_cuda_module_open(const upg_cuda_module_host *host, const upg_backend_class **class_,
                                upg_error *err)
{
    *class_ = NULL;
    if (host->struct_size != sizeof *host || host->class_size != sizeof(upg_backend_class)) {
        err->code = UPG_E_DEVICE;
        snprintf(err->message, sizeof err->message, "another library's module");
        return UPG_E_DEVICE;
    }
    *class_ = &class_small;
    return UPG_OK;
}
