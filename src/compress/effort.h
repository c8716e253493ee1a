/* effort.h: levels of quality that cost time while compressing, and nothing afterwards. */
#ifndef UPG_COMPRESS_EFFORT_H
#define UPG_COMPRESS_EFFORT_H

#include <stdint.h>

typedef struct upg_effort_level {
    const char *name;
    uint32_t    code_length;         /* L: a step more doubles what encoding takes */
    uint32_t    calibration_windows; /* at most */
    uint32_t    plan_windows;        /* of those, for the plan */
    uint32_t    tune_windows;        /* of those, for tuning; 0: none */
    uint32_t    tune_epochs;         /* how often each is used */
} upg_effort_level;

/** In the order of upg_effort (upg.h): default, fast, high, max; NULL past them. */
const upg_effort_level *upg_effort_find(uint32_t effort);

#endif
