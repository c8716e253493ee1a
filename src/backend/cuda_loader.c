/* cuda_loader.c: finds and loads libupg_cuda.so, so that one library serves machines with and
 * without a GPU. It is looked for where $UPG_CUDA_MODULE says, beside the file that holds this code
 * (program or shared library), in ../lib beside it, then where the system looks. */
#include "backend/cuda_loader.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda_module.h"
#include "upg/status.h"

#define MODULE "libupg_cuda.so"

enum { PATH_CAP = 4096 };

static pthread_mutex_t          lock = PTHREAD_MUTEX_INITIALIZER; /* guards all below */
static void                    *module;
static const upg_backend_class *loaded;

/* folder of this code + suffix */
static void *open_beside(const char *suffix)
{
    Dl_info     here;
    char        path[PATH_CAP];
    const char *slash;
    int         n;

    if (!dladdr((const void *)&lock, &here) || here.dli_fname == NULL)
        return NULL;
    slash = strrchr(here.dli_fname, '/');
    n = slash ? (int)(slash - here.dli_fname) : 0;
    if (n == 0 || snprintf(path, sizeof path, "%.*s/%s%s", n, here.dli_fname, suffix, MODULE) >=
                      (int)sizeof path)
        return NULL;
    return dlopen(path, RTLD_NOW | RTLD_LOCAL);
}

static void *open_module(void)
{
    const char *named = getenv("UPG_CUDA_MODULE");
    void       *m = NULL;

    if (named != NULL)
        return dlopen(named, RTLD_NOW | RTLD_LOCAL);
    m = open_beside("");
    if (m == NULL)
        m = open_beside("../lib/");
    return m ? m : dlopen(MODULE, RTLD_NOW | RTLD_LOCAL);
}

static upg_status load(upg_error *err)
{
    upg_cuda_module_host     host = { sizeof host, sizeof(upg_batch), sizeof(upg_program),
                                      sizeof(upg_backend_class), UPG_VERSION };
    upg_cuda_module_function open;
    void                    *symbol;

    if (module == NULL)
        module = open_module();
    if (module == NULL)
        return upg_fail(err, UPG_E_DEVICE,
                        "device cuda needs the module " MODULE
                        " beside the library: %.300s (built with -DUPG_CUDA=ON?)",
                        dlerror());
    symbol = dlsym(module, "upg_cuda_module_open");
    if (symbol == NULL)
        return upg_fail(err, UPG_E_DEVICE, MODULE " is not this library's module: %.300s",
                        dlerror());
    memcpy(&open, &symbol, sizeof open); /* C has no conversion from object to function pointers */
    return open(&host, &loaded, err);
}

upg_status upg_cuda_load(const upg_backend_class **class_, upg_error *err)
{
    upg_status st = UPG_OK;

    pthread_mutex_lock(&lock);
    if (loaded == NULL)
        st = load(err);
    *class_ = loaded;
    pthread_mutex_unlock(&lock);
    return st;
}

void *upg_cuda_symbol(const char *name)
{
    void *symbol;

    pthread_mutex_lock(&lock);
    symbol = module ? dlsym(module, name) : NULL;
    pthread_mutex_unlock(&lock);
    return symbol;
}
