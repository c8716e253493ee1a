/* small_gpu_module.c: stands for the CUDA module on a machine whose GPU no model fits. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda_module.h"

/* As upg_fail, which the library keeps to itself; err may be NULL. */
static upg_status fail(upg_error *err, upg_status status, const char *text, const char *detail)
{
    if (err == NULL)
        return status;
    err->code = status;
    snprintf(err->message, sizeof err->message, "%s%s", text, detail);
    return status;
}

static upg_status refuse(const upg_program *program, const upg_backend_options *options,
                         upg_backend **backend, upg_error *err)
{
    (void)program;
    *backend = NULL;
    return fail(err, UPG_E_NOMEM, "the model needs more than a small GPU has: ",
                options->device ? options->device : "any");
}

static const upg_backend_class class_small = { .name = "cuda", .create = refuse };

upg_status upg_cuda_module_open(const upg_cuda_module_host *host, const upg_backend_class **class_,
                                upg_error *err)
{
    *class_ = NULL;
    if (host->struct_size != sizeof *host || host->class_size != sizeof(upg_backend_class))
        return fail(err, UPG_E_DEVICE, "another library's module", "");
    if (getenv("SMALL_GPU_ABSENT") != NULL)
        return fail(err, UPG_E_DEVICE, "no usable GPU: ", "the driver is too old");
    *class_ = &class_small;
    return UPG_OK;
}
