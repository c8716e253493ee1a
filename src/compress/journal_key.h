/* journal_key.h: what a journal's work depends on, as a JSON object: input, options, machine. */
#ifndef UPG_COMPRESS_JOURNAL_KEY_H
#define UPG_COMPRESS_JOURNAL_KEY_H

#include "compress/journal.h"

/** What the journal's records say of the matrices that they were made of. */
typedef struct upg_recorded_hash {
    bool (*find)(void *user, uint32_t matrix, uint8_t hash[UPG_INPUT_HASH]);
    void *user;
} upg_recorded_hash;

/** The object for head.json, with the hashes that the input knows. Errors: E_NOMEM. */
upg_status upg_journal_key_print(const upg_journal_key *key, json_t **head, upg_error *err);
/** As upg_journal_check. */
upg_status upg_journal_key_check(const json_t *head, const upg_journal_key *key,
                                 const upg_recorded_hash *recorded, upg_pool *pool, upg_error *err);

#endif
