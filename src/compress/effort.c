/* effort.c: the levels; docs/QUALITY.md, "Effort levels", has what each costs and brings. */
#include "compress/effort.h"

#include <stddef.h>

#include "codec/code.h"
#include "compress/calibration_text.h"

static const upg_effort_level levels[] = {
    { "default", UPG_CODE_DEFAULT_LENGTH, UPG_CALIBRATION_WINDOWS, 8, 40, 1 },
    { "fast", UPG_CODE_DEFAULT_LENGTH, UPG_CALIBRATION_WINDOWS / 4, 4, 0, 0 },
    { "high", 14, UPG_CALIBRATION_WINDOWS, 8, UPG_CALIBRATION_WINDOWS, 1 },
    { "max", 16, UPG_CALIBRATION_WINDOWS, 8, UPG_CALIBRATION_WINDOWS, 2 },
};

const upg_effort_level *upg_effort_find(uint32_t effort)
{
    return effort < sizeof levels / sizeof levels[0] ? &levels[effort] : NULL;
}
