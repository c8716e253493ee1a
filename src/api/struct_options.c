/* struct_options.c: see struct_options.h. */
#include "api/struct_options.h"

#include <stdint.h>
#include <string.h>

/* Larger than any struct of ours will be: a larger struct_size was never set. */
#define MAX_STRUCT_BYTES 4096u

static size_t size_of(const void *given)
{
    size_t size;

    memcpy(&size, given, sizeof size); /* struct_size comes first */
    return size;
}

upg_status upg_struct_check(const void *given, const char *name, upg_error *err)
{
    size_t size;

    if (!given)
        return upg_fail(err, UPG_E_ARG, "%s is NULL", name);
    size = size_of(given);
    if (size >= sizeof size && size <= MAX_STRUCT_BYTES)
        return UPG_OK;
    return upg_fail(err, UPG_E_ARG, "%s.struct_size is %zu: set it to sizeof (%s)", name, size,
                    name);
}

upg_status upg_struct_in(const void *given, void *known, size_t known_size, const char *name,
                         upg_error *err)
{
    size_t     size;
    upg_status st;

    memset(known, 0, known_size);
    memcpy(known, &known_size, sizeof known_size);
    if (!given)
        return UPG_OK;
    UPG_TRY(upg_struct_check(given, name, err));
    size = size_of(given);
    memcpy(known, given, size < known_size ? size : known_size);
    memcpy(known, &known_size, sizeof known_size);
    for (size_t i = known_size; i < size; i++)
        if (((const uint8_t *)given)[i] != 0)
            UPG_TRY(
                upg_fail(err, UPG_E_UNSUPPORTED,
                         "%s has a value at byte %zu, this version knows %zu bytes: the program "
                         "asks for an option of a newer libupg (this is %s)",
                         name, i, known_size, upg_version()));
out:
    return st;
}

void upg_struct_out(const void *known, size_t known_size, void *given)
{
    size_t size = size_of(given);

    memcpy(given, known, size < known_size ? size : known_size);
    if (size > known_size)
        memset((uint8_t *)given + known_size, 0, size - known_size);
    memcpy(given, &size, sizeof size);
}
