/* cuda_loader.h: the CUDA module, loaded when it is first asked for. */
#ifndef UPG_BACKEND_CUDA_LOADER_H
#define UPG_BACKEND_CUDA_LOADER_H

#include "backend/backend.h"

/** The cuda backend's class. The module stays loaded. Any thread.
 * Errors: E_DEVICE: no module beside the library, no driver, no GPU; each says which. */
upg_status upg_cuda_load(const upg_backend_class **class_, upg_error *err);
/** A symbol of the loaded module, or NULL. */
void *upg_cuda_symbol(const char *name);

#endif
