/* The container and its manifest. An input that begins with '{' is a manifest: it is put into a
 * file with fixed tensors. Any other input is a whole file, read once as it is and once with its
 * hashes made right, since hashes would stop nearly every mutation. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "format/container.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_INPUT = 1 << 19, TABLE = UPG_HASH_BYTES + UPG_HASH_TRAILER, OUTLIERS = 56 };

static volatile unsigned sink;

/* Places must ascend inside the matrix. */
static void touch_outliers(const upg_container_matrix *m)
{
    const upg_outliers *o = m->coded.outliers;

    for (uint32_t d = 0; o != NULL && d < o->n_columns; d++) {
        if (o->column[d] >= m->coded.n_cols || (d > 0 && o->column[d] <= o->column[d - 1]))
            abort();
        sink += (unsigned)(o->column_scales[d] > 0);
        for (uint32_t r = 0; r < m->coded.n_rows; r++)
            sink += (unsigned)o->column_values[(size_t)d * m->coded.n_rows + r];
    }
    for (uint32_t r = 0; o != NULL && o->n_sparse > 0 && r < m->coded.n_rows; r++)
        for (uint32_t k = o->row_begin[r]; k < o->row_begin[r + 1]; k++) {
            if (k >= o->n_sparse || o->columns[k] >= m->coded.n_cols ||
                (k > o->row_begin[r] && o->columns[k] <= o->columns[k - 1]))
                abort();
            sink += (unsigned)o->values[k];
        }
}

/* Reads all that the manifest made us point to; bands must tile their matrix and its tensor. */
static void touch_matrix(const upg_container_matrix *m)
{
    uint32_t        row = 0;
    const uint32_t *at = (const uint32_t *)(const void *)m->code->bytes.data;

    for (uint32_t b = 0; b < m->coded.n_bands; b++) {
        const upg_band *band = &m->coded.bands[b];
        uint64_t        words = upg_band_words(band->n_binary, m->coded.n_cols);

        if (band->row0 != row || band->bits != at || upg_code_check(&band->code, NULL) != UPG_OK)
            abort();
        for (uint64_t i = 0; i < words; i++)
            sink += band->bits[i];
        for (uint32_t r = 0; r < band->n_rows; r++)
            sink += band->scales[r];
        row += band->n_rows;
        at += words;
    }
    touch_outliers(m);
    if (row != m->coded.n_rows || (const uint8_t *)at != m->code->bytes.data + m->code->bytes.size)
        abort();
}

static void parse(const uint8_t *bytes, size_t size)
{
    upg_container *c = NULL;
    upg_error      err;

    if (upg_container_parse((upg_span) { bytes, size }, "fuzz", &c, &err) != UPG_OK)
        return;
    for (size_t i = 0; i < c->n_matrices; i++)
        touch_matrix(&c->matrices[i]);
    for (size_t i = 0; i < c->n_dense; i++)
        sink += c->dense[i]->bytes.data[0];
    upg_container_close(c);
}

/* For files of one chunk, which all inputs are. */
static void repair_hashes(uint8_t *bytes, size_t size)
{
    size_t covered = size - TABLE;

    upg_hash_chunk(bytes, covered, bytes + covered);
    upg_hash_trailer(bytes + covered, covered);
}

static void fuzz_file(const uint8_t *data, size_t size)
{
    uint8_t *copy = aligned_alloc(64, (size + 64) / 64 * 64);

    memcpy(copy, data, size);
    parse(copy, size);
    if (size > TABLE) {
        repair_hashes(copy, size);
        parse(copy, size);
    }
    free(copy);
}

static void fuzz_manifest(const uint8_t *data, size_t size)
{
    upg_st_entry entries[] = {
        { "model.embed_tokens.weight.code", UPG_U32, 1, { 288 } },
        { "lm_head.weight.code", UPG_U32, 1, { 336 } },
        { "model.embed_tokens.weight.scale", UPG_F16, 1, { 40 } },
        { "pad.0", UPG_U8, 1, { 48 } },
        { "lm_head.weight.scale", UPG_F16, 1, { 33 } },
        { "pad.1", UPG_U8, 1, { 62 } },
        { "model.embed_tokens.weight.outliers", UPG_U8, 1, { OUTLIERS } },
        { "pad.4", UPG_U8, 1, { 64 - OUTLIERS } },
        { "model.norm.weight", UPG_F32, 1, { 33 } },
        { "pad.2", UPG_U8, 1, { 60 } },
        { "model.bias", UPG_BF16, 2, { 3, 5 } },
        { "pad.3", UPG_U8, 1, { 34 } },
        { "upg.manifest", UPG_U8, 1, { size } },
        { "upg.hashes", UPG_U8, 1, { TABLE } },
    };
    size_t     weights = 3008; /* bytes of the tensors before the manifest, outliers aside */
    size_t     n = sizeof entries / sizeof entries[0], at = 2752; /* where outliers lie */
    upg_buffer header;
    uint8_t   *bytes;
    bool       outliers = memmem(data, size, "\"outliers\"", 10) != NULL;

    upg_buffer_init(&header, 1 << 16);
    if (!outliers) { /* without a place in the manifest the tensor would be refused at once */
        memmove(entries + 6, entries + 8, (n - 8) * sizeof *entries);
        n -= 2;
    }
    weights += outliers ? 64 : 0;
    if (upg_st_write_header(entries, n, "upg", 4096, 0, &header, NULL) != UPG_OK)
        abort();
    size_t total = header.size + weights + size + TABLE;
    bytes = aligned_alloc(64, (total + 63) / 64 * 64);
    memset(bytes, 0x5A, total);
    memcpy(bytes, header.data, header.size);
    if (outliers) /* the first dense column is 5; the other bytes are any number's */
        memcpy(bytes + header.size + at, (const uint8_t[]) { 5, 0, 0, 0 }, 4);
    memcpy(bytes + header.size + weights, data, size);
    repair_hashes(bytes, total);
    parse(bytes, total);
    free(bytes);
    upg_buffer_deinit(&header);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > MAX_INPUT)
        return 0;
    if (size > 0 && data[0] == '{')
        fuzz_manifest(data, size);
    else
        fuzz_file(data, size);
    return 0;
}
