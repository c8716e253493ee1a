/* struct_options.h: option structs of callers that were compiled against an older or newer upg.h.
 *
 * struct_size is the caller's sizeof. What an older caller lacks is zero, the default; what a newer
 * caller has beyond our fields must be zero, because else it asks for what we do not know. */
#ifndef UPG_API_STRUCT_OPTIONS_H
#define UPG_API_STRUCT_OPTIONS_H

#include <stddef.h>

#include "base/error.h"

/** Copies *given (NULL = all defaults) into *known, whose size is known_size. Errors: E_ARG (no
 * usable struct_size; `name` says which struct), E_UNSUPPORTED (newer fields in use). */
upg_status upg_struct_in(const void *given, void *known, size_t known_size, const char *name,
                         upg_error *err);
/** Checks that *given has a usable struct_size, for a struct that we fill. Errors: E_ARG. */
upg_status upg_struct_check(const void *given, const char *name, upg_error *err);
/** Copies the known fields out, as far as *given has them; its struct_size stays, and what is newer
 * than we becomes zero. */
void upg_struct_out(const void *known, size_t known_size, void *given);

#endif
