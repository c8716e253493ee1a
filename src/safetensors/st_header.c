/* st_header.c: writing a safetensors header. Only what the reader accepts is written. */
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "safetensors/safetensors.h"

/* Adds a JSON string. Bytes from 0x80 up are UTF-8 and stand for themselves. */
static upg_status add_string(const char *text, upg_buffer *header, upg_error *err)
{
    upg_status st = UPG_OK;

    if (!upg_st_name_ok(text))
        return upg_fail(err, UPG_E_ARG,
                        "a tensor name with control characters, or not of 1 to %d bytes",
                        UPG_ST_MAX_NAME);
    UPG_TRY(upg_buffer_add(header, "\"", 1, err));
    for (size_t i = 0; text[i] != '\0'; i++) {
        if (text[i] == '"' || text[i] == '\\')
            UPG_TRY(upg_buffer_add(header, "\\", 1, err));
        UPG_TRY(upg_buffer_add(header, &text[i], 1, err));
    }
    UPG_TRY(upg_buffer_add(header, "\"", 1, err));
out:
    return st;
}

/* Adds one entry at *offset and moves *offset to its end. */
static upg_status add_entry(const upg_st_entry *e, uint64_t *offset, upg_buffer *header,
                            upg_error *err)
{
    uint64_t   begin = *offset, bytes = 0;
    upg_status st = UPG_OK;

    if (e->rank > UPG_ST_MAX_RANK || e->dtype >= UPG_DTYPE_COUNT)
        return upg_fail(err, UPG_E_ARG, "tensor \"%s\": rank %" PRIu32 " or its dtype is invalid",
                        e->name, e->rank);
    UPG_TRY(upg_st_tensor_bytes(e->name, e->dtype, e->rank, e->shape, &bytes, err));
    if (!upg_add_u64(begin, bytes, offset) || *offset > INT64_MAX)
        return upg_fail(err, UPG_E_FORMAT, "tensor \"%s\": the file would pass 63 bits", e->name);
    UPG_TRY(add_string(e->name, header, err));
    UPG_TRY(
        upg_buffer_addf(header, err, ":{\"dtype\":\"%s\",\"shape\":[", upg_dtype_name(e->dtype)));
    for (uint32_t d = 0; d < e->rank; d++)
        UPG_TRY(upg_buffer_addf(header, err, "%s%" PRIu64, d > 0 ? "," : "", e->shape[d]));
    UPG_TRY(upg_buffer_addf(header, err, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", begin,
                            *offset));
out:
    return st;
}

/* Fills with spaces up to the data section's place and writes the length in front. */
static upg_status pad(uint64_t unit, uint64_t least, upg_buffer *header, upg_error *err)
{
    static const char spaces[] = "                                                                ";
    uint64_t          size = 0;
    upg_status        st = UPG_OK;

    if (!upg_round_up_u64(header->size > least ? header->size : least, unit, &size) ||
        size - 8 > UPG_ST_MAX_HEADER)
        return upg_fail(err, UPG_E_BUDGET, "the header would pass %d bytes", UPG_ST_MAX_HEADER);
    while (header->size < size) {
        uint64_t more = size - header->size;

        UPG_TRY(upg_buffer_add(header, spaces, more < 64 ? (size_t)more : 64, err));
    }
    for (unsigned i = 0; i < 8; i++)
        header->data[i] = (char)((size - 8) >> 8 * i & 0xFFu);
out:
    return st;
}

upg_status upg_st_write_header(const upg_st_entry *entries, size_t n_entries, const char *format,
                               uint64_t unit, uint64_t least, upg_buffer *header, upg_error *err)
{
    uint64_t   offset = 0;
    upg_status st = UPG_OK;

    upg_buffer_clear(header);
    UPG_TRY(upg_buffer_add(header, "\0\0\0\0\0\0\0\0{", 9, err));
    if (format != NULL) {
        UPG_TRY(upg_buffer_addf(header, err, "\"__metadata__\":{\"format\":"));
        UPG_TRY(add_string(format, header, err));
        UPG_TRY(upg_buffer_add(header, "}", 1, err));
    }
    for (size_t i = 0; i < n_entries; i++) {
        if (i > 0 || format != NULL)
            UPG_TRY(upg_buffer_add(header, ",", 1, err));
        UPG_TRY(add_entry(&entries[i], &offset, header, err));
    }
    UPG_TRY(upg_buffer_add(header, "}", 1, err));
    UPG_TRY(pad(unit, least, header, err));
out:
    return st;
}
