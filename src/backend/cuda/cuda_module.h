/* cuda_module.h: between the library and its CUDA module, which is loaded at run time.
 *
 * The module (libupg_cuda.so) exports upg_cuda_module_open. It gives the backend's class when the
 * versions match and a GPU can be used, else E_DEVICE. */
#ifndef UPG_BACKEND_CUDA_CUDA_MODULE_H
#define UPG_BACKEND_CUDA_CUDA_MODULE_H

#include "backend/backend.h"

/** What the library was built with: the module refuses any other. */
typedef struct upg_cuda_module_host {
    size_t      struct_size, batch_size, program_size, class_size;
    const char *version;
} upg_cuda_module_host;

typedef upg_status (*upg_cuda_module_function)(const upg_cuda_module_host *host,
                                               const upg_backend_class **class_, upg_error *err);

/** The module's own, found by name: the library never links it. */
__attribute__((visibility("default"))) upg_status
upg_cuda_module_open(const upg_cuda_module_host *host, const upg_backend_class **class_,
                     upg_error *err);

#endif
