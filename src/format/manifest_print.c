/* manifest_print.c: from a plan to manifest text. Field order and number forms are fixed, so that
 * equal plans give equal bytes. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "format/manifest.h"

/* 9 digits give every float back exactly. */
#define DUMP_FLAGS (JSON_COMPACT | JSON_REAL_PRECISION(9))

/* Appends to an array or sets a key, and turns jansson's failures (memory; text that is no UTF-8)
 * into one status. Both take `value`. */
static upg_status set(json_t *object, const char *key, json_t *value, upg_error *err)
{
    if (json_object_set_new(object, key, value) != 0)
        return upg_fail(err, UPG_E_NOMEM, "out of memory while writing the manifest (\"%s\")", key);
    return UPG_OK;
}

static upg_status append(json_t *array, json_t *value, upg_error *err)
{
    if (json_array_append_new(array, value) != 0)
        return upg_fail(err, UPG_E_NOMEM, "out of memory while writing the manifest");
    return UPG_OK;
}

static json_t *integer(uint64_t value)
{
    return json_integer((json_int_t)value);
}

/* ---- codes --------------------------------------------------------------------------------- */

static bool same_code(const upg_code *a, const upg_code *b)
{
    return a->rate2 == b->rate2 && a->k0 == b->k0 && a->k1 == b->k1 && a->length == b->length &&
           memcmp(a->taps, b->taps, sizeof a->taps) == 0 && a->gain == b->gain;
}

typedef struct code_list {
    const upg_code **codes; /* distinct, in order of first use */
    size_t           n, cap;
} code_list;

/* The code's number; a new one is added. SIZE_MAX = E_NOMEM. */
static size_t code_number(code_list *list, const upg_code *code, upg_error *err)
{
    for (size_t i = 0; i < list->n; i++) {
        if (same_code(list->codes[i], code))
            return i;
    }
    if (list->n == list->cap) {
        size_t           cap = list->cap == 0 ? 8 : 2 * list->cap;
        const upg_code **codes = upg_realloc(list->codes, cap, sizeof *codes, err);

        if (codes == NULL)
            return SIZE_MAX;
        list->codes = codes;
        list->cap = cap;
    }
    list->codes[list->n] = code;
    return list->n++;
}

static upg_status add_code(json_t *array, const upg_code *code, upg_error *err)
{
    json_t    *object = json_object(), *taps = json_array();
    upg_status st = UPG_OK;

    UPG_TRY(append(array, json_incref(object), err));
    UPG_TRY(set(object, "rate2", integer(code->rate2), err));
    UPG_TRY(set(object, "k0", integer(code->k0), err));
    UPG_TRY(set(object, "k1", integer(code->k1), err));
    UPG_TRY(set(object, "length", integer(code->length), err));
    UPG_TRY(set(object, "gain", json_real((double)code->gain), err));
    UPG_TRY(set(object, "taps", json_incref(taps), err));
    for (unsigned i = 0; i < code->length; i++)
        UPG_TRY(append(taps, json_integer(code->taps[i]), err));
out:
    json_decref(object);
    json_decref(taps);
    return st;
}

/* ---- matrices ------------------------------------------------------------------------------ */

static upg_status add_bands(json_t *object, const upg_matrix_plan *m, code_list *codes,
                            upg_error *err)
{
    json_t    *bands = json_array();
    uint64_t   row = 0;
    upg_status st = UPG_OK;

    UPG_TRY(set(object, "bands", json_incref(bands), err));
    for (uint32_t i = 0; i < m->n_bands; i++) {
        json_t *band = json_array();
        size_t  code = code_number(codes, &m->bands[i].code, err);

        st = append(bands, json_incref(band), err);
        if (st == UPG_OK)
            st = append(band, integer(row), err);
        if (st == UPG_OK)
            st = append(band, integer(m->bands[i].n_rows), err);
        if (st == UPG_OK)
            st = code == SIZE_MAX ? UPG_E_NOMEM : append(band, integer(code), err);
        json_decref(band);
        UPG_TRY(st);
        row += m->bands[i].n_rows;
    }
out:
    json_decref(bands);
    return st;
}

/* A field that files without outliers do not have. */
static upg_status add_outliers(json_t *object, const upg_outlier_counts *counts, upg_error *err)
{
    json_t    *outliers;
    upg_status st = UPG_OK;

    if (!upg_outliers_any(counts))
        return UPG_OK;
    outliers = json_object();
    UPG_TRY(set(object, "outliers", json_incref(outliers), err));
    UPG_TRY(set(outliers, "columns", integer(counts->n_columns), err));
    UPG_TRY(set(outliers, "sparse", integer(counts->n_sparse), err));
    UPG_TRY(set(outliers, "gap_bytes", integer(counts->gap_bytes), err));
out:
    json_decref(outliers);
    return st;
}

static upg_status add_matrix(json_t *array, const upg_matrix_plan *m, double relative_error,
                             code_list *codes, upg_error *err)
{
    json_t    *object = json_object(), *shape = json_array();
    char       seed[17];
    upg_status st = UPG_OK;

    snprintf(seed, sizeof seed, "%016" PRIx64, m->rotation_seed);
    UPG_TRY(append(array, json_incref(object), err));
    UPG_TRY(set(object, "name", json_string(m->name), err));
    UPG_TRY(set(object, "shape", json_incref(shape), err));
    UPG_TRY(append(shape, integer(m->n_rows), err));
    UPG_TRY(append(shape, integer(m->n_cols), err));
    UPG_TRY(set(object, "seed", json_string(seed), err));
    UPG_TRY(set(object, "block", integer(upg_rotation_make(m->n_cols, 0).block), err));
    UPG_TRY(add_bands(object, m, codes, err));
    UPG_TRY(add_outliers(object, &m->outliers, err));
    UPG_TRY(set(object, "relative_error",
                relative_error < 0 ? json_null() : json_real(relative_error), err));
out:
    json_decref(object);
    json_decref(shape);
    return st;
}

/* ---- all of it ----------------------------------------------------------------------------- */

static upg_status add_options(json_t *root, const char *options_json, upg_error *err)
{
    const char *text = options_json == NULL ? "{}" : options_json;
    json_t     *options = NULL;
    upg_status  st;

    st = upg_json_parse((upg_span) { (const uint8_t *)text, strlen(text) }, &options, err);
    if (st == UPG_OK && !json_is_object(options)) {
        json_decref(options);
        st = upg_fail(err, UPG_E_ARG, "the options are no JSON object");
    }
    return st == UPG_OK ? set(root, "options", options, err) : st;
}

/* The version and the features that readers must know: only what the file really uses, so that old
 * readers take all that they can read. */
static upg_status add_version(json_t *root, const upg_container_plan *plan, upg_error *err)
{
    json_t    *features = json_array();
    bool       outliers = false;
    upg_status st;

    for (size_t i = 0; i < plan->n_matrices; i++)
        outliers |= upg_outliers_any(&plan->matrices[i].outliers);
    UPG_TRY(set(root, "version",
                json_sprintf("%d.%d", UPG_FORMAT_MAJOR, outliers ? UPG_FORMAT_MINOR : 0), err));
    UPG_TRY(set(root, "features", json_incref(features), err));
    if (outliers)
        UPG_TRY(append(features, json_string(UPG_FEATURE_OUTLIERS), err));
out:
    json_decref(features);
    return st;
}

static upg_status build(json_t *root, const upg_container_plan *plan, uint64_t parameters,
                        const double *relative_errors, upg_error *err)
{
    json_t    *codes = json_array(), *matrices = json_array();
    code_list  list = { 0 };
    upg_status st = UPG_OK;

    UPG_TRY(set(root, "format", json_string("upg"), err));
    UPG_TRY(add_version(root, plan, err));
    UPG_TRY(set(root, "writer", json_string("upg " UPG_VERSION), err));
    UPG_TRY(set(root, "parameters", integer(parameters), err));
    UPG_TRY(set(root, "source_bytes", integer(plan->source_bytes), err));
    UPG_TRY(add_options(root, plan->options_json, err));
    UPG_TRY(set(root, "codes", json_incref(codes), err));
    UPG_TRY(set(root, "matrices", json_incref(matrices), err));
    for (size_t i = 0; i < plan->n_matrices; i++)
        UPG_TRY(add_matrix(matrices, &plan->matrices[i], relative_errors[i], &list, err));
    for (size_t i = 0; i < list.n; i++)
        UPG_TRY(add_code(codes, list.codes[i], err));
out:
    json_decref(codes);
    json_decref(matrices);
    upg_free(list.codes);
    return st;
}

upg_status upg_manifest_print(const upg_container_plan *plan, uint64_t parameters,
                              const double *relative_errors, upg_buffer *text, upg_error *err)
{
    json_t    *root = json_object();
    char      *dump = NULL;
    upg_status st;

    upg_buffer_clear(text);
    UPG_TRY(build(root, plan, parameters, relative_errors, err));
    dump = json_dumps(root, DUMP_FLAGS);
    if (dump == NULL) {
        (void)upg_fail(err, UPG_E_NOMEM, "out of memory while writing the manifest");
        UPG_TRY(UPG_E_NOMEM);
    }
    UPG_TRY(upg_buffer_add(text, dump, strlen(dump), err));
out:
    free(dump);
    json_decref(root);
    return st;
}

upg_status upg_manifest_bound(const upg_container_plan *plan, size_t *bytes, upg_error *err)
{
    double    *errors = upg_malloc(plan->n_matrices, sizeof *errors, err);
    upg_buffer text;
    upg_status st = errors ? UPG_OK : UPG_E_NOMEM;

    upg_buffer_init(&text, INT32_MAX);
    UPG_TRY(st);
    for (size_t i = 0; i < plan->n_matrices; i++)
        errors[i] = 1.23456789e-300; /* the longest form: nine digits and a three-digit exponent */
    UPG_TRY(upg_manifest_print(plan, 0, errors, &text, err));
    *bytes = text.size + 20; /* the parameters' digits */
out:
    upg_buffer_deinit(&text);
    upg_free(errors);
    return st;
}
