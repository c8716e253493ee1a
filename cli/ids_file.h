/* ids_file.h: token ids from a NumPy .npy file: uint16 or int32, little-endian, C order, one or two
 * dimensions. Format: NumPy Enhancement Proposal 1, versions 1.0 to 3.0. */
#ifndef UPG_CLI_IDS_FILE_H
#define UPG_CLI_IDS_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "upg/upg.h"

typedef struct cli_ids {
    uint64_t   windows, window; /* shape; one dimension gives windows = 1 */
    upg_token *tokens;          /* i32 [windows][window]; the caller frees */
    size_t     n;               /* windows * window */
} cli_ids;

/** Reads the array that fills `bytes`. `name` is for messages. Nothing in the bytes is believed.
 * Errors: E_FORMAT, E_UNSUPPORTED (names the dtype, order or rank), E_NOMEM. */
upg_status cli_ids_parse(const char *name, const uint8_t *bytes, size_t size, cli_ids *array,
                         upg_error *err);

#endif
