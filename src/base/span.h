/* span.h: a borrowed view of bytes. It frees nothing; whoever made it says how long it lives. */
#ifndef UPG_BASE_SPAN_H
#define UPG_BASE_SPAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct upg_span {
    const uint8_t *data;
    size_t         size;
} upg_span;

/** Bytes [begin, begin + size) of `whole`; false when they do not all lie inside it. The only way
 * in which a pointer into a file is made from numbers that the file itself holds. */
static inline bool upg_span_slice(upg_span whole, uint64_t begin, uint64_t size, upg_span *slice)
{
    if (begin > whole.size || size > whole.size - begin)
        return false;
    slice->data = whole.data + begin;
    slice->size = (size_t)size;
    return true;
}

#endif
