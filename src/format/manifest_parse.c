/* manifest_parse.c: from manifest text to checked structs. Order: version, codes, then each matrix
 * with its bands and the two tensors that hold them. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "format/manifest.h"

static const char where[] = "upg.manifest";

/* ---- version ------------------------------------------------------------------------------- */

/* Reads "major.minor": digits only, at most nine of them each. */
static bool parse_version(const char *text, uint32_t *major, uint32_t *minor)
{
    uint32_t *parts[2] = { major, minor };

    for (unsigned p = 0; p < 2; p++) {
        unsigned digits = 0;

        for (*parts[p] = 0; *text >= '0' && *text <= '9' && digits < 9; text++, digits++)
            *parts[p] = *parts[p] * 10 + (uint32_t)(*text - '0');
        if (digits == 0 || *text != (p == 0 ? '.' : '\0'))
            return false;
        text++;
    }
    return true;
}

static upg_status check_features(const json_t *root, upg_error *err)
{
    const json_t *features = json_object_get(root, "features");

    if (!json_is_array(features))
        return upg_fail(err, UPG_E_FORMAT, "%s: field \"features\" is missing or no array", where);
    for (size_t i = 0; i < json_array_size(features); i++) {
        const char *name = json_string_value(json_array_get(features, i));

        if (name != NULL && strcmp(name, UPG_FEATURE_OUTLIERS) == 0)
            continue;
        return upg_fail(err, UPG_E_VERSION,
                        "the file needs the feature \"%.64s\", which upg %s does not know: a newer "
                        "upg is needed",
                        name && upg_st_name_ok(name) ? name : "?", UPG_VERSION);
    }
    return UPG_OK;
}

upg_status upg_manifest_version(const json_t *root, upg_container *c, upg_error *err)
{
    const char *format = NULL, *version = NULL;
    upg_status  st = UPG_OK;

    if (!json_is_object(root))
        return upg_fail(err, UPG_E_FORMAT, "%s: the text is no JSON object", where);
    UPG_TRY(upg_json_string(root, "format", where, &format, err));
    if (strcmp(format, "upg") != 0)
        return upg_fail(err, UPG_E_FORMAT, "%s: field \"format\" is not \"upg\"", where);
    UPG_TRY(upg_json_string(root, "version", where, &version, err));
    if (!parse_version(version, &c->version_major, &c->version_minor))
        return upg_fail(err, UPG_E_FORMAT, "%s: field \"version\" is not of the form \"1.0\"",
                        where);
    if (c->version_major != UPG_FORMAT_MAJOR)
        return upg_fail(err, UPG_E_VERSION,
                        "the file is of format %" PRIu32 ".%" PRIu32 ", upg %s reads %d.x: %s",
                        c->version_major, c->version_minor, UPG_VERSION, UPG_FORMAT_MAJOR,
                        c->version_major > UPG_FORMAT_MAJOR ? "a newer upg is needed"
                                                            : "no upg ever wrote that");
    UPG_TRY(check_features(root, err));
out:
    return st;
}

/* ---- codes --------------------------------------------------------------------------------- */

static upg_status parse_taps(const json_t *object, const char *code_where, upg_code *code,
                             upg_error *err)
{
    const json_t *taps = json_object_get(object, "taps");

    if (!json_is_array(taps) || json_array_size(taps) != code->length)
        return upg_fail(err, UPG_E_FORMAT, "%s: field \"taps\" is not an array of %u integers",
                        code_where, code->length);
    for (size_t i = 0; i < code->length; i++) {
        const json_t *tap = json_array_get(taps, i);
        json_int_t    value = json_integer_value(tap);

        if (!json_is_integer(tap) || value < INT16_MIN || value > INT16_MAX)
            return upg_fail(err, UPG_E_FORMAT, "%s: tap %zu is no 16-bit integer", code_where, i);
        code->taps[i] = (int16_t)value;
    }
    return UPG_OK;
}

static upg_status parse_code(const json_t *object, size_t index, upg_code *code, upg_error *err)
{
    char       code_where[64];
    uint64_t   rate2 = 0, k0 = 0, k1 = 0, length = 0;
    double     gain = 0;
    upg_status st = UPG_OK;

    snprintf(code_where, sizeof code_where, "%s: code %zu", where, index);
    UPG_TRY(upg_json_u64(object, "rate2", 1, 255, code_where, &rate2, err));
    UPG_TRY(upg_json_u64(object, "k0", 1, 255, code_where, &k0, err));
    UPG_TRY(upg_json_u64(object, "k1", 1, 255, code_where, &k1, err));
    UPG_TRY(upg_json_u64(object, "length", UPG_CODE_MIN_LENGTH, UPG_CODE_MAX_LENGTH, code_where,
                         &length, err));
    UPG_TRY(upg_json_number(object, "gain", 1e-30, 1e30, code_where, &gain, err));
    *code = (upg_code) { .rate2 = (uint8_t)rate2,
                         .k0 = (uint8_t)k0,
                         .k1 = (uint8_t)k1,
                         .length = (uint8_t)length,
                         .gain = (float)gain };
    UPG_TRY(parse_taps(object, code_where, code, err));
    st = upg_code_check(code, err);
    if (st != UPG_OK)
        upg_error_prefix(err, "%s: ", code_where);
out:
    return st;
}

/* codes [*n] in the container's arena. */
static upg_status parse_codes(const json_t *root, upg_container *c, upg_code **codes, size_t *n,
                              upg_error *err)
{
    const json_t *array = json_object_get(root, "codes");
    upg_status    st = UPG_OK;

    *n = json_array_size(array);
    if (!json_is_array(array))
        return upg_fail(err, UPG_E_FORMAT, "%s: field \"codes\" is missing or no array", where);
    *codes = upg_arena_alloc(&c->arena, *n, sizeof **codes, err);
    UPG_TRY(*codes ? UPG_OK : UPG_E_NOMEM);
    for (size_t i = 0; i < *n; i++)
        UPG_TRY(parse_code(json_array_get(array, i), i, &(*codes)[i], err));
out:
    return st;
}

/* ---- matrices ------------------------------------------------------------------------------ */

typedef struct matrix_parser {
    upg_container  *c;
    bool           *used;
    const upg_code *codes;
    size_t          n_codes;
    bool            has_outliers; /* as a feature */
    char            where[UPG_ST_MAX_NAME + 64];
} matrix_parser;

/* Finds NAME + suffix, which must be of the type and length given and at a 64-byte boundary. */
static upg_status bind_tensor(matrix_parser *p, const char *name, const char *suffix,
                              upg_dtype dtype, uint64_t elements, const upg_st_tensor **tensor,
                              upg_error *err)
{
    char                 full[UPG_ST_MAX_NAME + 1];
    const upg_st_tensor *t;
    size_t               index;

    if ((size_t)snprintf(full, sizeof full, "%s%s", name, suffix) >= sizeof full)
        return upg_fail(err, UPG_E_FORMAT, "%s: the name is too long", p->where);
    t = upg_st_find(p->c->file, full);
    if (t == NULL)
        return upg_fail(err, UPG_E_FORMAT, "%s: tensor \"%s\" is missing", p->where, full);
    if (t->dtype != dtype || t->rank != 1 || t->shape[0] != elements)
        return upg_fail(err, UPG_E_FORMAT,
                        "tensor \"%s\": %s with %" PRIu64 " elements in the first of %" PRIu32
                        " dimensions, the manifest needs %s [%" PRIu64 "]",
                        full, upg_dtype_name(t->dtype), t->shape[0], t->rank, upg_dtype_name(dtype),
                        elements);
    if (t->file_offset % 64 != 0)
        return upg_fail(err, UPG_E_FORMAT,
                        "tensor \"%s\" begins at byte %" PRIu64 ", no multiple of 64", full,
                        t->file_offset);
    index = (size_t)(t - upg_st_at(p->c->file, 0));
    if (p->used[index])
        return upg_fail(err, UPG_E_FORMAT, "%s: tensor \"%s\" serves two matrices", p->where, full);
    p->used[index] = true;
    *tensor = t;
    return UPG_OK;
}

static bool small_integer(const json_t *value, uint32_t max, uint32_t *number)
{
    json_int_t integer = json_integer_value(value);

    if (!json_is_integer(value) || integer < 0 || integer > (json_int_t)max)
        return false;
    *number = (uint32_t)integer;
    return true;
}

/* One [row0, n_rows, code]; *row0 is where it has to begin, then where the next one has to. */
static upg_status parse_band(const matrix_parser *p, const json_t *triple, uint32_t n_rows,
                             uint32_t index, uint32_t *row0, upg_band *band, upg_error *err)
{
    uint32_t begin = 0, rows = 0, code = 0;
    uint64_t n_binary;

    if (json_array_size(triple) != 3 ||
        !small_integer(json_array_get(triple, 0), INT32_MAX, &begin) ||
        !small_integer(json_array_get(triple, 1), INT32_MAX, &rows) ||
        !small_integer(json_array_get(triple, 2), INT32_MAX, &code))
        return upg_fail(err, UPG_E_FORMAT, "%s: band %u is not [row, rows, code]", p->where, index);
    if (begin != *row0 || rows == 0 || rows > n_rows - begin)
        return upg_fail(err, UPG_E_FORMAT,
                        "%s: band %u holds rows %u … %" PRIu64 ", it must begin at %u and end "
                        "within %u rows",
                        p->where, index, begin, (uint64_t)begin + rows, *row0, n_rows);
    if (code >= p->n_codes)
        return upg_fail(err, UPG_E_FORMAT, "%s: band %u uses code %u, there are %zu", p->where,
                        index, code, p->n_codes);
    n_binary = upg_code_binary_rows(&p->codes[code], rows);
    if (n_binary > UINT32_MAX - UPG_BLOCK_ROWS)
        return upg_fail(err, UPG_E_FORMAT,
                        "%s: band %u has %" PRIu64 " binary rows, 2^32 is the "
                        "limit",
                        p->where, index, n_binary);
    *band = (upg_band) {
        .code = p->codes[code], .row0 = begin, .n_rows = rows, .n_binary = (uint32_t)n_binary
    };
    *row0 = begin + rows;
    return UPG_OK;
}

/* bands [*n] in the arena, and the words that all of them take. */
static upg_status parse_bands(matrix_parser *p, const json_t *object, upg_container_matrix *m,
                              upg_band **bands, uint64_t *words, upg_error *err)
{
    const json_t *array = json_object_get(object, "bands");
    size_t        n = json_array_size(array);
    uint32_t      row = 0;
    upg_status    st = UPG_OK;

    if (!json_is_array(array) || n == 0 || n > m->coded.n_rows)
        return upg_fail(err, UPG_E_FORMAT, "%s: field \"bands\" is not an array of 1 to %u bands",
                        p->where, m->coded.n_rows);
    *bands = upg_arena_alloc(&p->c->arena, n, sizeof **bands, err);
    UPG_TRY(*bands ? UPG_OK : UPG_E_NOMEM);
    *words = 0;
    for (uint32_t i = 0; i < n; i++) {
        upg_band *band = &(*bands)[i];

        UPG_TRY(parse_band(p, json_array_get(array, i), m->coded.n_rows, i, &row, band, err));
        if (!upg_add_u64(*words, upg_band_words(band->n_binary, m->coded.n_cols), words))
            return upg_fail(err, UPG_E_FORMAT, "%s: its size overflows 64 bits", p->where);
    }
    if (row != m->coded.n_rows)
        return upg_fail(err, UPG_E_FORMAT, "%s: the bands cover %u of %u rows", p->where, row,
                        m->coded.n_rows);
    m->coded.n_bands = (uint32_t)n;
    m->coded.bands = *bands;
out:
    return st;
}

/* Sixteen lower-case hexadecimal digits: JSON readers differ on integers above 2^53. */
static bool parse_seed(const char *text, uint64_t *seed)
{
    static const char digits[] = "0123456789abcdef";

    *seed = 0;
    for (unsigned i = 0; i < 16; i++) {
        const char *digit = text[i] != '\0' ? strchr(digits, text[i]) : NULL;

        if (digit == NULL)
            return false;
        *seed = *seed << 4 | (uint64_t)(digit - digits);
    }
    return text[16] == '\0';
}

static upg_status parse_rotation(const matrix_parser *p, const json_t *object,
                                 upg_coded_matrix *coded, upg_error *err)
{
    const char *seed_text = NULL;
    uint64_t    block = 0, seed = 0;
    upg_status  st = UPG_OK;

    UPG_TRY(upg_json_string(object, "seed", p->where, &seed_text, err));
    if (!parse_seed(seed_text, &seed))
        return upg_fail(err, UPG_E_FORMAT, "%s: field \"seed\" is not 16 hexadecimal digits",
                        p->where);
    UPG_TRY(upg_json_u64(object, "block", 1, UPG_ROTATION_MAX_BLOCK, p->where, &block, err));
    coded->rotation = upg_rotation_make(coded->n_cols, seed);
    if (block != coded->rotation.block)
        return upg_fail(err, UPG_E_FORMAT,
                        "%s: field \"block\" is %" PRIu64 ", for %u columns it must be %u",
                        p->where, block, coded->n_cols, coded->rotation.block);
out:
    return st;
}

static upg_status parse_shape(const matrix_parser *p, const json_t *object, upg_coded_matrix *coded,
                              upg_error *err)
{
    const json_t *shape = json_object_get(object, "shape");

    if (json_array_size(shape) != 2 ||
        !small_integer(json_array_get(shape, 0), INT32_MAX, &coded->n_rows) ||
        !small_integer(json_array_get(shape, 1), INT32_MAX, &coded->n_cols) || coded->n_rows == 0 ||
        coded->n_cols == 0)
        return upg_fail(err, UPG_E_FORMAT,
                        "%s: field \"shape\" is not two integers from 1 to 2147483647", p->where);
    return UPG_OK;
}

static upg_status parse_relative_error(const matrix_parser *p, const json_t *object, double *value,
                                       upg_error *err)
{
    *value = -1;
    if (!upg_json_has(object, "relative_error"))
        return UPG_OK;
    return upg_json_number(object, "relative_error", 0, 1e30, p->where, value, err);
}

/* The counts come from the manifest, everything else from the tensor; the field names no feature
 * that an old reader could overlook, since "features" has it. */
static upg_status parse_outliers(matrix_parser *p, const json_t *object, upg_container_matrix *m,
                                 upg_error *err)
{
    const json_t      *outliers = json_object_get(object, "outliers");
    upg_outlier_counts counts = { 0 };
    uint64_t           columns = 0, sparse = 0, bytes = 0;
    upg_status         st = UPG_OK;

    if (outliers == NULL)
        return UPG_OK;
    if (!p->has_outliers)
        return upg_fail(err, UPG_E_FORMAT, "%s: it has outliers, \"features\" does not", p->where);
    UPG_TRY(upg_json_u64(outliers, "columns", 0, m->coded.n_cols, p->where, &columns, err));
    UPG_TRY(upg_json_u64(outliers, "sparse", 0, UINT32_MAX, p->where, &sparse, err));
    UPG_TRY(upg_json_u64(outliers, "gap_bytes", 0, INT64_MAX, p->where, &counts.gap_bytes, err));
    counts.n_columns = (uint32_t)columns;
    counts.n_sparse = (uint32_t)sparse;
    if (!upg_outliers_any(&counts) || !upg_outliers_bytes(&counts, m->coded.n_rows, &bytes))
        return upg_fail(err, UPG_E_FORMAT, "%s: no or too many outliers", p->where);
    UPG_TRY(bind_tensor(p, m->name, ".outliers", UPG_U8, bytes, &m->outliers, err));
    st = upg_outliers_parse(m->outliers->bytes, &counts, m->coded.n_rows, m->coded.n_cols,
                            &p->c->arena, &m->coded.outliers, err);
    if (st != UPG_OK)
        upg_error_prefix(err, "tensor \"%s\": ", m->outliers->name);
out:
    return st;
}

static upg_status parse_matrix(matrix_parser *p, const json_t *object, upg_container_matrix *m,
                               upg_error *err)
{
    const char *name = NULL;
    upg_band   *bands = NULL;
    uint64_t    words = 0;
    upg_status  st = UPG_OK;

    UPG_TRY(upg_json_string(object, "name", p->where, &name, err));
    if (!upg_st_name_ok(name))
        return upg_fail(err, UPG_E_FORMAT, "%s: its name is no tensor name", p->where);
    m->name = upg_arena_strndup(&p->c->arena, name, strlen(name), err);
    UPG_TRY(m->name ? UPG_OK : UPG_E_NOMEM);
    snprintf(p->where, sizeof p->where, "%s: matrix \"%s\"", where, name);
    UPG_TRY(parse_shape(p, object, &m->coded, err));
    UPG_TRY(parse_rotation(p, object, &m->coded, err));
    UPG_TRY(parse_bands(p, object, m, &bands, &words, err));
    UPG_TRY(parse_relative_error(p, object, &m->relative_error, err));
    UPG_TRY(bind_tensor(p, name, ".code", UPG_U32, words, &m->code, err));
    UPG_TRY(bind_tensor(p, name, ".scale", UPG_F16, m->coded.n_rows, &m->scale, err));
    UPG_TRY(parse_outliers(p, object, m, err));
    /* Both spans have exactly the size just computed, at 64-byte boundaries. */
    const uint32_t *bits = (const uint32_t *)(const void *)m->code->bytes.data;
    const uint16_t *scales = (const uint16_t *)(const void *)m->scale->bytes.data;
    for (uint32_t i = 0; i < m->coded.n_bands; i++) {
        bands[i].bits = bits; /* NOLINT: the analyser takes upg_fail's result for a possible OK */
        bands[i].scales = scales + bands[i].row0;
        bits += upg_band_words(bands[i].n_binary, m->coded.n_cols);
    }
out:
    return st;
}

static upg_status parse_matrices(const json_t *root, upg_container *c, bool *used,
                                 const upg_code *codes, size_t n_codes, upg_error *err)
{
    const json_t         *array = json_object_get(root, "matrices");
    size_t                n = json_array_size(array);
    matrix_parser         parser = { .c = c, .used = used, .codes = codes, .n_codes = n_codes };
    upg_container_matrix *matrices;
    upg_status            st = UPG_OK;

    parser.has_outliers = json_array_size(json_object_get(root, "features")) > 0;
    if (!json_is_array(array))
        return upg_fail(err, UPG_E_FORMAT, "%s: field \"matrices\" is missing or no array", where);
    matrices = upg_arena_alloc(&c->arena, n, sizeof *matrices, err);
    UPG_TRY(matrices ? UPG_OK : UPG_E_NOMEM);
    for (size_t i = 0; i < n; i++) {
        snprintf(parser.where, sizeof parser.where, "%s: matrix %zu", where, i);
        UPG_TRY(parse_matrix(&parser, json_array_get(array, i), &matrices[i], err));
    }
    c->matrices = matrices;
    c->n_matrices = n;
out:
    return st;
}

/* ---- all of it ----------------------------------------------------------------------------- */

static upg_status copy_options(const json_t *root, upg_container *c, upg_error *err)
{
    const json_t *options = json_object_get(root, "options");
    char         *text;
    upg_status    st = UPG_OK;

    if (!json_is_object(options))
        return upg_fail(err, UPG_E_FORMAT, "%s: field \"options\" is missing or no object", where);
    text = json_dumps(options, JSON_COMPACT | JSON_REAL_PRECISION(9));
    if (text == NULL)
        return upg_fail(err, UPG_E_NOMEM, "out of memory while reading the manifest");
    c->options_json = upg_arena_strndup(&c->arena, text, strlen(text), err);
    st = c->options_json ? UPG_OK : UPG_E_NOMEM;
    free(text);
    return st;
}

upg_status upg_manifest_parse(const json_t *root, upg_container *c, bool *used, upg_error *err)
{
    const char *writer = NULL;
    upg_code   *codes = NULL;
    size_t      n_codes = 0;
    upg_status  st = UPG_OK;

    UPG_TRY(upg_json_string(root, "writer", where, &writer, err));
    if (!upg_st_name_ok(writer))
        return upg_fail(err, UPG_E_FORMAT, "%s: field \"writer\" is no printable name", where);
    c->writer = upg_arena_strndup(&c->arena, writer, strlen(writer), err);
    UPG_TRY(c->writer ? UPG_OK : UPG_E_NOMEM);
    UPG_TRY(upg_json_u64(root, "parameters", 0, INT64_MAX, where, &c->parameters, err));
    UPG_TRY(upg_json_u64(root, "source_bytes", 0, INT64_MAX, where, &c->source_bytes, err));
    UPG_TRY(copy_options(root, c, err));
    UPG_TRY(parse_codes(root, c, &codes, &n_codes, err));
    UPG_TRY(parse_matrices(root, c, used, codes, n_codes, err));
out:
    return st;
}
