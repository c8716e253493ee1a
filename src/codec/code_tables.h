/* code_tables.h: the library's tap sets (internal to code.c). */
#ifndef UPG_CODEC_CODE_TABLES_H
#define UPG_CODEC_CODE_TABLES_H

#include <stddef.h>

#include "codec/code.h"

typedef struct upg_code_set {
    upg_code code;
    double   error; /* mean square, on unit Gaussian targets */
} upg_code_set;

extern const upg_code_set upg_code_sets[];
extern const size_t       upg_code_set_count;

#endif
