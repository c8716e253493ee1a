#include "base/buffer.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"

void upg_buffer_init(upg_buffer *buffer, size_t max)
{
    *buffer = (upg_buffer) { .max = max };
}

/* Makes room for `more` bytes and the NUL. */
static upg_status reserve(upg_buffer *buffer, size_t more, upg_error *err)
{
    size_t need, cap;
    char  *data;

    if (more > buffer->max - buffer->size)
        return upg_fail(err, UPG_E_BUDGET, "the buffer may hold %zu bytes, %zu more do not fit",
                        buffer->max, more);
    need = buffer->size + more + 1;
    if (need <= buffer->cap)
        return UPG_OK;
    cap = buffer->cap < 32 ? 64 : buffer->cap * 2;
    if (cap < need)
        cap = need;
    data = upg_realloc(buffer->data, cap, 1, err);
    if (data == NULL)
        return UPG_E_NOMEM;
    buffer->data = data;
    buffer->cap = cap;
    return UPG_OK;
}

upg_status upg_buffer_add(upg_buffer *buffer, const void *bytes, size_t size, upg_error *err)
{
    upg_status st = reserve(buffer, size, err);

    if (st != UPG_OK)
        return st;
    if (size > 0)
        memcpy(buffer->data + buffer->size, bytes, size);
    buffer->size += size;
    buffer->data[buffer->size] = '\0';
    return UPG_OK;
}

upg_status upg_buffer_addf(upg_buffer *buffer, upg_error *err, const char *format, ...)
{
    upg_status st;
    va_list    args;
    int        size;

    va_start(args, format);
    size = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (size < 0)
        return upg_fail(err, UPG_E_INTERNAL, "the format \"%s\" failed", format);
    st = reserve(buffer, (size_t)size, err);
    if (st != UPG_OK)
        return st;
    va_start(args, format);
    vsnprintf(buffer->data + buffer->size, (size_t)size + 1, format, args);
    va_end(args);
    buffer->size += (size_t)size;
    return UPG_OK;
}

void upg_buffer_clear(upg_buffer *buffer)
{
    buffer->size = 0;
    if (buffer->data != NULL)
        buffer->data[0] = '\0';
}

void upg_buffer_deinit(upg_buffer *buffer)
{
    upg_free(buffer->data);
    *buffer = (upg_buffer) { .max = buffer->max };
}
