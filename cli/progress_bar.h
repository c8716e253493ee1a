/* progress_bar.h: how far a long operation is, on stderr: a bar that redraws itself on a terminal,
 * a plain line every few seconds otherwise. */
#ifndef UPG_CLI_PROGRESS_BAR_H
#define UPG_CLI_PROGRESS_BAR_H

#include <stdbool.h>
#include <stddef.h>

#include "upg/upg.h"

typedef struct cli_progress {
    bool         quiet, is_terminal;
    bool         is_json;    /* lines of JSON in place of bars */
    char         stage[32];  /* of the last report, for stage changes */
    double       last_s;     /* when the last plain line was printed */
    int          open_lines; /* of the terminal that bars stand on, the cursor in the first */
    bool         ended;      /* the stage's last report was shown */
    upg_progress part;       /* the last report, for changes of its part */
    double       part_s;     /* when that part began */
} cli_progress;

void cli_progress_init(cli_progress *progress, bool quiet);
/** Hooks that draw `progress` and log to stderr; a caught signal cancels the operation. */
upg_hooks cli_progress_hooks(cli_progress *progress);
/** Ends an open bar with a line end: before any other output. */
void cli_progress_close(cli_progress *progress);
/** One report as a line of text, `width` columns at most; bar or plain. */
void cli_progress_text(const upg_progress *now, bool bar, size_t width, char *text, size_t cap);

/** What of the stage is at work, as a line of the same kind. now->part is not NULL. */
void cli_part_text(const upg_progress *now, bool bar, size_t width, char *text, size_t cap);

#endif
