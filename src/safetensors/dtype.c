#include "safetensors/dtype.h"

#include <string.h>

static const struct {
    const char *name;
    uint32_t    bits;
} dtypes[UPG_DTYPE_COUNT] = {
#define UPG_DTYPE_ROW(name, bits) { #name, bits },
    UPG_DTYPE_MAP(UPG_DTYPE_ROW)
#undef UPG_DTYPE_ROW
};

const char *upg_dtype_name(upg_dtype dtype)
{
    return dtype < UPG_DTYPE_COUNT ? dtypes[dtype].name : "unknown";
}

uint32_t upg_dtype_bits(upg_dtype dtype)
{
    return dtype < UPG_DTYPE_COUNT ? dtypes[dtype].bits : 0;
}

uint32_t upg_dtype_bytes(upg_dtype dtype)
{
    return upg_dtype_bits(dtype) / 8;
}

bool upg_dtype_find(const char *name, upg_dtype *dtype)
{
    for (unsigned i = 0; i < UPG_DTYPE_COUNT; i++) {
        if (strcmp(dtypes[i].name, name) == 0) {
            *dtype = (upg_dtype)i;
            return true;
        }
    }
    return false;
}
