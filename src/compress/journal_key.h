/* journal_key.h: what a journal's work depends on, as a JSON object: input, options, machine. */
#ifndef UPG_COMPRESS_JOURNAL_KEY_H
#define UPG_COMPRESS_JOURNAL_KEY_H

#include "compress/journal.h"

/** The object for head.json; reads all weights, to hash them. Errors: E_NOMEM, E_IO. */
upg_status upg_journal_key_print(const upg_journal_key *key, upg_pool *pool, json_t **head,
                                 upg_error *err);
/** As upg_journal_check. */
upg_status upg_journal_key_check(const json_t *head, const upg_journal_key *key, upg_pool *pool,
                                 upg_error *err);

#endif
