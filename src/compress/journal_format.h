/* journal_format.h: the files of a journal, as bytes that nobody need believe
 * (docs/DISTRIBUTED.md).
 *
 *   head.json   what the work depends on: a JSON object, a line end, the XXH3-128 of the object as
 * 32 hexadecimal digits, a line end m000007     one coded matrix:  "UPGJREC1", u32 matrix, u32
 * rows, u64 words, f64 error2, f64 energy2, u8 [16] XXH3-128 of the matrix as it came or zeros,
 * zeros up to byte 64; u32 [words] code; u16 [rows] scales; u8 [16] XXH3-128 of all before it
 * streams-3   the streams at the input of layer 3: "UPGJSTR1", u32 layer, u32 streams, u32 slots,
 * u32 0, u64 floats of a slot, zeros up to byte 64; f32 [streams][slots][floats]; u8 [16] XXH3-128
 * done.json   the result of a run whose output has its name; as head.json
 *
 * Numbers are little-endian, as the machines are that upg runs on. */
#ifndef UPG_COMPRESS_JOURNAL_FORMAT_H
#define UPG_COMPRESS_JOURNAL_FORMAT_H

#include <jansson.h>
#include <stdbool.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/span.h"

enum { UPG_JOURNAL_FRONT = 64, UPG_JOURNAL_HASH = 16 };

typedef struct upg_journal_record {
    uint32_t        matrix, n_rows;
    uint64_t        n_words;
    double          error2, energy2;
    uint8_t         input[16]; /* XXH3-128 of the matrix as it came; zeros: not known */
    const uint32_t *bits;      /* u32 [n_words], in the file */
    const uint16_t *scales;    /* u16 [n_rows], in the file */
} upg_journal_record;

/** Reads a coded matrix; bytes at a multiple of 4. Errors: E_CORRUPT. */
upg_status upg_journal_record_parse(upg_span bytes, upg_journal_record *record, upg_error *err);
/** The numbers of a front alone, u8 [64], unchecked. False when it begins as no record does. */
bool upg_journal_record_peek(const uint8_t *front, upg_journal_record *record);
/** front u8 [64] of a record. */
void upg_journal_record_front(const upg_journal_record *record, uint8_t *front);

typedef struct upg_journal_streams {
    uint32_t     layer, n_streams, n_slots;
    uint64_t     slot_size;
    const float *data; /* in the file */
} upg_journal_streams;

/** Reads streams. Errors: E_CORRUPT. */
upg_status upg_journal_streams_parse(upg_span bytes, upg_journal_streams *streams, upg_error *err);
void       upg_journal_streams_front(const upg_journal_streams *streams, uint8_t *front);

/** Text with its hash behind it. Errors: E_CORRUPT, E_NOMEM; then *object is NULL. */
upg_status upg_journal_text_parse(upg_span bytes, json_t **object, upg_error *err);
/** Appends the text of `object` and its hash. */
upg_status upg_journal_text_print(const json_t *object, upg_buffer *text, upg_error *err);

#endif
