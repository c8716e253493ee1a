/* failing_json.h: lets upg_alloc_fail_after reach the JSON library's allocations too, on demand:
 * that library reports some of them as syntax errors. */
#ifndef UPG_TESTS_FAILING_JSON_H
#define UPG_TESTS_FAILING_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/alloc.h"

static bool failing_json; /* whether JSON allocations count and may fail */

static void *failing_json_malloc(size_t size)
{
    return failing_json ? upg_malloc(size, 1, NULL) : malloc(size);
}

/* Call first thing in main: memory of the default functions must not meet these. */
static inline void failing_json_install(void)
{
    json_set_alloc_funcs(failing_json_malloc, upg_free);
}

#endif
