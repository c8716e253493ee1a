/* journal_sink.h: a journal as the place where encoded matrices go, and come from again. */
#ifndef UPG_COMPRESS_JOURNAL_SINK_H
#define UPG_COMPRESS_JOURNAL_SINK_H

#include "compress/journal.h"
#include "compress/lease.h"

typedef struct upg_journal_sink {
    upg_encoded_sink sink; /* user is this struct, which must not move */
    upg_journal     *journal;
    const upg_input *input;
    double           keep_seconds; /* of work, between kept streams */
    uint64_t         kept_ns;
    upg_leases      *leases; /* NULL: this process is alone */
} upg_journal_sink;

void upg_journal_sink_init(upg_journal_sink *sink, upg_journal *journal, const upg_input *input,
                           double keep_seconds);
/** From now on only what this process can claim is coded; nothing waits for coded layers. */
void upg_journal_sink_share(upg_journal_sink *sink, upg_leases *leases);
/** Whether nothing is left to be coded; *can_go_on: something that is left may be claimed now.
 * by_input: matrices of one input are claimed together. */
bool upg_journal_sink_complete(const upg_journal_sink *sink, bool by_input, bool *can_go_on);

#endif
