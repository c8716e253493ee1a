/* default_calibration.h: the calibration text that the library carries,
 * data/calibration/default.txt (its PROVENANCE.md says what is in it), turned into an array by the
 * build. */
#ifndef UPG_COMPRESS_DEFAULT_CALIBRATION_H
#define UPG_COMPRESS_DEFAULT_CALIBRATION_H

#include <stddef.h>

extern const unsigned char upg_default_calibration[]; /* UTF-8, not NUL-terminated */
extern const size_t        upg_default_calibration_size;

#endif
