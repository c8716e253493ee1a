/* line_editor.c: libedit's own interface, not its readline imitation: that one has global state. */
#include "line_editor.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#ifdef UPG_HAVE_LIBEDIT
#include <histedit.h>
#else
typedef struct editline EditLine;
typedef struct history  History;
#endif

enum { HISTORY_LINES = 500 };

struct cli_editor {
    const char *prompt;
    bool        is_terminal;
    EditLine   *edit;
    History    *history;
    char       *line; /* getline's, without libedit */
    size_t      cap;
};

#ifdef UPG_HAVE_LIBEDIT
static char *prompt_of(EditLine *edit)
{
    cli_editor *editor = NULL;

    el_get(edit, EL_CLIENTDATA, &editor);
    return (char *)editor->prompt; /* libedit does not write to it */
}

static void open_edit(cli_editor *editor)
{
    HistEvent event;

    editor->edit = el_init("upg", stdin, stderr, stderr);
    if (!editor->edit)
        return;
    editor->history = history_init();
    el_set(editor->edit, EL_CLIENTDATA, editor);
    el_set(editor->edit, EL_PROMPT, prompt_of);
    el_set(editor->edit, EL_EDITOR, "emacs");
    /* Ctrl-D typed during an answer comes as NUL. libedit has its quoting key there, since the
     * terminal's own is off, and would take the next key, say a second Ctrl-D, as text. */
    el_set(editor->edit, EL_BIND, "^@", "ed-ignore", NULL);
    el_set(editor->edit, EL_SIGNAL, 0);
    if (editor->history) {
        history(editor->history, &event, H_SETSIZE, HISTORY_LINES);
        el_set(editor->edit, EL_HIST, history, editor->history);
    }
    el_source(editor->edit, NULL);
}

static const char *read_edit(cli_editor *editor, size_t *bytes)
{
    int         count = 0;
    const char *line = el_gets(editor->edit, &count);
    HistEvent   event;

    if (!line || count <= 0)
        return NULL;
    if (editor->history && count > 1)
        history(editor->history, &event, H_ENTER, line);
    *bytes = (size_t)count;
    return line;
}

static void close_edit(cli_editor *editor)
{
    if (editor->history)
        history_end(editor->history);
    if (editor->edit)
        el_end(editor->edit);
}
#else
static void             open_edit(cli_editor *editor)
{
    editor->edit = NULL;
}

static const char *read_edit(cli_editor *editor, size_t *bytes)
{
    (void)editor;
    *bytes = 0;
    return NULL;
}

static void close_edit(cli_editor *editor)
{
    (void)editor;
}
#endif

cli_editor *cli_editor_open(const char *prompt)
{
    cli_editor *editor = calloc(1, sizeof *editor);

    if (!editor)
        return NULL;
    editor->prompt = prompt;
    editor->is_terminal = isatty(STDIN_FILENO);
    if (editor->is_terminal)
        open_edit(editor);
    return editor;
}

const char *cli_editor_read(cli_editor *editor, size_t *bytes)
{
    const char *line = NULL;

    if (editor->edit) {
        line = read_edit(editor, bytes);
    } else {
        ssize_t got;

        if (editor->is_terminal)
            fputs(editor->prompt, stderr);
        got = getline(&editor->line, &editor->cap, stdin);
        if (got > 0) {
            line = editor->line;
            *bytes = (size_t)got;
        }
    }
    if (line && line[*bytes - 1] == '\n')
        --*bytes;
    return line;
}

void cli_editor_close(cli_editor *editor)
{
    if (!editor)
        return;
    close_edit(editor);
    free(editor->line);
    free(editor);
}
