#include "support/power_cut.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"

enum { MAX_OPEN = 64, PATH_BYTES = 512 };

typedef struct step {
    upg_file_op op;
    char        path[PATH_BYTES], to[PATH_BYTES];
} step;

static uint64_t steps, end_at;
static bool     lose;
static char     unsynced[MAX_OPEN][PATH_BYTES]; /* files with writes since their last sync */
static step     unnamed[MAX_OPEN];              /* names since their folder's last sync */
static int      n_unnamed;

static void mark(const char *path, bool dirty)
{
    int empty = -1;

    for (int i = 0; i < MAX_OPEN; i++) {
        if (strcmp(unsynced[i], path) == 0) {
            if (!dirty)
                unsynced[i][0] = '\0';
            return;
        }
        if (unsynced[i][0] == '\0')
            empty = i;
    }
    if (dirty && empty >= 0)
        snprintf(unsynced[empty], PATH_BYTES, "%s", path);
}

/* Folders are told apart by nothing here: syncing one makes all names durable that were made before
 * it, which holds since every name is followed by the sync of its own folder. */
static void note_name(upg_file_op op, const char *path, const char *to)
{
    step *s = &unnamed[n_unnamed < MAX_OPEN ? n_unnamed++ : MAX_OPEN - 1];

    s->op = op;
    snprintf(s->path, PATH_BYTES, "%s", path);
    snprintf(s->to, PATH_BYTES, "%s", to != NULL ? to : "");
}

static void cut(void)
{
    for (int i = 0; lose && i < MAX_OPEN; i++)
        if (unsynced[i][0] != '\0' && truncate(unsynced[i], i % 2 ? 0 : 100) != 0)
            unsynced[i][0] = '\0'; /* it has no name: nothing is left of it anyway */
    while (lose && n_unnamed > 0) {
        const step *s = &unnamed[--n_unnamed];

        if (s->op == UPG_FILE_RENAME)
            (void)rename(s->to, s->path);
        else if (s->op == UPG_FILE_LINK)
            (void)(link(s->to, s->path) + unlink(s->to));
    }
    _exit(POWER_CUT_EXIT);
}

static void watch(void *user, upg_file_op op, const char *path, const char *to)
{
    (void)user;
    if (op == UPG_FILE_WRITE)
        mark(path, true);
    else if (op == UPG_FILE_SYNC)
        mark(path, false);
    else if (op == UPG_FILE_RENAME || op == UPG_FILE_LINK)
        note_name(op, path, to);
    else if (op == UPG_FILE_SYNC_FOLDER)
        n_unnamed = 0;
    if (++steps == end_at)
        cut();
}

void power_cut_at(uint64_t at, bool lose_unsynced)
{
    steps = 0;
    end_at = at;
    lose = lose_unsynced;
    upg_file_watch(watch, NULL);
}

uint64_t power_cut_steps(void)
{
    return steps;
}
