/* line_editor.h: lines from a terminal, edited with libedit where it was there at build, or from
 * any other standard input. */
#ifndef UPG_CLI_LINE_EDITOR_H
#define UPG_CLI_LINE_EDITOR_H

#include <stddef.h>

typedef struct cli_editor cli_editor;

/** Opens standard input; NULL without memory. On a terminal the prompt goes to stderr. */
cli_editor *cli_editor_open(const char *prompt);
/** The next line without its end, borrowed until the next call; NULL at the end of the input and
 * after a signal. */
const char *cli_editor_read(cli_editor *editor, size_t *bytes);
/** Restores the terminal. NULL is fine. */
void cli_editor_close(cli_editor *editor);

#endif
