/* input.h: the checkpoint that a compression reads: whether it is still the one that it was, and
 * the hash of each matrix, taken while it is read anyway.
 *
 * A checkpoint may be larger than memory, so that reading it once more for a hash would read the
 * disk once more. Hashes are therefore made where a matrix is read first, by planning or coding;
 * until then they are not known. */
#ifndef UPG_COMPRESS_INPUT_H
#define UPG_COMPRESS_INPUT_H

#include <jansson.h>

#include "base/pool.h"
#include "model/weights.h"

enum { UPG_INPUT_HASH = 16 };

typedef struct upg_input {
    const char        *checkpoint;
    const upg_weights *weights;
    json_t            *files; /* [{name, bytes, changed_ns}] of all files with matrices, at open */
    uint8_t (*hashes)[UPG_INPUT_HASH]; /* XXH3-128 of each matrix as it came; zeros: not known */
} upg_input;

/** Notes sizes and times; reads nothing. Errors: E_IO, E_NOMEM. */
upg_status upg_input_open(upg_input *input, const char *checkpoint, const upg_weights *weights,
                          upg_error *err);
void       upg_input_close(upg_input *input);
/** NULL: not known. */
const uint8_t *upg_input_hash(const upg_input *input, uint32_t matrix);
/** Hashes a matrix unless its hash is known; its pages stay. */
void upg_input_read(upg_input *input, const upg_matrix *matrix);
/** Hashes all that is not known, and lets go of it. Errors: E_IO, E_NOMEM. */
upg_status upg_input_read_all(upg_input *input, upg_pool *pool, upg_error *err);
/** Whether what was read is what is there: asked before anything made of it is kept. Errors: E_IO
 * (bytes were lost, a file is gone), E_DATA (a file has another size or time). */
upg_status upg_input_check(const upg_input *input, upg_error *err);
/** Its place in upg_weights_matrix. */
uint32_t upg_input_index(const upg_weights *weights, const upg_matrix *matrix);

#endif
