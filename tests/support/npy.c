#include "support/npy.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/file.h"

enum { PREAMBLE = 10 }; /* "\x93NUMPY", version, header length as u16 */

static upg_status parse_header(const upg_buffer *text, size_t *data, bool *wide, test_ids *ids,
                               upg_error *err)
{
    const uint8_t *bytes = (const uint8_t *)text->data;
    const char    *header = text->data + PREAMBLE, *shape;
    unsigned       rows, cols;

    if (text->size < PREAMBLE || memcmp(bytes, "\x93NUMPY\x01\x00", 8) != 0)
        return upg_fail(err, UPG_E_FORMAT, "no .npy file of format 1.0");
    *data = PREAMBLE + (size_t)(bytes[8] | bytes[9] << 8);
    *wide = strstr(header, "'<i4'") != NULL;
    shape = strstr(header, "'shape': (");
    if ((!*wide && !strstr(header, "'<u2'")) || !strstr(header, "'fortran_order': False") ||
        !shape || sscanf(shape, "'shape': (%u, %u)", &rows, &cols) != 2)
        return upg_fail(err, UPG_E_FORMAT, "not a C-ordered <u2 or <i4 array of two dimensions");
    ids->n_windows = rows;
    ids->window = cols;
    if (text->size != *data + (*wide ? 4u : 2u) * (size_t)rows * cols)
        return upg_fail(err, UPG_E_FORMAT, "%zu bytes do not hold [%u][%u]", text->size, rows,
                        cols);
    return UPG_OK;
}

upg_status test_npy_read(const char *path, test_ids *ids, upg_error *err)
{
    upg_buffer text;
    size_t     data = 0, n;
    bool       wide = false;
    upg_status st;

    ids->ids = NULL;
    upg_buffer_init(&text, 64u << 20);
    UPG_TRY(upg_file_read(path, &text, err));
    UPG_TRY(parse_header(&text, &data, &wide, ids, err));
    n = (size_t)ids->n_windows * ids->window;
    ids->ids = upg_malloc(n, sizeof *ids->ids, err);
    UPG_TRY(ids->ids ? UPG_OK : UPG_E_NOMEM);
    for (size_t i = 0; i < n; i++) {
        const uint8_t *b = (const uint8_t *)text.data + data + (wide ? 4 : 2) * i;

        ids->ids[i] = b[0] | b[1] << 8;
        if (wide)
            ids->ids[i] |= (int32_t)((uint32_t)b[2] << 16 | (uint32_t)b[3] << 24);
    }
out:
    if (st != UPG_OK)
        upg_error_prefix(err, "%s: ", path);
    upg_buffer_deinit(&text);
    return st;
}
