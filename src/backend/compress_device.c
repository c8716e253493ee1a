/* compress_device.c: the device of a name, by way of the CUDA module. */
#include "backend/compress_device.h"

#include <string.h>

#include "backend/cuda_loader.h"

static upg_status open_cuda(const char *name, upg_compress_device **device, upg_error *err)
{
    const upg_backend_class    *backend;
    const upg_compress_class   *class_;
    upg_compress_class_function function;
    upg_status                  st = upg_cuda_load(&backend, err);
    void                       *symbol;

    if (st != UPG_OK)
        return st;
    symbol = upg_cuda_symbol("upg_cuda_module_compress");
    if (symbol == NULL)
        return upg_fail(err, UPG_E_DEVICE,
                        "the cuda module cannot compress: build it from this version's sources");
    memcpy(&function, &symbol, sizeof function); /* C does not convert between the two */
    class_ = function();
    if (class_->struct_size != sizeof *class_)
        return upg_fail(err, UPG_E_DEVICE, "the cuda module is of another version");
    return class_->open(name, device, err);
}

upg_status upg_compress_device_open(const char *name, upg_compress_device **device, upg_error *err)
{
    *device = NULL;
    if (name == NULL || strcmp(name, "cpu") == 0)
        return UPG_OK;
    if (strcmp(name, "auto") == 0) { /* without a GPU the CPU does it */
        (void)open_cuda("cuda", device, NULL);
        return UPG_OK;
    }
    if (strcmp(name, "cuda") == 0 || strncmp(name, "cuda:", 5) == 0)
        return open_cuda(name, device, err);
    return upg_fail(err, UPG_E_DEVICE,
                    "no device \"%.32s\" to compress on: cpu, cuda, cuda:N, auto", name);
}

void upg_compress_device_close(upg_compress_device *device)
{
    if (device != NULL)
        device->class_->close(device);
}
