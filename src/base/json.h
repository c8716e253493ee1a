/* json.h: reading JSON (by jansson) with errors that name the field.
 *
 * Every getter takes the object, the key and `where` (for messages: "config.json"), and fails with
 * E_FORMAT naming where, key, the value found and the one needed. */
#ifndef UPG_BASE_JSON_H
#define UPG_BASE_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/span.h"

/** Parses one JSON value that fills `text` but for white space: strict UTF-8, duplicate keys
 * refused, nesting bounded by jansson. The caller calls json_decref. Errors: E_FORMAT (line and
 * column), E_NOMEM. */
upg_status upg_json_parse(upg_span text, json_t **value, upg_error *err);

/** Required fields. Bounds are inclusive. */
upg_status upg_json_u64(const json_t *object, const char *key, uint64_t min, uint64_t max,
                        const char *where, uint64_t *value, upg_error *err);
upg_status upg_json_number(const json_t *object, const char *key, double min, double max,
                           const char *where, double *value, upg_error *err);
upg_status upg_json_string(const json_t *object, const char *key, const char *where,
                           const char **value, upg_error *err);
/** True when the key is there and not null: optional fields ask first, then use the above. */
bool upg_json_has(const json_t *object, const char *key);
/** Optional boolean: `fallback` when absent or null. */
upg_status upg_json_bool_or(const json_t *object, const char *key, bool fallback, const char *where,
                            bool *value, upg_error *err);

#endif
