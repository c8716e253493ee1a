/* signals.h: Ctrl-C and SIGTERM. The first one ends the running operation cleanly, the second exits
 * at once. */
#ifndef UPG_CLI_SIGNALS_H
#define UPG_CLI_SIGNALS_H

#include <stdbool.h>

#include "upg/upg.h"

/** Installs the handlers; main calls it once. A signal that is ignored stays ignored (nohup). Files
 * that lose bytes while they are mapped become errors. */
void cli_signals_install(void);
/** What the handler cancels from now on; NULL for nothing. One of the two at a time. */
void cli_signals_watch_session(upg_session *session);
void cli_signals_watch_job(upg_compress *job);
/** True once a signal came that was not taken. */
bool cli_signals_caught(void);
/** Takes the signal: the next one counts as the first again. */
void cli_signals_take(void);
/** CLI_INTERRUPTED or CLI_TERMINATED, whichever signal came last. */
int cli_signals_exit_code(void);

#endif
