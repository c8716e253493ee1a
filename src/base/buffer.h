/* buffer.h: a growing byte buffer with a maximum, so that no input can make it grow without bound.
 */
#ifndef UPG_BASE_BUFFER_H
#define UPG_BASE_BUFFER_H

#include <stddef.h>

#include "base/error.h"

typedef struct upg_buffer {
    char  *data; /* NUL-terminated once anything was appended, else NULL */
    size_t size; /* bytes in use, the NUL not counted */
    size_t cap;  /* private */
    size_t max;  /* upg_buffer_add refuses to pass it */
} upg_buffer;

/** An empty buffer that may hold up to `max` bytes; nothing is allocated yet. */
void upg_buffer_init(upg_buffer *buffer, size_t max);
/** Appends bytes. Errors: E_NOMEM; E_BUDGET past the maximum. The buffer stays valid. */
upg_status upg_buffer_add(upg_buffer *buffer, const void *bytes, size_t size, upg_error *err);
/** Appends formatted text. Errors: as upg_buffer_add. */
__attribute__((format(printf, 3, 4))) upg_status upg_buffer_addf(upg_buffer *buffer, upg_error *err,
                                                                 const char *format, ...);
/** Empties the buffer, keeps the memory. */
void upg_buffer_clear(upg_buffer *buffer);
/** Frees the memory. A zeroed or deinitialised buffer is fine. */
void upg_buffer_deinit(upg_buffer *buffer);

#endif
