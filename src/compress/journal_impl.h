/* journal_impl.h: what journal.c shares with journal_units.c. */
#ifndef UPG_COMPRESS_JOURNAL_IMPL_H
#define UPG_COMPRESS_JOURNAL_IMPL_H

#include "compress/journal.h"

struct upg_journal {
    char            *folder;
    upg_journal_mode mode;
    int              lock; /* -1, or holds the folder against other processes */
    json_t          *head; /* NULL: not begun */
    json_t          *done; /* NULL, or the result of a run that was not cleared away */
    char            *done_text;
};

/* folder/NAME, the caller's. */
char *upg_journal_path(const upg_journal *j, const char *name, upg_error *err);
bool  upg_journal_has_file(const upg_journal *j, const char *name);
/* What is wrong with a file of the journal, and what to do. */
upg_status upg_journal_damaged(const upg_journal *j, const char *name, upg_status st,
                               upg_error *err);
/* Removes our files whose name begins with `front`, but `keep`. */
upg_status upg_journal_remove_files(const upg_journal *j, const char *front, const char *keep,
                                    upg_error *err);
/* What the record of a matrix says of its input: upg_recorded_hash.find. */
bool upg_journal_recorded(void *journal, uint32_t matrix, uint8_t hash[UPG_INPUT_HASH]);

#endif
