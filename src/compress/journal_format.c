#include "compress/journal_format.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/checked.h"
#include "base/json.h"

_Static_assert(sizeof(float) == 4 && sizeof(double) == 8, "numbers lie in files as they are");

static const char record_magic[8] = "UPGJREC1", streams_magic[8] = "UPGJSTR1";

/* ---- fronts ---------------------------------------------------------------------------------- */

/* One number of a front: where it lies in the file, and in memory. */
typedef struct field {
    size_t at, size;
    void  *value;
} field;

enum { RECORD_FIELDS = 6, STREAMS_FIELDS = 4 };

static void record_fields(upg_journal_record *r, field fields[RECORD_FIELDS])
{
    fields[0] = (field) { 8, sizeof r->matrix, &r->matrix };
    fields[1] = (field) { 12, sizeof r->n_rows, &r->n_rows };
    fields[2] = (field) { 16, sizeof r->n_words, &r->n_words };
    fields[3] = (field) { 24, sizeof r->error2, &r->error2 };
    fields[4] = (field) { 32, sizeof r->energy2, &r->energy2 };
    fields[5] = (field) { 40, sizeof r->input, r->input };
}

static void streams_fields(upg_journal_streams *s, field fields[STREAMS_FIELDS])
{
    fields[0] = (field) { 8, sizeof s->layer, &s->layer };
    fields[1] = (field) { 12, sizeof s->n_streams, &s->n_streams };
    fields[2] = (field) { 16, sizeof s->n_slots, &s->n_slots };
    fields[3] = (field) { 24, sizeof s->slot_size, &s->slot_size };
}

static void get_fields(const uint8_t *front, const field *fields, size_t n)
{
    for (size_t i = 0; i < n; i++)
        memcpy(fields[i].value, front + fields[i].at, fields[i].size);
}

static void put_front(const char magic[8], const field *fields, size_t n, uint8_t *front)
{
    memset(front, 0, UPG_JOURNAL_FRONT);
    memcpy(front, magic, 8);
    for (size_t i = 0; i < n; i++)
        memcpy(front + fields[i].at, fields[i].value, fields[i].size);
}

/* Whether the last 16 bytes are the hash of those before them. */
static upg_status check_hash(upg_span bytes, const char *magic, upg_error *err)
{
    XXH128_canonical_t hash;

    if (bytes.size < UPG_JOURNAL_FRONT + UPG_JOURNAL_HASH || memcmp(bytes.data, magic, 8) != 0)
        return upg_fail(err, UPG_E_CORRUPT, "%zu bytes that do not begin with \"%.8s\"", bytes.size,
                        magic);
    XXH128_canonicalFromHash(&hash, XXH3_128bits(bytes.data, bytes.size - UPG_JOURNAL_HASH));
    if (memcmp(&hash, bytes.data + bytes.size - UPG_JOURNAL_HASH, UPG_JOURNAL_HASH) != 0)
        return upg_fail(err, UPG_E_CORRUPT, "the checksum does not match");
    return UPG_OK;
}

upg_status upg_journal_record_parse(upg_span bytes, upg_journal_record *r, upg_error *err)
{
    upg_status st = check_hash(bytes, record_magic, err);
    uint64_t   need;
    field      fields[RECORD_FIELDS];

    *r = (upg_journal_record) { 0 };
    if (st != UPG_OK)
        return st;
    record_fields(r, fields);
    get_fields(bytes.data, fields, RECORD_FIELDS);
    if (!upg_mul_u64(r->n_words, 4, &need) ||
        !upg_add_u64(need, (uint64_t)r->n_rows * 2 + UPG_JOURNAL_FRONT + UPG_JOURNAL_HASH, &need) ||
        need != bytes.size)
        return upg_fail(err, UPG_E_CORRUPT,
                        "%" PRIu64 " words and %" PRIu32 " rows do not make %zu bytes", r->n_words,
                        r->n_rows, bytes.size);
    if (!isfinite(r->error2) || !isfinite(r->energy2))
        return upg_fail(err, UPG_E_CORRUPT, "its error is no number");
    r->bits = (const uint32_t *)(const void *)(bytes.data + UPG_JOURNAL_FRONT);
    r->scales = (const uint16_t *)(const void *)(r->bits + r->n_words);
    return UPG_OK;
}

bool upg_journal_record_peek(const uint8_t *front, upg_journal_record *r)
{
    field fields[RECORD_FIELDS];

    *r = (upg_journal_record) { 0 };
    record_fields(r, fields);
    get_fields(front, fields, RECORD_FIELDS);
    return memcmp(front, record_magic, sizeof record_magic) == 0;
}

void upg_journal_record_front(const upg_journal_record *r, uint8_t *front)
{
    upg_journal_record copy = *r;
    field              fields[RECORD_FIELDS];

    record_fields(&copy, fields);
    put_front(record_magic, fields, RECORD_FIELDS, front);
}

upg_status upg_journal_streams_parse(upg_span bytes, upg_journal_streams *s, upg_error *err)
{
    upg_status st = check_hash(bytes, streams_magic, err);
    uint64_t   need;
    field      fields[STREAMS_FIELDS];

    *s = (upg_journal_streams) { 0 };
    if (st != UPG_OK)
        return st;
    streams_fields(s, fields);
    get_fields(bytes.data, fields, STREAMS_FIELDS);
    if (!upg_mul_u64(s->slot_size, (uint64_t)s->n_streams * s->n_slots, &need) ||
        !upg_mul_u64(need, sizeof(float), &need) ||
        !upg_add_u64(need, UPG_JOURNAL_FRONT + UPG_JOURNAL_HASH, &need) || need != bytes.size)
        return upg_fail(err, UPG_E_CORRUPT, "its sizes do not make %zu bytes", bytes.size);
    s->data = (const float *)(const void *)(bytes.data + UPG_JOURNAL_FRONT);
    return UPG_OK;
}

void upg_journal_streams_front(const upg_journal_streams *s, uint8_t *front)
{
    upg_journal_streams copy = *s;
    field               fields[STREAMS_FIELDS];

    streams_fields(&copy, fields);
    put_front(streams_magic, fields, STREAMS_FIELDS, front);
}

enum { TEXT_HASH = 34 }; /* line end, 32 digits, line end */

static void text_hash(const void *text, size_t size, char hash[TEXT_HASH + 1])
{
    XXH128_hash_t h = XXH3_128bits(text, size);

    snprintf(hash, TEXT_HASH + 1, "\n%016" PRIx64 "%016" PRIx64 "\n", (uint64_t)h.high64,
             (uint64_t)h.low64);
}

upg_status upg_journal_text_parse(upg_span bytes, json_t **object, upg_error *err)
{
    char       hash[TEXT_HASH + 1];
    upg_status st;

    *object = NULL;
    if (bytes.size < TEXT_HASH)
        return upg_fail(err, UPG_E_CORRUPT, "it ends too early");
    bytes.size -= TEXT_HASH;
    text_hash(bytes.data, bytes.size, hash);
    if (memcmp(hash, bytes.data + bytes.size, TEXT_HASH) != 0)
        return upg_fail(err, UPG_E_CORRUPT, "the checksum does not match");
    st = upg_json_parse(bytes, object, err);
    if (st == UPG_OK && !json_is_object(*object)) {
        json_decref(*object);
        *object = NULL;
        st = upg_fail(err, UPG_E_CORRUPT, "it is no JSON object");
    }
    return st;
}

upg_status upg_journal_text_print(const json_t *object, upg_buffer *text, upg_error *err)
{
    char       hash[TEXT_HASH + 1];
    char      *dump = object == NULL ? NULL : json_dumps(object, JSON_INDENT(1));
    upg_status st;

    if (dump == NULL)
        return upg_fail(err, UPG_E_NOMEM, "out of memory while writing JSON");
    upg_buffer_clear(text);
    text_hash(dump, strlen(dump), hash);
    st = upg_buffer_add(text, dump, strlen(dump), err);
    if (st == UPG_OK)
        st = upg_buffer_add(text, hash, TEXT_HASH, err);
    free(dump);
    return st;
}
