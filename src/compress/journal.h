/* journal.h: what a compression has done so far, in a folder beside its output, so that it can go
 * on after the process was killed, the power failed or the disk was full, and so that several
 * processes can share the work.
 *
 *   (nothing) ── begin: head.json ──► matrices, streams ── output has its name ──► done.json ──►
 * removed
 *
 * The unit of work is a matrix. Every file appears whole, synced and hashed, or not at all; since
 * equal work gives equal bytes, it does not matter who did a unit, nor whether it was done twice.
 *
 * Matrices coded against coded layers need the streams of activations up to there. Replaying them
 * costs half of all work, so they are kept (about a minute's worth of work apart: 3.4 GB for Phi-4,
 * a percent of the time); between the last kept ones and the end the journal's matrices are decoded
 * and the passes run again, without sums and without coding. */
#ifndef UPG_COMPRESS_JOURNAL_H
#define UPG_COMPRESS_JOURNAL_H

#include "compress/calibrate.h"
#include "compress/input.h"
#include "compress/journal_format.h"

typedef enum upg_journal_mode {
    UPG_JOURNAL_NEW,    /* a journal that is there is refused */
    UPG_JOURNAL_RESUME, /* goes on with one that is there */
    UPG_JOURNAL_JOIN    /* the same, together with other processes */
} upg_journal_mode;

typedef struct upg_journal upg_journal;

/** What the work depends on. */
typedef struct upg_journal_key {
    upg_input      *input;
    const char     *recipe_json;
    const upg_plan *plan;   /* its sensitivities are kept */
    const char     *device; /* NULL = the CPU: what adds otherwise makes another file */
} upg_journal_key;

/** Looks for a journal in `folder`, which need not exist. Errors: E_EXISTS (there is one, mode is
 * NEW), E_CORRUPT (says how to start again), E_BUSY (another process works on it), E_IO, E_NOMEM.
 */
upg_status upg_journal_open(const char *folder, upg_journal_mode mode, upg_journal **journal,
                            upg_error *err);
/** Ends the work with it; the folder stays. NULL is fine. */
void upg_journal_close(upg_journal *journal);
/** Whether work began before: check and apply may be called, begin must not. */
bool upg_journal_begun(const upg_journal *journal);
/** The result of a run that ended after its output had its name, JSON; else NULL. */
const char *upg_journal_done(const upg_journal *journal);
/** Looks again whether another worker has ended the run: upg_journal_done. */
upg_status upg_journal_ended(upg_journal *journal, upg_error *err);
/** Refuses a journal of other input, other options, another machine or version; files with another
 * time are read again and compared by hash. Errors: E_DATA, E_UNSUPPORTED, E_CORRUPT, E_IO. */
upg_status upg_journal_check(upg_journal *journal, const upg_journal_key *key, upg_pool *pool,
                             upg_error *err);
/** Sets the sensitivities of the plan to those that were measured. Errors: E_CORRUPT. */
upg_status upg_journal_apply(const upg_journal *journal, upg_plan *plan, upg_error *err);
/** Begins, with the hashes of the input that are known. Errors: E_IO, E_NOSPACE, E_NOMEM; E_BUSY.
 */
upg_status upg_journal_begin(upg_journal *journal, const upg_journal_key *key, upg_pool *pool,
                             upg_error *err);

bool upg_journal_has(const upg_journal *journal, uint32_t matrix);
/** Keeps a coded matrix; one that is there stays. input: u8 [16], its hash as it came, or NULL.
 * Errors: E_IO, E_NOSPACE. */
upg_status upg_journal_put(upg_journal *journal, uint32_t matrix, uint32_t n_rows,
                           const uint8_t *input, const upg_encoded_matrix *encoded, upg_error *err);
/** Maps a coded matrix; the caller closes the map. Errors: E_CORRUPT (also where it is not of this
 * size), E_IO, E_NOT_FOUND. */
upg_status upg_journal_get(const upg_journal *journal, uint32_t matrix, uint32_t n_rows,
                           uint64_t n_words, upg_map *map, upg_journal_record *record,
                           upg_error *err);
/** Keeps streams at the input of `layer`, in place of those of before. */
upg_status upg_journal_keep(upg_journal *journal, uint32_t layer, upg_state_store *const *streams,
                            uint32_t n_streams, upg_error *err);
/** Fills streams with the latest that were kept; *layer = 0: none were. */
upg_status upg_journal_restore(upg_journal *journal, upg_state_store *const *streams,
                               uint32_t n_streams, uint32_t *layer, upg_error *err);

/** The output has its name: removes everything. With others at work, done.json stays for them.
 * Errors: E_IO; the output is complete all the same. */
upg_status upg_journal_finish(upg_journal *journal, const char *result_json, upg_error *err);
/** Removes the folder with all that a journal has; nothing else. */
upg_status  upg_journal_remove(upg_journal *journal, upg_error *err);
const char *upg_journal_folder(const upg_journal *journal);

#endif
